"""
Read a past range of a source: cut into slices, read concurrently, resumed where it stopped.

A slice is read like any other window (``WindowReader.read``): known events are deduplicated, and
the ledger records what is covered. A backfill into single sinks is a resend: the sinks get every
event of the range, known or not, from the spool if all of them are still there, else from the
source.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from copy import copy
from datetime import timedelta
from typing import Final

import msgspec
import structlog

from auditrelay.clock import Clock
from auditrelay.collect import long
from auditrelay.collect.collector import Collector
from auditrelay.collect.evidence import Backfills
from auditrelay.collect.parts import WALK, Budget, can_be_cut, in_parts
from auditrelay.collect.reader import ReadMode, WindowReader, backfilled, rows_in
from auditrelay.collect.unreadable import Failure, passed_over, report
from auditrelay.collect.walk import walk
from auditrelay.errors import WalkBroken
from auditrelay.events.page import Page
from auditrelay.sources import RETENTION, UNREADABLE
from auditrelay.store import Proof
from auditrelay.store.keys import known_times
from auditrelay.window import Interval, holes, slices

SLICES_PER_RANGE: Final = 64
"""About how many slices a range is cut into: enough to show progress and to lose little."""

MIN_SLICE: Final = timedelta(hours=1)
"""The shortest slice, unless the range itself is shorter."""

MAX_EVENTS_IN_MEMORY: Final = 5_000
"""Events that are resent in one transaction, or compared at a time; all of them are in memory."""

IN_MEMORY: Final = Budget(counted=MAX_EVENTS_IN_MEMORY, uncounted=MAX_EVENTS_IN_MEMORY)
"""The budget of a walk whose events are all kept until its end."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class BackfillProgress(msgspec.Struct, tag=True):
    """Progress of a backfill; the spans are event time, in seconds."""

    done_seconds: float
    total_seconds: float
    events: int = 0
    new: int = 0
    gaps: int = 0
    resumed: bool = False
    """Whether an earlier run had done a part of it."""


