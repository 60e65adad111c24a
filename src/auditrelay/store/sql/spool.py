"""
The spool: pages of events that wait for the sinks, in the order in which they came.

A page is one compressed blob, not a row per event: a commit costs one insert, as measured in
docs/decisions/0002-spool.md. Works on a connection, within the caller's transaction.
"""

from collections import deque
from collections.abc import Iterable
from hashlib import sha256
from typing import Final, NamedTuple

from auditrelay.errors import Fenced, RelayError, StoreFull
from auditrelay.events import AuditEvent
from auditrelay.events.page import Page
from auditrelay.evidence import facts
from auditrelay.store import SpoolPage
from auditrelay.store.packing import pack, unpack
from auditrelay.store.parts import Part
from auditrelay.store.progress import Range
from auditrelay.store.sealing import Waiting
from auditrelay.store.sql import meta
from auditrelay.store.sql.connection import Connection, Cursor
from auditrelay.store.sql.engine import Room
from auditrelay.store.sql.facts import INSTANCE, insert
from auditrelay.store.sql.handover import Appended
from auditrelay.store.sql.marks import Marks
from auditrelay.store.sql.readers import (
    FOREVER,
    Reader,
    delivered_floor,
    for_sink,
    pages_of,
    reader_of,
)
from auditrelay.store.sql.recent import Recent
from auditrelay.store.sql.tags import tag, wrong

LOG: Final = 0
"""The one log."""

PRUNED: Final = "pruned"
"""The name of the place before which pages may be gone."""

MAX_READ_BYTES: Final = 8 << 20
"""About how much memory the pages of one read take; the last of them may exceed it."""

_ROWS: Final = 16
"""How many pages are found at once where some are in memory."""

_ASKED_BYTES: Final = 1 << 20
"""How many bytes of pages, compressed, are asked for at once; one page may have more."""

DELETED_PAGES: Final = 1000
DELETED_BYTES: Final = 64 << 20
"""
How many pages one write deletes, and about how many bytes of them.

Tens of gigabytes may be due at once, after a sink was down for long or a limit was lowered. Others
wait for that write, and PostgreSQL is given no more than 30 seconds for it: it would never succeed.
"""

FACTS_OF_A_PAGE: Final = 2
"""There is one fact about a page, and the last one of a walk brings another, what was covered."""


class PageDamaged(RelayError):
    """The page at the place *first* is not what was put there."""

    def __init__(self, first: int) -> None:
        super().__init__(f"the page at place {first} of the spool was changed or damaged")
        self.first = first


class Placed(NamedTuple):
    """Where a page has been put: the place of its *first* event, and the digest of its blob."""

    first: int
    stored: bytes


class Blob(NamedTuple):
    """A page as it is stored: *data*, the bytes that it takes in memory, and the digest of data."""

    data: bytes
    size: int
    stored: bytes


def blob_of(page: Page) -> Blob:
    """Return *page* as it is stored."""
    data, size = pack(page)
    return Blob(data, size, sha256(data).digest())


