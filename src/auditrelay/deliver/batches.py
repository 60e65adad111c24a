"""
Read the spool for one sink, and cut batches from it.

Events that were sent and never acknowledged are read again from their places in the spool, before
new ones: nothing of them has to be kept in memory.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from auditrelay.sinks import Item, Origin, Sink
from auditrelay.store import SpoolPage, Store
from auditrelay.store.progress import Range

if TYPE_CHECKING:  # only annotations name it
    from auditrelay.events import AuditEvent

READ_WEIGHT: Final = 1 << 20
"""Bytes of the spool, compressed, that are held unsent at the most, but for the last page."""


class Batches:
    """The events that wait for the sink called *name*, as batches within the sink's limits."""

    def __init__(self, name: str, sink: Sink, store: Store) -> None:
        self._name = name
        self._sink = sink
        self._store = store
        self._ready: deque[tuple[int, AuditEvent]] = deque()
        self._weight = 0
        self._skipped: list[Range] = []
        self._read_to = 0
        self._resend: deque[Range] = deque()
        self._postponed: list[Range] = []

    @property
    def ready(self) -> bool:
        """Whether there is anything to cut a batch from."""
        return bool(self._ready)

    def resend(self, ranges: Iterable[Range]) -> None:
        """Read the events in *ranges* again, before any new ones."""
        self._resend += ranges

    def take_skipped(self) -> list[Range]:
        """Return what was skipped since the last call: it is done, without being sent."""
        skipped, self._skipped = self._skipped, []
        return skipped

    def postpone(self, items: Sequence[Item]) -> None:
        """Put *items* back behind everything else that waits."""
        self._postponed += ranges_of(item.position for item in items)

    def resend_postponed(self) -> None:
        """Send next what was put back."""
        self._resend += self._postponed
        self._postponed.clear()

    async def fill(self) -> bool:
        """Read until a batch is full, and return whether it is; never more than about one batch."""
        limits = self._sink.limits
        while len(self._ready) < limits.events and self._weight < READ_WEIGHT:
            missing = limits.events - len(self._ready)
            if self._resend:
                await self._reread(*self._resend.popleft(), missing)
                continue
            pages = await self._store.read(self._name, self._read_to, missing)
            if not pages:
                if not self._postponed:
                    return False
                self.resend_postponed()
                continue
            for page in pages:
                if page.first > self._read_to:
                    # What lies between belongs to sources of other sinks, or was done before.
                    self._skipped.append((self._read_to, page.first))
                self._read_to = page.first + len(page.events)
                self._take(page)
        return True

    async def _reread(self, start: int, end: int, most: int) -> None:
        pages = await self._store.read(self._name, start, min(most, end - start))
        for page in pages:
            if page.first >= end:
                return  # what is left of the range was settled after all
            start = min(page.first + len(page.events), end)
            self._take(page, end)
        if pages and start < end:
            self._resend.appendleft((start, end))

    def _take(self, page: SpoolPage, end: int | None = None) -> None:
        events = page.events if end is None else page.events[: end - page.first]
        self._ready.extend(enumerate(events, page.first))
        self._weight += page.size

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
            # Not the event itself: it would hold on to its whole page.
            items.append(Item(position, Origin(event.uid, event.source, event.at), text))
        if not ready:
            self._weight = 0
        return items


def ranges_of(positions: Iterable[int]) -> list[Range]:
    """Return *positions* as half-open ranges; neighbours that follow each other make one."""
    ranges: list[Range] = []
    for position in positions:
        if ranges and ranges[-1][1] == position:
            ranges[-1] = (ranges[-1][0], position + 1)
        else:
            ranges.append((position, position + 1))
    return ranges
