"""
Deliver to one sink: read the spool, keep batches in flight concurrently, store the verdicts.

Delivery is at least once. Every sink has its own position and its own pace; what it does not accept
stays in the spool and is resent for as long as it takes. A batch that is rejected as a whole is
bisected down to the event that causes it, and only that one becomes a dead letter, in the same
transaction in which the position moves past it. Where a sink acknowledges later, events count as
delivered only then.

::

    spool -> Batches -> Deliverer -> Sink
                            |          |
                            |       Verdict -> CircuitBreaker -> Outcomes -> store, metrics, log
                            |          |
                            |       AckId -> PendingAcknowledgements <- AcknowledgementPoller
                            |
                how many:   AdaptiveConcurrency, InFlight
                health:     SinkHealth, with the ProbeLock: while a sink is unavailable one batch
                            at a time probes it, and the others wait behind it
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import chain

from auditrelay.clock import Clock
from auditrelay.deliver.acknowledgement_poller import AcknowledgementPoller
from auditrelay.deliver.acknowledgements import PendingAcknowledgements, SentBatch
from auditrelay.deliver.batches import Batches, ranges_of
from auditrelay.deliver.circuit_breaker import CircuitBreaker
from auditrelay.deliver.concurrency import AdaptiveConcurrency
from auditrelay.deliver.first_check import check_until_up
from auditrelay.deliver.health import SinkHealth
from auditrelay.deliver.in_flight import InFlight
from auditrelay.deliver.outcomes import Outcomes
from auditrelay.deliver.probe import ProbeDelay
from auditrelay.deliver.send import send_fit
from auditrelay.deliver.spool import Spool
from auditrelay.deliver.state_writer import StateWriter
from auditrelay.errors import PeerBug, Refused, Rejected, Retryable
from auditrelay.http.retry import retrying
from auditrelay.settings import SinkSettings
from auditrelay.sinks import Item, Rejection, Sink, Verdict
from auditrelay.store import RejectedEvent
from auditrelay.store.conditions import SinkCondition
from auditrelay.telemetry.metrics import Metrics
from auditrelay.telemetry.scrubber import scrub
from auditrelay.window import micros


class Deliverer:
    """
    Delivers the events in the spool to one sink.

    *attempts* bounds how often a request is made before its failure is raised, for a run that has
    to end; by default it is retried forever. *on_batch* is called after each batch.
    """

    def __init__(
        self,
        name: str,
        settings: SinkSettings,
        sink: Sink,
        *,
        store: Spool,
        metrics: Metrics,
        clock: Clock,
        attempts: int | None = None,
        on_batch: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.settings = settings
        self._sink = sink
        self._metrics = metrics
        self._clock = clock
        self._attempts = attempts
        self._stopping = False
        self._in_flight = InFlight(clock, on_batch)
        self._batches = Batches(name, sink, store)
        self._concurrency = AdaptiveConcurrency(settings.concurrency)
        self._breaker = CircuitBreaker()
        state = StateWriter(name, store, self._in_flight, clock)
        self._health = SinkHealth(
            name,
            self._breaker,
            self._in_flight,
            state=state,
            metrics=metrics,
            clock=clock,
            fail_fast=attempts is not None,
        )
        self._outcomes = Outcomes(
            name, sink, self._health.condition, state=state, metrics=metrics, clock=clock
        )
        self._pending = PendingAcknowledgements()
        self._poller = AcknowledgementPoller(
            name,
            self._pending,
            batches=self._batches,
            health=self._health,
            outcomes=self._outcomes,
            in_flight=self._in_flight,
            clock=clock,
            fail_fast=attempts is not None,
        )
        self.wake = self._in_flight.spool_changed
        """To be set when there may be new events in the spool."""
        self.condition = self._health.condition
        """The health of the sink."""
        self.throughput = self._outcomes.throughput
        """How many events it has accepted in the last minutes."""

    @property
    def worked_at(self) -> float | None:
        """When a request last started or finished (monotonic); None while none is open."""
        return self._in_flight.worked_at

    @property
    def worked_once(self) -> bool:
        """Whether a request to the sink has succeeded since the start."""
        return self._health.worked_once

    async def keep_delivering(self) -> None:
        """Deliver until cancelled; or, after :meth:`finish`, until nothing waits any more."""
        async with asyncio.TaskGroup() as tasks:
            polling = tasks.create_task(self._poller.keep_polling())
            while True:
                await self._wait_for_slot()
                batch = await self._next_batch()
                if not batch:
                    polling.cancel()
                    return
                self._in_flight.batch_started()
                tasks.create_task(self._deliver(batch))
                del batch  # or this loop keeps its texts in memory until the next one

    async def probe_until_up(self) -> None:
        """Check the health of the sink before there are events to send; this stores nothing."""
        await check_until_up(self._sink, self._health, self._in_flight, self._clock)

    def restore(self, saved: SinkCondition) -> None:
        """Restore from *saved*, the condition that the last process left, what is still true."""
        self._health.restore(saved)

    def stop(self) -> None:
        """Start no new batch and retry no request; requests in flight may finish."""
        self._stopping = True

    def finish(self) -> None:
        """End :meth:`keep_delivering` once nothing waits any more."""
        self._in_flight.finish()

    async def drain(self) -> None:
        """
        Wait until every request in flight is answered and its verdict stored.

        What the sink has accepted by then and does not acknowledge in a last poll is handed back:
        the next process resends it.
        """
        await self._in_flight.drain()
        await self._poller.hand_back()

    # -- batches -----------------------------------------------------------------------------------

    async def _wait_for_slot(self) -> None:
        """Wait until one more batch may be in flight."""
        while not self._has_slot():
            self._in_flight.slot_changed.clear()
            await self._in_flight.slot_changed.wait()

    def _has_slot(self) -> bool:
        if self._in_flight.batches >= self._concurrency.limit or self._pending.full:
            return False
        if self._health.ack_failure is not None:
            # Send one batch, to find out whether the sink acknowledges again.
            return not self._in_flight.batches and not self._pending.events
        # While the breaker is open, go on to the next batches: the sink may accept one of theirs.
        held = self.condition.held and not self._breaker.is_open
        return not held or not (self._in_flight.batches or self._health.probe_lock.locked)

    async def _next_batch(self) -> list[Item]:
        """Return the next batch, as full as it gets within ``linger``; empty when finished."""
        batches, in_flight = self._batches, self._in_flight
        while True:
            if await self._fill():
                return await self._health.without_bug(self._cut)
            if batches.ready:
                if self.settings.linger:
                    await self._linger()
                return await self._health.without_bug(self._cut)
            # While an acknowledgement is being stored its batch is not pending any more.
            busy = in_flight.batches or in_flight.requests or self._pending.events
            if in_flight.finishing and not busy and not in_flight.spool_changed.is_set():
                return []
            await in_flight.spool_changed.wait()

    async def _fill(self) -> bool:
        """Read until a batch is full, and return whether it is."""
        # Cleared before the read: an event that comes into the spool during it sets it again.
        if self._in_flight.spool_changed.is_set():
            self._in_flight.spool_changed.clear()
            self._batches.spool_changed()
        return await self._health.without_bug(self._batches.fill)

    async def _cut(self) -> list[Item]:
        return self._batches.cut(micros(self._clock.confirmed.now(self.name)))

    async def _linger(self) -> None:
        """Read what comes into the spool, until a batch is full or ``linger`` is over."""
        over = asyncio.ensure_future(self._clock.sleep(self.settings.linger.total_seconds()))
        try:
            while not (over.done() or self._in_flight.finishing):
                # A read is not cut short by the end: what it has taken to resend would be lost.
                if await self._in_flight.more_before(over) and await self._fill():
                    return
        finally:
            over.cancel()

    # -- one batch ---------------------------------------------------------------------------------

    async def _deliver(self, batch: list[Item]) -> None:
        try:
            parts: list[Sequence[Item]] = [batch]
            while parts:
                part = parts.pop()
                if self._breaker.is_open:
                    # One event is enough for a probe; the others make room for those behind them.
                    self._postpone([*part[1:], *chain.from_iterable(parts)])
                    part, parts = part[:1], []
                parts += reversed(await self._deliver_part(part))
        finally:
            self._in_flight.batch_finished()

    def _postpone(self, items: Sequence[Item]) -> None:
        """Resend *items* after everything else that waits, even if nothing else ever comes."""
        self._batches.postpone(items)
        if items:
            self._in_flight.spool_changed.set()

    async def _deliver_part(self, items: Sequence[Item]) -> list[Sequence[Item]]:
        """Send *items* until they have a verdict; return the parts that are to be sent next."""
        first_at = self._clock.now()
        try:
            async for attempt in retrying(
                self.name, self._metrics, sleep=self._wait_to_retry, attempts=self._attempts
            ):
                with attempt:
                    number = attempt.retry_state.attempt_number
                    try:
                        verdict = await self._send_once_released(items)
                    except Rejected as error:
                        if len(items) > 1:
                            middle = len(items) // 2
                            return [items[:middle], items[middle:]]
                        verdict = Verdict(rejected=(Rejection.of(error),))
                        self._in_flight.request_started()
                    except Retryable as error:
                        if error.sent:
                            self._outcomes.count_possible_duplicates(len(items))
                        await self._health.mark_unavailable(error)
                        raise
                    verdict = self._apply_circuit_breaker(items, verdict)
                    await self._commit_verdict(items, verdict, first_at, number)
                    self._outcomes.record_warnings(verdict)
                    items = [items[index] for index in verdict.retry]
                    if verdict.retry_reason is not None and items:
                        await self._health.mark_unavailable(verdict.retry_reason)
                        raise verdict.retry_reason
                    return [items] if items else []
        finally:
            self._health.probe_lock.release()
        # tenacity returns or raises; this line is for the type checker.
        raise AssertionError("the policy ended without a result")  # pragma: no cover

    async def _wait_to_retry(self, seconds: float) -> None:
        """
        Wait before a retry, behind the batches that wait already.

        So a sink that is down is probed as often as one batch would retry, however many wait. If it
        has recovered meanwhile, the time spent behind the others counts towards *seconds*.
        """
        since = self._clock.monotonic()
        await self._health.probe_lock.acquire()
        if self.condition.up:
            seconds -= self._clock.monotonic() - since
        await self._clock.sleep(max(seconds, 0.0))

    async def _send_once_released(self, items: Sequence[Item]) -> Verdict:
        """Send *items*; while the sink refuses it is held, and they wait for a turn to probe."""
        probe_lock = self._health.probe_lock
        if self.condition.held:
            await probe_lock.acquire()
            if self._breaker.is_open and self._attempts is None:
                await self._clock.sleep(self._breaker.probe_delay())
        delay = ProbeDelay()
        while True:
            try:
                return await self._request(
                    await self._batches.renew(items, micros(self._clock.confirmed.now(self.name)))
                )
            except (Refused, PeerBug) as error:
                if error.sent:
                    self._outcomes.count_possible_duplicates(len(items))
                if isinstance(error, PeerBug):
                    await self._health.mark_bug(error)
                else:
                    await self._health.mark_held(error)
                if self._attempts is not None:
                    raise
                failure = error
            # One batch probes; the others wait behind it.
            await probe_lock.acquire()
            if self.condition.held:
                await self._clock.sleep(delay.after(failure))

    async def _request(self, items: Sequence[Item]) -> Verdict:
        """Make one request; if it returns, it stays open until its verdict is stored."""
        if self._stopping:
            await asyncio.Event().wait()  # until cancelled: the events stay in the spool
        self._in_flight.request_started()
        begun = self._clock.monotonic()
        try:
            verdict = await send_fit(self._sink, items)
        except BaseException as error:
            self._in_flight.request_finished()
            if isinstance(error, Retryable):
                self._concurrency.on_failure(begun, self._clock.monotonic())
            raise
        if verdict.throttled or verdict.retry_reason is not None:
            self._concurrency.on_failure(begun, self._clock.monotonic())
        else:
            size = sum([len(item.text) for item in items])
            self._concurrency.on_success(
                begun, self._clock.monotonic(), size=size, in_flight=self._in_flight.requests
            )
        return verdict

    def _apply_circuit_breaker(self, items: Sequence[Item], verdict: Verdict) -> Verdict:
        """Return *verdict* with a retry for each rejection that must not become a dead letter."""
        if len(verdict.retry) + len(verdict.rejected) < len(items):
            if self._breaker.success():
                self._batches.resend_postponed()
            return verdict
        dead = self._breaker.failure(verdict.rejected, alone=len(items) == 1)
        if len(dead) == len(verdict.rejected):
            return verdict
        withheld = {each.index for each in verdict.rejected} - {each.index for each in dead}
        retry = tuple(sorted((*verdict.retry, *withheld)))
        return replace(verdict, rejected=tuple(dead), retry=retry)

    async def _commit_verdict(
        self, items: Sequence[Item], verdict: Verdict, first_at: datetime, attempts: int
    ) -> None:
        """Store the *verdict* on *items*, and with that finish their request."""
        now = self._clock.now()
        rejected = {rejection.index for rejection in verdict.rejected}
        named = {*verdict.retry, *rejected}
        accepted = items
        if named:
            accepted = [item for index, item in enumerate(items) if index not in named]
        try:
            refusal = await self._health.update(verdict)
            dead = [
                (
                    items[rejection.index],
                    RejectedEvent(
                        items[rejection.index].position,
                        rejection.reason,
                        scrub(rejection.message),
                        rejection.status,
                        attempts,
                        first_at,
                        now,
                    ),
                )
                for rejection in verdict.rejected
            ]
            sent = SentBatch.of(accepted, self._clock.monotonic())
            done = ranges_of(items[index].position for index in rejected)
            if verdict.ack_id is None:
                await self._outcomes.commit([*done, *sent.ranges], [sent], dead)
            else:
                if accepted:
                    self._pending.add(verdict.ack_id.channel, verdict.ack_id.number, sent)
                await self._outcomes.commit(done, [], dead)
        finally:
            self._in_flight.request_finished()
        self._outcomes.count_possible_duplicates(verdict.counts.possibly_stored)
        if refusal is not None and self._attempts is not None:
            raise refusal
