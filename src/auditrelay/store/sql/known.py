"""
The uids of forwarded events: find, remember and forget them. Events are deduplicated here.

Each uid is a row, clustered by the event time under which it was first known: a page's events are
close together in time and so touch few pages of the index (docs/decisions/0002-spool.md). An event
is known by its uid alone, whatever its time is today: :mod:`~auditrelay.store.sql.uids` finds
the key of one whose time is another now. Works on a connection, within the caller's transaction.

Beside a uid are digests of the contents that its record was shown with, the newest first
(:mod:`~auditrelay.store.sql.contents`): a look-up also finds which known records have changed.
"""

import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import Final

from auditrelay.events.page import Page
from auditrelay.evidence import facts
from auditrelay.store import Contents, DeliveryStatus, LookedUp, Proved
from auditrelay.store.keys import KEY, TIMELESS, sortable
from auditrelay.store.packing import unpack
from auditrelay.store.sql import dead_letters, meta
from auditrelay.store.sql.accepted import forget_own
from auditrelay.store.sql.connection import Connection
from auditrelay.store.sql.contents import DIGEST, contents
from auditrelay.store.sql.dialect import Dialect
from auditrelay.store.sql.excluded import ExcludedPlaces
from auditrelay.store.sql.facts import insert, of_source
from auditrelay.store.sql.readers import reader_of
from auditrelay.store.sql.sources import source_id
from auditrelay.store.sql.spool import examine
from auditrelay.store.sql.uids import Begun, Uids, begin_adding
from auditrelay.store.sql.uids import logged as logged_keys
from auditrelay.window import Interval, micros

_ROW = struct.Struct(f"{KEY + DIGEST}s")
"""A row found: its key, and the digest of the newest content."""


def _newest(dialect: Dialect) -> str:
    return f"key || coalesce(substr(digest, 1, {DIGEST}), {dialect.empty.format(DIGEST)})"


@cache
def _in_range(dialect: Dialect) -> str:
    return (
        f"select count(*), {dialect.joined.format(_newest(dialect), 'key')} from "  # noqa: S608  # constants
        "(select key, digest from known where source = ? and key >= ? and key <= ? limit ?) as few"
    )


@cache
def _each(dialect: Dialect) -> str:
    one = (
        f"(select {_newest(dialect)} from known where source = :source "  # noqa: S608  # constants
        f"and key = substr(:keys, 1 + {KEY} * row.key, {KEY}))"
    )
    return f"select {dialect.joined.format(one, 'row.key')} from {dialect.rows}"  # noqa: S608  # constants


@cache
def _insert(dialect: Dialect) -> str:
    return (
        "insert into known (source, key, position, digest) select :source, "  # noqa: S608  # constants
        f"substr(:keys, 1 + {KEY} * row.key, {KEY}), :first + row.key, "
        f"substr(:digests, 1 + {DIGEST} * row.key, {DIGEST}) from {dialect.rows}"
    )


FORGET_STEP = 50_000
LOG_STEP = 1_000
"""How many uids are forgotten in one transaction at most."""

FORGOTTEN: Final = "forgotten_before"
"""The name of the newest time before which uids were forgotten."""

_FIRST_TIME = (1).to_bytes(8)


def find(db: Connection, uids: Uids, owner: int, keys: Sequence[bytes]) -> dict[bytes, bytes]:
    """Return by uid the row of each event of *keys* that is known, whatever its time is."""
    found = _by_uid(_find_exactly(db, owner, keys))
    return _with_moved(db, uids, owner, found, [key[8:] for key in keys])


def _with_moved(
    db: Connection,
    uids: Uids,
    owner: int,
    found: dict[bytes, bytes],
    wanted: Sequence[bytes],
) -> dict[bytes, bytes]:
    """Add to the rows *found* those of the uids *wanted* that are known under another time."""
    others = uids.possible(owner, {uid for uid in wanted if uid not in found})
    if not others:
        return found
    found |= _by_uid(_find_exactly(db, owner, [TIMELESS + uid for uid in others]))
    missing = {uid for uid in others if uid not in found}
    for moved in logged_keys(db, owner, missing) if missing else ():
        found |= _by_uid(_find_exactly(db, owner, moved))
        missing -= found.keys()
        if not missing:
            break
    return found


