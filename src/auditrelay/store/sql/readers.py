"""
The sinks as readers of the spool: which pages are for each, its progress, and its backlog.

Works on a connection, within the caller's transaction.
"""

import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from auditrelay.errors import StateError
from auditrelay.events.page import Page
from auditrelay.store import SpoolPage
from auditrelay.store.progress import Progress, Range
from auditrelay.store.sql import meta

FOREVER: Final = 1 << 62
"""Beyond every position."""

FOR_SINK: Final = (
    "first >= coalesce((select max(first) from spool where first <= :start), 0) "
    "and first + count > :start and first < :end "
    "and source in (select value from json_each(:sources)) and (only is null or only = :sink)"
)
"""The pages of the spool that are for a sink, at :meth:`Reader.parameters`."""


@dataclass(frozen=True, slots=True)
class Reader:
    """
    A sink: its *number*, its *progress*, where it *ends*.

    *sources* are the ids of its sources (JSON), *names* their names, known to the store or not.
    """

    number: int
    progress: Progress
    sources: str
    names: frozenset[str]
    ends: int

    def parameters(self, start: int, end: int = FOREVER) -> Mapping[str, object]:
        """Return the parameters of ``FOR_SINK`` for the pages in [*start*, *end*)."""
        return {
            "sink": self.number,
            "sources": self.sources,
            "start": start,
            "end": min(end, self.ends),
        }


def reader_of(db: sqlite3.Connection, name: str) -> Reader:
    """Return the sink *name*. Raises KeyError if it was never started, StateError if damaged."""
    row = db.execute(
        "select id, position, ahead, (select json_group_array(source.id) from source "
        "where name in (select value from json_each(sink.sources))), sources, coalesce(ends, ?) "
        "from sink where name = ?",
        (FOREVER, name),
    ).fetchone()
    if row is None:
        raise KeyError(f"sink {name!r} was never started")
    number, position, ahead, sources, names, ends = row
    try:
        progress = Progress(position, tuple((start, end) for start, end in json.loads(ahead)))
    except (ValueError, TypeError) as error:
        raise StateError(
            f"what the sink {name} has taken is damaged in the state; run: auditrelay coverage "
            "--check"
        ) from error
    return Reader(number, progress, sources, frozenset(json.loads(names)), ends)


def all_readers(db: sqlite3.Connection) -> dict[str, Reader]:
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


def waits(db: sqlite3.Connection, reader: Reader, places: Range) -> bool:
    """Return whether any page in *places* is for the sink *reader*."""
    query = f"select exists (select 1 from spool where {FOR_SINK})"  # noqa: S608  # constants
    (found,) = db.execute(query, reader.parameters(*places)).fetchone()
    return bool(found)


def waiting_for(db: sqlite3.Connection, name: str) -> tuple[int, int | None, int | None]:
    """Return the backlog of a sink: events, the first position, and when that was stored."""
    reader = reader_of(db, name)
    events, first, stored = 0, None, None
    for part in reader.progress.open_ranges(reader.progress.position, FOREVER):
        count, first_here, stored_here = db.execute(
            "select total(min(first + count, :end) - max(first, :start)), min(first), min(stored) "  # noqa: S608  # constants
            f"from spool where {FOR_SINK}",
            reader.parameters(*part),
        ).fetchone()
        events += int(count)
        first = first_here if first is None else first
        stored = stored_here if stored is None else stored
    return events, first, stored


def delivered_floor(db: sqlite3.Connection) -> int:
    """Return the position before which every sink has everything."""
    floor = meta.read(db, "next_position")
    for (name,) in db.execute("select name from sink").fetchall():
        first = waiting_for(db, name)[1]
        if first is not None:
            floor = min(floor, first)
    return floor
