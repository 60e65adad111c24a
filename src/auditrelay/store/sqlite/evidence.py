"""Read the evidence: entries, heads, and the facts that wait. Works on a connection."""

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from auditrelay.evidence import facts
from auditrelay.store import Told


@dataclass(frozen=True, slots=True)
class StoredHead:
    """A head: over the first *size* entries, made *at*; its event is at *place* in the spool."""

    size: int
    at: int
    root: bytes
    word: str
    place: int


def entries(db: sqlite3.Connection, start: int = 0) -> Iterator[tuple[int, str]]:
    """Yield the entries from the number *start* on: number and line."""
    yield from db.execute("select n, text from entry where n >= ? order by n", (start,))


def heads(db: sqlite3.Connection) -> Iterator[StoredHead]:
    """Yield every head, the oldest first."""
    for row in db.execute("select size, at, root, word, place from head order by size"):
        yield StoredHead(*row)


def newest_word(db: sqlite3.Connection) -> str | None:
    """Return the newest head as a word; None if nothing was sealed yet."""
    row = db.execute("select word from head order by size desc limit 1").fetchone()
    return None if row is None else row[0]


def told(db: sqlite3.Connection, unit: str) -> Iterator[Told]:
    """Yield all facts of *unit* in their order: those in its entries, then those that wait."""
    query = "select n, text from entry where unit = ? order by n"
    for n, text in db.execute(query, (unit,)):
        entry: dict[str, Any] = json.loads(text)
        for body in entry["facts"]:
            yield Told(body, entry["at"], n)
    waiting = db.execute("select at, text from fact where unit = ? order by id", (unit,)).fetchall()
    at = waiting[-1][0] if waiting else 0
    for body in facts.merge(json.loads(text) for _, text in waiting):
        yield Told(body, at, None)