class Spool:
    """The size of the spool, *used_bytes*, and its limit, *max_bytes* (both compressed)."""

    def __init__(self, used_bytes: int, max_bytes: int, room: Room) -> None:
        self.max_bytes = max_bytes
        self.used_bytes = used_bytes
        self.room = room
        self.appended: list[Appended] = []
        """What was appended since this was last replaced by a new list."""
        self.waiting = Waiting()
        """What the next seal will have to tell of, at most: what was rolled back counts as well."""

    def append(
        self,
        db: Connection,
        owner: int,
        page: Page,
        now: int,
        only: str | None = None,
        *,
        beyond: bool = False,
        asked: Cursor | None = None,
        blob: Blob | None = None,
    ) -> Placed:
        """
        Append *page*, for the sink *only* if given; return where it is.

        What :meth:`ask` has *asked* is not asked again, and its *blob*, if given, not made again.
        Raises StoreFull if the spool or the disk has no room for them; not if they may be *beyond*
        that room: what a verdict brings is small, and no delivery may wait for it.
        """
        data, size, stored = blob or blob_of(page)
        used, first, source, sink = (asked or self.ask(db, owner, only)).fetchone()
        if source is None:  # no sink would ever read it
            raise Fenced("the source was removed while it was read")
        if not beyond:
            if used and used + len(data) > self.max_bytes:
                raise StoreFull(f"the spool has {used} bytes, {self.max_bytes} are allowed")
            self.room.require_for(db, len(data))
        db.execute(
            'insert into spool (first, count, source, stored, bytes, events, sha, "only", tag) '
            "values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                first,
                len(page),
                owner,
                now,
                len(data),
                data,
                stored,
                sink,
                tag(db, "spool", first, len(page), owner, sink, stored),
            ),
        )
        meta.write_both(db, ("next_position", first + len(page)), ("spool_bytes", used + len(data)))
        self.used_bytes = used + len(data)
        self.appended.append(Appended(first, source, only, page, size, stored))
        self.waiting.pages[owner] += 1
        self.waiting.facts += FACTS_OF_A_PAGE
        return Placed(int(first), stored)

    @staticmethod
    def ask(db: Connection, owner: int, only: str | None = None) -> Cursor:
        """Ask what :meth:`append` needs to know; no page may be appended in between."""
        return db.execute(
            "select (select value from meta where name = 'spool_bytes'), "
            "(select value from meta where name = 'next_position'), "
            "(select name from source where id = ?), (select id from sink where name = ?)",
            (owner, only),
        )

    def resize(self, db: Connection, change: int) -> None:
        """Add *change* bytes, which may be negative, to the used bytes."""
        # Computed from the database, because an attribute is not rolled back with a transaction.
        self.used_bytes = meta.read(db, "spool_bytes") + change
        meta.write(db, "spool_bytes", self.used_bytes)

    def prune(self, db: Connection, before: int, now: int) -> tuple[int, bool]:
        """
        Delete pages that every sink has and that were stored *before*, but not many at once.

        Returns how many events they had, and whether there are more such pages.
        """
        floor = delivered_floor(db)
        # Up to the first page that stays, so that one place says which pages may be gone.
        (end,) = db.execute(
            "select coalesce(min(first), ?1) from spool where first + count > ?1 or stored >= ?2",
            (floor, before),
        ).fetchone()
        some = _end_of_some(db, end, DELETED_BYTES)
        return self._delete_before(db, some, "retention", now), some < end

    def delete_delivered(self, db: Connection, now: int) -> bool:
        """Delete the oldest pages that every sink has until there is room; return if any went."""
        floor, excess = delivered_floor(db), max(self.used_bytes - self.max_bytes, 0) + (4 << 20)
        end = _end_of_some(db, floor, min(excess, DELETED_BYTES))
        return self._delete_before(db, end, "room", now) > 0

    def delete_of(self, db: Connection, column: str, owner: int) -> bool:
        """Delete pages of the *owner* in *column*, but not many at once; return if any went."""
        found = db.execute(
            f"select first, bytes from spool where {column} = ? order by first limit ?",  # noqa: S608  # a constant
            (owner, DELETED_PAGES),
        ).fetchall()
        freed = 0
        for first, size in found:
            db.execute("delete from spool where first = ?", (first,))
            freed += size
            if freed >= DELETED_BYTES:
                break
        if found:
            self.resize(db, -freed)
        return bool(found)

    def _delete_before(self, db: Connection, end: int, why: str, now: int) -> int:
        """Delete the pages before the place *end*; return how many events they had."""
        count, size = db.execute(
            "select cast(coalesce(sum(count), 0) as bigint), "
            "cast(coalesce(sum(bytes), 0) as bigint) from spool where first < ?",
            (end,),
        ).fetchone()
        if count:
            db.execute("delete from spool where first < ?", (end,))
            self.resize(db, -size)
            meta.put(db, PRUNED, end)
            body = facts.pruned(before=end, events=count, why=why)
            insert(db, INSTANCE, [body], now)
        return int(count)


def _end_of_some(db: Connection, end: int, size: int) -> int:
    """Return the end of the first pages before the place *end* that have *size* bytes together."""
    found = db.execute(
        "select first + count, bytes from spool where first + count <= ? order by first limit ?",
        (end, DELETED_PAGES),
    ).fetchall()
    for place, each in found:
        size -= each
        if size <= 0:
            return int(place)
    return int(found[-1][0]) if len(found) == DELETED_PAGES else end


def read_pages(
    db: Connection,
    sink: str,
    start: int,
    most: int,
    end: int = FOREVER,
    *,
    recent: Recent | None = None,
    marks: Marks | None = None,
    part: Part | None = None,
) -> tuple[list[SpoolPage], int, bool]:
    """
    Return the backlog of *sink* from *start* on, about *most* events, and how far that has read.

    Also whether nothing waits behind that. Nothing at *end* or beyond it is returned; without an
    *end*, a *part* of a sink reads no further than it may (``Reader.of_part``). What is *recent* is
    not read again; what is returned gets *marks*. Raises PageDamaged.
    """
    reader = reader_of(db, sink).of_part(part)
    is_held_back = end == FOREVER and reader.until < FOREVER
    end = min(end, reader.until) if is_held_back else end
    if recent is not None:
        recent.advance(sink, reader)
    pages: list[SpoolPage] = []
    position, taken, size = max(start, reader.progress.position), 0, 0
    rows = _Rows(db, reader, recent)
    while position < end and taken < most and size < MAX_READ_BYTES:
        row = rows.next((position, end), most - taken)
        if row is None:
            return pages, position, not is_held_back
        inside = max(row.first, position), min(row.first + row.events, end)
        parts = reader.progress.open_ranges(*inside)
        if parts and (found := rows.page_of(row)) is not None:
            page, inflated = found
            pages += pages_of(row.first, row.source, page, inflated, parts)
            if marks is not None:
                marks.handed(sink, row.first, row.events, row.sha)
            taken += sum(part[1] - part[0] for part in parts)
            size += inflated
        position = inside[1]
    return pages, position, rows.is_last and not is_held_back


