"""Forwarded events that were deleted at their source: find and record them."""

import sqlite3
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from auditrelay.store.journal import Change, xor
from auditrelay.store.keys import sortable
from auditrelay.store.sqlite import journal
from auditrelay.window import Interval, micros


def find_deleted(
    db: sqlite3.Connection, owner: int, span: Interval, seen: AbstractSet[bytes], before: int
) -> list[bytes]:
    """
    Return the known keys of *span* whose uid was not *seen*, of events spooled *before* that place.

    What was seen counts whatever its time is now.
    """
    return [
        key
        for (key,) in db.execute(
            "select key from known where source = ? and key >= ? and key < ? and position < ?",
            (owner, sortable(micros(span.start)), sortable(micros(span.end)), before),
        )
        if key[8:] not in seen
    ]


def record_deleted(
    db: sqlite3.Connection, owner: int, span: Interval, keys: Sequence[bytes], now: int
) -> int:
    """Enter those of *keys* that are not recorded yet as one record; return how many are new."""
    new = [
        key
        for key in keys
        if db.execute(
            "insert into vanished values (?, ?, ?) on conflict do nothing", (owner, key, now)
        ).rowcount
    ]
    if new:
        digest = xor(*(key[8:] for key in new))
        start, end = micros(span.start), micros(span.end)
        change = Change("vanished", start, end, None, len(new), digest)
        records = journal.extended(db, owner, [change], now=now, via="resweep")
        journal.write(db, owner, records)
    return len(new)
