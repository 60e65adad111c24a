"""
Read one window of a source into the store, in halves if need be, for whatever purpose.

A poll, a second look, a backfill and a repair are the same walk. They differ in how they mark what
they find and in what a walk that ended proves.
"""

import contextlib
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, TypeVar

import msgspec
import structlog

from auditrelay.collect.health import SourceHealth
from auditrelay.collect.walk import in_halves, walk
from auditrelay.errors import StoreFull
from auditrelay.events import AuditEvent
from auditrelay.events.normalize import Normalizer
from auditrelay.events.notices import gap_event
from auditrelay.http.retry import pause
from auditrelay.settings import SourceSettings
from auditrelay.sources import FileSource, Page, Source
from auditrelay.store import Added, DeadLetter, Declared, Proof, Store
from auditrelay.store.keys import known_key
from auditrelay.telemetry.metrics import Metrics
from auditrelay.window import Interval, holes, micros

T = TypeVar("T")

ROOM_INTERVAL: Final = 1.0
"""Seconds between two looks whether there is room again."""

MARGIN: Final = timedelta(seconds=1)
"""How close to a bound of a walk an event may lie without being missed if it is not shown."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Purpose:
    """Why a window is read: *via* says so in plain words, for the journal."""

    via: str
    second_look: bool = False
    """Whether its span is covered already: what is new is late, and what is not shown is gone."""
    backfill: int | None = None
    """The number of the backfill that it is part of."""


POLL: Final = Purpose("poll")


@dataclass(slots=True)
class Tally:
    """What one window has shown, over all its walks."""

    pages: int = 0
    events: int = 0
    new: int = 0
    late: int = 0
    read: int = 0
    """How many events of the window itself a backfill was shown, each counted once."""
    vanished: int = 0


class Reader:
    """
    Everything between one source and the store.

    *clock* returns now, in UTC. *announce* is called when new events lie in the spool. *patience*
    is how long a page waits for room in the spool before it is given up; None: for ever.
    *health* may be shared by several readers of one source.
    """

    def __init__(
        self,
        name: str,
        settings: SourceSettings,
        source: Source | FileSource,
        *,
        normalizer: Normalizer,
        store: Store,
        metrics: Metrics,
        clock: Callable[[], datetime],
        announce: Callable[[], None],
        patience: timedelta | None = None,
        health: SourceHealth,
    ) -> None:
        self.name = name
        self.source = source
        self.worked_at: float | None = None
        """When what is under way last made progress (monotonic); None while nothing is."""
        self._settings = settings
        self._normalizer = normalizer
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self.announce = announce
        self._patience = math.inf if patience is None else patience.total_seconds()
        self._health = health

    def normalize(self, records: list[bytes]) -> list[AuditEvent]:
        """Return the events of *records*, read now."""
        return self._normalizer(records, micros(self._clock()))

    async def cover(self, window: Interval, purpose: Purpose) -> Tally:
        """
        Walk *window*, in halves of halves if need be, and enter each part into the ledger.

        Raises WalkBroken if a part cannot be read that is too fine to be halved, and whatever the
        source raises; what was read until then is kept.
        """
        tally = Tally()
        source = self.source
        assert not isinstance(source, FileSource)  # noqa: S101  # it cannot be asked for windows

        async def read(part: Interval, most: int | None) -> None:
            await self._walk(source, part, tally, purpose, most)

        await in_halves(self.name, window, read)
        _log.info(
            "window_looked_at_again" if purpose.second_look else "window_collected",
            source=self.name,
            start=window.start.isoformat(),
            end=window.end.isoformat(),
            pages=tally.pages,
            events=tally.events,
            new=tally.new,
        )
        return tally

    async def _walk(
        self,
        source: Source,
        window: Interval,
        tally: Tally,
        purpose: Purpose,
        most: int | None,
    ) -> None:
        seen: set[bytes] = set()
        before = await self._store.end_of_spool() if purpose.second_look else 0
        shown: set[int] = set()  # hashes of uids, as in walk: pages that move come twice
        read = new = 0
        async with contextlib.aclosing(walk(source, window, self.normalize, most=most)) as pages:
            async for events, last in pages:
                if purpose.second_look:
                    seen.update(map(known_key, events))
                    events = [_late(event) for event in events]  # noqa: PLW2901  # the same, marked
                elif purpose.backfill is not None:
                    events = [backfilled(event) for event in events]  # noqa: PLW2901  # as above
                    shown.update(hash(event.uid) for event in events if belongs(event, window))
                    read = len(shown)
                # The interval goes in with the last page, in one transaction: coverage is claimed
                # only together with everything that proves it.
                proof = None if last is None else _proof(window, last, purpose, read, new)
                added = await self.add(events, purpose.via, proof)
                new += len(added.new)
                tally.pages += 1
                tally.events += len(events)
                tally.new += len(added.new)
                tally.late += len(added.late)
                self.worked_at = time.monotonic()
                if last is None:
                    continue
                tally.read += read
                if purpose.second_look and not (last.partial or last.gaps):
                    tally.vanished += await self._miss(window, seen, before)

    async def _miss(self, window: Interval, seen: set[bytes], before: int) -> int:
        """Note what was forwarded and is not shown any more, but for what lies near a bound."""
        inside = well_inside(window)
        if inside is None:
            return 0
        gone = await self._store.record_deleted(self.name, inside, seen, before)
        if gone:
            _log.warning(
                "events_vanished",
                source=self.name,
                count=gone,
                start=inside.start.isoformat(),
                end=inside.end.isoformat(),
            )
            self._metrics.events_vanished.labels(self.name).inc(gone)
        return gone

    async def add(
        self,
        events: Sequence[AuditEvent],
        via: str,
        proof: Proof | None = None,
        bad: Sequence[DeadLetter] = (),
    ) -> Added:
        """Store a page as soon as there is room for it, and count what became of it."""
        added = await self.patiently(
            lambda: self._store.add(
                self.name, events, via=via, proof=proof, notice=self._notice, bad=bad
            )
        )
        self._metrics.events_collected.labels(self.name).inc(len(added.new))
        self._metrics.events_duplicate.labels(self.name).inc(added.known)
        if added.new:
            self._health.count_new([events[index] for index in added.new])
            self._metrics.event_lateness_seconds.labels(self.name).observe_all(
                (events[index].fetched - events[index].at) / 1e6 for index in added.late
            )
        self._tell(added)
        if added.new or added.declared or added.filled:
            self.announce()
        return added

    async def declare(self, span: Interval, reason: str) -> None:
        """Declare what the ledger does not hold of *span* as a gap."""
        await self.add([], reason, Proof(gaps=((span, reason),)))

    def _notice(self, gap: Declared, filled: bool) -> AuditEvent:  # noqa: FBT001  # see Notice
        return gap_event(
            source=self.name,
            vendor=self._settings.type,
            scope=self.source.scope,
            start=gap.interval.start,
            end=gap.interval.end,
            reason=gap.reason,
            now=self._clock(),
            tags=self._settings.tags,
            filled=filled,
        )

    def _tell(self, added: Added) -> None:
        for gap in added.declared:
            self._metrics.gap_seconds.labels(self.name, gap.reason).inc(
                gap.interval.length.total_seconds()
            )
            if gap.new:
                _log.error("gap_declared", source=self.name, **_spelled(gap))
        for gap in added.filled:
            _log.warning("gap_filled", source=self.name, **_spelled(gap))

    async def patiently(self, write: Callable[[], Awaitable[T]]) -> T:
        """Repeat *write* until the store has room for it: a full spool only pauses reading."""
        waited = 0.0
        made_room = False
        while True:
            try:
                result = await write()
            except StoreFull as error:
                # Once at a time: room that was made and did not suffice will not do so at once.
                made_room = not made_room and await self._store.make_room()
                if made_room:
                    continue
                if waited >= self._patience:
                    raise
                if not waited:
                    await self._health.paused(str(error))
                await pause(ROOM_INTERVAL)
                waited += ROOM_INTERVAL
                self.worked_at = time.monotonic()
                continue
            if waited:
                self._health.resumed()
            return result


def belongs(event: AuditEvent, window: Interval) -> bool:
    """Tell whether *event* is of *window*: vendors also show what lies on its bounds."""
    return event.time_quality == "fetched" or micros(window.start) <= event.at < micros(window.end)


def well_inside(window: Interval) -> Interval | None:
    """Return *window* without its margins, or None if nothing is left: what must be shown of it."""
    if window.length <= 2 * MARGIN:
        return None
    return Interval(window.start + MARGIN, window.end - MARGIN)


def backfilled(event: AuditEvent) -> AuditEvent:
    """Return *event*, marked as one that was not read by a poll."""
    return msgspec.structs.replace(event, backfill=True)


def _proof(window: Interval, last: Page, purpose: Purpose, read: int, new: int) -> Proof:
    """Return what the *last* page of a walk proves."""
    part = None if purpose.backfill is None else window
    covers: tuple[Interval, ...] = ()
    gaps = last.gaps
    if last.partial is not None:
        gaps = ((window, last.partial),)
    elif not purpose.second_look:
        covers = tuple(holes(window, [span for span, _ in gaps]))
    return Proof(covers=covers, gaps=gaps, backfill=purpose.backfill, part=part, read=read, new=new)


def _spelled(gap: Declared) -> dict[str, str]:
    return {
        "start": gap.interval.start.isoformat(),
        "end": gap.interval.end.isoformat(),
        "reason": gap.reason,
    }


def _late(event: AuditEvent) -> AuditEvent:
    seconds = max(0, event.fetched - event.at) // 10**6
    return msgspec.structs.replace(event, late_by_s=seconds)
