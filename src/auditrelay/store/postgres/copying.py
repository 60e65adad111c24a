"""Copy the whole state of one instance into an empty one in PostgreSQL, row by row."""

from typing import Any, Final

from auditrelay.store.postgres.connection import Connection
from auditrelay.store.sql import meta

_STEP: Final = 2_000
"""How many rows are on their way at once."""

_TABLES: Final[dict[str, str]] = {
    "source": "id, name, started, condition",
    "coverage": 'source, start, "end", gap, events, recorded',
    "resweep": "source, delay, until",
    "known": "source, key, position, digest",
    "uid_log": "id, source, newest, uids, times",
    "vanished": "source, key, noted",
    "lateness": "source, via, seconds, events",
    "parcel": "source, key, name, recorded",
    "backfill": 'id, source, sinks, start, "end", began, ended',
    "backfill_part": 'backfill, start, "end", events, new',
    "late": 'source, start, via, day, "end", recorded, events',
    "spool": 'first, count, source, stored, bytes, events, "only", sha, tag',
    "own_page": "first, source, recorded, keys",
    "sink": "id, name, sources, position, ahead, ends, condition, tag",
    "feed": "sink, source, since, tag",
    "dead_letter": "id, sink, source, uid, native_id, reason, status, message, attempts, first_at, "
    "last_at, event, replayed, dropped, tag",
    "fact": "id, unit, at, text, tag",
    "entry": "n, unit, text",
    "head": "size, at, root, word, place",
}
"""Every table of the state, with its columns."""

_NUMBERED: Final = ("source", "uid_log", "backfill", "sink", "dead_letter", "fact")
"""The tables whose ids the database gives out: it goes on behind those that were copied."""


def is_empty(db: Connection) -> bool:
    """Return whether nothing has been stored yet in the state of *db*."""
    query = (
        "select exists (select 1 from source) or exists (select 1 from sink) "
        "or exists (select 1 from entry)"
    )
    (stored,) = db.execute(query).fetchone()
    return not stored


def copy(origin: Any, db: Connection) -> dict[str, int]:
    """
    Copy all of *origin*, a connection to a state in SQLite, to *db*, whose state is empty.

    Works within the transactions of the caller. Returns the number of rows by table.
    """
    copied = {table: _copy(origin, db, table, columns) for table, columns in _TABLES.items()}
    for table in _NUMBERED:
        db.execute(
            "select setval(pg_get_serial_sequence(?, 'id'), "  # noqa: S608  # constants
            f"greatest((select coalesce(max(id), 0) from {table}), 1))",
            (table,),
        )
    for name, value in origin.execute("select name, value from meta").fetchall():
        if isinstance(value, int):
            meta.put(db, name, value)
        elif isinstance(value, str):
            meta.put_text(db, name, value)
        else:
            meta.put_bytes(db, name, value)
    return copied


def _copy(origin: Any, db: Connection, table: str, columns: str) -> int:
    places = ", ".join(["?"] * len(columns.split(", ")))
    rows = origin.execute(f"select {columns} from {table}")  # noqa: S608  # constants
    count = 0
    while some := rows.fetchmany(_STEP):
        db.executemany(f"insert into {table} ({columns}) values ({places})", some)  # noqa: S608  # constants
        db.execute("select 1").fetchone()  # sent, so that they need not be kept
        count += len(some)
    return count
