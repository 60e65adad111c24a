"""
Delete the whole state of an orphaned source or sink, at an operator's request.

All but :func:`remove` work on a connection, within the caller's transaction.
"""

from typing import Final

from auditrelay.evidence import facts
from auditrelay.store.sql import meta, seals
from auditrelay.store.sql.connection import Connection
from auditrelay.store.sql.engine import Writer
from auditrelay.store.sql.facts import insert, of_sink, of_source
from auditrelay.store.sql.spool import Spool
from auditrelay.store.sql.spooling import Spooling

_STEP: Final = 50_000
_SIZE: Final = "select cast(coalesce(sum(bytes), 0) as bigint) from spool where {} = ?"
_OF_A_SOURCE: Final = (
    "coverage",
    "resweep",
    "known",
    "uid_log",
    "spool",
    "own_page",
    "vanished",
    "late",
    "lateness",
    "parcel",
    "backfill",
)


_BEGUN: Final = "removing "
"""In front of a name: that its removal has begun, and has not ended."""


async def remove(
    writer: Writer, spooling: Spooling, log: Spool, name: str, now: int, *, by: int | None
) -> None:
    """Delete everything of the source or sink *name*: first the fact, and last its row."""
    await writer.write(lambda db: declare(db, name, now, by=by))
    await finish(writer, spooling, log, name)


async def finish(writer: Writer, spooling: Spooling, log: Spool, name: str) -> None:
    """Delete what is left of the source or sink *name*, whose removal was declared."""
    while await writer.write(lambda db: some_known(db, name)):  # there may be millions
        pass
    await spooling.rearrange(lambda db: log.resize(db, -source(db, name)))

    def last(db: Connection) -> None:
        log.resize(db, -sink(db, name))
        meta.delete(db, _BEGUN + name)

    await spooling.rearrange(last)


def is_unfinished(db: Connection, name: str) -> bool:
    """Return whether a removal of *name* was declared, and was interrupted before its end."""
    return meta.find(db, _BEGUN + name) is not None


def declare(db: Connection, name: str, now: int, *, by: int | None) -> None:
    """Record that *by* removes the source or sink *name*: before anything of it is gone."""
    place = meta.read(db, "next_position")
    body = {**facts.operator(did="forget", by=by, name=name), "place": place}
    meta.put(db, _BEGUN + name, 1)
    for table, unit in (("source", of_source(name)), ("sink", of_sink(name))):
        if db.execute(f"select 1 from {table} where name = ?", (name,)).fetchone():  # noqa: S608  # constants
            insert(db, unit, [body], now)


def some_known(db: Connection, name: str) -> int:
    """Forget some of the uids of the source *name*; return how many."""
    return db.execute(
        "delete from known where (source, key) in (select source, key from known where source = "
        "(select id from source where name = ?) limit ?)",
        (name, _STEP),
    ).rowcount


def source(db: Connection, name: str) -> int:
    """Delete the source *name* with its ledger and spool; return the freed bytes of the spool."""
    row = db.execute("select id from source where name = ?", (name,)).fetchone()
    if row is None:
        return 0
    (size,) = db.execute(_SIZE.format("source"), row).fetchone()
    db.execute(
        "delete from backfill_part where backfill in (select id from backfill where source = ?)",
        row,
    )
    for table in _OF_A_SOURCE:
        db.execute(f"delete from {table} where source = ?", row)  # noqa: S608  # constants
    db.execute("delete from feed where source = ?", (name,))
    db.execute("delete from dead_letter where source = ? and sink is null", (name,))
    db.execute("delete from source where id = ?", row)
    return int(size)


def sink(db: Connection, name: str) -> int:
    """Delete the sink *name* with its dead letters and resends; return the freed bytes."""
    row = db.execute("select id from sink where name = ?", (name,)).fetchone()
    if row is None:
        return 0
    (size,) = db.execute(_SIZE.format('"only"'), row).fetchone()
    for table, column in (
        ("spool", '"only"'),
        ("feed", "sink"),
        ("dead_letter", "sink"),
        ("sink", "id"),
    ):
        db.execute(f"delete from {table} where {column} = ?", row)  # noqa: S608  # constants
    seals.forget(db, name)
    return int(size)
