"""
Walk all pages of one window, until the walk proves that every record was shown.

Many vendors number their pages, so a record that appears, disappears or moves between two requests
shifts others past the walk. The vendor's total reveals that; then the window is walked again, and
the records of all walks count together. Pages that cannot be a complete window raise WalkBroken,
and the caller walks smaller parts.
"""

import asyncio
import bisect
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final, Literal, Protocol, TypeVar

import structlog

from auditrelay.collect import long
from auditrelay.collect.parts import WALK, Budget, Shown
from auditrelay.errors import WalkBroken
from auditrelay.events import TimeQuality
from auditrelay.events.careful import Twins
from auditrelay.sources import Page, Source
from auditrelay.window import Interval, micros, moment

MAX_PAGES_PER_WALK: Final = 5_000
"""The most pages of a walk, for a source whose pages are small or never end."""

MAX_RECORDS: Final = 1_000
"""Records that are processed at once: some 50 ms, even if all of them are odd."""

MAX_WALKS_PER_WINDOW: Final = 4
"""How often a window is walked while records move between its pages."""

SECOND: Final = 1_000_000
"""In microseconds. Density is never judged over less: events may be written in batches."""

HASH_BITS: Final = (1 << 60) - 1
"""What is kept of the hash of a uid: a number of more bits takes half as much memory again."""

FAR_OFF: Final = 10 * 366 * 86_400 * SECOND
"""A time that is further from the window says nothing of how dense its events are."""

