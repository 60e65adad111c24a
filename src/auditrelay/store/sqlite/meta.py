"""The numbers that the state keeps by name, on a connection."""

import sqlite3


def read(db: sqlite3.Connection, name: str) -> int:
    """Return the number that is kept under *name*."""
    found: int = db.execute("select value from meta where name = ?", (name,)).fetchone()[0]
    return found


def write(db: sqlite3.Connection, name: str, value: int) -> None:
    """Keep *value* under *name*, which is there already."""
    db.execute("update meta set value = ? where name = ?", (value, name))
