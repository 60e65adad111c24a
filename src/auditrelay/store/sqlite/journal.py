"""The journal in the database: works on a connection, within the caller's transaction."""

import json
import sqlite3
from collections.abc import Sequence

from auditrelay.store.journal import TAIL, Change, Record, extend

_COLUMNS = "seq, recorded, what, start, end, reason, via, events, digest, hash"


def extended(
    db: sqlite3.Connection, owner: int, changes: Sequence[Change], *, now: int, via: str
) -> list[Record]:
    """Return the records of the source *owner* that *changes* make or change; write nothing."""
    if not changes:
        return []
    # One row, whatever it holds: see intake.
    name, text = db.execute(
        "select name, (select json_group_array(json_array(seq, recorded, what, start, end, reason, "
        "via, events, hex(digest), hex(hash))) from (select * from journal where source = ?1 "
        "order by seq desc limit ?2)) from source where id = ?1",
        (owner, TAIL),
    ).fetchone()
    tail = [Record(*row[:8], *map(bytes.fromhex, row[8:])) for row in json.loads(text)]
    tail.sort(key=lambda record: record.seq)
    return extend(name, tail, changes, now=now, via=via)


def write(db: sqlite3.Connection, owner: int, changed: Sequence[Record]) -> None:
    """Write the *changed* records, oldest first, and the hash of the last one as the head."""
    if not changed:
        return
    db.executemany(
        "insert into journal values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
        "on conflict (source, seq) do update set recorded = excluded.recorded, "
        "end = excluded.end, events = excluded.events, digest = excluded.digest, "
        "hash = excluded.hash",
        [
            (
                owner,
                each.seq,
                each.recorded,
                each.what,
                each.start,
                each.end,
                each.reason,
                each.via,
                each.events,
                each.digest,
                each.hash,
            )
            for each in changed
        ],
    )
    db.execute("update source set head = ? where id = ?", (changed[-1].hash, owner))


def import_ledger(db: sqlite3.Connection) -> None:
    """Enter the ledgers of a state that is older than the journal."""
    for owner, start, end, gap, events, digest, recorded in db.execute(
        "select source, start, end, gap, events, digest, recorded from coverage"
    ).fetchall():
        change = Change("covered" if gap is None else "gap", start, end, gap, events, digest)
        via = "before the journal"
        write(db, owner, extended(db, owner, [change], now=recorded, via=via))


def records(db: sqlite3.Connection, owner: int) -> list[Record]:
    """Return the journal of the source *owner*, oldest record first."""
    return [
        Record(*row)
        for row in db.execute(
            f"select {_COLUMNS} from journal where source = ? order by seq",  # noqa: S608  # constants
            (owner,),
        )
    ]


def newest(db: sqlite3.Connection, owner: int, what: str, limit: int) -> tuple[Record, ...]:
    """Return at most *limit* records of the kind *what* of the source *owner*, newest first."""
    return tuple(
        Record(*row)
        for row in db.execute(
            f"select {_COLUMNS} from journal where source = ? and what = ? "  # noqa: S608  # constants
            "order by seq desc limit ?",
            (owner, what, limit),
        )
    )