def _by_uid(rows: Iterable[bytes]) -> dict[bytes, bytes]:
    return {row[8:KEY]: row for row in rows}


def find_new(db: Connection, uids: Uids, owner: int, keys: Sequence[bytes]) -> Sequence[int]:
    """Deduplicate *keys*: return the indices of those not known, each distinct uid once."""
    exact = _find_exactly(db, owner, keys)
    wanted = [key[8:] for key in keys]
    if not exact and uids.are_new(owner, wanted):
        return list(range(len(keys)))
    found = _with_moved(db, uids, owner, _by_uid(exact), wanted)
    new: dict[bytes, int] = {}
    for index, uid in enumerate(wanted):
        if uid not in found:
            new.setdefault(uid, index)
    return list(new.values())


def look_up(
    db: Connection,
    uids: Uids,
    owner: int,
    keys: Sequence[bytes],
    digests: Sequence[bytes],
) -> LookedUp:
    """Deduplicate *keys*, and compare the *digests* of what is known; an empty one is equal."""
    exact = _find_exactly(db, owner, keys)
    rest: Sequence[int] = range(len(keys))
    if exact:  # most of what is known is as it was
        unchanged = set(exact)
        rest = [
            index
            for index, (key, digest) in enumerate(zip(keys, digests, strict=True))
            if key + digest[:DIGEST] not in unchanged
        ]
        if not rest:
            return LookedUp([], [])
    wanted = [keys[index][8:] for index in rest]
    found = _with_moved(db, uids, owner, _by_uid(exact), wanted)
    if not found and len(set(wanted)) == len(wanted):
        return LookedUp(list(rest), [])
    new: dict[bytes, int] = {}
    changed = []
    for index, uid in zip(rest, wanted, strict=True):
        digest = digests[index]
        row = found.get(uid)
        if row is None:
            first = new.setdefault(uid, index)
            if first != index and digests[first] != digest:
                changed.append(index)
        elif digest and row[KEY:] != digest[:DIGEST]:
            changed.append(index)
    if changed:
        known = [found.get(keys[index][8:], b"")[:KEY] for index in changed]
        changed = [
            index
            for index, content in zip(changed, contents(db, owner, known), strict=True)
            if content is None or content.is_other(digests[index])
        ]
    return LookedUp(list(new.values()), changed)


def contents_of(
    db: Connection, uids: Uids, owner: int, keys: Sequence[bytes]
) -> list[Contents | None]:
    """Return what is known of the contents of each of *keys*, whatever its time is."""
    found = find(db, uids, owner, keys)
    return contents(db, owner, [found.get(key[8:], b"")[:KEY] for key in keys])


def _find_exactly(db: Connection, owner: int, keys: Sequence[bytes]) -> Collection[bytes]:
    """Return the rows of those of *keys* that are known under that very time."""
    if not keys:
        return ()
    # Nothing is known in the range of a page of new events, and little else in that of known ones.
    most = 4 * len(keys)
    count, joined = db.execute(
        _in_range(db.dialect), (owner, min(keys), max(keys), most)
    ).fetchone()
    if count < most:
        rows = _cut(joined) if count else ()
        wanted = set(keys) if rows else ()
        return [row for row in rows if row[:KEY] in wanted]
    (joined,) = db.execute(
        _each(db.dialect),
        {"rows": db.dialect.count(len(keys)), "keys": b"".join(keys), "source": owner},
    ).fetchone()
    return _cut(joined or b"")


def _cut(joined: bytes) -> list[bytes]:
    return [row for (row,) in _ROW.iter_unpack(joined)]


