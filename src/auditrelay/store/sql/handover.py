"""
The newest pages of the spool, in memory: a page that was just committed is read without the disk.

It returns exactly what the database would, or none: then the database is asked. No source waits for
it: pages beyond its room are left to the database.
"""

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from auditrelay.events.page import Page
from auditrelay.store import SpoolPage
from auditrelay.store.sql.readers import Reader, pages_of

HANDOVER_BYTES: Final = 8 << 20
"""
About how much memory the pages take at most.

Three pages of a thousand events: the sinks read one, one waits, one was just committed. With room
for more, a sink that is slower than its sources would still read from the disk in the end. Not by
their size on the disk: of a page that is all blanks that says nothing.
"""


@dataclass(frozen=True, slots=True)
class Appended:
    """A page at the end of the spool, for the sink *only* if given; *size* as in SpoolPage."""

    first: int
    source: str
    only: str | None
    page: Page
    size: int
    stored: bytes
    """The digest of its blob."""

    @property
    def end(self) -> int:
        """The position behind its last event."""
        return self.first + len(self.page)


class Handover:
    """
    The last pages before the *end* of the spool, and the progress of the sinks that read them.

    The writer thread reports every commit that concerns either, in order; the event loop reads.
    *max_bytes* bounds the pages.
    """

    def __init__(
        self, readers: Mapping[str, Reader], end: int, *, max_bytes: int = HANDOVER_BYTES
    ) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._readers = dict(readers)
        self._pages: deque[Appended] = deque()
        self._size = 0
        self._end = end
        self._seen: dict[str, tuple[int, int]] = {}
        """By sink how far it has read, and up to where nothing more is for it."""

    def append(self, pages: Sequence[Appended]) -> None:
        """Add *pages*, which are committed now."""
        with self._lock:
            self._pages += pages
            self._size += sum(each.size for each in pages)
            if pages:
                self._end = pages[-1].end
            self._drop()

    def advance(self, sink: str, reader: Reader) -> None:
        """Replace the progress of *sink* by that of *reader*, which is committed now."""
        with self._lock:
            self._readers[sink] = reader

    def restart(self, readers: Mapping[str, Reader]) -> None:
        """Start with no pages: the *readers* have changed, or pages were deleted."""
        with self._lock:
            self._readers = dict(readers)
            self._pages.clear()
            self._size = 0
            self._seen.clear()

    def read(
        self, sink: str, start: int, most: int, most_bytes: int
    ) -> tuple[list[SpoolPage], int, bool] | None:
        """Return what ``spool.read_pages`` would; None if the database has to be asked."""
        with self._lock:
            reader = self._readers.get(sink)
            if reader is None:
                return None
            position = max(start, reader.progress.position)
            read, seen = self._seen.get(sink, (-1, -1))
            # The database may have shown a commit that is not reported here yet.
            since = max(seen, position) if read == position else position
            if since < (self._pages[0].first if self._pages else self._end):
                return None
            found: list[SpoolPage] = []
            taken, size, seen = 0, 0, self._end
            for each in self._pages:
                if taken >= most or size >= most_bytes:
                    seen = position
                    break
                if each.end <= since or not _is_for(reader, sink, each):
                    continue
                if parts := reader.progress.open_ranges(max(each.first, position), each.end):
                    found += pages_of(each.first, each.source, each.page, each.size, parts)
                    taken += sum(end - start for start, end in parts)
                    size += each.size
                position = each.end
            self._seen[sink] = position, seen
            self._drop()
            return found, position, seen == self._end

    def _drop(self) -> None:
        """Drop the oldest pages: those that every sink has read, and what there is no room for."""
        needed = min(
            (
                self._seen.get(sink, (0, 0))[1]
                for sink, reader in self._readers.items()
                if reader.ends > self._end
            ),
            default=self._end,
        )
        while self._pages and (self._size > self._max_bytes or self._pages[0].end <= needed):
            self._size -= self._pages.popleft().size


def _is_for(reader: Reader, sink: str, page: Appended) -> bool:
    return (
        page.source in reader.sources
        and page.first < reader.ends
        and (page.only is None or page.only == sink)
    )
