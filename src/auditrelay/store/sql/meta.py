"""
Named numbers, texts and bytes in the state.

Works on a connection, within the caller's transaction.
"""

from typing import Any

from auditrelay.store.sql.connection import Connection


def read(db: Connection, name: str) -> int:
    """Return the number *name*."""
    found: int = db.execute("select value from meta where name = ?", (name,)).fetchone()[0]
    return found


def find(db: Connection, name: str) -> int | None:
    """Return the number *name*, or None if it was never set."""
    row = db.execute("select value from meta where name = ?", (name,)).fetchone()
    return None if row is None else row[0]


def put(db: Connection, name: str, value: int) -> None:
    """Set the number *name* to *value*, whether it exists or not."""
    _put(db, "meta", name, value)


def write(db: Connection, name: str, value: int) -> None:
    """Set the number *name*, which must exist, to *value*."""
    db.execute("update meta set value = ? where name = ?", (value, name))


def write_both(db: Connection, one: tuple[str, int], other: tuple[str, int]) -> None:
    """Set two numbers, by their names, which must exist, with one statement: see intake."""
    db.execute(
        "update meta set value = case name when ?1 then cast(?2 as bigint) "
        "else cast(?4 as bigint) end where name in (?1, ?3)",
        (*one, *other),
    )


def delete(db: Connection, name: str) -> None:
    """Delete the number *name*, if it is there."""
    db.execute("delete from meta where name = ?", (name,))


def find_text(db: Connection, name: str) -> str | None:
    """Return the text *name*, or None if it was never set."""
    found: str | None = _find(db, db.dialect.metas[1], name)
    return found


def put_text(db: Connection, name: str, value: str | None) -> None:
    """Set the text *name* to *value*; None deletes it."""
    _put(db, db.dialect.metas[1], name, value)


def find_bytes(db: Connection, name: str) -> bytes | None:
    """Return the bytes *name*, or None if they were never set."""
    found: bytes | None = _find(db, db.dialect.metas[2], name)
    return found


def put_bytes(db: Connection, name: str, value: bytes | None) -> None:
    """Set the bytes *name* to *value*; None deletes them."""
    _put(db, db.dialect.metas[2], name, value)


def _find(db: Connection, table: str, name: str) -> Any:
    row = db.execute(f"select value from {table} where name = ?", (name,)).fetchone()  # noqa: S608  # constants
    return None if row is None else row[0]


def _put(db: Connection, table: str, name: str, value: str | int | bytes | None) -> None:
    if value is None:
        db.execute(f"delete from {table} where name = ?", (name,))  # noqa: S608  # constants
        return
    db.execute(
        f"insert into {table} (name, value) values (?, ?) "  # noqa: S608  # constants
        "on conflict (name) do update set value = excluded.value",
        (name, value),
    )
