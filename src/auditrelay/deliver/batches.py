"""
Read the spool for one sink, and cut batches from it.

Events that were sent and never acknowledged are read again from their positions in the spool,
before new ones: they need not be kept in memory.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import accumulate, chain
from typing import Final

from auditrelay.deliver.exclusion import Exclusion
from auditrelay.deliver.spool import Spool
from auditrelay.errors import PeerBug, TooLarge
from auditrelay.events.page import Page
from auditrelay.sinks import ANY_AGE, Item, Sink
from auditrelay.store import Reached, SpoolPage
from auditrelay.store.progress import Progress, Range

READ_AHEAD_BYTES: Final = 8 << 20
"""About how much memory the pages take that are read ahead; the last one may exceed it."""


class Batches:
    """
    Reads the events that wait for the sink called *name*, as batches within its limits.

    What the *exclusion* leaves out is not among them.
    """

    def __init__(
        self, name: str, sink: Sink, store: Spool, exclusion: Exclusion | None = None
    ) -> None:
        self._name = name
        self._sink = sink
        self._store = store
        self._exclusion = exclusion
        self._ready: deque[_Waiting] = deque()
        self._reached: Reached | None = None
        self._exhausted = False
        """Whether the last read found nothing more, so that another one would not either."""
        self.held_back = False
        """Whether what waits may not be read yet: other parts of the sink are too far behind."""
        self._resend: deque[Range] = deque()
        self._postponed: deque[Range] = deque()
        self._first: deque[Sequence[Range]] = deque()
        self._reserved = Progress(0)
        """The places of what is sent first."""
        self.postponed_wait = False
        """Whether what was postponed is not read yet, even if nothing else waits."""

    @property
    def next_comes_again(self) -> bool:
        """Whether the next batch is of events that were postponed."""
        return bool(self._ready) and self._ready[0].comes_again

    @property
    def ready(self) -> bool:
        """Whether there are events to cut a batch from."""
        return bool(self._ready)

    def resend(self, ranges: Iterable[Range]) -> None:
        """Read the events in *ranges* again, before any new ones."""
        self._resend += ranges

    def send_first(self, batches: Sequence[Sequence[Range]]) -> None:
        """Send what waits at the places of each of *batches* first, as one; and not otherwise."""
        self._first += batches
        self._reserved = self._reserved.plus(each for places in batches for each in places)

    async def next_first(self, now: int) -> list[Item]:
        """Return the next batch that is to be sent first, rendered to be sent *now*; or none."""
        while self._first:
            items = await self._read_items(self._first[0], now)
            self._first.popleft()
            if items:  # else they are settled, or were removed
                return items
        return []

    def postpone(self, items: Sequence[Item]) -> None:
        """Resend *items* after everything else that waits."""
        self._postponed += ranges_of(item.position for item in items)

    def resend_postponed(self) -> None:
        """Resend what was postponed as soon as nothing else waits."""
        self.postponed_wait = False

    def spool_changed(self) -> None:
        """Read again from the next :meth:`fill` on: there may be new events in the spool."""
        self._exhausted = False

    async def fill(self) -> bool:
        """
        Read until a batch is full, and return whether it is; reads about one batch ahead.

        Once a read has found nothing more, only :meth:`spool_changed` lets it read again.
        """
        limits = self._sink.limits
        while True:
            missing = limits.events - sum(page.events for page in self._ready)
            if missing <= 0 or sum(page.size for page in self._ready) >= READ_AHEAD_BYTES:
                return True
            if self._resend:
                await self._reread(self._resend.popleft(), missing, self._resend)
                continue
            pages: list[SpoolPage] = []
            waiting: Iterable[_Waiting] = ()
            if not self._exhausted:
                pages, reached = await self._store.read(self._name, self._reached, missing)
                waiting = await self._sift(chain.from_iterable(map(self._unreserved, pages)))
                self._reached = reached
                self._exhausted = not pages or reached.at_end
                self.held_back = not pages and not reached.at_end
            if not pages:
                if not self._postponed or self.postponed_wait:
                    return False
                await self._reread(self._postponed.popleft(), missing, self._postponed)
                continue
            self._ready += waiting

    async def _sift(self, pages: Iterable[SpoolPage]) -> Iterable["_Waiting"]:
        """Return *pages* without what is excluded."""
        if self._exclusion is None:
            return map(_Waiting, pages)
        return [_Waiting(page, places) for page, places in await self._exclusion.sift(pages)]

    def _unreserved(self, page: SpoolPage) -> Sequence[SpoolPage]:
        """Return *page* without what is sent first."""
        first, count = page.first, len(page.events)
        parts = self._reserved.open_ranges(first, first + count)
        if parts == [(first, first + count)]:
            return [page]
        return [
            SpoolPage(
                start,
                page.source,
                page.events[start - first : end - first],
                page.size * (end - start) // count,
            )
            for start, end in parts
        ]

    async def _reread(self, places: Range, most: int, ranges: deque[Range]) -> None:
        """Read the first of *places*, and put the others back in front of *ranges*."""
        pages = await self._store.reread(self._name, places, most)
        again = ranges is self._postponed
        self._ready += [_Waiting(page, comes_again=again) for page in pages]
        if pages:  # else the rest of the range is done by now
            start, end = pages[-1].first + len(pages[-1].events), places[1]
            if start < end:
                ranges.appendleft((start, end))

    def cut(self, now: int, most: int | None = None) -> list[Item]:
        """
        Return the next batch, rendered to be sent *now* (microseconds since 1970 UTC).

        It has *most* bytes at most, if that is less than the limits of the sink. Events that come
        again are not mixed with others.
        """
        limits, ready = self._sink.limits, self._ready
        items: list[Item] = []
        room = limits.bytes if most is None else min(limits.bytes, most)
        again = self.next_comes_again
        while ready and ready[0].comes_again == again and len(items) < limits.events:
            page = ready[0]
            before = len(items)
            try:
                rendered = page.rendered(self._sink, now, limits.events - before, room)
            except PeerBug:
                if items:
                    break  # they are sent without it; the next batch begins with it
                raise
            size = sum([len(item.text) for item in rendered]) + len(rendered) * limits.overhead
            if size <= room:
                room -= size
                items += rendered
            else:
                for item in rendered:
                    room -= len(item.text) + limits.overhead
                    if room < 0 and items:
                        break
                    items.append(item)
            page.take(len(items) - before)
            if not page.events:
                ready.popleft()
            if room < 0:
                break
        return items

    async def renew(self, items: Sequence[Item], now: int) -> Sequence[Item]:
        """
        Return *items* as they are to be sent *now* (microseconds since 1970 UTC).

        Those that were rendered for another age are read from the spool and rendered again. Raises
        TooLarge if several of them are too large for one request then.
        """
        outdated = [item for item in items if _is_outdated(item, now)]
        if not outdated:
            return items
        limits = self._sink.limits
        again = await self._read_items(ranges_of(item.position for item in outdated), now)
        renewed = {item.position: item for item in again}
        items = [renewed.get(item.position, item) for item in items]
        size = sum(len(item.text) + limits.overhead for item in items)
        if len(items) > 1 and size > limits.bytes:
            message = f"{size} bytes as they are to be sent now; the limit is {limits.bytes}"
            raise TooLarge(message, reason="too_large")
        return items

    async def _read_items(self, places: Iterable[Range], now: int) -> list[Item]:
        """Return what the sink has yet to settle of *places*, rendered to be sent *now*."""
        items: list[Item] = []
        for start, end in places:
            read_to = start
            while read_to < end:
                pages = await self._store.reread(self._name, (read_to, end), end - read_to)
                if not pages:
                    break
                for page in pages:
                    read_to = page.first + len(page.events)
                    positions = range(page.first, read_to)
                    items += _rendered(self._sink, positions, page.events, now)
        return items


class _Waiting:
    """
    A page that waits to be sent, from its next row on.

    Its events are at *places*; None: one after the other. What was rendered of it and did not fit
    into a batch is kept for the next one.
    """

    def __init__(
        self, page: SpoolPage, places: Sequence[int] | None = None, *, comes_again: bool = False
    ) -> None:
        self.comes_again = comes_again
        """Whether it was postponed."""
        self._page = page
        self._places = places or range(page.first, page.first + len(page.events))
        self._row = 0
        self._rendered: list[Item] = []

    @property
    def events(self) -> int:
        """How many events wait."""
        return len(self._page.events) - self._row

    @property
    def size(self) -> int:
        """About how many bytes of memory they take."""
        return self._page.size * self.events // len(self._page.events)

    def rendered(self, sink: Sink, now: int, most: int, room: int) -> Sequence[Item]:
        """
        Return the next items for *sink* as they are to be sent *now*: one to *most* of them.

        No more are rendered than about *room* bytes: texts take at least as much as what they tell.
        """
        if any(_is_outdated(item, now) for item in self._rendered[:most]):
            self._rendered = []
        if not self._rendered:
            page, row = self._page.events, self._row
            sizes = list(accumulate(map(len, page.raw[row : row + most])))
            end = row + max(bisect_right(sizes, room), 1)
            self._rendered = _rendered(sink, self._places[row:end], page[row:end], now)
        return self._rendered[:most]

    def take(self, count: int) -> None:
        """Go on behind the next *count* events, which are in a batch now."""
        self._row += count
        self._rendered = self._rendered[count:]


def _rendered(sink: Sink, positions: Sequence[int], page: Page, now: int) -> list[Item]:
    """Return the events of *page*, which are at *positions*, as items for *sink*."""
    return Item.of_page(positions, page, sink.render(page, now), sink.limits)


def _is_outdated(item: Item, now: int) -> bool:
    return item.ages is not ANY_AGE and not item.ages[0] <= now - item.at <= item.ages[1]


def ranges_of(positions: Iterable[int]) -> list[Range]:
    """Return *positions* as half-open ranges; consecutive positions share one."""
    positions = list(positions)
    if positions and positions == list(range(positions[0], positions[0] + len(positions))):
        return [(positions[0], positions[-1] + 1)]  # nearly always, and without a loop
    ranges: list[Range] = []
    for position in positions:
        if ranges and ranges[-1][1] == position:
            ranges[-1] = (ranges[-1][0], position + 1)
        else:
            ranges.append((position, position + 1))
    return ranges
