"""
A page of the spool that is not what was put there: it is not delivered, and its span is a gap.

Works on a connection, within the caller's transaction.
"""

from auditrelay.evidence import facts
from auditrelay.settings.reserved import ALERTS
from auditrelay.store import DAMAGED
from auditrelay.store.keys import time_of
from auditrelay.store.sql import branches, ledger
from auditrelay.store.sql.connection import Connection
from auditrelay.store.sql.facts import insert, of_source
from auditrelay.store.sql.spool import Spool


def void(db: Connection, spool: Spool, first: int, now: int) -> None:
    """Take the page at *first* out: its uids are unknown again, and its span is to be read."""
    row = db.execute(
        'select count, source, (select name from source where id = spool.source), "only", bytes '
        "from spool where first = ?",
        (first,),
    ).fetchone()
    if row is None:
        return
    count, owner, source, only, size = row
    bodies = [facts.void(pages=[(first, count)], why=DAMAGED)]
    places = owner, first, first + count
    which = "source = ? and position >= ? and position < ?"
    ends = [
        db.execute(
            f"select key from known where {which} order by key {direction} limit 1",  # noqa: S608  # constants
            places,
        ).fetchone()
        for direction in ("asc", "desc")
    ]
    if only is None and source != ALERTS and ends[0] is not None:
        db.execute(f"delete from known where {which}", places)  # noqa: S608  # constants
        start, end = time_of(ends[0][0]), time_of(ends[1][0]) + 1
        bodies += [
            facts.gap(start=begin, end=until, reason=DAMAGED)
            for begin, until in ledger.take_back(db, owner, (start, end), DAMAGED, now)
        ]
    db.execute("delete from spool where first = ?", (first,))
    db.execute("delete from own_page where first = ?", (first,))
    spool.resize(db, -size)
    insert(db, of_source(source), bodies, now)
    branches.set_broken(
        db, f"the page at place {first} of {source} ({count} events) was changed or damaged", now
    )
