"""Named numbers in the state; works on a connection, within the caller's transaction."""

import sqlite3


def read(db: sqlite3.Connection, name: str) -> int:
    """Return the number *name*."""
    found: int = db.execute("select value from meta where name = ?", (name,)).fetchone()[0]
    return found


def write(db: sqlite3.Connection, name: str, value: int) -> None:
    """Set the number *name*, which must exist, to *value*."""
    db.execute("update meta set value = ? where name = ?", (value, name))
