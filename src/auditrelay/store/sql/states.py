"""The state and health of sources and sinks: saved, and read for status and coverage."""

from typing import Literal

from auditrelay.settings.reserved import ALERTS
from auditrelay.store import Coverage, Lateness, SinkState, SourceState
from auditrelay.store.conditions import (
    C,
    SinkCondition,
    SourceCondition,
    decode_condition,
    with_part,
)
from auditrelay.store.parts import Part
from auditrelay.store.sql import dead_letters, ledger
from auditrelay.store.sql.connection import Connection
from auditrelay.store.sql.evidence import facts_of, newest_word
from auditrelay.store.sql.facts import of_source
from auditrelay.store.sql.readers import delivered_floor, waiting_for
from auditrelay.window import moment

MOST_LATE = 50
"""How many finds of late events the state of a source includes."""


def save_condition(
    db: Connection,
    peer: Literal["source", "sink"],
    name: str,
    condition: str,
    part: Part | None = None,
) -> None:
    """Save the *condition* (JSON) of the source or sink *name*; of a *part* within the sink's."""
    if part is not None:
        row = db.execute("select condition from sink where name = ?", (name,)).fetchone()
        condition = with_part("{}" if row is None else row[0], part, condition)
    db.execute(f"update {peer} set condition = ? where name = ?", (condition, name))  # noqa: S608  # a Literal


def condition_of(db: Connection, peer: Literal["source", "sink"], name: str, kind: type[C]) -> C:
    """Return the condition of the source or sink *name*; the one at first, if it has none."""
    query = f"select condition from {peer} where name = ?"  # noqa: S608  # a Literal
    row = db.execute(query, (name,)).fetchone()
    return decode_condition("{}" if row is None else row[0], kind)


def coverage_of(db: Connection, source: str) -> Coverage | None:
    """Return the coverage of *source* with its evidence; None if the source is not known."""
    row = db.execute("select id from source where name = ?", (source,)).fetchone()
    if row is None:
        return None
    (owner,) = row
    (deleted,) = db.execute("select count(*) from vanished where source = ?", (owner,)).fetchone()
    return Coverage(
        spans=ledger.spans(db, owner),
        facts=tuple(facts_of(db, of_source(source))),
        head=newest_word(db),
        lateness=_lateness(db, owner),
        deleted_at_source=deleted,
    )


def _lateness(db: Connection, owner: int) -> tuple[Lateness, ...]:
    return tuple(
        Lateness(*row)
        for row in db.execute(
            "select via, seconds, events from lateness where source = ? order by via, seconds",
            (owner,),
        )
    )


def _undelivered(db: Connection, owner: int, floor: int) -> int:
    waiting = f"first + count - {db.dialect.greatest}(first, ?1)"
    (count,) = db.execute(
        f"select cast(coalesce(sum({waiting}), 0) as bigint) from spool "  # noqa: S608  # constants
        "where first + count > ?1 and source = ?2",
        (floor, owner),
    ).fetchone()
    return int(count)


def source_states(db: Connection) -> list[SourceState]:
    """Return the state of every source."""
    rows = db.execute(
        "select id, name, started, condition from source where name <> ? order by name", (ALERTS,)
    ).fetchall()
    floor = delivered_floor(db)
    return [
        SourceState(
            name,
            moment(started),
            ledger.spans(db, owner),
            _lateness(db, owner),
            ledger.found_late(db, owner, MOST_LATE),
            _undelivered(db, owner, floor),
            dead_letters.count_without_sink(db, name),
            decode_condition(condition, SourceCondition),
        )
        for owner, name, started, condition in rows
    ]


def sink_states(db: Connection) -> list[SinkState]:
    """Return the state of every sink."""
    rows = db.execute(
        "select name, position, condition, (select count(*) from dead_letter "
        "where dead_letter.sink = sink.id and dropped is null) from sink order by name"
    ).fetchall()
    states = []
    for name, position, condition, dead in rows:
        waiting, _, stored = waiting_for(db, name)
        oldest = None if stored is None else moment(stored)
        health = decode_condition(condition, SinkCondition)
        states.append(SinkState(name, position, waiting, oldest, dead, health))
    return states
