"""
Deliver to one sink: read the spool, keep batches in flight concurrently, store the verdicts.

Delivery is at least once. Every sink has its own position and its own pace; what it does not accept
stays in the spool and is resent for as long as it takes. A batch that is rejected as a whole is
bisected down to the event that causes it, and only that one becomes a dead letter, in the same
transaction in which the position moves past it. Where a sink acknowledges later, events count as
delivered only then. Before a sink that stores parts of a batch under names a :class:`SealedSink`
stands.

::

    spool -> Batches -> Deliverer -> Sink
                |           |          |
            Exclusion       |          |
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
from collections.abc import Callable

from auditrelay.clock import Clock
from auditrelay.deliver.acknowledgement_poller import AcknowledgementPoller
from auditrelay.deliver.acknowledgements import PendingAcknowledgements
from auditrelay.deliver.batch_size import BatchSize
from auditrelay.deliver.batches import Batches
from auditrelay.deliver.circuit_breaker import CircuitBreaker
from auditrelay.deliver.concurrency import AdaptiveConcurrency
from auditrelay.deliver.delivery import Delivery
from auditrelay.deliver.exclusion import Exclusion
from auditrelay.deliver.first_check import check_until_up
from auditrelay.deliver.health import SinkHealth
from auditrelay.deliver.in_flight import InFlight
from auditrelay.deliver.outcomes import Outcomes
from auditrelay.deliver.postponed import Postponed
from auditrelay.deliver.sealing import SealedSink
from auditrelay.deliver.spool import Spool
from auditrelay.deliver.state_writer import StateWriter
from auditrelay.settings import SinkSettings
from auditrelay.sinks import Item, Sealing, Sink
from auditrelay.store.conditions import SinkCondition
from auditrelay.telemetry.metrics import Metrics
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
        self._clock = clock
        self._in_flight = InFlight(clock, on_batch)
        state = StateWriter(name, store, self._in_flight, clock)
        exclusion = (
            Exclusion(name, settings.exclude, state=state, metrics=metrics)
            if settings.exclude
            else None
        )
        self._batches = Batches(name, sink, store, exclusion)
        self._concurrency = AdaptiveConcurrency(settings.concurrency)
        self._breaker = CircuitBreaker()
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
            name,
            sink,
            self._health.condition,
            state=state,
            metrics=metrics,
            clock=clock,
            exclusion=exclusion,
        )
        self._pending = PendingAcknowledgements()
        self._size = BatchSize()
        self._postponed = Postponed(
            name,
            self._batches,
            self._breaker,
            self._in_flight,
            clock=clock,
            at_once=attempts is not None,
        )
        self._sealed = (
            SealedSink(name, sink, sink, store=store, clock=clock)
            if isinstance(sink, Sealing)
            else None
        )
        self._delivery = Delivery(
            name,
            self._sealed or sink,
            batches=self._batches,
            postponed=self._postponed,
            breaker=self._breaker,
            concurrency=self._concurrency,
            size=self._size,
            health=self._health,
            outcomes=self._outcomes,
            pending=self._pending,
            in_flight=self._in_flight,
            metrics=metrics,
            clock=clock,
            attempts=attempts,
        )
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
        self.measure = self._outcomes.measure
        """Brings the freshness in the condition up to date."""
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
        async with self._postponed, asyncio.TaskGroup() as tasks:
            polling = tasks.create_task(self._poller.keep_polling())
            if self._sealed is not None:
                self._batches.send_first(await self._sealed.unfinished())
            while True:
                await self._wait_for_slot()
                batch, again = await self._next_batch()
                if not batch:
                    polling.cancel()
                    await self._outcomes.save_freshness()
                    return
                self._in_flight.batch_started()
                tasks.create_task(self._delivery.deliver(batch, again=again))
                del batch  # or this loop keeps its texts in memory until the next one

    async def probe_until_up(self) -> None:
        """Check the health of the sink before there are events to send; this stores nothing."""
        await check_until_up(self._sink, self._health, self._in_flight, self._clock)

    def restore(self, saved: SinkCondition) -> None:
        """Restore from *saved*, the condition that the last process left, what is still true."""
        self._health.restore(saved)

    def stop(self) -> None:
        """Start no new batch and retry no request; requests in flight may finish."""
        self._delivery.stop()

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
        await self._outcomes.save_freshness()

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

    async def _next_batch(self) -> tuple[list[Item], bool]:
        """
        Return the next batch, as full as it gets within ``linger``; empty when finished.

        Also whether it was postponed and comes again.
        """
        batches, in_flight = self._batches, self._in_flight
        if first := await self._health.without_bug(self._next_first):
            return first, False
        while True:
            is_full = await self._fill()
            if batches.ready:
                if self.settings.linger and not is_full:
                    await self._linger()
                again = batches.next_comes_again
                return await self._health.without_bug(self._cut), again
            # While an acknowledgement is being stored its batch is not pending any more.
            busy = in_flight.batches or in_flight.requests or self._pending.events
            busy = busy or self._postponed.waiting or batches.held_back
            if in_flight.finishing and not busy and not in_flight.spool_changed.is_set():
                return [], False
            await in_flight.spool_changed.wait()

    async def _fill(self) -> bool:
        """Read until a batch is full, and return whether it is."""
        # Cleared before the read: an event that comes into the spool during it sets it again.
        if self._in_flight.spool_changed.is_set():
            self._in_flight.spool_changed.clear()
            self._batches.spool_changed()
        return await self._health.without_bug(self._batches.fill)

    async def _cut(self) -> list[Item]:
        now = self._clock.confirmed.now(self.name)
        # Whether a sink acknowledges again shows one event as well as many, which it may have.
        most = self._size.most if self._health.ack_failure is None else 1
        return self._batches.cut(micros(now), most)

    async def _next_first(self) -> list[Item]:
        return await self._batches.next_first(micros(self._clock.confirmed.now(self.name)))

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
