"""The newest pages of this instance, in memory, where other instances append as well."""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Final

from auditrelay.events.page import Page
from auditrelay.store import SpoolPage
from auditrelay.store.sql.handover import HANDOVER_BYTES, Appended
from auditrelay.store.sql.readers import Reader

_MOST: Final = HANDOVER_BYTES


class Recent:
    """
    What :class:`~auditrelay.store.sql.handover.Handover` is for one instance alone.

    Which pages there are for a sink, only the database says. A page that it names by place and
    digest need not be read there and inflated if it is here.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pages: OrderedDict[tuple[int, bytes], Appended] = OrderedDict()
        self._size = 0

    def append(self, pages: Sequence[Appended]) -> None:
        """Add *pages*, which are committed now; drop the oldest that there is no room for."""
        with self._lock:
            for each in pages:
                self._pages[each.first, each.stored] = each
                self._size += each.size
            while self._size > _MOST and self._pages:
                self._size -= self._pages.popitem(last=False)[1].size

    def advance(self, sink: str, reader: Reader) -> None:
        """Do nothing: the database has the progress."""

    def restart(self, readers: Mapping[str, Reader]) -> None:
        """Do nothing: the database has the readers."""

    def read(
        self,
        sink: str,  # noqa: ARG002  # see Handover
        start: int,  # noqa: ARG002
        most: int,  # noqa: ARG002
        most_bytes: int,  # noqa: ARG002
    ) -> tuple[list[SpoolPage], int] | None:
        """Return None: the database has to be asked."""
        return None

    def find(self, first: int, stored: bytes | None) -> tuple[Page, int] | None:
        """Return the page at *first* with the digest *stored*, and its size, if it is here."""
        with self._lock:
            found = None if stored is None else self._pages.get((first, stored))
            return None if found is None else (found.page, found.size)
