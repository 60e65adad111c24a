"""
Deliver to one sink: events off the spool, batches in flight side by side, verdicts into the store.

Every sink has its own position and moves at its own pace. What the sink does not take stays in the
spool and is sent again for as long as it takes. A batch that is refused as a whole is halved down
to the event that is to blame, and only that one becomes a dead letter, in the same transaction in
which the position moves past it. What a sink acknowledges later counts as delivered only then.

::

    spool -> Batches -> Deliverer -> Sink
                            |          |
                            |       Verdict -> CircuitBreaker -> Outcomes -> store, metrics, log
                            |          |
                            |       Receipt -> PendingAcknowledgements <- AcknowledgementPoller
                            |
                how many:   AdaptiveConcurrency
                how it is:  SinkHealth, with the ProbeLock: while a sink is in trouble one batch
                            at a time is sent, and the others wait behind it
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import chain

from auditrelay.deliver.acknowledgement_poller import AcknowledgementPoller
from auditrelay.deliver.acknowledgements import PendingAcknowledgements, Sent
from auditrelay.deliver.batches import Batches, ranges_of
from auditrelay.deliver.circuit_breaker import CircuitBreaker
from auditrelay.deliver.concurrency import AdaptiveConcurrency
from auditrelay.deliver.health import SinkHealth
from auditrelay.deliver.open_requests import OpenRequests
from auditrelay.deliver.outcomes import Outcomes
from auditrelay.deliver.patient_store import PatientStore
from auditrelay.deliver.probe_lock import PROBE_FIRST, PROBE_MOST
from auditrelay.deliver.wakeups import Wakeups
from auditrelay.errors import Refused, Rejected, RelayError, Retryable
from auditrelay.http.retry import pause, retrying
from auditrelay.settings import SinkSettings
from auditrelay.sinks import Item, Rejection, Sink, Verdict
from auditrelay.store import DeadLetter, Store
from auditrelay.telemetry.metrics import Metrics
from auditrelay.telemetry.scrubber import scrub


class Deliverer:
    """
    Everything that writes to one sink.

    *clock* returns now, in UTC; *monotonic* counts seconds. With *attempts*, a request is given up
    after so many and the failure is raised, for a run that shall end; without, it is repeated for
    ever.
    """

    def __init__(
        self,
        name: str,
        settings: SinkSettings,
        sink: Sink,
        *,
        store: Store,
        metrics: Metrics,
        clock: Callable[[], datetime],
        monotonic: Callable[[], float] = time.monotonic,
        attempts: int | None = None,
    ) -> None:
        self.name = name
        self.settings = settings
        self._sink = sink
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._monotonic = monotonic
        self._attempts = attempts
        self._stopping = False
        self._in_flight = 0
        self._wakeups = Wakeups()
        self._requests = OpenRequests()
        self._batches = Batches(name, sink, store)
        self._concurrency = AdaptiveConcurrency(settings.concurrency)
        self._breaker = CircuitBreaker()
        patient = PatientStore(name, store, self._requests)
        self._health = SinkHealth(
            name, self._breaker, self._wakeups, store=patient, metrics=metrics, clock=clock
        )
        self._outcomes = Outcomes(
            name, sink, self._health.condition, store=patient, metrics=metrics, clock=clock
        )
        self._pending = PendingAcknowledgements()
        self._poller = AcknowledgementPoller(
            name,
            self._pending,
            batches=self._batches,
            health=self._health,
            outcomes=self._outcomes,
            requests=self._requests,
            wakeups=self._wakeups,
            monotonic=monotonic,
            gives_up=attempts is not None,
        )
        self.wake = self._wakeups.spool
        """To be set when new events may lie in the spool."""
        self.condition = self._health.condition
        """How the sink fares."""
        self.throughput = self._outcomes.throughput
        """How much it has taken in the last minutes."""

    @property
    def worked_at(self) -> float | None:
        """When a request last began or ended (monotonic); None while none is in flight."""
        return self._requests.worked_at

    @property
    def worked_once(self) -> bool:
        """Whether the sink has answered well since the start."""
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
                self._in_flight += 1
                tasks.create_task(self._deliver(batch))

    async def probe_until_up(self) -> None:
        """
        Find out how the sink fares before the first event does; this stores nothing.

        It is asked until it answers well, or a quiet sink would seem to be down long after it was
        repaired. It ends once there are events to send: they show how the sink fares.
        """
        wait = PROBE_FIRST
        while True:
            trouble: RelayError | None = None
            try:
                await self._sink.check()
            except RelayError as error:
                trouble = error
            if self.worked_once or self._in_flight:
                return None
            if trouble is None:
                return await self._health.mark_up()
            if isinstance(trouble, Refused):
                await self._health.mark_held(trouble)
            else:
                await self._health.mark_unavailable(trouble)
            await pause(wait)
            wait = min(wait * 2, PROBE_MOST)

    def recall(self, condition: Mapping[str, object]) -> None:
        """Take over from *condition*, as the last process left it, what is still true."""
        self._health.restore(condition)

    def stop(self) -> None:
        """Begin no new batch and repeat no request; what is in flight may end."""
        self._stopping = True

    def finish(self) -> None:
        """End :meth:`keep_delivering` once nothing waits any more."""
        self._wakeups.finish()

    async def drain(self) -> None:
        """
        Wait until no request is on the wire and no verdict unwritten.

        What the sink has taken by then and does not acknowledge at the last question is handed
        back: the next process sends it again.
        """
        await self._requests.wait_until_done()
        await self._poller.hand_back()

    # -- batches -----------------------------------------------------------------------------------

    async def _wait_for_slot(self) -> None:
        """Wait until one more batch may be in flight."""
        while not self._may_begin():
            self._wakeups.slot.clear()
            await self._wakeups.slot.wait()

    def _may_begin(self) -> bool:
        if self._in_flight >= self._concurrency.limit or self._pending.full:
            return False
        if self._health.unacknowledged is not None:
            # One batch shall show whether the sink acknowledges again.
            return not self._in_flight and not self._pending.events
        # While the breaker is open the next batches are needed: the sink may take one of theirs.
        held = self.condition.held and not self._breaker.is_open
        return not held or not (self._in_flight or self._health.probe_lock.locked)

    async def _next_batch(self) -> list[Item]:
        """Return the next batch, as full as it gets within *linger*; empty when finished."""
        batches, wakeups = self._batches, self._wakeups
        while True:
            wakeups.spool.clear()
            if await batches.fill():
                return batches.cut()
            if batches.ready:
                if not wakeups.finishing:
                    await self._linger()
                    await batches.fill()
                return batches.cut()
            # While an acknowledgement is being written down its batch is not pending any more.
            busy = self._in_flight or self._pending.events or self._requests.count
            if wakeups.finishing and not busy:
                return []
            await wakeups.spool.wait()

    async def _linger(self) -> None:
        deadline = self.settings.linger.total_seconds()
        if deadline:
            await pause(deadline)

    # -- one batch ---------------------------------------------------------------------------------

    async def _deliver(self, batch: list[Item]) -> None:
        try:
            parts: list[Sequence[Item]] = [batch]
            while parts:
                part = parts.pop()
                if self._breaker.is_open:
                    # One event is enough to probe; the others make room for those behind them.
                    self._batches.postpone([*part[1:], *chain.from_iterable(parts)])
                    part, parts = part[:1], []
                parts += reversed(await self._offer(part))
        finally:
            self._in_flight -= 1
            self._wakeups.wake_waiters()

    async def _offer(self, items: Sequence[Item]) -> list[Sequence[Item]]:
        """Send *items* until the sink has said something of each; return what to send again."""
        first_at = self._clock()
        try:
            async for attempt in retrying(
                self.name, self._metrics, attempts=self._attempts, sleep=self._sleep_in_turn
            ):
                with attempt:
                    number = attempt.retry_state.attempt_number
                    try:
                        verdict = await self._send(items)
                    except Rejected as error:
                        if len(items) > 1:
                            middle = len(items) // 2
                            return [items[:middle], items[middle:]]
                        verdict = Verdict(rejected=(Rejection.of(error),))
                        self._requests.started()
                    except Retryable as error:
                        if error.sent:
                            self._outcomes.count_possible_duplicates(len(items))
                        await self._health.mark_unavailable(error)
                        raise
                    verdict = self._apply_circuit_breaker(items, verdict)
                    await self._commit_verdict(items, verdict, first_at, number)
                    self._outcomes.record_warnings(verdict)
                    items = [items[index] for index in verdict.retry]
                    if verdict.because is not None and items:
                        await self._health.mark_unavailable(verdict.because)
                        raise verdict.because
                    return [items] if items else []
        finally:
            self._health.probe_lock.release()
        # tenacity returns or raises; this tells the type checker so.
        raise AssertionError("the policy ended without a result")  # pragma: no cover

    async def _sleep_in_turn(self, seconds: float) -> None:
        """
        Wait before a request is made again, behind the others who wait.

        So a sink that is down is asked as often as one batch would ask, however many wait. If it
        works again by the time, the time spent behind the others counts.
        """
        since = self._monotonic()
        await self._health.probe_lock.acquire()
        if self.condition.up:
            seconds -= self._monotonic() - since
        await pause(max(seconds, 0.0))

    async def _send(self, items: Sequence[Item]) -> Verdict:
        """Send *items* once; a sink that refuses is held, and they wait until it no longer does."""
        probe_lock = self._health.probe_lock
        if self.condition.held:
            await probe_lock.acquire()
            if self._breaker.is_open and self._attempts is None:
                await pause(self._breaker.probe_delay())
        wait = PROBE_FIRST
        while True:
            try:
                return await self._request(items)
            except Refused as error:
                if error.sent:
                    self._outcomes.count_possible_duplicates(len(items))
                await self._health.mark_held(error)
                if self._attempts is not None:
                    raise
            # One of those in flight goes on asking; the others wait behind it.
            await probe_lock.acquire()
            if self.condition.held:
                await pause(wait)
                wait = min(wait * 2, PROBE_MOST)

    async def _request(self, items: Sequence[Item]) -> Verdict:
        """Make one request; if it returns, it stays open until its verdict is written."""
        if self._stopping:
            await asyncio.Event().wait()  # until cancelled: it stays in the spool
        self._requests.started()
        begun = self._monotonic()
        try:
            verdict = await self._sink.send(items)
        except BaseException as error:
            self._requests.finished()
            if isinstance(error, Retryable):
                self._concurrency.on_failure(begun, self._monotonic())
            raise
        if verdict.crowded or verdict.because is not None:
            self._concurrency.on_failure(begun, self._monotonic())
        else:
            size = sum([len(item.text) for item in items])
            self._concurrency.on_success(
                begun, self._monotonic(), size=size, on_wire=self._requests.count
            )
        return verdict

    def _apply_circuit_breaker(self, items: Sequence[Item], verdict: Verdict) -> Verdict:
        """Return *verdict* with a retry for each rejection that shall be no dead letter."""
        if len(verdict.retry) + len(verdict.rejected) < len(items):
            if self._breaker.success():
                self._batches.resend_postponed()
            return verdict
        dead = self._breaker.failure(verdict.rejected, alone=len(items) == 1)
        if len(dead) == len(verdict.rejected):
            return verdict
        spared = {each.index for each in verdict.rejected} - {each.index for each in dead}
        retry = tuple(sorted((*verdict.retry, *spared)))
        return replace(verdict, rejected=tuple(dead), retry=retry)

    async def _commit_verdict(
        self, items: Sequence[Item], verdict: Verdict, first_at: datetime, attempts: int
    ) -> None:
        """Write down what the sink said of *items*, and with that close their request."""
        now = self._clock()
        rejected = {rejection.index for rejection in verdict.rejected}
        named = {*verdict.retry, *rejected}
        taken = items
        if named:
            taken = [item for index, item in enumerate(items) if index not in named]
        try:
            fault = await self._health.update(verdict)
            dead = [
                DeadLetter(
                    await self._store.event_at(items[rejection.index].position),
                    rejection.reason,
                    scrub(rejection.message),
                    rejection.status,
                    attempts,
                    first_at,
                    now,
                )
                for rejection in verdict.rejected
            ]
            sent = Sent.of(taken, self._monotonic())
            done = self._batches.take_skipped()
            done += ranges_of(items[index].position for index in rejected)
            if verdict.receipt is None:
                await self._outcomes.commit([*done, *sent.ranges], [sent], dead)
            else:
                if taken:
                    self._pending.add(verdict.receipt.channel, verdict.receipt.number, sent)
                await self._outcomes.commit(done, [], dead)
        finally:
            self._requests.finished()
        self._outcomes.count_possible_duplicates(verdict.doubtful)
        if fault is not None and self._attempts is not None:
            raise fault
