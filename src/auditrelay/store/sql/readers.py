"""
The sinks as readers of the spool: which pages are for each, its progress, and its backlog.

Works on a connection, within the caller's transaction.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from auditrelay.errors import StateError
from auditrelay.events.page import Page
from auditrelay.store import SpoolPage
from auditrelay.store.parts import Part
from auditrelay.store.progress import Progress, Range
from auditrelay.store.sql import meta
from auditrelay.store.sql.connection import Connection, Cursor

FOREVER: Final = 1 << 62
"""Beyond every position."""

MOST_AHEAD: Final = 1000
"""
How many ranges beyond its position a sink has at most because of its parts; see Reader.of_part.

They are one text, which each settling reads and writes.
"""

_FOR_SINK: Final = (
    "first >= coalesce((select max(first) from spool where first <= :start), 0) "
    "and first + count > :start and first < :end "
    "and source in (select id from source where name {among}) "
    'and ("only" is null or "only" = :sink)'
)


def for_sink(db: Connection) -> str:
    """Return which pages of the spool are for a sink, at :meth:`Reader.parameters`."""
    return _FOR_SINK.format(among=db.dialect.listed.format(":sources"))


@dataclass(frozen=True, slots=True)
class Reader:
    """
    A sink: its *number*, its *progress*, the names of its *sources*, where it *ends*.

    The sources may be known to the store or not. Of a part of a sink they are those of the part;
    *elsewhere* are those of the other parts, and *until* is where it waits for these.
    """

    number: int
    progress: Progress
    sources: frozenset[str]
    ends: int
    elsewhere: frozenset[str] = frozenset()
    until: int = FOREVER

    def of_part(self, part: Part | None) -> "Reader":
        """
        Return this sink as its *part* reads it; all of it without one.

        The ranges that it has settled beyond its position are as many as pages of other parts that
        wait in between. So a part does not read beyond the last of those that there may be. The one
        that the position waits for is before that, and goes on.
        """
        if part is None:
            return self
        mine, ahead = frozenset(filter(part.has, self.sources)), self.progress.ahead
        return replace(
            self,
            sources=mine,
            elsewhere=self.sources - mine,
            until=ahead[MOST_AHEAD - 1][1] if len(ahead) >= MOST_AHEAD else FOREVER,
        )

    def parameters(self, db: Connection, start: int, end: int = FOREVER) -> Mapping[str, object]:
        """Return the parameters of :func:`for_sink` for the pages in [*start*, *end*)."""
        return {
            "sink": self.number,
            "sources": db.dialect.values(tuple(self.sources)),
            "start": start,
            "end": min(end, self.ends),
        }


def reader_of(db: Connection, name: str) -> Reader:
    """Return the sink *name*. Raises KeyError if it was never started, StateError if damaged."""
    row = db.execute(
        "select id, position, ahead, sources, coalesce(ends, ?) from sink where name = ?",
        (FOREVER, name),
    ).fetchone()
    if row is None:
        raise KeyError(f"sink {name!r} was never started")
    number, position, ahead, names, ends = row
    try:
        progress = Progress(position, tuple((start, end) for start, end in json.loads(ahead)))
    except (ValueError, TypeError) as error:
        raise _damaged(name, "has taken") from error
    try:
        sources = frozenset(json.loads(names))
    except (ValueError, TypeError) as error:
        raise _damaged(name, "reads") from error
    return Reader(number, progress, sources, ends)


def _damaged(name: str, what: str) -> StateError:
    return StateError(
        f"what the sink {name} {what} is damaged in the state; run: auditrelay coverage --check"
    )


def all_readers(db: Connection) -> dict[str, Reader]:
    """Return every sink by its name."""
    return {name: reader_of(db, name) for (name,) in db.execute("select name from sink").fetchall()}


def pages_of(
    first: int, source: str, page: Page, size: int, parts: Iterable[Range]
) -> list[SpoolPage]:
    """Return those *parts* of *page*, whose first position is *first* and whose size is *size*."""
    return [
        SpoolPage(
            start, source, page[start - first : end - first], size * (end - start) // len(page)
        )
        for start, end in parts
    ]


def without_page(db: Connection, reader: Reader, places: Iterable[Range]) -> list[Range]:
    """Return those of *places* in which no page is for the sink *reader*."""
    query = f"select exists (select 1 from spool where {for_sink(db)})"  # noqa: S608  # constants
    # Between the pages of other parts there may be many holes: one wait for all of them.
    asked = [(each, db.execute(query, reader.parameters(db, *each))) for each in places]
    return [each for each, found in asked if not found.fetchone()[0]]


def waiting_for(db: Connection, name: str) -> tuple[int, int | None, int | None]:
    """Return the backlog of a sink: events, the first position, and when that was stored."""
    reader = reader_of(db, name)
    inside = f"{db.dialect.least}(first + count, :end) - {db.dialect.greatest}(first, :start)"
    query = (
        f"select cast(coalesce(sum({inside}), 0) as bigint), min(first), min(stored) "  # noqa: S608  # constants
        f"from spool where {for_sink(db)}"
    )
    events, first, stored = 0, None, None
    asked: list[Cursor] = [
        db.execute(query, reader.parameters(db, *places))
        for places in reader.progress.open_ranges(reader.progress.position, FOREVER)
    ]
    for found in asked:
        count, first_here, stored_here = found.fetchone()
        events += count
        first = first_here if first is None else first
        stored = stored_here if stored is None else stored
    return events, first, stored


def delivered_floor(db: Connection) -> int:
    """Return the position before which every sink has everything."""
    floor = meta.read(db, "next_position")
    for (name,) in db.execute("select name from sink").fetchall():
        first = waiting_for(db, name)[1]
        if first is not None:
            floor = min(floor, first)
    return floor
