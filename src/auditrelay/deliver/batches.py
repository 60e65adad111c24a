"""
Read the spool for one sink, and cut batches from it.

Events that were sent and never acknowledged are read again from their positions in the spool,
before new ones: they need not be kept in memory.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Final

from auditrelay.deliver.spool import Spool
from auditrelay.errors import TooLarge
from auditrelay.events import AuditEvent
from auditrelay.events.page import Page
from auditrelay.sinks import ANY_AGE, Item, Sink
from auditrelay.store import Reached, SpoolPage
from auditrelay.store.progress import Range

READ_AHEAD_BYTES: Final = 1 << 20
"""Bytes of the spool, compressed, that are read ahead of sending; the last page may exceed it."""

_SLICE: Final = 100
"""Events that are rendered together; what is too much for a batch is rendered again."""


class Batches:
    """Reads the events that wait for the sink called *name*, as batches within its limits."""

    def __init__(self, name: str, sink: Sink, store: Spool) -> None:
        self._name = name
        self._sink = sink
        self._store = store
        self._ready = deque[tuple[int, AuditEvent]]()
        self._bytes = 0
        self._reached: Reached | None = None
        self._exhausted = False
        """Whether the last read found nothing more, so that another one would not either."""
        self._resend: deque[Range] = deque()
        self._postponed: list[Range] = []

    @property
    def ready(self) -> bool:
        """Whether there are events to cut a batch from."""
        return bool(self._ready)

    def resend(self, ranges: Iterable[Range]) -> None:
        """Read the events in *ranges* again, before any new ones."""
        self._resend += ranges

    def postpone(self, items: Sequence[Item]) -> None:
        """Resend *items* after everything else that waits."""
        self._postponed += ranges_of(item.position for item in items)

    def resend_postponed(self) -> None:
        """Resend next what was postponed."""
        self._resend += self._postponed
        self._postponed.clear()

    def spool_changed(self) -> None:
        """Read again from the next :meth:`fill` on: there may be new events in the spool."""
        self._exhausted = False

    async def fill(self) -> bool:
        """
        Read until a batch is full, and return whether it is; reads about one batch ahead.

        Once a read has found nothing more, only :meth:`spool_changed` lets it read again.
        """
        limits = self._sink.limits
        while len(self._ready) < limits.events and self._bytes < READ_AHEAD_BYTES:
            missing = limits.events - len(self._ready)
            if self._resend:
                await self._reread(self._resend.popleft(), missing)
                continue
            pages: list[SpoolPage] = []
            if not self._exhausted:
                pages, self._reached = await self._store.read(self._name, self._reached, missing)
                self._exhausted = not pages
            if not pages:
                # A success may have done that during the read: then there is something to resend.
                self.resend_postponed()
                if not self._resend:
                    return False
                continue
            self._enqueue(pages)
        return True

    async def _reread(self, places: Range, most: int) -> None:
        pages = await self._store.reread(self._name, places, most)
        self._enqueue(pages)
        if pages:  # else the rest of the range is done by now
            start, end = pages[-1].first + len(pages[-1].events), places[1]
            if start < end:
                self._resend.appendleft((start, end))

    def _enqueue(self, pages: Sequence[SpoolPage]) -> None:
        for page in pages:
            self._ready.extend(enumerate(page.events, page.first))
            self._bytes += page.size

    def cut(self, now: int) -> list[Item]:
        """Return the next batch, rendered to be sent *now* (microseconds since 1970 UTC)."""
        limits, ready, render = self._sink.limits, self._ready, self._sink.render
        items: list[Item] = []
        room = limits.bytes
        while ready and len(items) < limits.events:
            some = list(islice(ready, min(_SLICE, limits.events - len(items))))
            page = Page.of(event for _, event in some)
            positions = [position for position, _ in some]
            for item in Item.of_page(positions, page, render(page, now), limits):
                room -= len(item.text) + limits.overhead
                if room < 0 and items:
                    return items
                ready.popleft()
                items.append(item)
        if not ready:
            self._bytes = 0
        return items

    async def renew(self, items: Sequence[Item], now: int) -> Sequence[Item]:
        """
        Return *items* as they are to be sent *now* (microseconds since 1970 UTC).

        Those that were rendered for another age are read from the spool and rendered again. Raises
        TooLarge if several of them are too large for one request then.
        """
        outdated = [
            item
            for item in items
            if item.ages is not ANY_AGE and not item.ages[0] <= now - item.at <= item.ages[1]
        ]
        if not outdated:
            return items
        limits, render = self._sink.limits, self._sink.render
        renewed: dict[int, Item] = {}
        for start, end in ranges_of(item.position for item in outdated):
            read_to = start
            while read_to < end:
                pages = await self._store.reread(self._name, (read_to, end), end - read_to)
                if not pages:
                    break
                for page in pages:
                    events = Page.of(page.events)
                    read_to = page.first + len(events)
                    positions = range(page.first, read_to)
                    again = Item.of_page(positions, events, render(events, now), limits)
                    renewed.update((item.position, item) for item in again)
        items = [renewed.get(item.position, item) for item in items]
        size = sum(len(item.text) + limits.overhead for item in items)
        if len(items) > 1 and size > limits.bytes:
            message = f"{size} bytes as they are to be sent now; the limit is {limits.bytes}"
            raise TooLarge(message, reason="too_large")
        return items


def ranges_of(positions: Iterable[int]) -> list[Range]:
    """Return *positions* as half-open ranges; consecutive positions share one."""
    ranges: list[Range] = []
    for position in positions:
        if ranges and ranges[-1][1] == position:
            ranges[-1] = (ranges[-1][0], position + 1)
        else:
            ranges.append((position, position + 1))
    return ranges
