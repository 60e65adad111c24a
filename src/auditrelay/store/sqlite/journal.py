"""
The journal of a source: what was read when and how, each record chained to the one before it.

The ledger is what is covered now; the journal is its history. Every record has a hash over itself
and the hash of the record before it, and the source has the hash of its last record. So an edited,
removed or moved record breaks the chain, and a ledger that contradicts its journal is found. The
hash has no key: an attacker who can write the database can recompute the whole journal. Heads that
were logged (``ledger_sealed``) or printed (``coverage --json``) before then prove the forgery.

A record grows until its day ends (UTC), so that years of five-minute polls need only a few records
a day.
"""

import sqlite3
from dataclasses import dataclass

from auditrelay.store.journal import DAY, FIRST_HASH, NO_DIGEST, Record, hash_of, xor

_COLUMNS = "seq, recorded, what, start, end, reason, via, events, digest, hash"

_REACH = 50
"""How many records back one may still grow: all records after it are rehashed each time."""


@dataclass(frozen=True, slots=True)
class JournalWriter:
    """
    Writes the journal of the source *owner* on the connection *db*, at *now* (microseconds).

    *via* is the kind of read, as the records state it: ``poll``, ``resweep 1h``, ``backfill``.
    """

    db: sqlite3.Connection
    owner: int
    now: int
    via: str

    def record(
        self,
        what: str,
        start: int,
        end: int,
        *,
        reason: str | None = None,
        events: int = 0,
        digest: bytes = NO_DIGEST,
    ) -> None:
        """Enter a record, or extend the record of today that it continues."""
        db, owner, now, via = self.db, self.owner, self.now, self.via
        # Late and deleted events belong to the ledger entry at *start*; the rest extends an end.
        place, at = ("start", start) if what in ("late", "vanished") else ("end", start)
        row = db.execute(
            f"select {_COLUMNS} from journal where source = ? and {place} = ? and what = ? "  # noqa: S608  # constants
            "and reason is ? and via = ? and start / ? = ? and recorded / ? = ? and seq >= "
            "(select coalesce(max(seq), 0) from journal where source = ?) - ? "
            "order by seq desc limit 1",
            (owner, at, what, reason, via, DAY, start // DAY, DAY, now // DAY, owner, _REACH),
        ).fetchone()
        if row is None:
            (seq,) = db.execute(
                "select coalesce(max(seq), 0) + 1 from journal where source = ?", (owner,)
            ).fetchone()
            grown = (now, what, start, end, reason, via, events, digest)
        else:
            last = Record(*row)
            seq = last.seq
            grown = (
                now,
                what,
                last.start,
                max(end, last.end),
                reason,
                via,
                last.events + events,
                xor(last.digest, digest),
            )
        db.execute(
            "insert into journal values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, zeroblob(32)) "
            "on conflict (source, seq) do update set recorded = excluded.recorded, "
            "start = excluded.start, end = excluded.end, events = excluded.events, "
            "digest = excluded.digest",
            (owner, seq, *grown),
        )
        _bind(db, owner, seq)


def _bind(db: sqlite3.Connection, owner: int, seq: int) -> None:
    """Hash the records from *seq* on, and store the last hash as the head of the source."""
    name, before = db.execute(
        "select name, coalesce((select hash from journal where source = ?1 and seq = ?2 - 1), ?3) "
        "from source where id = ?1",
        (owner, seq, FIRST_HASH),
    ).fetchone()
    rows = db.execute(
        f"select {_COLUMNS} from journal where source = ? and seq >= ? order by seq",  # noqa: S608  # constants
        (owner, seq),
    ).fetchall()
    for row in rows:
        each = Record(*row)
        before = hash_of(name, before, each)
        db.execute(
            "update journal set hash = ? where source = ? and seq = ?", (before, owner, each.seq)
        )
    db.execute("update source set head = ? where id = ?", (before, owner))


def import_ledger(db: sqlite3.Connection) -> None:
    """Enter the ledgers of a state that is older than the journal."""
    for owner, start, end, gap, events, digest, recorded in db.execute(
        "select source, start, end, gap, events, digest, recorded from coverage"
    ).fetchall():
        what = "covered" if gap is None else "gap"
        writer = JournalWriter(db, owner, recorded, "before the journal")
        writer.record(what, start, end, reason=gap, events=events, digest=digest)


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
