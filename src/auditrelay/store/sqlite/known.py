"""
The uids of forwarded events: find, remember and forget them. Events are deduplicated here.

Each uid is a row, clustered by the event time under which it was first known: a page's events are
close together in time and so touch few pages of the index (docs/decisions/0002-spool.md). An event
is known by its uid alone, whatever its time is today: :mod:`~auditrelay.store.sqlite.uids` finds
the key of one whose time is another now. Works on a connection, within the caller's transaction.
"""

import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence

from auditrelay.events.page import Page
from auditrelay.store import DeliveryStatus
from auditrelay.store.keys import KEY, TIMELESS, sortable
from auditrelay.store.packing import unpack
from auditrelay.store.sqlite import dead_letters
from auditrelay.store.sqlite.readers import reader_of
from auditrelay.store.sqlite.uids import Uids, logged
from auditrelay.window import Interval, micros

DIGEST = 8
"""How many bytes of the digest of its raw record are kept beside a uid."""

_IN_RANGE = (
    "select count(*), cast(group_concat(key, '') as blob) from "
    "(select key from known where source = ? and key >= ? and key <= ? limit ?)"
)

_EACH = (
    f"select group_concat(row.key) from json_each(?1) as row where exists (select 1 from known "  # noqa: S608  # constants
    f"where source = ?3 and key = substr(?2, 1 + {KEY} * row.key, {KEY}))"
)

REMEMBER = (
    f"insert into known (source, key, position, digest) select ?4, "  # noqa: S608  # constants
    f"substr(?2, 1 + {KEY} * key, {KEY}), ?5 + key, substr(?3, 1 + {DIGEST} * key, {DIGEST}) "
    f"from json_each(?1)"
)

FORGET_STEP = 50_000
"""How many uids are forgotten in one transaction at most."""

_FIRST_TIME = (1).to_bytes(8)


def find(
    db: sqlite3.Connection, uids: Uids, owner: int, keys: Sequence[bytes]
) -> dict[bytes, bytes]:
    """Return by uid the key under which each event of *keys* is known, whatever its time is."""
    found = _by_uid(_find_exactly(db, owner, keys))
    others = uids.possible(owner, {key[8:] for key in keys if key[8:] not in found})
    if not others:
        return found
    found |= _by_uid(_find_exactly(db, owner, [TIMELESS + uid for uid in others]))
    missing = {uid for uid in others if uid not in found}
    for moved in logged(db, owner, missing) if missing else ():
        found |= _by_uid(_find_exactly(db, owner, moved))
        missing -= found.keys()
        if not missing:
            break
    return found


def _by_uid(keys: Iterable[bytes]) -> dict[bytes, bytes]:
    return {key[8:]: key for key in keys}


def find_new(db: sqlite3.Connection, uids: Uids, owner: int, keys: Sequence[bytes]) -> list[int]:
    """Deduplicate *keys*: return the indices of those not known, each distinct uid once."""
    found = find(db, uids, owner, keys)
    new: dict[bytes, int] = {}
    for index, key in enumerate(keys):
        if key[8:] not in found:
            new.setdefault(key[8:], index)
    return list(new.values())


def _find_exactly(db: sqlite3.Connection, owner: int, keys: Sequence[bytes]) -> Collection[bytes]:
    """Return those of *keys* that are known under that very time."""
    if not keys:
        return ()
    # Nothing is known in the range of a page of new events, and little else in that of known ones.
    most = 4 * len(keys)
    count, joined = db.execute(_IN_RANGE, (owner, min(keys), max(keys), most)).fetchone()
    if count < most:
        known = {joined[place : place + KEY] for place in range(0, KEY * count, KEY)}
        return known.intersection(keys) if known else ()
    (found,) = db.execute(_EACH, (_rows(len(keys)), b"".join(keys), owner)).fetchone()
    return [keys[int(index)] for index in found.split(",")] if found else ()


def remember(
    db: sqlite3.Connection,
    uids: Uids,
    owner: int,
    keys: Sequence[bytes],
    *,
    digests: Sequence[str],
    first: int,
) -> None:
    """
    Remember *keys*, which are not known, as the events at the positions from *first* on.

    *digests* are those of their raw records (SHA-256, hexadecimal).
    """
    shortened = bytes.fromhex("".join([digest[: 2 * DIGEST] for digest in digests]))
    db.execute(REMEMBER, (_rows(len(keys)), b"".join(keys), shortened, owner, first))
    uids.add(db, owner, keys)


def _rows(count: int) -> str:
    """Return a JSON list of *count* numbers, whose keys are the numbers of rows."""
    return f"[{',0' * count}]".replace("[,", "[", 1)


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
    db: sqlite3.Connection, uids: Uids, source: str, owner: int, keys: Sequence[bytes]
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
    known = find(db, uids, owner, keys)
    found: list[Mapping[str, DeliveryStatus] | None] = []
    for key in keys:
        if key[8:] not in known:
            found.append(None)
            continue
        (position,) = db.execute(
            "select position from known where source = ? and key = ?", (owner, known[key[8:]])
        ).fetchone()
        uid = key[8:].hex()
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
    db.execute("delete from uid_log where newest < ?", (before,))
    return db.execute(
        "delete from known where (source, key) in (select source, key from known, "
        "(select id from source) where source = id and key >= ? and key < ? limit ?)",
        (_FIRST_TIME, sortable(before), FORGET_STEP),
    ).rowcount
