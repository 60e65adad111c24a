"""The ledger in the database: works on a connection, within the caller's transaction."""

import sqlite3

from auditrelay.store import Proof, Span
from auditrelay.store.journal import NO_DIGEST, folded, xor
from auditrelay.store.keys import sortable
from auditrelay.store.ledger import Changes, Entry, NewEvents, enter, parts_near, parts_to_count
from auditrelay.window import Interval, moment

_DIGEST_STEP = 20_000


def spans(db: sqlite3.Connection, owner: int) -> tuple[Span, ...]:
    """Return the ledger of the source *owner*, in order of time."""
    rows = db.execute(
        "select start, end, gap, events, hex(digest) from coverage where source = ? order by start",
        (owner,),
    ).fetchall()
    return tuple(
        Span(Interval(moment(start), moment(end)), gap, events, digest.lower())
        for start, end, gap, events, digest in rows
    )


def changes(db: sqlite3.Connection, owner: int, proof: Proof, new: NewEvents, now: int) -> Changes:
    """Return what the *new* events of a page and its *proof* change; write nothing."""
    near = {
        row
        for start, end in parts_near(proof, new)
        for row in db.execute(
            "select start, end, gap, events, digest, recorded from coverage "
            "where source = ? and start <= ? and end >= ?",
            (owner, end, start),
        )
    }
    entries = [Entry(*row) for row in near]
    counted = {part: digest_of(db, owner, *part) for part in parts_to_count(entries, proof)}
    return enter(entries, proof, new, counted, now=now)


def write(db: sqlite3.Connection, owner: int, changes: Changes, via: str) -> None:
    """Write *changes* to the ledger, and how late the late events were, found *via* that read."""
    for start in changes.removed:
        db.execute("delete from coverage where source = ? and start = ?", (owner, start))
    for each in changes.written:
        db.execute(
            "insert into coverage values (?, ?, ?, ?, ?, ?, ?) on conflict (source, start) "
            "do update set end = excluded.end, gap = excluded.gap, events = excluded.events, "
            "digest = excluded.digest, recorded = excluded.recorded",
            (owner, each.start, each.end, each.gap, each.events, each.digest, each.recorded),
        )
    for seconds, count in changes.lateness.items():
        db.execute(
            "insert into lateness values (?, ?, ?, ?) on conflict (source, via, seconds) "
            "do update set events = events + excluded.events",
            (owner, via, seconds, count),
        )


def digest_of(db: sqlite3.Connection, owner: int, start: int, end: int) -> tuple[int, bytes]:
    """Return the number of known events in [*start*, *end*), and the exclusive-or of their uids."""
    last, stop = sortable(start), sortable(end)
    count, total = 0, NO_DIGEST
    while True:
        uids, last_key, found = db.execute(
            "select cast(group_concat(substr(key, 9), '') as blob), max(key), count(*) from "
            "(select key from known where source = ? and key > ? and key < ? order by key limit ?)",
            (owner, last, stop, _DIGEST_STEP),
        ).fetchone()
        if not found:
            return count, total
        count, last, total = count + found, last_key, xor(total, folded(uids))
