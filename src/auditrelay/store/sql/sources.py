"""
Sources in the database: where each starts, how far its resweeps are, which files it has read.

Works on a connection, within the caller's transaction.
"""

from datetime import datetime, timedelta

from auditrelay.evidence import facts
from auditrelay.settings.reserved import ALERTS
from auditrelay.store import KnownFile
from auditrelay.store.sql.connection import Connection
from auditrelay.store.sql.facts import insert, of_source
from auditrelay.window import micros, moment


def start(db: Connection, name: str, first: datetime) -> datetime:
    """Register the source *name* to start at *first*, or earlier if it has; return its start."""
    db.execute(
        "insert into source (name, started) values (?, ?) on conflict (name) do update "
        "set started = excluded.started where excluded.started < source.started "
        "and not exists (select 1 from coverage where coverage.source = source.id)",
        (name, micros(first)),
    )
    (started,) = db.execute("select started from source where name = ?", (name,)).fetchone()
    return moment(started)


def source_id(db: Connection, name: str) -> int:
    """Return the id of the source *name*. Raises KeyError if it was never started."""
    row = db.execute("select id from source where name = ?", (name,)).fetchone()
    if row is None:
        raise KeyError(f"source {name!r} was never started")
    found: int = row[0]
    return found


def own_id(db: Connection, now: int) -> int:
    """Return the id of auditrelay as the source of its own events, which begins with the first."""
    start(db, ALERTS, moment(now))
    return source_id(db, ALERTS)


def resweep_from(db: Connection, name: str, delay: timedelta) -> datetime:
    """Return until when the resweep of *delay* is done: at first, where the source starts."""
    (until,) = db.execute(
        "select coalesce((select until from resweep where source = source.id and "
        "delay = ?), started) from source where name = ?",
        (_in_micros(delay), name),
    ).fetchone()
    return moment(until)


def resweep_done(db: Connection, name: str, delay: timedelta, until: datetime, now: int) -> None:
    """Record that the resweep of *delay* is done until *until*."""
    db.execute(
        "insert into resweep values (?, ?, ?) "
        "on conflict (source, delay) do update set until = excluded.until",
        (source_id(db, name), _in_micros(delay), micros(until)),
    )
    body = facts.looked_again(delay=delay // timedelta(seconds=1), until=micros(until))
    insert(db, of_source(name), [body], now)


def _in_micros(delay: timedelta) -> int:
    return delay // timedelta(microseconds=1)


def has_read_file(db: Connection, name: str, key: bytes) -> bool:
    """Return whether the source *name* has read the whole file with the digest *key*."""
    query = "select 1 from parcel where source = (select id from source where name = ?) and key = ?"
    return db.execute(query, (name, key)).fetchone() is not None


def file_read(db: Connection, owner: int, file: KnownFile, now: int) -> list[facts.Body]:
    """Record that the source *owner* has read the whole *file*; return the fact if that is new."""
    new = db.execute(
        "insert into parcel values (?, ?, ?, ?) on conflict do nothing",
        (owner, file.key, file.name, now),
    ).rowcount
    return [facts.file(key=file.key, name=file.name, owner=None)] if new else []
