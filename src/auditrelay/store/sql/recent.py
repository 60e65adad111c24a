"""The newest pages of this instance, in memory, where other instances append as well."""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

from auditrelay.events.page import Page
from auditrelay.store import SpoolPage
from auditrelay.store.sql.handover import HANDOVER_BYTES, Appended
from auditrelay.store.sql.marks import Marks
from auditrelay.store.sql.readers import Reader, pages_of

_MOST: Final = HANDOVER_BYTES


@dataclass(slots=True)
class _Pages:
    """The pages by their places, each with its number in the order in which they were added."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    at: OrderedDict[int, tuple[int, Appended]] = field(default_factory=OrderedDict)
    size: int = 0
    added: int = 0
    end: int | None = None
    """How far the spool reaches, as far as is known; None while nothing tells what others add."""

    def add(self, page: Appended) -> None:
        """Add *page*; drop the oldest that there is no room for. With the lock."""
        if (before := self.at.pop(page.first, None)) is not None:
            self.size -= before[1].size
        self.at[page.first] = self.added, page
        self.added += 1
        self.size += page.size
        if self.end is not None:
            self.end = max(self.end, page.end)
        while self.size > _MOST:
            self.size -= self.at.popitem(last=False)[1][1].size


class Recent:
    """
    What :class:`~auditrelay.store.sql.handover.Handover` is for one instance alone.

    The places of the spool have no holes, so a page of ours that is where a sink has read to is the
    next one. Whether it is for that sink, only a reader of which this is certain says: one that
    gains a source elsewhere must not pass over its pages. In all other cases the database is asked,
    and a page that it names by place and digest need not be inflated if it is here.

    This is for the store under one lease; :meth:`renewed` returns one for another, with the same
    pages. It hands out none that was added before it was made: if the database has lost commits,
    there is another lease, and other pages may have their places.
    """

    def __init__(self, pages: _Pages | None = None) -> None:
        self._pages = pages = pages or _Pages()
        self._since = pages.added
        self._readers: dict[str, Reader] = {}
        self.marks = Marks()
        """The marks of what is handed out, from here or not."""

    def renewed(self) -> Self:
        """Return what is kept under another lease."""
        return type(self)(self._pages)

    def reaches(self, end: int) -> None:
        """Take note that the spool reaches to the place *end*; to be called again and again."""
        with self._pages.lock:
            self._pages.end = max(self._pages.end or 0, end)

    def append(self, pages: Sequence[Appended]) -> None:
        """Add *pages*, which are committed now; drop the oldest that there is no room for."""
        with self._pages.lock:
            for each in pages:
                self._pages.add(each)

    def advance(self, sink: str, reader: Reader) -> None:
        """Replace what is known of *sink* by what *reader* has been read as."""
        self._readers[sink] = reader

    def restart(self, readers: Mapping[str, Reader]) -> None:  # noqa: ARG002  # see Handover
        """Start with no pages: what sinks are to read has changed, or pages were deleted."""
        with self._pages.lock:
            self._since = self._pages.added
            self._readers.clear()

    def read(
        self, sink: str, start: int, most: int, most_bytes: int
    ) -> tuple[list[SpoolPage], int, bool] | None:
        """
        Return what ``spool.read_pages`` would; None if the database has to be asked.

        Nothing waits beyond the end that is known: what others add meanwhile, :meth:`reaches` says.
        """
        reader = self._readers.get(sink)
        if reader is None or start < reader.progress.position:
            return None
        found: list[SpoolPage] = []
        position, taken, size = start, 0, 0
        with self._pages.lock:
            while taken < most and size < most_bytes:
                number, page = self._pages.at.get(position, (-1, None))
                if page is None or number < self._since:
                    break
                is_for_sink = page.only is None or page.only == sink
                if is_for_sink and page.source not in reader.elsewhere:
                    if page.end > reader.until:
                        break
                    if page.source not in reader.sources or page.end > reader.ends:
                        break
                    if parts := reader.progress.open_ranges(page.first, page.end):
                        found += pages_of(page.first, page.source, page.page, page.size, parts)
                        self.marks.handed(sink, page.first, len(page.page), page.stored)
                        taken += sum(end - start for start, end in parts)
                        size += page.size
                position = page.end
            at_end = self._pages.end is not None and position >= self._pages.end
        return (found, position, at_end) if found or at_end else None

    def find(self, first: int, stored: bytes | None) -> tuple[Page, int] | None:
        """Return the page at *first* with the digest *stored*, and its size, if it is here."""
        with self._pages.lock:
            _, found = self._pages.at.get(first, (-1, None))
            if found is None or stored is None or found.stored != stored:
                return None
            return found.page, found.size
