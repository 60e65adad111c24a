"""What is sent later than the others: events that a sink refuses, and those that fail alone."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final, Self

import structlog

from auditrelay.clock import Clock
from auditrelay.deliver.batches import Batches, ranges_of
from auditrelay.deliver.circuit_breaker import CircuitBreaker
from auditrelay.deliver.in_flight import InFlight
from auditrelay.deliver.probe import EVENT_MAX, PROBE_MAX
from auditrelay.errors import RelayError, code_of
from auditrelay.sinks import Item
from auditrelay.telemetry.scrubber import scrub

SET_ASIDE_FIRST: Final = 30.0
"""Seconds until an event is sent again that has failed alone; doubled each time, up to an hour."""

_MOST_DOUBLINGS: Final = 20
"""By then it is an hour; after some weeks 2 ** n has no value."""

MOST_SET_ASIDE: Final = 10_000
"""Events that may be set aside at once: if more fail alone, it is not the events."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Postponed:
    """
    Events of the sink called *name* that others overtake.

    While the circuit *breaker* is open, those that it postpones come again ever less often; with
    *at_once*, for a run that has to end, without a wait. Waits last no longer than the ``async
    with`` block of this: then the events are read from the spool again.
    """

    def __init__(
        self,
        name: str,
        batches: Batches,
        breaker: CircuitBreaker,
        in_flight: InFlight,
        *,
        clock: Clock,
        at_once: bool,
    ) -> None:
        self._name = name
        self._batches = batches
        self._breaker = breaker
        self._in_flight = in_flight
        self._clock = clock
        self._at_once = at_once
        self._times: dict[int, int] = {}
        self._in_a_row = 0
        self._next_at = 0.0
        self._timers: set[asyncio.Task[None]] = set()

    @property
    def waiting(self) -> bool:
        """Whether any event waits for its time."""
        return bool(self._timers)

    def has_room(self, item: Item, *, in_a_row: float) -> bool:
        """
        Return whether *item* may be set aside.

        Of a sink that takes none meanwhile so many *in a row* may be, and then one in a while.
        """
        is_time = self._in_a_row < in_a_row or self._clock.monotonic() >= self._next_at
        is_room = self.was_set_aside(item) or len(self._times) < MOST_SET_ASIDE
        return is_time and is_room and not self._at_once

    def was_set_aside(self, item: Item) -> bool:
        """Return whether *item* has failed alone before."""
        return item.position in self._times

    def apart(self, batch: Sequence[Item]) -> list[Sequence[Item]]:
        """Return *batch* without what was set aside, and that one by one: it may fail again."""
        if not any(map(self.was_set_aside, batch)):
            return [batch]
        others = [item for item in batch if not self.was_set_aside(item)]
        alone = [[item] for item in batch if self.was_set_aside(item)]
        return [others, *alone] if others else [*alone]

    def keep(self, item: Item, wait: float) -> None:
        """Send *item*, which was set aside, no earlier than in *wait* seconds."""
        self._later(min(wait, PROBE_MAX), item.position)  # the sink may have recovered by then

    def postpone(self, items: Sequence[Item]) -> None:
        """Send *items* after everything else that waits, even if nothing else ever comes."""
        if not items:
            return
        self._batches.postpone(items)
        if self._breaker.is_open and not self._at_once:
            if not self._batches.postponed_wait:
                self._batches.postponed_wait = True
                self._later(self._breaker.probe_delay(), None)
        else:
            self._in_flight.spool_changed.set()

    def set_aside(self, item: Item, error: RelayError) -> None:
        """Send *item*, which fails alone with *error*, again after a while that grows."""
        times = self._times[item.position] = self._times.get(item.position, 0) + 1
        if times == 1:
            self._in_a_row += 1
            self._next_at = self._clock.monotonic() + PROBE_MAX
        wait = min(SET_ASIDE_FIRST * 2 ** min(times - 1, _MOST_DOUBLINGS), EVENT_MAX)
        _log.warning(
            "event_postponed",
            sink=self._name,
            uid=item.uid,
            reason=code_of(error),
            error=scrub(str(error)),
            wait=wait,
            times=times,
        )
        self._later(wait, item.position)

    def accepted(self, items: Sequence[Item]) -> None:
        """Record that the sink takes events, and forget that any of *items* was set aside."""
        if items:
            self._in_a_row = 0
            self.forget(items)

    def forget(self, items: Iterable[Item]) -> None:
        """Forget that any of *items* was set aside: they are delivered, or dead letters."""
        for item in items if self._times else ():
            self._times.pop(item.position, None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for timer in self._timers:
            timer.cancel()

    def _later(self, seconds: float, position: int | None) -> None:
        timer = asyncio.get_running_loop().create_task(self._release(seconds, position))
        self._timers.add(timer)
        timer.add_done_callback(self._timers.discard)

    async def _release(self, seconds: float, position: int | None) -> None:
        await self._clock.sleep(seconds)
        if position is None:
            self._batches.postponed_wait = False
        else:
            self._batches.resend(ranges_of([position]))
        self._in_flight.spool_changed.set()
