"""Named numbers in the state; works on a connection, within the caller's transaction."""

import sqlite3


def read(db: sqlite3.Connection, name: str) -> int:
    """Return the number *name*."""
    found: int = db.execute("select value from meta where name = ?", (name,)).fetchone()[0]
    return found


def find(db: sqlite3.Connection, name: str) -> int | None:
    """Return the number *name*, or None if it was never set."""
    row = db.execute("select value from meta where name = ?", (name,)).fetchone()
    return None if row is None else row[0]


def put(db: sqlite3.Connection, name: str, value: int) -> None:
    """Set the number *name* to *value*, whether it exists or not."""
    db.execute(
        "insert into meta values (?, ?) on conflict (name) do update set value = excluded.value",
        (name, value),
    )


def write(db: sqlite3.Connection, name: str, value: int) -> None:
    """Set the number *name*, which must exist, to *value*."""
    db.execute("update meta set value = ? where name = ?", (value, name))
