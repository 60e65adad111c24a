"""
Tags: with a key, each row that may change until it is sealed says that it is ours.

A tag is an HMAC over what the row means. Who can write the state and has no key can neither change
such a row nor put one in; without a key there are no tags. Works on a connection.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from auditrelay.store.sql import meta
from auditrelay.store.sql.connection import Connection, Value

Name = int | str
"""What names a row of a table."""


def tag(db: Connection, kind: str, *values: Value) -> bytes | None:
    """Return the tag of a row of this *kind* with these *values*; None without a key."""
    keys = db.keys
    return None if keys is None else keys.tag(*_parts(kind, values))


def _parts(kind: str, values: tuple[Value, ...]) -> Iterator[bytes]:
    yield kind.encode()
    for value in values:
        if isinstance(value, bytes):
            yield b"b" + value
        else:
            yield b"" if value is None else f"{type(value).__name__} {value}".encode()


_ROWS: Final = {
    "fact": "select id, tag, unit, at, text from fact",
    "spool": 'select first, tag, first as at, count, source, "only", sha from spool',
    "sink": "select id, tag, name, sources, position, ahead, ends from sink",
    "feed": "select rowid_of, tag, sink, source, since from "
    "(select sink || ' ' || source as rowid_of, feed.* from feed) as named",
    "dead_letter": "select id, tag, sink, source, uid, reason, replayed, dropped, event "
    "from dead_letter",
}
"""By table a query for its rows: what names one, its tag, and what the tag is over."""

_KEY: Final = {
    "fact": "id",
    "spool": "first",
    "sink": "id",
    "feed": "sink || ' ' || source",
    "dead_letter": "id",
}


def wrong(db: Connection, table: str, where: str = "true", *values: Value) -> list[Name]:
    """Return which rows of *table*, of those *where* that holds, have another tag than theirs."""
    if db.keys is None:
        return []
    query = f"select * from ({_ROWS[table]}) as each_row where {where}"  # noqa: S608  # constants
    return [
        name for name, found, *row in db.execute(query, values) if found != tag(db, table, *row)
    ]


def put(db: Connection, table: str, where: str = "true", *values: Value) -> None:
    """Set the tags of the rows of *table* *where* that holds, as they are now."""
    if db.keys is None:
        return
    query = f"select * from ({_ROWS[table]}) as each_row where {where}"  # noqa: S608  # constants
    for name, _, *row in db.execute(query, values).fetchall():
        db.execute(
            f"update {table} set tag = ? where {_KEY[table]} = ?",  # noqa: S608  # constants
            (tag(db, table, *row), name),
        )


def all_wrong(db: Connection) -> list[tuple[str, Name]]:
    """Return table and name of every row with another tag than its own."""
    return [(table, name) for table in _ROWS for name in wrong(db, table)]


def put_all(db: Connection) -> None:
    """Set all tags; without a key, remove them."""
    for table in _ROWS:
        if db.keys is None:
            db.execute(f"update {table} set tag = null where tag is not null")  # noqa: S608  # constants
        else:
            put(db, table)
    meta.put_bytes(db, _OPEN, None)
    begin_open(db)


# --- all open facts together --------------------------------------------------------------------

_OPEN: Final = "open_facts"
"""The name of the tag over all open facts: the tag of a row says nothing about a row that is gone.

Each fact continues it from the tag before, and it begins with the newest head, so that one from
before the seal fits no more.
"""

OPEN_WRONG: Final = "facts that wait to be sealed are missing, or others were put in"
"""What it means if that tag is another one."""


def add_open(db: Connection, added: Iterable[bytes | None]) -> None:
    """Continue the tag over all open facts with those that are *added*, given their tags."""
    if db.keys is None:
        return
    meta.put_bytes(db, _OPEN, _continued(db, meta.find_bytes(db, _OPEN), added))


def begin_open(db: Connection) -> None:
    """Set the tag over the facts that are open now, once there is another head or key."""
    if db.keys is not None:
        meta.put_bytes(db, _OPEN, _over_open(db))


def are_open_whole(db: Connection) -> bool:
    """Return whether the open facts are all that we wrote, in their order; True without a key."""
    if db.keys is None:
        return True
    found = meta.find_bytes(db, _OPEN)
    return found is not None and found == _over_open(db)


def _over_open(db: Connection) -> bytes | None:
    row = db.execute("select word from head order by size desc limit 1").fetchone()
    begin = tag(db, _OPEN, None if row is None else row[0])
    return _continued(db, begin, (each for (each,) in db.execute(_OPEN_TAGS)))


_OPEN_TAGS: Final = "select tag from fact order by id"


def _continued(db: Connection, before: bytes | None, added: Iterable[bytes | None]) -> bytes | None:
    for each in added:
        before = tag(db, _OPEN, before, each)
    return before