Outcome = Literal["complete", "total_mismatched"]
"""How a walk ended that read the whole window: with all that the vendor counts, or with fewer."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Identified(Protocol):
    """The records of a page in columns: their uids, and when each happened (microseconds)."""

    @property
    def uid(self) -> Sequence[str]:
        """The uids."""

    @property
    def at(self) -> Sequence[int]:
        """The times."""


class Timed(Protocol):
    """The times of a page in columns, and where they come from."""

    @property
    def at(self) -> Sequence[int]:
        """The times."""

    @property
    def time_quality(self) -> Sequence[TimeQuality]:
        """Their qualities."""


P = TypeVar("P", bound=Identified)


async def walk(
    source: Source,
    window: Interval,
    identify: Callable[..., P],
    *,
    background: bool = False,
    finely: bool = False,
    budget: Budget | None = WALK,
    on_page: Callable[[Page, P], None] | None = None,
) -> AsyncGenerator[tuple[P, Page, Outcome | None], None]:
    """
    Yield each page of *window*, identified, and with the one that completes it the outcome.

    The last page of the last walk completes the window; all others come with None. In the
    *background* the requests give way to those of polls; *finely* they are small, see
    :meth:`auditrelay.sources.Source.walk`. A walk of more than *budget* breaks; None
    means no limit, for windows that are too short to be cut. *on_page* is called with every page
    before it is judged, so also with one that breaks the walk.
    Raises WalkBroken, and what the source raises.
    """
    before: set[int] = set()
    order: int | None = None
    for attempt in range(MAX_WALKS_PER_WINDOW):
        guard = _Guard(window, budget)
        async with (
            _saying_what_was_shown(guard),
            contextlib.aclosing(
                _read_ahead(source.walk(window, background=background, finely=finely))
            ) as pages,
        ):
            async for page, twins in _in_slices(pages):
                identified = await long.read(page.records, identify, page.records, *twins)
                if on_page is not None:
                    on_page(page, identified)
                guard.admit(page, identified)
                if not page.last:
                    yield identified, page, None
                    continue
                seen = before | guard.seen if before else guard.seen
                # What could not be read is not counted.
                complete = guard.is_complete(len(seen)) or page.unreadable
                # If two walks agree and nothing moved, the vendor's total is wrong, and all that
                # it shows has been seen. But a record that came twice in one walk has most likely
                # displaced another, as in a list whose order leaves ties open. Smaller parts may
                # show that one; a window that is too short to be cut takes two identical walks.
                agreed = attempt > 0 and not guard.moved and len(seen) == len(before)
                agreed &= not guard.repeated or (budget is None and guard.order == order)
                if agreed and not complete:
                    _log.warning(
                        "total_mismatched",
                        start=window.start.isoformat(),
                        end=window.end.isoformat(),
                        total=page.total,
                        events=len(seen),
                    )
                if complete or agreed:
                    yield identified, page, "complete" if complete else "total_mismatched"
                    return
                yield identified, page, None
                order = guard.order
                break
            else:
                raise WalkBroken("the pages ended without a last one", reason="no_last_page")
        before = seen
    raise WalkBroken("records kept moving between the pages", reason="pages_moved")


def time_range(page: Timed) -> tuple[datetime, datetime] | None:
    """Return the oldest and newest time on *page*, or None if no event has a time of its own."""
    times = [
        at for at, quality in zip(page.at, page.time_quality, strict=True) if quality != "fetched"
    ]
    return (moment(min(times)), moment(max(times))) if times else None


@contextlib.asynccontextmanager
async def _saying_what_was_shown(guard: "_Guard") -> AsyncGenerator[None, None]:
    """Add to a WalkBroken of this block what the walk has shown by then."""
    try:
        yield
    except WalkBroken as error:
        error.shown = guard.shown
        raise


async def _read_ahead(pages: AsyncGenerator[Page, None]) -> AsyncGenerator[Page, None]:
    """
    Yield each of *pages*, and request the next one while the caller processes it.

    A vendor needs at least as long to answer as we need to normalize and store a page. The
    read-ahead is one page, and nothing is requested after the last one.
    """
    coming = asyncio.ensure_future(_next(pages))
    try:
        while (page := await coming) is not None:
            if not page.last:
                coming = asyncio.ensure_future(_next(pages))
            yield page
            if page.last:
                return
    finally:
        coming.cancel()
        # Drop the error of the page read ahead: the walk is abandoned.
        await asyncio.gather(coming, return_exceptions=True)
        await pages.aclose()


async def _in_slices(
    pages: AsyncGenerator[Page, None],
) -> AsyncGenerator[tuple[Page, tuple[Twins, ...]], None]:
    """
    Yield each of *pages*, a large one in several, with the twins of all of it.

    A vendor decides how much is on a page, but not for how long nothing else happens here.
    """
    async for page in pages:
        slices = long.in_slices(page.records, MAX_RECORDS)
        if len(slices) == 1:
            yield page, ()
            continue
        twins = Twins()
        for number, records in enumerate(slices, 1):
            await asyncio.sleep(0)
            last = page.last and number == len(slices)
            yield replace(page, records=records, last=last), (twins,)


async def _next(pages: AsyncGenerator[Page, None]) -> Page | None:
    return await anext(pages, None)


class _Guard:
    """Tracks the pages of one walk, and detects those that cannot be a complete window."""

    def __init__(self, window: Interval, budget: Budget | None) -> None:
        self.seen: set[int] = set()
        """Hashes of the uids: a bounded walk stays within a few megabytes."""
        self.moved = False
        """Whether records disappeared during the walk."""
        self.repeated = False
        """Whether a record came more than once."""
        self.order = 0
        """A hash of the records in the order in which they came."""
        self._start, self._end = micros(window.start), micros(window.end)
        self._earliest, self._latest = self._start - FAR_OFF, self._end + FAR_OFF
        self._budget = budget
        self._pages = 0
        self._total: int | None = None
        self._times: list[int] = []
        """When the first and the last event of each page happened."""
        self._before: list[int] = []
        """How many events had been seen before each of these pages."""
        self._dense_from: datetime | None = None
        self._dense = 0

    def admit(self, page: Page, identified: Identified) -> None:
        """Record *page*, or raise WalkBroken if it cannot be part of a complete walk."""
        self._pages += 1
        count = len(self.seen)
        shown = [each & HASH_BITS for each in map(hash, identified.uid)]
        self.seen.update(shown)
        self.repeated |= len(self.seen) < count + len(shown)
        self.order = hash((self.order, *shown))
        if shown:
            ends = [identified.at[0], identified.at[-1]]
            if self._earliest <= min(ends) <= max(ends) <= self._latest:
                self._times += ends
                self._before.append(count)
        if not page.last and len(self.seen) == count:
            if shown:
                raise WalkBroken("a page came a second time", reason="repeated_page")
            raise WalkBroken("an empty page that is not the last", reason="no_progress")
        if self._total is not None and page.total is not None and page.total < self._total:
            self.moved = True
        self.moved |= page.shrunk
        self._total = page.total
        if self._budget is None:
            return
        most = self._budget.uncounted if page.total is None else self._budget.counted
        if (page.total or 0) > most or len(self.seen) > most or self._pages > MAX_PAGES_PER_WALK:
            raise WalkBroken(
                f"the window has more than {most:,} events or {MAX_PAGES_PER_WALK:,} pages",
                reason="over_budget",
            )
        enough = page.at_most is None or page.at_most > most
        if self._budget.spare and enough and page.total is None and not page.last:
            self._judge_density(self._budget)

    def _judge_density(self, budget: Budget) -> None:
        """Raise WalkBroken if the window has more events than *budget*, as far as can be seen."""
        events = len(self.seen)
        if events <= budget.burst or (events > budget.spare and len(self._before) > 1):
            return
        if not self._before:  # all times so far are far off
            return
        # The last quarter of the pages: the walk may have come from emptiness into a burst.
        number = len(self._before)
        behind = bisect.bisect_left(self._before, events - budget.burst) - 1
        number = max(0, min(number * 3 // 4, behind))
        dense = events - self._before[number]
        first, last = self._times[2 * number], self._times[-1]
        if not self._start <= min(first, last) <= max(first, last) <= self._end:
            return
        if first == last:
            rest = max(last - self._start, self._end - last)
        else:
            rest = last - self._start if last < first else self._end - last
        expected = events + dense * rest // max(abs(first - last), SECOND)
        if expected <= budget.uncounted:
            return
        shown = self.shown
        if shown.newest_first is None and shown.oldest != shown.newest:
            return
        self._dense_from, self._dense = moment(first), dense
        raise WalkBroken(
            f"the window has about {expected:,} events by the density of {dense:,}",
            reason="over_budget",
        )

    @property
    def shown(self) -> Shown:
        """What the walk has shown so far."""
        times = self._times
        if not times:
            return Shown(0)
        newest_first = None
        if times[0] != times[-1]:
            ordered = sorted(times, reverse=times[0] > times[-1])
            newest_first = times[0] > times[-1] if times == ordered else None
        return Shown(
            len(self.seen),
            moment(min(times)),
            moment(max(times)),
            newest_first,
            self._dense_from,
            self._dense,
            tuple(zip(self._before, map(moment, times[::2]), strict=True)),
        )

    def is_complete(self, seen: int) -> bool:
        """Return whether *seen* distinct events can be all that there are."""
        return not self.moved and (self._total is None or seen >= self._total)
