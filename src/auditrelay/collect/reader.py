"""
Read one window of a source into the store, in parts that are cut where a walk breaks.

A poll, a resweep, a backfill and a repair are the same walk. They differ in how they mark the
events and in what a finished walk proves. Every page is deduplicated by uid as it is stored.
"""

import contextlib
import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

import msgspec
import structlog

from auditrelay.collect.ledger import Intake
from auditrelay.collect.page_writer import PageWriter
from auditrelay.collect.parts import Budget, PartLength, in_parts
from auditrelay.collect.unreadable import GiveUp, Probe, passed_over
from auditrelay.collect.walk import time_range, walk
from auditrelay.events.normalize import IdentifiedPage
from auditrelay.events.page import Page as EventPage
from auditrelay.sources import UNREADABLE, Page, Source
from auditrelay.store import Proof
from auditrelay.store.keys import uid_bytes
from auditrelay.telemetry.metrics import Metrics
from auditrelay.window import Interval, holes, micros, until

MARGIN: Final = timedelta(seconds=1)
"""Events this close to a bound of a window are never reported as deleted: vendors round bounds."""

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ReadMode:
    """Why a window is read; *via* is how the facts of the evidence call it."""

    via: str
    resweep: bool = False
    """Whether the window is covered already: new events are late, missing ones were deleted."""
    backfill: int | None = None
    """The number of the backfill that the window is part of."""

    @property
    def background(self) -> bool:
        """Whether its requests give way to those of polls."""
        return self.resweep or self.backfill is not None


POLL: Final = ReadMode("poll")


@dataclass(slots=True)
class WindowStats:
    """What the source showed of one window, summed over all its walks."""

    pages: int = 0
    events: int = 0
    new: int = 0
    late: int = 0
    read: int = 0
    """How many distinct events inside of the window a backfill read."""
    deleted: int = 0
    """How many forwarded events a resweep newly found to be deleted at the source."""


class WindowReader:
    """
    Reads windows of one *source* through *writer* into the store.

    Another window may be read at the same time by another reader, with a writer of its own. *axis*
    is the time that windows are of, see :attr:`auditrelay.settings.SourceSettings.axis`.
    """

    def __init__(
        self,
        source: Source,
        *,
        part_length: PartLength,
        probe: Probe,
        writer: PageWriter,
        store: Intake,
        metrics: Metrics,
        axis: Literal["event", "recorded"] = "event",
    ) -> None:
        self.source = source
        self.writer = writer
        self._name = writer.name
        self._store = store
        self._metrics = metrics
        self._axis = axis
        self.part_length = part_length
        """How long the next part is to be; kept from one window to the next."""
        self._probe = probe

    async def read(self, window: Interval, mode: ReadMode, give_up: GiveUp) -> WindowStats:
        """
        Walk *window* in parts, cut where a walk fails, and enter each part into the ledger.

        What cannot be read, however small the request, is not entered; *give_up* gets it. Raises
        what the source raises if it does not answer at all, or if too much cannot be read; the
        parts read until then stay in the store.
        """
        stats = WindowStats()

        async def walk_part(part: Interval, budget: Budget | None, *, finely: bool) -> int:
            return await self._walk(part, stats, mode, budget, give_up if finely else None)

        await in_parts(
            self._name,
            window,
            self.part_length,
            walk_part,
            answers=self._probe.answers,
            give_up=give_up,
        )
        _log.info(
            "window_reswept" if mode.resweep else "window_collected",
            source=self._name,
            start=window.start.isoformat(),
            end=window.end.isoformat(),
            pages=stats.pages,
            events=stats.events,
            new=stats.new,
        )
        return stats

    def bounds(self, window: Interval) -> Interval | None:
        """
        Return between which times the events of *window* happened.

        None if that is not known: it is when they were recorded, which is later.
        """
        return window if self._axis == "event" else None

    async def _walk(
        self,
        window: Interval,
        stats: WindowStats,
        mode: ReadMode,
        budget: Budget | None,
        give_up: GiveUp | None,
    ) -> int:
        """Walk *window*: finely, if *give_up* is there to get what cannot be read of it."""
        seen: set[bytes] = set()
        before = await self._store.end_of_spool(self._name) if mode.resweep else 0
        shown: set[int] = set()  # hashes of uids, as in walk: a page that moved comes twice
        read = new = number = events_shown = 0
        changed = self.writer.compare()
        async with contextlib.aclosing(
            walk(
                self.source,
                window,
                self.writer.identify,
                background=mode.background,
                finely=give_up is not None,
                budget=budget,
            )
        ) as pages:
            async for identified, page, outcome in pages:
                if page.unreadable and not await self._probe.answers():
                    raise passed_over()
                mark = _as_it_is
                if mode.resweep:
                    mark = _late
                    seen.update(uid_bytes(identified.uid))
                elif mode.backfill is not None:
                    mark = backfilled
                    shown.update(
                        hash(identified.uid[row])
                        for row in rows_in(identified, self.bounds(window))
                    )
                    read = len(shown)
                # The interval and the last page are one transaction: time counts as covered only
                # once every event of it is durable.
                proof = None
                if outcome is not None:
                    proof = _proof(window, page, mode, read, new, past=self.writer.certain())
                added = await self.writer.add_new(
                    identified, mode.via, proof, changed=changed, mark=mark
                )
                new += len(added.new)
                number += 1
                self._log_page(window, number, page, identified, len(added.new))
                stats.pages += 1
                stats.events += len(identified)
                events_shown += len(identified)
                stats.new += len(added.new)
                stats.late += len(added.late)
                self.writer.record_progress()
                if outcome is None:
                    continue
                stats.read += read
                for span, reason in page.gaps:
                    if reason == UNREADABLE and give_up is not None:
                        await give_up(span, passed_over())
                if mode.resweep and not (page.partial or page.gaps):
                    stats.deleted += await self._record_deleted(window, seen, before)
        return events_shown

    def _log_page(
        self, part: Interval, number: int, page: Page, identified: IdentifiedPage, new: int
    ) -> None:
        if not _log.is_enabled_for(logging.DEBUG):
            return  # the times of the events cost a pass over them
        found = time_range(identified)
        _log.debug(
            "page_read",
            source=self._name,
            start=part.start.isoformat(),
            end=part.end.isoformat(),
            number=number,
            records=len(page.records),
            new=new,
            total=page.total,
            oldest=None if found is None else found[0].isoformat(),
            newest=None if found is None else found[1].isoformat(),
        )

    async def _record_deleted(self, window: Interval, seen: set[bytes], before: int) -> int:
        """Record the forwarded events that were deleted at the source; return how many are new."""
        # What happened in a window may have been recorded in another one, and is missing in none.
        inside = well_inside(self.bounds(window))
        if inside is None:
            return 0
        new = await self._store.record_deleted(self._name, inside, seen, before)
        if new:
            _log.warning(
                "events_deleted_at_source",
                source=self._name,
                count=new,
                start=inside.start.isoformat(),
                end=inside.end.isoformat(),
            )
            self._metrics.events_deleted_at_source.labels(self._name).inc(new)
        return new


