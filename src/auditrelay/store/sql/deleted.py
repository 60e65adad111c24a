"""Forwarded events that were deleted at their source: find and record them."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from auditrelay.evidence import facts
from auditrelay.store.keys import sortable
from auditrelay.store.sql.connection import Connection
from auditrelay.store.sql.engine import Engine
from auditrelay.store.sql.facts import insert, of_source
from auditrelay.store.sql.sources import source_id
from auditrelay.window import Interval, micros


def find_deleted(
    db: Connection, source: str, span: Interval, seen: AbstractSet[bytes], before: int
) -> list[bytes]:
    """
    Return the known keys of *source* in *span* whose uid was not *seen*, in their order.

    They are of events spooled *before* that place. What was seen counts whatever its time is now.
    """
    owner = source_id(db, source)
    return [
        key
        for (key,) in db.execute(
            "select key from known where source = ? and key >= ? and key < ? and position < ? "
            "order by key",
            (owner, sortable(micros(span.start)), sortable(micros(span.end)), before),
        )
        if key[8:] not in seen
    ]


def record_deleted(
    db: Connection, source: str, span: Interval, keys: Sequence[bytes], now: int
) -> int:
    """Record those of *keys* that are not recorded yet; return how many are new."""
    owner = source_id(db, source)
    new = [
        key
        for key in keys
        if db.execute(
            "insert into vanished values (?, ?, ?) on conflict do nothing", (owner, key, now)
        ).rowcount
    ]
    if new:
        body = facts.vanished(
            start=micros(span.start),
            end=micros(span.end),
            events=len(new),
            uids=facts.digest(sorted(new)),
        )
        insert(db, of_source(source), [body], now)
    return len(new)


async def record(
    engine: Engine,
    source: str,
    span: Interval,
    seen: AbstractSet[bytes],
    before: int,
    *,
    now: int,
) -> int:
    """Find them and record them; return how many are new."""
    missing = await engine.read(lambda db: find_deleted(db, source, span, seen, before))
    if not missing:
        return 0
    return await engine.write(lambda db: record_deleted(db, source, span, missing, now))
