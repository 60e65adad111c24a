"""
The spool: pages of events that wait for the sinks, in the order in which they came.

A page is one compressed blob, not a row per event: a commit costs one insert, as measured in
docs/decisions/0002-spool.md. Works on a connection, within the caller's transaction.
"""

import sqlite3
from collections.abc import Iterable
from typing import Final

from isal import isal_zlib

from auditrelay.errors import StoreFull
from auditrelay.events import AuditEvent, pack, unpack
from auditrelay.store import SpoolPage
from auditrelay.store.sqlite import disk_reserve, meta
from auditrelay.store.sqlite.readers import FOR_SINK, FOREVER, delivered_floor, reader_of

LOG: Final = 0
"""The one log."""

MAX_READ_BYTES: Final = 1 << 20
"""About how many compressed bytes one read returns; its last page may exceed that."""


class Spool:
    """The size of the spool, *used_bytes*, and its limit, *max_bytes* (both compressed)."""

    def __init__(self, db: sqlite3.Connection, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.used_bytes = meta.read(db, "spool_bytes")

    def append(
        self,
        db: sqlite3.Connection,
        owner: int,
        events: list[AuditEvent],
        now: int,
        only: str | None = None,
    ) -> int:
        """
        Append *events*, for the sink *only* if given; return the position of the first.

        Raises StoreFull if the spool or the disk has no room for them.
        """
        blob = isal_zlib.compress(pack(events), 1)
        used = meta.read(db, "spool_bytes")
        if used and used + len(blob) > self.max_bytes:
            raise StoreFull(f"the spool has {used} bytes, {self.max_bytes} are allowed")
        disk_reserve.require_room(db, len(blob))
        first = meta.read(db, "next_position")
        db.execute(
            "insert into spool (first, count, source, stored, bytes, events, only) "
            "values (?, ?, ?, ?, ?, ?, (select id from sink where name = ?))",
            (first, len(events), owner, now, len(blob), blob, only),
        )
        meta.write(db, "next_position", first + len(events))
        self.resize(db, len(blob))
        return first

    def resize(self, db: sqlite3.Connection, change: int) -> None:
        """Add *change* bytes, which may be negative, to the used bytes."""
        # Computed from the database, because an attribute is not rolled back with a transaction.
        self.used_bytes = meta.read(db, "spool_bytes") + change
        meta.write(db, "spool_bytes", self.used_bytes)

    def prune(self, db: sqlite3.Connection, before: int) -> int:
        """Delete pages that every sink has and that were stored *before*; return the events."""
        floor = delivered_floor(db)
        count, size = db.execute(
            "select total(count), total(bytes) from spool where first + count <= ? and stored < ?",
            (floor, before),
        ).fetchone()
        if count:
            db.execute("delete from spool where first + count <= ? and stored < ?", (floor, before))
            self.resize(db, -int(size))
        return int(count)

    def delete_delivered(self, db: sqlite3.Connection) -> bool:
        """Delete the oldest pages that every sink has until there is room; return if any went."""
        floor, excess = delivered_floor(db), max(self.used_bytes - self.max_bytes, 0) + (4 << 20)
        last, freed = -1, 0
        for first, size in db.execute(
            "select first, bytes from spool where first + count <= ? order by first limit 1000",
            (floor,),
        ):
            last, freed = first, freed + size
            if freed >= excess:
                break
        if last >= 0:
            db.execute("delete from spool where first <= ?", (last,))
            self.resize(db, -freed)
        return last >= 0


def read_pages(
    db: sqlite3.Connection, sink: str, start: int, most: int, end: int = FOREVER
) -> tuple[list[SpoolPage], int]:
    """
    Return the backlog of *sink* from *start* on, about *most* events, and how far that has read.

    Nothing at *end* or beyond it is returned.
    """
    reader = reader_of(db, sink)
    pages: list[SpoolPage] = []
    position, taken, size = max(start, reader.progress.position), 0, 0
    while position < end and taken < most and size < MAX_READ_BYTES:
        row = db.execute(
            "select first, count, (select name from source where id = spool.source), events "  # noqa: S608  # constants
            f"from spool where {FOR_SINK} order by first limit 1",
            reader.parameters(position, end),
        ).fetchone()
        if row is None:
            break
        first, count, source, blob = row
        inside = max(first, position), min(first + count, end)
        if parts := reader.progress.open_ranges(*inside):
            events = unpack(isal_zlib.decompress(blob))
            pages += [
                SpoolPage(part[0], source, events[part[0] - first : part[1] - first], len(blob))
                for part in parts
            ]
            taken += sum(part[1] - part[0] for part in parts)
            size += len(blob)
        position = inside[1]
    return pages, position


def events_at(db: sqlite3.Connection, positions: Iterable[int]) -> dict[int, AuditEvent]:
    """Return by position the events at *positions* that are in the spool; inflate a page once."""
    found: dict[int, AuditEvent] = {}
    first, page = 0, list[AuditEvent]()
    for position in sorted(positions):
        if not first <= position < first + len(page):
            row = db.execute(
                "select first, events from spool where first = (select max(first) from spool "
                "where first <= ?1) and first + count > ?1",
                (position,),
            ).fetchone()
            if row is None:
                continue
            first, page = row[0], unpack(isal_zlib.decompress(row[1]))
        found[position] = page[position - first]
    return found


def shrink(db: sqlite3.Connection) -> None:
    """Return some free pages of the database to the file system."""
    db.execute("pragma incremental_vacuum(1000)").fetchall()