def rows_in(page: IdentifiedPage, window: Interval | None) -> list[int]:
    """
    Return which of *page* are inside of *window*: vendors also show events on its bounds.

    None means all.
    """
    if window is None:
        return list(range(len(page.at)))
    start, end = micros(window.start), micros(window.end)
    return [
        row
        for row, (at, quality) in enumerate(zip(page.at, page.time_quality, strict=True))
        if quality == "fetched" or start <= at < end
    ]


def well_inside(window: Interval | None) -> Interval | None:
    """Return *window* without a MARGIN at both ends, or None if that leaves nothing."""
    if window is None or window.length <= 2 * MARGIN:
        return None
    return Interval(window.start + MARGIN, window.end - MARGIN)


def backfilled(page: EventPage) -> EventPage:
    """Return *page*, marked as read by a backfill or a repair instead of a poll."""
    sorts = [msgspec.structs.replace(sort, backfill=True) for sort in page.sorts]
    return msgspec.structs.replace(page, sorts=sorts)


def _proof(
    window: Interval, last: Page, mode: ReadMode, read: int, new: int, *, past: datetime
) -> Proof:
    """Return what the walk of *window* proves, given its *last* page: nothing beyond *past*."""
    part = None if mode.backfill is None else window
    covers: tuple[Interval, ...] = ()
    gaps = tuple(gap for gap in last.gaps if gap[1] != UNREADABLE)
    if last.partial is not None:
        gaps = ((window, last.partial),)
    elif not mode.resweep:
        covers = tuple(holes(window, [span for span, _ in last.gaps]))
    covers = tuple(until(past, covers))
    gaps = tuple((known, reason) for span, reason in gaps for known in until(past, [span]))
    return Proof(covers=covers, gaps=gaps, backfill=mode.backfill, part=part, read=read, new=new)


def _as_it_is(page: EventPage) -> EventPage:
    return page


def _late(page: EventPage) -> EventPage:
    seconds: list[int | None] = [
        max(0, fetched - at) // 10**6 for fetched, at in zip(page.fetched, page.at, strict=True)
    ]
    return msgspec.structs.replace(page, late_by_s=seconds)
