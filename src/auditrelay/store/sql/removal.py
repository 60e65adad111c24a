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
LOG_STEP: Final = 1_000
_OF_A_SOURCE: Final = (
    "coverage",
    "resweep",
    "known",
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
    while await spooling.rearrange(lambda db: some_pages(db, log, name)):  # or gigabytes
        pass
    await spooling.rearrange(lambda db: source(db, name))

    def last(db: Connection) -> None:
        sink(db, name)
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
    of_it = "source = (select id from source where name = ?) limit ?"
    return (
        db.execute(
            f"delete from known where (source, key) in (select source, key from known where {of_it})",  # noqa: E501, S608  # a constant
            (name, _STEP),
        ).rowcount
        or db.execute(
            f"delete from uid_log where id in (select id from uid_log where {of_it})",  # noqa: S608  # a constant
            (name, LOG_STEP),
        ).rowcount
    )


def some_pages(db: Connection, log: Spool, name: str) -> bool:
    """Delete some pages of the source *name*, or for the sink alone; return whether any went."""
    for table, column in (("source", "source"), ("sink", '"only"')):
        row = db.execute(f"select id from {table} where name = ?", (name,)).fetchone()  # noqa: S608  # constants
        if row is not None and log.delete_of(db, column, row[0]):
            return True
    return False


def source(db: Connection, name: str) -> None:
    """Delete the source *name* with its ledger; its pages are gone."""
    row = db.execute("select id from source where name = ?", (name,)).fetchone()
    if row is None:
        return
    db.execute(
        "delete from backfill_part where backfill in (select id from backfill where source = ?)",
        row,
    )
    for table in _OF_A_SOURCE:
        db.execute(f"delete from {table} where source = ?", row)  # noqa: S608  # constants
    db.execute("delete from feed where source = ?", (name,))
    db.execute("delete from dead_letter where source = ? and sink is null", (name,))
    db.execute("delete from source where id = ?", row)


def sink(db: Connection, name: str) -> None:
    """Delete the sink *name* with its dead letters; its resends are gone."""
    row = db.execute("select id from sink where name = ?", (name,)).fetchone()
    if row is None:
        return
    for table, column in (
        ("feed", "sink"),
        ("dead_letter", "sink"),
        ("sink", "id"),
    ):
        db.execute(f"delete from {table} where {column} = ?", row)  # noqa: S608  # constants
    seals.forget(db, name)