class Backfiller:
    """
    One backfill of the source of *collector* over *span*, into *sinks* (none: all of them).

    *by* is the user id of the operator who asked for it, *on_progress* is called after each slice.
    """

    def __init__(
        self,
        collector: Collector,
        store: Backfills,
        *,
        span: Interval,
        sinks: Sequence[str],
        clock: Clock,
        by: int | None = None,
        on_progress: Callable[[BackfillProgress], Awaitable[None]],
    ) -> None:
        self._collector = collector
        self._source = collector.source
        self._store = store
        self._span = span
        self._sinks = sinks
        self._clock = clock
        self._by = by
        self._on_progress = on_progress
        self._progress = BackfillProgress(0, span.length.total_seconds())
        self._number: int | None = None

    async def run(self, *, concurrency: int, newest_first: bool) -> BackfillProgress:
        """
        Read everything of the range that is not done yet; return the final progress.

        Raises RelayError if a slice could not be read; finished slices stay done, and the next
        backfill of the same range resumes from there.
        """
        await self._collector.checkpoint.refresh()
        backfill = await self._store.begin_backfill(
            self._collector.name, self._span, self._sinks, self._clock.now(), by=self._by
        )
        self._number = backfill.id
        progress = self._progress
        progress.events, progress.new = backfill.events, backfill.new
        progress.resumed = bool(backfill.done)
        todo = await self._without_retired(list(holes(self._span, backfill.done)))
        left = sum(part.length.total_seconds() for part in todo)
        progress.done_seconds = progress.total_seconds - left
        await self._report()
        slices = [piece for part in todo for piece in self._cut(part)]
        await self._for_each(
            slices if newest_first else slices[::-1], concurrency, self._backfill_slice
        )
        await self._store.end_backfill(backfill.id, self._clock.now())
        return progress

    async def count(self, *, concurrency: int) -> BackfillProgress:
        """Count the events that the source shows, and those never forwarded; forward nothing."""
        await self._collector.checkpoint.refresh()
        await self._for_each(self._cut(self._span), concurrency, self._count_slice)
        return self._progress

    def _cut(self, span: Interval) -> list[Interval]:
        longest = min(
            self._collector.settings.max_window,
            max(self._span.length / SLICES_PER_RANGE, MIN_SLICE),
        )
        return list(slices(span, longest))

    async def _without_retired(self, todo: list[Interval]) -> list[Interval]:
        """Declare as a gap what is older than the vendor's retention, and return the rest."""
        reach = self._collector.settings.reach
        if reach is None:
            return todo
        oldest = await self._collector.certain_time() - reach
        rest = []
        for part in todo:
            if part.start < oldest and not self._sinks:
                expired = Interval(part.start, min(part.end, oldest))
                await self._collector.new_reader().writer.declare(expired, RETENTION)
                self._progress.gaps += 1
            if part.end > oldest:
                rest.append(Interval(max(part.start, oldest), part.end))
        return rest

    async def _for_each(
        self,
        slices: list[Interval],
        concurrency: int,
        work_on: Callable[[WindowReader, Interval], Awaitable[None]],
    ) -> None:
        """Call *work_on* for each of *slices*, the last first, *concurrency* of them at a time."""

        async def work() -> None:
            # What is sent again to some sinks is held in memory until its part is whole.
            reader = self._collector.new_reader(IN_MEMORY if self._sinks else WALK)
            while slices:
                piece = slices.pop()
                await work_on(reader, piece)
                self._progress.done_seconds += piece.length.total_seconds()
                await self._report()

        workers = [asyncio.ensure_future(work()) for _ in range(min(concurrency, len(slices)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _report(self) -> None:
        """Report the progress, as it is now."""
        await self._on_progress(copy(self._progress))

    async def _backfill_slice(self, reader: WindowReader, piece: Interval) -> None:
        if self._sinks:
            await self._resend_slice(reader, piece)
        else:
            await self._read_slice(reader, piece)
        _log.info(
            "slice_backfilled",
            source=self._collector.name,
            start=piece.start.isoformat(),
            end=piece.end.isoformat(),
            events=self._progress.events,
            new=self._progress.new,
        )

    async def _read_slice(self, reader: WindowReader, piece: Interval) -> None:
        async def declare(span: Interval, error: Failure) -> None:
            report(self._collector.name, span, error)
            await reader.writer.declare(span, UNREADABLE)
            self._progress.gaps += 1

        mode = ReadMode("backfill", backfill=self._number)
        stats = await reader.read(piece, mode, declare)
        self._progress.events += stats.read
        self._progress.new += stats.new

    async def _resend_slice(self, reader: WindowReader, piece: Interval) -> None:
        unread: list[Failure] = []

        async def pass_over(span: Interval, error: Failure) -> None:
            report(self._collector.name, span, error)
            unread.append(error)

        async def resend(part: Interval, budget: Budget | None, *, finely: bool) -> int:
            pages = await self._from_spool(part)
            if pages is None:
                pages, whole = await self._from_source(reader, part, budget, finely=finely)
                if not whole:
                    await pass_over(part, passed_over())
            again = [backfilled(page) for page in pages if len(page)]
            count = sum(map(len, again))
            proof = Proof(backfill=self._number, part=part, read=count, by=self._by)
            await reader.writer.write_when_room(
                lambda: self._store.resend(self._collector.name, self._sinks, again, proof)
            )
            reader.writer.announce()
            self._progress.events += count
            self._progress.new += count
            return count

        await in_parts(
            self._collector.name,
            piece,
            reader.part_length,
            resend,
            answers=self._collector.probe.answers,
            give_up=pass_over,
        )
        if unread:
            raise unread[0]

    async def _from_spool(self, part: Interval) -> list[Page] | None:
        """Return the events of *part* from the spool; None unless it was read and is all there."""
        name = self._collector.name
        if self._collector.settings.axis == "recorded":  # the spool knows the events' own times
            return None
        covered = [span.interval for span in await self._store.ledger(name) if span.gap is None]
        if any(holes(part, covered)):
            return None
        count, _ = await self._store.count_forwarded(name, part)
        if count > MAX_EVENTS_IN_MEMORY and can_be_cut(part):
            raise WalkBroken(f"more than {MAX_EVENTS_IN_MEMORY:,} events", reason="over_budget")
        return await self._store.spooled_events(name, part)

    async def _from_source(
        self, reader: WindowReader, part: Interval, budget: Budget | None, *, finely: bool
    ) -> tuple[list[Page], bool]:
        """Return the events of *part* from the source, each once, and whether these are all."""
        found: list[Page] = []
        uids: set[str] = set()
        changed = reader.writer.compare()
        pages = walk(
            self._source,
            part,
            reader.writer.identify,
            background=True,
            finely=finely,
            budget=budget,
        )
        whole = True
        async for shown, page, _ in pages:
            whole &= not page.unreadable
            first = {shown.uid[row]: row for row in reversed(rows_in(shown, reader.bounds(part)))}
            rows = sorted(row for uid, row in first.items() if uid not in uids)
            uids.update(first)
            found.append(await long.read(shown.texts, shown.page, rows))
            await changed.look_up(shown)
        await changed.report()
        return found, whole

    async def _count_slice(self, reader: WindowReader, piece: Interval) -> None:
        async def count(part: Interval, budget: Budget | None, *, finely: bool) -> int:
            shown: set[int] = set()  # hashes of uids, as in walk: a page that moved comes twice
            new = 0
            pages = walk(
                self._source,
                part,
                reader.writer.identify,
                background=True,
                finely=finely,
                budget=budget,
            )
            async for page, _, _ in pages:
                rows = rows_in(page, reader.bounds(part))
                inside = [row for row in rows if hash(page.uid[row]) not in shown]
                uids, all_times = (
                    [page.uid[row] for row in inside],
                    known_times(page.at, page.time_quality),
                )
                shown.update(map(hash, uids))
                at = [all_times[row] for row in inside]
                found = await self._store.look_up(self._collector.name, uids, at, [b""] * len(uids))
                new += len(found.new)
            self._progress.events += len(shown)
            self._progress.new += new
            return len(shown)

        async def pass_over(span: Interval, error: Failure) -> None:
            report(self._collector.name, span, error)
            self._progress.gaps += 1

        await in_parts(
            self._collector.name,
            piece,
            reader.part_length,
            count,
            answers=self._collector.probe.answers,
            give_up=pass_over,
        )
