"""
Walk one window: every page of it, until it is proved that all of it was shown.

Many vendors number their pages, so a record that appears, vanishes or changes its place between
two requests moves others past the walk. A vendor that says how many there are gives that away;
then the window is walked again, and what all walks have shown counts together. Whatever cannot be
a whole window is WalkBroken, and the caller tries the halves.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Final

import structlog

from auditrelay.errors import WalkBroken
from auditrelay.events import AuditEvent
from auditrelay.sources import Page, Source
from auditrelay.window import Interval, halves

MOST_EVENTS: Final = 50_000
"""A window that holds more is halved: a walk that breaks off then costs little to repeat."""

MOST_PAGES: Final = 5_000
"""The same in pages, for a source whose pages are small or never end."""

MOST_WALKS: Final = 4
"""How often a window is walked when records move between its pages."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


async def walk(
    source: Source,
    window: Interval,
    normalize: Callable[[list[bytes]], list[AuditEvent]],
    *,
    most: int | None = MOST_EVENTS,
) -> AsyncGenerator[tuple[list[AuditEvent], Page | None], None]:
    """
    Yield the events of every page of *window*, and with them the page that makes it complete.

    It is complete with the last page of the last walk; with any other page comes None. Without
    *most*, the number of events that it may hold, a walk may be as long as it takes: for windows
    that are too fine to be halved. Raises WalkBroken, and what the source raises.
    """
    before: set[int] = set()
    order: int | None = None
    for attempt in range(MOST_WALKS):
        guard = _Guard(most)
        async with contextlib.aclosing(_ahead(source.walk(window))) as pages:
            async for page in pages:
                events = normalize(page.records)
                guard.admit(page, events)
                if not page.last:
                    yield events, None
                    continue
                seen = before | guard.seen if before else guard.seen
                complete = guard.whole(len(seen))
                # Two walks that agree, while nothing moved: what the vendor says of the total is
                # not so, and all that it shows has been seen. But a record that came twice in a
                # walk has most likely taken the place of another, as in a list whose order leaves
                # ties open. Halves may show that one; where there are none, two walks alike.
                agreed = attempt > 0 and not guard.moved and len(seen) == len(before)
                agreed &= not guard.repeated or (most is None and guard.order == order)
                if agreed and not complete:
                    _log.warning(
                        "total_not_borne_out",
                        start=window.start.isoformat(),
                        end=window.end.isoformat(),
                        total=page.total,
                        events=len(seen),
                    )
                if complete or agreed:
                    yield events, page
                    return
                yield events, None
                order = guard.order
                break
            else:
                raise WalkBroken("the pages ended without a last one", reason="no_last_page")
        before = seen
    raise WalkBroken("records kept moving between the pages", reason="pages_moved")


async def _ahead(pages: AsyncGenerator[Page, None]) -> AsyncGenerator[Page, None]:
    """
    Yield what *pages* yields, and ask for the next page while one is worked on.

    A vendor's answer takes as long as a page takes to be understood and stored, or longer. It is
    one page ahead and no more, and nothing is asked for after the last.
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
        # What it raised while nobody waited for it matters to nobody: the walk is given up.
        await asyncio.gather(coming, return_exceptions=True)
        await pages.aclose()


async def _next(pages: AsyncGenerator[Page, None]) -> Page | None:
    return await anext(pages, None)


async def in_halves(
    source: str,
    window: Interval,
    read: Callable[[Interval, int | None], Awaitable[None]],
    *,
    most: int = MOST_EVENTS,
) -> None:
    """
    Have *window* read, in halves of halves if need be: a part that breaks costs only itself.

    *read* is given each part and the most events that it may hold, None for the finest. *source*
    is its name, for the log. Raises WalkBroken, with the part, if the finest cannot be read.
    """
    parts = [window]
    while parts:
        part = parts.pop()
        smaller = halves(part)
        try:
            await read(part, None if smaller is None else most)
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
    """What one walk has shown so far, and whether it still makes sense."""

    def __init__(self, most: int | None) -> None:
        self.seen: set[int] = set()
        """Hashes of the uids: a bounded walk stays within a few megabytes."""
        self.moved = False
        """Whether records vanished while the walk went on."""
        self.repeated = False
        """Whether a record came more than once."""
        self.order = 0
        """A hash of the records in the order in which they came."""
        self._most = most
        self._pages = 0
        self._total: int | None = None

    def admit(self, page: Page, events: list[AuditEvent]) -> None:
        """Take *page* into account, or raise WalkBroken if it cannot belong to an honest walk."""
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
        if self._most is not None and (
            (page.total or 0) > self._most
            or len(self.seen) > self._most
            or self._pages > MOST_PAGES
        ):
            raise WalkBroken(
                f"the window holds more than {self._most:,} events or {MOST_PAGES:,} pages",
                reason="over_budget",
            )

    def whole(self, seen: int) -> bool:
        """Tell whether *seen* distinct events can be all that there are."""
        return not self.moved and (self._total is None or seen >= self._total)