def remember(
    db: Connection,
    uids: Uids,
    owner: int,
    keys: Sequence[bytes],
    *,
    digests: Sequence[str],
    first: int,
    logged: Begun | None = None,
) -> None:
    """
    Remember *keys*, which are not known, as the events at the positions from *first* on.

    *digests* are those of their raw records (SHA-256, hexadecimal). That they are *logged* may have
    been begun.
    """
    shortened = bytes.fromhex("".join([digest[: 2 * DIGEST] for digest in digests]))
    db.execute(
        _insert(db.dialect),
        {
            "rows": db.dialect.count(len(keys)),
            "keys": b"".join(keys),
            "digests": shortened,
            "source": owner,
            "first": first,
        },
    )
    uids.finish(db, owner, logged or begin_adding(db, owner, keys))


def spooled_events(db: Connection, owner: int, span: Interval) -> list[Page] | None:
    """Return the known events of *span* by the page, or None if some were pruned; PageDamaged."""
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
    for first, count, sha, blob in db.execute(
        "select first, count, sha, events from spool where first + count > ? and first <= ? "
        'and source = ? and "only" is null order by first',
        (min(wanted), max(wanted), owner),
    ):
        inside = sorted(wanted.intersection(range(first, first + count)))
        if inside:
            examine(db, first, sha, blob)
            page, _ = unpack(blob, first, count)
            pages.append(page.take([position - first for position in inside]))
    return pages if sum(map(len, pages)) == len(wanted) else None


def delivery_status(
    db: Connection,
    uids: Uids,
    source: str,
    keys: Sequence[bytes],
    *,
    proved: Proved | None,
) -> list[Mapping[str, DeliveryStatus] | None]:
    """Return the status of the event of each of *keys* at every sink; None if it is not known."""
    owner = source_id(db, source)
    sinks = []
    for name, since in db.execute(
        "select sink.name, feed.since from sink join feed on feed.sink = sink.id "
        "where feed.source = ? and sink.ends is null order by sink.name",
        (source,),
    ).fetchall():
        sinks.append((name, since, reader_of(db, name).progress))
    excluded = ExcludedPlaces(db, [name for name, _, _ in sinks])
    dead = dead_letters.statuses(db, [key[8:].hex() for key in keys])
    known = find(db, uids, owner, keys)
    found: list[Mapping[str, DeliveryStatus] | None] = []
    for key in keys:
        if key[8:] not in known:
            found.append(None)
            continue
        (position,) = db.execute(
            "select position from known where source = ? and key = ?", (owner, known[key[8:]][:KEY])
        ).fetchone()
        if proved is not None and not proved.has(position):
            found.append({name: "unproved" for name, _, _ in sinks})
            continue
        uid = key[8:].hex()
        found.append(
            {
                name: dead.get((uid, name))
                or dead.get((uid, None))
                or (
                    "before_sink"
                    if position < since
                    else "excluded"
                    if excluded.has(name, position)
                    else "waiting"
                    if progress.open_ranges(position, position + 1)
                    else "delivered"
                )
                for name, since, progress in sinks
            }
        )
    return found


def forget_before(db: Connection, before: int, now: int) -> int:
    """Forget some of the uids of events older than *before*; return how many."""
    logged = db.execute(
        "delete from uid_log where id in "
        "(select id from uid_log where newest < ? order by id limit ?)",
        (before, LOG_STEP),
    ).rowcount
    if logged == LOG_STEP:
        return FORGET_STEP
    db.execute('delete from late where "end" < ?', (before,))
    left = FORGET_STEP
    for owner, source in db.execute("select id, name from source order by name").fetchall():
        events = db.execute(
            "delete from known where source = ?1 and key in (select key from known "
            "where source = ?1 and key >= ?2 and key < ?3 limit ?4)",
            (owner, _FIRST_TIME, sortable(before), left),
        ).rowcount
        if events:
            insert(db, of_source(source), [facts.forgot(before=before, events=events)], now)
            # The clock may have been set back since uids were forgotten the last time.
            meta.put(db, FORGOTTEN, max(before, meta.find(db, FORGOTTEN) or before))
        left -= events
        if not left:
            break
    if (forgotten := meta.find(db, FORGOTTEN)) is not None:
        forget_own(db, forgotten)
    return FORGET_STEP - left