class _Row(NamedTuple):
    """A page of so many *events* for a sink; its *blob* is None where pages may be in memory."""

    first: int
    events: int
    source: str
    sha: bytes | None
    size: int
    blob: bytes | None


class _Rows:
    """
    The pages for the sink *reader*, one after the other.

    Where no page is in memory, one statement reads all of one page: see intake. Where some are
    *recent*, one says which are next, and only those that are not in memory are read.
    """

    def __init__(self, db: Connection, reader: Reader, recent: Recent | None) -> None:
        self._db = db
        self._reader = reader
        self._recent = recent
        blob, self._most = ("events", 1) if recent is None else ("null", _ROWS)
        self._query = (
            "select first, count, (select name from source where id = spool.source), sha, bytes, "  # noqa: S608  # constants
            f"{blob} from spool where {for_sink(db)} order by first limit {self._most}"
        )
        self._waiting: deque[_Row] = deque()
        self._asked: dict[int, Cursor] = {}
        self._ended = False

    @property
    def is_last(self) -> bool:
        """Whether the row that was returned last is known to be the last one."""
        return self._ended and not self._waiting

    def next(self, places: Range, events: int) -> _Row | None:
        """Return the next page at *places*; about so many *events* are going to be read."""
        if not self._waiting and not self._ended:
            cursor = self._db.execute(self._query, self._reader.parameters(self._db, *places))
            if self._recent is None:
                row = cursor.fetchone()
                self._ended = row is None
                return None if row is None else _Row(*row)
            self._waiting += [_Row(*row) for row in cursor.fetchall()]
            self._ended = len(self._waiting) < self._most
            self._ask(events)
        return self._waiting.popleft() if self._waiting else None

    def page_of(self, row: _Row) -> tuple[Page, int] | None:
        """
        Return the page of *row*, and how many bytes it takes.

        Returns None if another instance has deleted it meanwhile: every sink has it. Raises
        PageDamaged.
        """
        blob = row.blob
        if self._recent is not None:
            if (found := self._recent.find(row.first, row.sha)) is not None:
                return found
            asked = self._asked.pop(row.first, None) or self._blob_at(row.first)
            if (found_row := asked.fetchone()) is None:
                return None
            (blob,) = found_row
        assert blob is not None  # noqa: S101  # it was asked for
        examine(self._db, row.first, row.sha, blob)
        return unpack(blob, row.first, row.events)

    def _ask(self, events: int) -> None:
        """Ask at once for the next pages that are not in memory: one wait for all of them."""
        assert self._recent is not None  # noqa: S101  # see next
        size = 0
        for row in self._waiting:
            if self._recent.find(row.first, row.sha) is None:
                if size and size + row.size > _ASKED_BYTES:
                    break
                self._asked[row.first] = self._blob_at(row.first)
                size += row.size
            events -= row.events
            if events <= 0:
                break

    def _blob_at(self, first: int) -> Cursor:
        return self._db.execute("select events from spool where first = ?", (first,))


def examine(db: Connection, first: int, sha: bytes | None, blob: bytes) -> None:
    """Raise PageDamaged unless the page at *first* is what was put there."""
    if (sha is not None and sha256(blob).digest() != sha) or wrong(db, "spool", "first = ?", first):
        raise PageDamaged(first)


def events_at(db: Connection, positions: Iterable[int]) -> dict[int, AuditEvent]:
    """
    Return by position the events at *positions* that are in the spool; inflate a page once.

    Raises PageDamaged.
    """
    found: dict[int, AuditEvent] = {}
    first, page = 0, Page.of([])
    for position in sorted(positions):
        if not first <= position < first + len(page):
            row = db.execute(
                "select first, count, sha, events from spool where first = "
                "(select max(first) from spool where first <= ?1) and first + count > ?1",
                (position,),
            ).fetchone()
            if row is None:
                continue
            first, count, sha, blob = row
            examine(db, first, sha, blob)
            page, _ = unpack(blob, first, count)
        found[position] = page[position - first]
    return found
