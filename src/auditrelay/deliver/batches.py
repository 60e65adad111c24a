"""
Read the spool for one sink, and cut batches from it.

Events that were sent and never acknowledged are read again from their positions in the spool,
before new ones: they need not be kept in memory.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

from auditrelay.events import AuditEvent
from auditrelay.sinks import EventRef, Item, Sink
from auditrelay.store import SpoolPage, Store
from auditrelay.store.progress import Range

READ_AHEAD_BYTES: Final = 1 << 20
"""Bytes of the spool, compressed, that are read ahead of sending; the last page may exceed it."""


class Batches:
    """Reads the events that wait for the sink called *name*, as batches within its limits."""

    def __init__(self, name: str, sink: Sink, store: Store) -> None:
        self._name = name
        self._sink = sink
        self._store = store
        self._ready = deque[tuple[int, AuditEvent]]()
        self._bytes = 0
        self._skipped: list[Range] = []
        self._read_to = 0
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

    def take_skipped(self) -> list[Range]:
        """Return the ranges skipped since the last call: they are done without being sent."""
        skipped, self._skipped = self._skipped, []
        return skipped

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
                await self._reread(*self._resend.popleft(), missing)
                continue
            pages = []
            if not self._exhausted:
                pages = await self._store.read(self._name, self._read_to, missing)
                self._exhausted = not pages
            if not pages:
                # A success may have done that during the read: then there is something to resend.
                self.resend_postponed()
                if not self._resend:
                    return False
                continue
            for page in pages:
                if page.first > self._read_to:
                    # Events in between belong to other sinks only, or are done already.
                    self._skipped.append((self._read_to, page.first))
                self._read_to = page.first + len(page.events)
                self._enqueue(page)
        return True

    async def _reread(self, start: int, end: int, most: int) -> None:
        pages = await self._store.read(self._name, start, min(most, end - start))
        for page in pages:
            if page.first >= end:
                return  # the rest of the range is done by now
            start = min(page.first + len(page.events), end)
            self._enqueue(page, end)
        if pages and start < end:
            self._resend.appendleft((start, end))

    def _enqueue(self, page: SpoolPage, end: int | None = None) -> None:
        events = page.events if end is None else page.events[: end - page.first]
        self._ready.extend(enumerate(events, page.first))
        self._bytes += page.size

    def cut(self) -> list[Item]:
        """Return the next batch, rendered."""
        limits, ready, render = self._sink.limits, self._ready, self._sink.render
        items: list[Item] = []
        room = limits.bytes
        while ready and len(items) < limits.events:
            position, event = ready[0]
            text = render(event)
            room -= len(text) + limits.overhead
            if room < 0 and items:
                break
            ready.popleft()
            # Not the event itself: it would keep its whole page in memory.
            items.append(Item(position, EventRef.of(event), text))
        if not ready:
            self._bytes = 0
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
