"""
Walk all pages of one window, until the walk proves that every record was shown.

Many vendors number their pages, so a record that appears, disappears or moves between two requests
shifts others past the walk. The vendor's total reveals that; then the window is walked again, and
the records of all walks count together. Pages that cannot be a complete window raise WalkBroken,
and the caller walks the halves.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from datetime import datetime
from typing import Final, Literal

import structlog

from auditrelay.errors import WalkBroken
from auditrelay.events import AuditEvent
from auditrelay.sources import Page, Source
from auditrelay.window import Interval, halves, moment

MAX_EVENTS_PER_WALK: Final = 50_000
"""A window with more events is halved, so that repeating a broken walk costs little."""

MAX_PAGES_PER_WALK: Final = 5_000
"""The same limit in pages, for a source whose pages are small or never end."""

MAX_WALKS_PER_WINDOW: Final = 4
"""How often a window is walked while records move between its pages."""

Outcome = Literal["complete", "total_mismatched"]
"""How a walk ended that read the whole window: with all that the vendor counts, or with fewer."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


async def walk(
    source: Source,
    window: Interval,
    normalize: Callable[[list[bytes]], list[AuditEvent]],
    *,
    background: bool = False,
    max_events: int | None = MAX_EVENTS_PER_WALK,
    on_page: Callable[[Page, list[AuditEvent]], None] | None = None,
) -> AsyncGenerator[tuple[list[AuditEvent], Page, Outcome | None], None]:
    """
    Yield each page of *window* with its events, and with the one that completes it the outcome.

    The last page of the last walk completes the window; all others come with None. In the
    *background* the requests give way to those of polls. A walk of more than *max_events* breaks;
    None means no limit, for windows that are too short to be halved. *on_page* is called with every
    page before it is judged, so also with one that breaks the walk.
    Raises WalkBroken, and what the source raises.
    """
    before: set[int] = set()
    order: int | None = None
    for attempt in range(MAX_WALKS_PER_WINDOW):
        guard = _Guard(max_events)
        async with contextlib.aclosing(
            _read_ahead(source.walk(window, background=background))
        ) as pages:
            async for page in pages:
                events = normalize(page.records)
                if on_page is not None:
                    on_page(page, events)
                guard.admit(page, events)
                if not page.last:
                    yield events, page, None
                    continue
                seen = before | guard.seen if before else guard.seen
                complete = guard.is_complete(len(seen))
                # If two walks agree and nothing moved, the vendor's total is wrong, and all that
                # it shows has been seen. But a record that came twice in one walk has most likely
                # displaced another, as in a list whose order leaves ties open. Halves may show
                # the displaced one; a window too short for halves takes two identical walks.
                agreed = attempt > 0 and not guard.moved and len(seen) == len(before)
                agreed &= not guard.repeated or (max_events is None and guard.order == order)
                if agreed and not complete:
                    _log.warning(
                        "total_mismatched",
                        start=window.start.isoformat(),
                        end=window.end.isoformat(),
                        total=page.total,
                        events=len(seen),
                    )
                if complete or agreed:
                    yield events, page, "complete" if complete else "total_mismatched"
                    return
                yield events, page, None
                order = guard.order
                break
            else:
                raise WalkBroken("the pages ended without a last one", reason="no_last_page")
        before = seen
    raise WalkBroken("records kept moving between the pages", reason="pages_moved")


def time_range(events: Sequence[AuditEvent]) -> tuple[datetime, datetime] | None:
    """Return the oldest and newest time of *events*, or None if none has a time of its own."""
    times = [event.at for event in events if event.time_quality != "fetched"]
    return (moment(min(times)), moment(max(times))) if times else None


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


async def _next(pages: AsyncGenerator[Page, None]) -> Page | None:
    return await anext(pages, None)


async def in_halves(
    source: str,
    window: Interval,
    read: Callable[[Interval, int | None], Awaitable[None]],
    *,
    max_events: int = MAX_EVENTS_PER_WALK,
) -> None:
    """
    Read *window*, bisecting it where a walk breaks, so that only the broken part is repeated.

    *read* gets each part and the most events that it may have; None for a part that is too short
    to be halved. *source* is the name for the log. Raises WalkBroken, with the part in it, if a
    part that is too short to be halved cannot be read.
    """
    parts = [window]
    while parts:
        part = parts.pop()
        smaller = halves(part)
        try:
            await read(part, None if smaller is None else max_events)
        except WalkBroken as error:
            if smaller is None:
                error.window = part
                raise
            _log.warning(
                "window_halved",
                source=source,
                start=part.start.isoformat(),
                end=part.end.isoformat(),
                reason=error.reason,
            )
            parts += reversed(smaller)


class _Guard:
    """Tracks the pages of one walk, and detects those that cannot be a complete window."""

    def __init__(self, max_events: int | None) -> None:
        self.seen: set[int] = set()
        """Hashes of the uids: a bounded walk stays within a few megabytes."""
        self.moved = False
        """Whether records disappeared during the walk."""
        self.repeated = False
        """Whether a record came more than once."""
        self.order = 0
        """A hash of the records in the order in which they came."""
        self._max_events = max_events
        self._pages = 0
        self._total: int | None = None

    def admit(self, page: Page, events: list[AuditEvent]) -> None:
        """Record *page*, or raise WalkBroken if it cannot be part of a complete walk."""
        self._pages += 1
        count = len(self.seen)
        shown = [hash(event.uid) for event in events]
        self.seen.update(shown)
        self.repeated |= len(self.seen) < count + len(shown)
        self.order = hash((self.order, *shown))
        if not page.last and len(self.seen) == count:
            if events:
                raise WalkBroken("a page came a second time", reason="repeated_page")
            raise WalkBroken("an empty page that is not the last", reason="no_progress")
        if self._total is not None and page.total is not None and page.total < self._total:
            self.moved = True
        self.moved |= page.shrunk
        self._total = page.total
        if self._max_events is not None and (
            (page.total or 0) > self._max_events
            or len(self.seen) > self._max_events
            or self._pages > MAX_PAGES_PER_WALK
        ):
            raise WalkBroken(
                f"the window has more than {self._max_events:,} events or "
                f"{MAX_PAGES_PER_WALK:,} pages",
                reason="over_budget",
            )

    def is_complete(self, seen: int) -> bool:
        """Return whether *seen* distinct events can be all that there are."""
        return not self.moved and (self._total is None or seen >= self._total)
