"""
Read a past range of a source: cut into slices, several at once, taken up again where it stopped.

A slice is read like any other window (``cover``), so that what is known is not forwarded again and
the ledger tells what is covered. For some sinks alone it is different: they get every event of the
range, known or not, out of the spool where it still holds them all, else from the source.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import structlog

from auditrelay.collect.collector import MOST_UNREADABLE, RETENTION, UNREADABLE, Collector
from auditrelay.collect.progress import OnProgress
from auditrelay.collect.reader import Purpose, Reader, backfilled, belongs
from auditrelay.collect.walk import in_halves, walk
from auditrelay.errors import ConfigError, WalkBroken
from auditrelay.events import AuditEvent
from auditrelay.http.rate import in_background
from auditrelay.sources import FileSource
from auditrelay.store import Proof, Store
from auditrelay.window import Interval, holes, slices

SLICES: Final = 64
"""About how many slices a range is cut into: often enough to see progress and to lose little."""

SHORTEST: Final = timedelta(hours=1)
"""A slice is at least so long, unless the range is shorter."""

MOST_AT_ONCE: Final = 5_000
"""Events that are refilled in one transaction; they are all in memory."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(slots=True)
class Progress:
    """How far a backfill has come; the spans are event time, in seconds."""

    done_seconds: float
    total_seconds: float
    events: int = 0
    new: int = 0
    gaps: int = 0


