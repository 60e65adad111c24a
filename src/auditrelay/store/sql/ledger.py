"""The ledger in the database: works on a connection, within the caller's transaction."""

from hashlib import sha256
from typing import Final

from auditrelay.store import FoundLate, Proof, Span
from auditrelay.store.keys import KEY, sortable
from auditrelay.store.ledger import (
    DAY,
    Changes,
    Entry,
    NewEvents,
    enter,
    parts_near,
    parts_to_count,
)
from auditrelay.store.sql.connection import Connection, Cursor
from auditrelay.store.sql.readers import FOREVER
from auditrelay.window import Interval, micros, moment

_DIGEST_STEP: Final = 2_000
"""How many known keys are read at once: each statement returns one row, see intake."""


def spans(db: Connection, owner: int) -> tuple[Span, ...]:
    """Return the ledger of the source *owner*, in order of time."""
    rows = db.execute(
        'select start, "end", gap, events from coverage where source = ? order by start', (owner,)
    ).fetchall()
    return tuple(
        Span(Interval(moment(start), moment(end)), gap, events) for start, end, gap, events in rows
    )


def changes(db: Connection, owner: int, proof: Proof, new: NewEvents, now: int) -> Changes:
    """Return what the *new* events of a page and its *proof* change; write nothing."""
    found = [
        db.execute(
            'select start, "end", gap, events, recorded from coverage '
            'where source = ? and start <= ? and "end" >= ?',
            (owner, end, start),
        )
        for start, end in parts_near(proof, new)
    ]
    near = {row for cursor in found for row in cursor}
    entries = [Entry(*row) for row in near]
    parts = parts_to_count(entries, proof)
    counts = [_count(db, owner, *part) for part in parts]
    counted = {part: int(cursor.fetchone()[0]) for part, cursor in zip(parts, counts, strict=True)}
    return enter(entries, proof, new, counted, now=now)


def write(db: Connection, owner: int, changes: Changes, via: str, now: int) -> None:
    """Write *changes* to the ledger, and where and how late late events were found *via* a read."""
    for start in changes.removed:
        db.execute("delete from coverage where source = ? and start = ?", (owner, start))
    for each in changes.written:
        db.execute(
            "insert into coverage values (?, ?, ?, ?, ?, ?) on conflict (source, start) "
            'do update set "end" = excluded."end", gap = excluded.gap, '
            "events = excluded.events, recorded = excluded.recorded",
            (owner, each.start, each.end, each.gap, each.events, each.recorded),
        )
    for seconds, count in changes.lateness.items():
        db.execute(
            "insert into lateness values (?, ?, ?, ?) on conflict (source, via, seconds) "
            "do update set events = lateness.events + excluded.events",
            (owner, via, seconds, count),
        )
    for start, end, events in changes.found_late:
        db.execute(
            "insert into late values (?, ?, ?, ?, ?, ?, ?) on conflict (source, start, via, day) "
            'do update set "end" = excluded."end", recorded = excluded.recorded, '
            "events = late.events + excluded.events",
            (owner, start, via, now // DAY, end, now, events),
        )


def take_back(
    db: Connection, owner: int, part: tuple[int, int], gap: str, now: int
) -> list[tuple[int, int]]:
    """Make what is covered of *part* a *gap*; return the parts that were."""
    taken = []
    start, end = part
    for first, last, recorded in db.execute(
        'select start, "end", recorded from coverage where source = ? and gap is null '
        'and start < ? and "end" > ? order by start',
        (owner, end, start),
    ).fetchall():
        inside = max(first, start), min(last, end)
        db.execute("delete from coverage where source = ? and start = ?", (owner, first))
        for left, right, why, when in (
            (first, inside[0], None, recorded),
            (*inside, gap, now),
            (inside[1], last, None, recorded),
        ):
            if left < right:
                events = count(db, owner, left, right)
                row = (owner, left, right, why, events, when)
                db.execute("insert into coverage values (?, ?, ?, ?, ?, ?)", row)
        taken.append(inside)
    return taken


def count(db: Connection, owner: int, start: int, end: int) -> int:
    """Return the number of known events in [*start*, *end*)."""
    (events,) = _count(db, owner, start, end).fetchone()
    return int(events)


def _count(db: Connection, owner: int, start: int, end: int) -> Cursor:
    return db.execute(
        "select count(*) from known where source = ? and key >= ? and key < ?",
        (owner, sortable(start), sortable(end)),
    )


def places_in(db: Connection, owner: int, start: int, end: int) -> list[int]:
    """Return the places of the known events in [*start*, *end*)."""
    rows = db.execute(
        "select position from known where source = ? and key >= ? and key < ?",
        (owner, sortable(start), sortable(end)),
    )
    return [place for (place,) in rows.fetchall()]


def digest_in(db: Connection, owner: int, span: Interval) -> tuple[int, str]:
    """Return the number of known events in *span*, and their digest in hexadecimal."""
    events, digest = digest_of(db, owner, micros(span.start), micros(span.end))
    return events, digest.hex()


def digest_of(
    db: Connection, owner: int, start: int, end: int, before: int = FOREVER
) -> tuple[int, bytes]:
    """
    Return the number of known events in [*start*, *end*), and the digest of their sorted keys.

    Only those count whose position is below *before*.
    """
    last, stop = sortable(start), sortable(end)
    # So far every key in the span is greater: a key is the eight bytes of its time and a uid.
    events, hashing = 0, sha256()
    while True:
        keys, found = db.execute(
            f"select {db.dialect.joined.format('key', 'key')}, count(*) from "  # noqa: S608  # constants
            "(select key from known where source = ? and key > ? and key < ? and position < ? "
            "order by key limit ?) as step",
            (owner, last, stop, before, _DIGEST_STEP),
        ).fetchone()
        if not found:
            return events, hashing.digest()
        events, last = events + found, keys[-KEY:]
        hashing.update(keys)


def found_late(db: Connection, owner: int, most: int) -> tuple[FoundLate, ...]:
    """Return where late events of the source *owner* were found, at most *most*, newest first."""
    return tuple(
        FoundLate(*row)
        for row in db.execute(
            'select start, "end", events, via, recorded from late where source = ? '
            "order by recorded desc, start desc, via limit ?",
            (owner, most),
        )
    )
