"""
Which pages a sink was handed: so that nothing is said of other events at the same places.

A shared database may lose commits that it had acknowledged, in a failover to a standby that was not
up to date. Then the same places are given to other pages: a verdict that comes late would be about
events that were never sent, and who has read beyond the end would pass over what is put there. What
is lost is always the end of what was written. So if the last page of several is the one that was
handed out, all are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from auditrelay.errors import RolledBack
from auditrelay.store.progress import Range
from auditrelay.store.sql import meta
from auditrelay.store.sql.connection import Connection


@dataclass(frozen=True, slots=True)
class _Mark:
    """A page: its places [*first*, *end*), and the digest of its blob."""

    first: int
    end: int
    stored: bytes | None


class Look:
    """A page that was handed out, and the question to the database which one is there now."""

    def __init__(self, db: Connection, mark: _Mark) -> None:
        self._db = db
        self._mark = mark
        self._found = db.execute("select sha from spool where first = ?", (mark.first,))

    def check(self) -> None:
        """Raise RolledBack unless it is that page still."""
        mark, row = self._mark, self._found.fetchone()
        if row is not None and row[0] == mark.stored:
            return
        other = self._db.execute(
            "select 1 from spool where first < ? and first + count > ? limit 1",
            (mark.end, mark.first),
        ).fetchone()
        # What was pruned or removed leaves its places empty, below the end.
        if other is None and meta.read(self._db, "next_position") >= mark.end:
            return
        raise RolledBack(
            f"the page at place {mark.first} of the spool is not the one that was read: the "
            "database has lost what it had acknowledged"
        )


class Marks:
    """The marks of the pages that sinks have read and not settled, and of the last one of each."""

    def __init__(self) -> None:
        self._handed: dict[str, dict[int, _Mark]] = {}
        self._last: dict[str, _Mark] = {}

    def handed(self, sink: str, first: int, count: int, stored: bytes | None) -> None:
        """Remember that *sink* is handed the page at *first*, with the digest *stored*."""
        mark = _Mark(first, first + count, stored)
        self._handed.setdefault(sink, {})[first] = mark
        last = self._last.get(sink)
        if last is None or last.first <= first:
            self._last[sink] = mark

    def last(self, db: Connection, sink: str) -> Look | None:
        """Look at the last page that *sink* was handed."""
        mark = self._last.get(sink)
        return None if mark is None else Look(db, mark)

    def done(self, db: Connection, sink: str, done: Sequence[Range]) -> Look | None:
        """Look at the last page that *sink* has read of the places *done*."""
        touched = [
            mark
            for mark in tuple(self._handed.get(sink, {}).values())  # another thread adds to them
            if any(start < mark.end and end > mark.first for start, end in done)
        ]
        return Look(db, max(touched, key=lambda mark: mark.first)) if touched else None

    def settled(self, sink: str, position: int) -> None:
        """Forget the pages before *position*, which *sink* has settled."""
        handed = self._handed.get(sink, {})
        for first in [first for first, mark in tuple(handed.items()) if mark.end <= position]:
            del handed[first]
