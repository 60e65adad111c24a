"""
The ledger of a source in the database: spans of event time, each covered or a gap.

Works on a connection, within the caller's transaction. Every change is also entered into the
journal.
"""

import sqlite3
from collections import Counter
from collections.abc import Sequence

from auditrelay.store import Declared, Span
from auditrelay.store.journal import DAY, NO_DIGEST, xor
from auditrelay.store.keys import sortable
from auditrelay.store.lateness import lateness_bucket
from auditrelay.store.sqlite.journal import JournalWriter
from auditrelay.window import Interval, holes, micros, moment

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


def cover(journal: JournalWriter, covers: Interval) -> list[Declared]:
    """Enter *covers* as covered; return the gaps in it, which are filled by that."""
    db, owner = journal.db, journal.owner
    start, end = micros(covers.start), micros(covers.end)
    near = db.execute(
        "select start, end, gap from coverage where source = ? and start <= ? and end >= ?",
        (owner, end, start),
    ).fetchall()
    filled = []
    for gap_start, gap_end, reason in near:
        if reason is None or gap_end <= start or gap_start >= end:
            continue
        db.execute("delete from coverage where source = ? and start = ?", (owner, gap_start))
        for left, right in ((gap_start, start), (end, gap_end)):
            if left < right:
                db.execute(
                    "insert into coverage values (?, ?, ?, ?, ?, ?, ?)",
                    (owner, left, right, reason, *digest_of(db, owner, left, right), journal.now),
                )
        first, last = max(start, gap_start), min(end, gap_end)
        journal.record("filled", first, last, reason=reason)
        filled.append(Declared(Interval(moment(first), moment(last)), reason, new=True))
    covered = [Interval(moment(row[0]), moment(row[1])) for row in near if row[2] is None]
    for hole in holes(covers, covered):
        _enter(journal, hole, None)
    return filled


def declare(journal: JournalWriter, interval: Interval, reason: str) -> list[Declared]:
    """Enter the parts of *interval* that are not in the ledger as gaps; return these gaps."""
    entered = [
        Interval(moment(start), moment(end))
        for start, end in journal.db.execute(
            "select start, end from coverage where source = ? and start < ? and end > ?",
            (journal.owner, micros(interval.end), micros(interval.start)),
        ).fetchall()
    ]
    return [
        Declared(hole, reason, new=_enter(journal, hole, reason))
        for hole in holes(interval, entered)
    ]


def _enter(journal: JournalWriter, span: Interval, gap: str | None) -> bool:
    """Enter *span*, which is not in the ledger; return whether it became an entry of its own."""
    db, owner, now = journal.db, journal.owner, journal.now
    start, end = micros(span.start), micros(span.end)
    events, digest = digest_of(db, owner, start, end)
    journal.record(
        "covered" if gap is None else "gap",
        start,
        end,
        reason=gap,
        events=events,
        digest=digest,
    )
    # One entry a day, so that the ledger stays small and readable after years of polls.
    grown = db.execute(
        "select start, events, digest from coverage where source = ? and end = ? "
        "and gap is ? and start / ? = ?",
        (owner, start, gap, DAY, start // DAY),
    ).fetchone()
    if grown is None:
        db.execute(
            "insert into coverage values (?, ?, ?, ?, ?, ?, ?)",
            (owner, start, end, gap, events, digest, now),
        )
        return True
    db.execute(
        "update coverage set end = ?, events = ?, digest = ?, recorded = ? "
        "where source = ? and start = ?",
        (end, grown[1] + events, xor(grown[2], digest), now, owner, grown[0]),
    )
    return False


def count_late(
    journal: JournalWriter, found: Sequence[tuple[int, bytes]], ages: Sequence[int]
) -> list[int]:
    """
    Add the late ones of the new events *found* to the ledger entries that they are in.

    *found* are times (microseconds) and uids, *ages* the age of each event when it was found
    (microseconds). Returns the indices of the late events: those in a span covered before.
    """
    db, owner = journal.db, journal.owner
    late: list[int] = []
    for start, end, events, digest in db.execute(
        "select start, end, events, digest from coverage "
        "where source = ? and gap is null and start <= ? and end > ?",
        (owner, max(found)[0], min(found)[0]),
    ).fetchall():
        inside = [index for index, (at, _) in enumerate(found) if start <= at < end]
        if not inside:
            continue
        added = NO_DIGEST
        for index in inside:
            added = xor(added, found[index][1])
        db.execute(
            "update coverage set events = ?, digest = ? where source = ? and start = ?",
            (events + len(inside), xor(digest, added), owner, start),
        )
        journal.record("late", start, end, events=len(inside), digest=added)
        late += inside
    for seconds, count in Counter(lateness_bucket(ages[index]) for index in late).items():
        db.execute(
            "insert into lateness values (?, ?, ?, ?) on conflict (source, via, seconds) "
            "do update set events = events + excluded.events",
            (owner, journal.via, seconds, count),
        )
    return sorted(late)


def digest_of(db: sqlite3.Connection, owner: int, start: int, end: int) -> tuple[int, bytes]:
    """Return the number of known events in [*start*, *end*), and the exclusive-or of their uids."""
    last, stop = sortable(start), sortable(end)
    count, total = 0, 0
    while True:
        uids, last_key, found = db.execute(
            "select group_concat(hex(substr(key, 9)), ''), max(key), count(*) from "
            "(select key from known where source = ? and key > ? and key < ? order by key limit ?)",
            (owner, last, stop, _DIGEST_STEP),
        ).fetchone()
        if not found:
            return count, total.to_bytes(20)
        text = bytes.fromhex(uids)
        for place in range(0, len(text), 20):
            total ^= int.from_bytes(text[place : place + 20])
        count, last = count + found, last_key
