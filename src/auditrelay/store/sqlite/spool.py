"""The spool: what waits for each sink, and how far each has come, all on a connection."""

import json
import sqlite3
from datetime import timedelta

from auditrelay.store.progress import Progress

READ_BYTES = 1 << 20
"""How much of the spool, compressed, is read in one go."""


def duration_micros(delay: timedelta) -> int:
    """Return *delay* in microseconds."""
    return delay // timedelta(microseconds=1)


def meta_value(db: sqlite3.Connection, name: str) -> int:
    """Return the number that the state keeps under *name*."""
    found: int = db.execute("select value from meta where name = ?", (name,)).fetchone()[0]
    return found


def set_meta(db: sqlite3.Connection, name: str, value: int) -> None:
    """Keep *value* under *name*."""
    db.execute("update meta set value = ? where name = ?", (value, name))


def shrink(db: sqlite3.Connection) -> None:
    """Give some unused room back to the file system."""
    db.execute("pragma incremental_vacuum(1000)").fetchall()


def source_id(db: sqlite3.Connection, source: str) -> int:
    """Return the id of *source*. Raises KeyError if it was never started."""
    row = db.execute("select id from source where name = ?", (source,)).fetchone()
    if row is None:
        raise KeyError(f"source {source!r} was never started")
    found: int = row[0]
    return found


def sink_progress(db: sqlite3.Connection, sink: str) -> tuple[Progress, str]:
    """Return how far *sink* has come, and the ids of the sources that it reads, as JSON."""
    row = db.execute(
        "select position, ahead, (select json_group_array(source.id) from source "
        "where name in (select value from json_each(sink.sources))) from sink where name = ?",
        (sink,),
    ).fetchone()
    if row is None:
        raise KeyError(f"sink {sink!r} was never started")
    position, ahead, readable = row
    return Progress(position, tuple((start, end) for start, end in json.loads(ahead))), readable


def sources_read_by(db: sqlite3.Connection, sink: str) -> set[str]:
    """Return the sources that *sink* has read until now."""
    row = db.execute("select sources from sink where name = ?", (sink,)).fetchone()
    return set() if row is None else set(json.loads(row[0]))


def waiting_for(db: sqlite3.Connection, sink: str) -> tuple[int, int | None, int | None]:
    """Return what waits for *sink*: events, the first position, and when that was stored."""
    progress, readable = sink_progress(db, sink)
    count, first, stored = db.execute(
        "select total(first + count - max(first, ?1)), min(first), min(stored) from spool "
        "where first + count > ?1 and source in (select value from json_each(?2)) "
        "and first < (select coalesce(ends, 1 << 62) from sink where name = ?3) "
        "and (only is null or only = (select id from sink where name = ?3))",
        (progress.position, readable, sink),
    ).fetchone()
    return int(count) - sum(end - start for start, end in progress.ahead), first, stored


def delivered_floor(db: sqlite3.Connection) -> int:
    """Return the position before which every sink has everything."""
    (floor,) = db.execute("select value from meta where name = 'next_position'").fetchone()
    for (sink,) in db.execute("select name from sink").fetchall():
        first = waiting_for(db, sink)[1]
        if first is not None:
            floor = min(floor, first)
    found: int = floor
    return found
