"""
Sinks in the database: which sources each reads, its progress and its backlog.

Works on a connection, within the caller's transaction.
"""

import json
import sqlite3
from collections.abc import Sequence

from auditrelay.store import DeadLetter
from auditrelay.store.progress import Progress, Range
from auditrelay.store.sqlite import dead_letters, meta


def start(
    db: sqlite3.Connection, name: str, sources: Sequence[str], configured: Sequence[str] | None
) -> None:
    """Let the sink *name* read *sources*, and those it read before that are not *configured*."""
    orphaned = set() if configured is None else _sources_read_by(db, name).difference(configured)
    db.execute(
        "insert into sink (name, sources, position) "
        "select ?, ?, value from meta where name = 'next_position' "
        "on conflict (name) do update set sources = excluded.sources, ends = null",
        (name, json.dumps(sorted(orphaned.union(sources)))),
    )
    db.execute(
        "insert into feed select sink.id, each.value, meta.value from sink, meta, "
        "json_each(sink.sources) as each where sink.name = ? "
        "and meta.name = 'next_position' on conflict do nothing",
        (name,),
    )
    db.execute(
        "delete from feed where sink = (select id from sink where name = ?1) and source "
        "not in (select value from sink, json_each(sink.sources) where sink.name = ?1)",
        (name,),
    )


def retire(db: sqlite3.Connection, active: Sequence[str]) -> tuple[str, ...]:
    """End all sinks but the *active* ones at this position; return those with a backlog."""
    db.execute(
        "update sink set ends = ? where ends is null "
        "and name not in (select value from json_each(?))",
        (meta.read(db, "next_position"), json.dumps(list(active))),
    )
    retired = db.execute("select name from sink where ends is not null order by name")
    return tuple(name for (name,) in retired.fetchall() if waiting_for(db, name)[0])


def settle(
    db: sqlite3.Connection, name: str, done: Sequence[Range], dead: Sequence[DeadLetter]
) -> None:
    """Add the ranges *done* to the progress of the sink *name*, insert the *dead* letters."""
    progress = sink_progress(db, name)[0].plus(done)
    db.execute(
        "update sink set position = ?, ahead = ? where name = ?",
        (progress.position, json.dumps(progress.ahead), name),
    )
    for letter in dead:
        dead_letters.insert(db, name, letter)
    dead_letters.delete_delivered(db, name, done)


def sink_progress(db: sqlite3.Connection, name: str) -> tuple[Progress, str]:
    """
    Return the progress of the sink *name*, and the ids of the sources that it reads, as JSON.

    Raises KeyError if it was never started.
    """
    row = db.execute(
        "select position, ahead, (select json_group_array(source.id) from source "
        "where name in (select value from json_each(sink.sources))) from sink where name = ?",
        (name,),
    ).fetchone()
    if row is None:
        raise KeyError(f"sink {name!r} was never started")
    position, ahead, readable = row
    return Progress(position, tuple((start, end) for start, end in json.loads(ahead))), readable


def waiting_for(db: sqlite3.Connection, name: str) -> tuple[int, int | None, int | None]:
    """Return the backlog of a sink: events, the first position, and when that was stored."""
    progress, readable = sink_progress(db, name)
    count, first, stored = db.execute(
        "select total(first + count - max(first, ?1)), min(first), min(stored) from spool "
        "where first + count > ?1 and source in (select value from json_each(?2)) "
        "and first < (select coalesce(ends, 1 << 62) from sink where name = ?3) "
        "and (only is null or only = (select id from sink where name = ?3))",
        (progress.position, readable, name),
    ).fetchone()
    return int(count) - sum(end - start for start, end in progress.ahead), first, stored


def delivered_floor(db: sqlite3.Connection) -> int:
    """Return the position before which every sink has everything."""
    floor = meta.read(db, "next_position")
    for (name,) in db.execute("select name from sink").fetchall():
        first = waiting_for(db, name)[1]
        if first is not None:
            floor = min(floor, first)
    return floor


def _sources_read_by(db: sqlite3.Connection, name: str) -> set[str]:
    row = db.execute("select sources from sink where name = ?", (name,)).fetchone()
    return set() if row is None else set(json.loads(row[0]))
