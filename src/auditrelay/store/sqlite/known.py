"""
The uids of forwarded events: find, remember and forget them. Events are deduplicated here.

Each uid is a row of 28 bytes, clustered by event time: a page's events are close together in time
and so touch few pages of the index, as measured in docs/decisions/0002-spool.md. Works on a
connection, within the caller's transaction.
"""

import sqlite3
from collections.abc import Mapping

from auditrelay.events.page import Page
from auditrelay.store import DeliveryStatus
from auditrelay.store.keys import sortable
from auditrelay.store.packing import unpack
from auditrelay.store.sqlite import dead_letters
from auditrelay.store.sqlite.readers import reader_of
from auditrelay.window import Interval, micros

_KEY = 28

_NUMBERS = "with recursive n(i) as (values (0) union all select i + 1 from n where i + 1 < ?2)"

FIND_KNOWN = (
    f"{_NUMBERS} select group_concat(i) from n where exists (select 1 from known "  # noqa: S608  # constants
    f"where source = ?3 and key = substr(?1, 1 + {_KEY} * i, {_KEY}))"
)

REMEMBER = (
    f"insert into known {_NUMBERS} "  # noqa: S608  # constants
    f"select ?3, substr(?1, 1 + {_KEY} * i, {_KEY}), ?4 + i from n"
)

FORGET_STEP = 50_000
"""How many uids are forgotten in one transaction at most."""

_FIRST_TIME = (1).to_bytes(8)


def find_new(db: sqlite3.Connection, owner: int, keys: list[bytes]) -> list[int]:
    """Deduplicate *keys*: return the indices of those not known, each distinct key once."""
    if not keys:
        return []
    first_of = {key: index for index, key in reversed(list(enumerate(keys)))}
    (found,) = db.execute(FIND_KNOWN, (b"".join(keys), len(keys), owner)).fetchone()
    known = set(map(int, found.split(","))) if found else set()
    if not known and len(first_of) == len(keys):
        return list(range(len(keys)))
    return [i for i, key in enumerate(keys) if i not in known and first_of[key] == i]


def remember(db: sqlite3.Connection, owner: int, keys: list[bytes], first: int) -> None:
    """Remember *keys*, which are not known, as the events at the positions from *first* on."""
    db.execute(REMEMBER, (b"".join(keys), len(keys), owner, first))


def spooled_events(db: sqlite3.Connection, owner: int, span: Interval) -> list[Page] | None:
    """Return the known events of *span* by the page, or None if some were pruned."""
    wanted = {
        position
        for (position,) in db.execute(
            "select position from known where source = ? and key >= ? and key < ?",
            (owner, sortable(micros(span.start)), sortable(micros(span.end))),
        )
    }
    pages: list[Page] = []
    if not wanted:
        return pages
    for first, count, blob in db.execute(
        "select first, count, events from spool where first + count > ? and first <= ? "
        "and source = ? and only is null order by first",
        (min(wanted), max(wanted), owner),
    ):
        inside = sorted(wanted.intersection(range(first, first + count)))
        if inside:
            page, _ = unpack(blob, first, count)
            pages.append(page.take([position - first for position in inside]))
    return pages if sum(map(len, pages)) == len(wanted) else None


def delivery_status(
    db: sqlite3.Connection, source: str, owner: int, keys: list[bytes]
) -> list[Mapping[str, DeliveryStatus] | None]:
    """Return the status of the event of each of *keys* at every sink; None if it is not known."""
    sinks = []
    for name, since in db.execute(
        "select sink.name, feed.since from sink join feed on feed.sink = sink.id "
        "where feed.source = ? and sink.ends is null order by sink.name",
        (source,),
    ).fetchall():
        sinks.append((name, since, reader_of(db, name).progress))
    dead = dead_letters.statuses(db, [key[8:].hex() for key in keys])
    found: list[Mapping[str, DeliveryStatus] | None] = []
    for key in keys:
        row = db.execute(
            "select position from known where source = ? and key = ?", (owner, key)
        ).fetchone()
        if row is None:
            found.append(None)
            continue
        uid, position = key[8:].hex(), row[0]
        found.append(
            {
                name: dead.get((uid, name))
                or dead.get((uid, None))
                or (
                    "before_sink"
                    if position < since
                    else "waiting"
                    if progress.open_ranges(position, position + 1)
                    else "delivered"
                )
                for name, since, progress in sinks
            }
        )
    return found


def declare_forgotten(db: sqlite3.Connection, before: int) -> None:
    """Record that from now on not all uids of events older than *before* are known."""
    db.execute(
        "insert into meta values ('forgotten_before', ?) on conflict (name) do update "
        "set value = max(value, excluded.value)",
        (before,),
    )


def forget_before(db: sqlite3.Connection, before: int) -> int:
    """Forget some of the uids of events older than *before*; return how many."""
    return db.execute(
        "delete from known where (source, key) in (select source, key from known, "
        "(select id from source) where source = id and key >= ? and key < ? limit ?)",
        (_FIRST_TIME, sortable(before), FORGET_STEP),
    ).rowcount
