"""Backfills in the database: works on a connection, within the caller's transaction."""

import json
from collections.abc import Sequence
from datetime import datetime

from auditrelay.evidence import facts
from auditrelay.store import Backfill
from auditrelay.store.sql.connection import Connection
from auditrelay.store.sql.facts import insert, of_source
from auditrelay.store.sql.sources import source_id
from auditrelay.window import Interval, micros, moment


def begin(
    db: Connection,
    source: str,
    span: Interval,
    sinks: Sequence[str],
    now: datetime,
    *,
    by: int | None,
) -> Backfill:
    """Return the unfinished backfill that overlaps *span*, widened to it, or a new one."""
    owner = source_id(db, source)
    names, start, end = json.dumps(sorted(sinks)), micros(span.start), micros(span.end)
    row = db.execute(
        "select id from backfill where source = ? and sinks = ? and ended is null "
        'and start < ? and "end" > ? order by id desc limit 1',
        (owner, names, end, start),
    ).fetchone()
    if row is None:
        found = db.execute(
            'insert into backfill (source, sinks, start, "end", began) values (?, ?, ?, ?, ?) '
            "returning id",
            (owner, names, start, end, micros(now)),
        ).fetchone()
        _tell(db, source, (found[0], start, end), sinks, now, by=by)
        return Backfill(found[0], span, ())
    number, least, greatest = row[0], db.dialect.least, db.dialect.greatest
    widened = db.execute(
        f'update backfill set start = {least}(start, ?1), "end" = {greatest}("end", ?2) '  # noqa: S608  # constants
        'where id = ?3 and (start > ?1 or "end" < ?2) returning start, "end"',
        (start, end, number),
    ).fetchone()
    if widened is not None:
        _tell(db, source, (number, *widened), sinks, now, by=by)
    parts = db.execute(
        'select start, "end", events, new from backfill_part where backfill = ? order by start',
        (number,),
    ).fetchall()
    return Backfill(
        number,
        span,
        tuple(Interval(moment(part[0]), moment(part[1])) for part in parts),
        sum(part[2] for part in parts),
        sum(part[3] for part in parts),
    )


def _tell(
    db: Connection,
    source: str,
    begun: tuple[int, int, int],
    sinks: Sequence[str],
    now: datetime,
    *,
    by: int | None,
) -> None:
    number, start, end = begun
    body = facts.backfill(id=number, start=start, end=end, sinks=sorted(sinks), by=by)
    insert(db, of_source(source), [body], micros(now))


def end(db: Connection, number: int, now: datetime) -> None:
    """Record that everything of a backfill is done."""
    db.execute("update backfill set ended = ? where id = ?", (micros(now), number))


def part_done(db: Connection, number: int, part: Interval, events: int, new: int) -> None:
    """Record that *part* of a backfill is done, with its number of events."""
    db.execute(
        "insert into backfill_part values (?, ?, ?, ?, ?) on conflict (backfill, start) "  # noqa: S608  # constants
        f'do update set "end" = {db.dialect.greatest}(backfill_part."end", excluded."end"), '
        "events = excluded.events, new = excluded.new",
        (number, micros(part.start), micros(part.end), events, new),
    )