class Backfiller:
    """One backfill of the source of *collector* over *span*, into *sinks* (none: all of them)."""

    def __init__(
        self,
        collector: Collector,
        store: Store,
        *,
        span: Interval,
        sinks: Sequence[str],
        clock: Callable[[], datetime],
        tell: OnProgress,
    ) -> None:
        if isinstance(collector.source, FileSource):
            raise ConfigError(
                f"{collector.name} reads files and cannot be asked for a range: put an export of "
                "it into its directory, and it is read at once"
            )
        self._collector = collector
        self._source = collector.source
        self._store = store
        self._span = span
        self._sinks = sinks
        self._clock = clock
        self._tell = tell
        self._progress = Progress(0, span.length.total_seconds())
        self._number: int | None = None

    async def run(self, *, concurrency: int, newest_first: bool) -> dict[str, Any]:
        """
        Do all of it that is not done yet; return what came of it.

        Raises RelayError if a slice could not be read; the others are kept, and the next backfill
        of the same range goes on from there.
        """
        in_background()
        await self._collector.checkpoint.refresh()
        backfill = await self._store.begin_backfill(
            self._collector.name, self._span, self._sinks, self._clock()
        )
        self._number = backfill.id
        progress = self._progress
        progress.events, progress.new = backfill.events, backfill.new
        todo = await self._without_retired(list(holes(self._span, backfill.done)))
        left = sum(part.length.total_seconds() for part in todo)
        progress.done_seconds = progress.total_seconds - left
        await self._tell(asdict(progress))
        slices = [piece for part in todo for piece in self._cut(part)]
        await self._work_through(slices if newest_first else slices[::-1], concurrency, self._fill)
        await self._store.end_backfill(backfill.id, self._clock())
        return {**asdict(progress), "resumed": bool(backfill.done)}

    async def count(self, *, concurrency: int) -> dict[str, Any]:
        """Return how many events the source shows, and how many were never forwarded."""
        in_background()
        await self._collector.checkpoint.refresh()
        await self._work_through(self._cut(self._span), concurrency, self._look)
        return asdict(self._progress)

    def _cut(self, span: Interval) -> list[Interval]:
        longest = min(
            self._collector.settings.max_window, max(self._span.length / SLICES, SHORTEST)
        )
        return list(slices(span, longest))

    async def _without_retired(self, todo: list[Interval]) -> list[Interval]:
        """Declare as a gap what the vendor does not keep any more, and return the rest."""
        kept = self._collector.settings.retention
        if kept is None:
            return todo
        oldest = self._clock() - kept
        rest = []
        for part in todo:
            if part.start < oldest and not self._sinks:
                gone = Interval(part.start, min(part.end, oldest))
                await self._collector.new_reader().declare(gone, RETENTION)
                self._progress.gaps += 1
            if part.end > oldest:
                rest.append(Interval(max(part.start, oldest), part.end))
        return rest

    async def _work_through(
        self,
        slices: list[Interval],
        concurrency: int,
        do: Callable[[Reader, Interval], Awaitable[None]],
    ) -> None:
        """Have *do* done for every one of *slices*, the last first, so many at a time."""

        async def work() -> None:
            reader = self._collector.new_reader()
            while slices:
                piece = slices.pop()
                await do(reader, piece)
                self._progress.done_seconds += piece.length.total_seconds()
                await self._tell(asdict(self._progress))

        workers = [asyncio.ensure_future(work()) for _ in range(min(concurrency, len(slices)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _fill(self, reader: Reader, piece: Interval) -> None:
        if self._sinks:
            await self._refill(reader, piece)
        else:
            await self._cover(reader, piece)
        _log.info(
            "slice_backfilled",
            source=self._collector.name,
            start=piece.start.isoformat(),
            end=piece.end.isoformat(),
            events=self._progress.events,
            new=self._progress.new,
        )

    async def _cover(self, reader: Reader, piece: Interval) -> None:
        purpose = Purpose("backfill", backfill=self._number)
        unreadable: list[Interval] = []
        todo = [piece]
        while todo:
            part = todo.pop()
            try:
                tally = await reader.cover(part, purpose)
            except WalkBroken as error:
                if error.window is None or len(unreadable) >= MOST_UNREADABLE:
                    raise
                unreadable.append(error.window)
                await reader.declare(error.window, UNREADABLE)
                self._progress.gaps += 1
                todo += holes(part, [error.window])
                continue
            self._progress.events += tally.read
            self._progress.new += tally.new

    async def _refill(self, reader: Reader, piece: Interval) -> None:
        async def read(part: Interval, most: int | None) -> None:
            events = await self._held(part, most)
            if events is None:
                events = await self._shown(reader, part, most)
            events = [backfilled(event) for event in events]
            proof = Proof(backfill=self._number, part=part, read=len(events))
            await reader.patiently(
                lambda: self._store.resend(self._collector.name, self._sinks, events, proof)
            )
            reader.announce()
            self._progress.events += len(events)
            self._progress.new += len(events)

        await in_halves(self._collector.name, piece, read, most=MOST_AT_ONCE)

    async def _held(self, part: Interval, most: int | None) -> list[AuditEvent] | None:
        """Return the events of *part* from the spool, if all of it was read and is still there."""
        name = self._collector.name
        covered = [span.interval for span in await self._store.ledger(name) if span.gap is None]
        if any(holes(part, covered)):
            return None
        count, _ = await self._store.count_forwarded(name, part)
        if most is not None and count > most:
            raise WalkBroken(f"more than {most:,} events", reason="over_budget")
        return await self._store.spooled_events(name, part)

    async def _shown(self, reader: Reader, part: Interval, most: int | None) -> list[AuditEvent]:
        """Return the events of *part* from the source, each once."""
        found: dict[str, AuditEvent] = {}
        async for events, _ in walk(self._source, part, reader.normalize, most=most):
            found.update((event.uid, event) for event in events if belongs(event, part))
        return list(found.values())

    async def _look(self, reader: Reader, piece: Interval) -> None:
        async def read(part: Interval, most: int | None) -> None:
            shown: set[int] = set()  # hashes of uids, as in walk: pages that move come twice
            new = 0
            async for events, _ in walk(self._source, part, reader.normalize, most=most):
                inside = [
                    event
                    for event in events
                    if belongs(event, part) and hash(event.uid) not in shown
                ]
                shown.update(hash(event.uid) for event in inside)
                new += await self._store.count_new(self._collector.name, inside)
            self._progress.events += len(shown)
            self._progress.new += new

        await in_halves(self._collector.name, piece, read)
