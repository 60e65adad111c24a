"""
The journal of a source: who read what when, each record bound to the one before it.

The ledger says what is covered now; the journal says how it came about. Every record carries a
hash over itself and over the hash of the record before it, and the source carries the hash of its
last record. So a record that was edited, removed or put elsewhere no longer fits, and neither does
a ledger that says anything else than its journal. The hash is without a key: whoever can write the
database can make all of it anew. The heads that were logged (``ledger_sealed``) or printed
(``coverage --json``) before that bear witness then.

A record grows as long as its day lasts (UTC), so that years of five-minute polls stay a few
records a day.
"""

import sqlite3
from dataclasses import dataclass

from auditrelay.store.journal import DAY, FIRST_HASH, NO_DIGEST, Record, hash_of, xor

_COLUMNS = "seq, recorded, what, start, end, reason, via, events, digest, hash"

_REACH = 50
"""How many records back one may still grow: what follows it is hashed anew each time."""


@dataclass(frozen=True, slots=True)
class JournalWriter:
    """
    Writes the journal of the source *owner* on the connection *db*, at *now* (microseconds).

    *via* says in plain words who read what is entered.
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
        """Enter something into the journal; today's records may grow."""
        db, owner, now, via = self.db, self.owner, self.now, self.via
        # What was found late belongs to its entry of the ledger; all else grows at its end.
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
    """Hash the records from *seq* on, and keep the last hash with the source."""
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
    """Enter what ledgers hold that were begun before there was a journal."""
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


def newest(db: sqlite3.Connection, owner: int, what: str, most: int) -> tuple[Record, ...]:
    """Return the newest records of the source *owner* that tell of *what*, newest first."""
    return tuple(
        Record(*row)
        for row in db.execute(
            f"select {_COLUMNS} from journal where source = ? and what = ? "  # noqa: S608  # constants
            "order by seq desc limit ?",
            (owner, what, most),
        )
    )
