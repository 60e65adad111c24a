"""
A page of the spool that is not what was put there: it is not delivered, and its span is a gap.

Works on a connection, within the caller's transaction.
"""

import sqlite3

from auditrelay.evidence import facts
from auditrelay.settings.reserved import ALERTS
from auditrelay.store import DAMAGED
from auditrelay.store.keys import time_of
from auditrelay.store.sql import branches, ledger
from auditrelay.store.sql.facts import insert, of_source
from auditrelay.store.sql.spool import Spool


def void(db: sqlite3.Connection, spool: Spool, first: int, now: int) -> None:
    """Take the page at *first* out: its uids are unknown again, and its span is to be read."""
    row = db.execute(
        "select count, source, (select name from source where id = spool.source), only, bytes "
        "from spool where first = ?",
        (first,),
    ).fetchone()
    if row is None:
        return
    count, owner, source, only, size = row
    bodies = [facts.void(pages=[(first, count)], why=DAMAGED)]
    places = owner, first, first + count
    which = "source = ? and position >= ? and position < ?"
    earliest, latest = db.execute(
        f"select min(key), max(key) from known where {which}",  # noqa: S608  # constants
        places,
    ).fetchone()
    if only is None and source != ALERTS and earliest is not None:
        db.execute(f"delete from known where {which}", places)  # noqa: S608  # constants
        start, end = time_of(earliest), time_of(latest) + 1
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
