"""
The tip of the evidence in a database: the newest head that has left, and which database it was.

A backup has this row, too. So a state that was restored or copied shows in another way: a copy is
in another database, and one that was restored lies before the head that an instance has seen.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final

from auditrelay.evidence.heads import Head
from auditrelay.store.sql import meta
from auditrelay.store.sql.connection import Connection

TIP: Final = "tip"
"""The name under which the text is kept: the head as a word, and the database."""

_DATABASE: Final = (
    "select (select system_identifier from pg_control_system())::text || ':' || oid "
    "from pg_database where datname = current_database()"
)


class TipRow:
    """The tip in the state of which *snapshot* begins to read one snapshot."""

    name: Final = "the tip in the database"

    def __init__(self, snapshot: Callable[[], AbstractContextManager[Connection]]) -> None:
        self._snapshot = snapshot
        self._seen: Head | None = None

    def read(self) -> Head | None:
        """Return the head that has left; None if that was in another database."""
        with self._snapshot() as db:
            text = meta.find_text(db, TIP) or ""
            (database,) = db.execute(_DATABASE).fetchone()
        word, _, where = text.partition(" ")
        if where != database:
            return None
        try:
            stored = Head.parse(word)
        except ValueError:
            return None
        seen = self._seen
        return seen if seen is not None and seen.size > stored.size else stored

    def begin(self, db: Connection, head: Head) -> None:
        """Put the first one of a new state, in the transaction of *db*."""
        self.enter(db, head)

    def enter(self, db: Connection, head: Head) -> None:
        """Put *head* into its row, in the transaction of *db*."""
        (database,) = db.execute(_DATABASE).fetchone()
        word = Head(head.log, head.size, head.root).word
        meta.put_text(db, TIP, f"{word} {database}")

    def write(self, head: Head) -> None:
        """Remember that this instance has seen it leave."""
        self._seen = head
