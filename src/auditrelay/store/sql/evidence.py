"""Read the evidence: entries, heads, and the facts that wait. Works on a connection."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

from auditrelay.evidence import facts
from auditrelay.settings.reserved import ALERTS
from auditrelay.store import Fact
from auditrelay.store.expected import OWN
from auditrelay.store.sealing import EvidenceState
from auditrelay.store.sql import branches
from auditrelay.store.sql.accepted import own_keys
from auditrelay.store.sql.connection import Connection
from auditrelay.store.sql.facts import INSTANCE, source_of
from auditrelay.store.sql.readers import FOREVER, reader_of

_MOST_STRAYS: Final = 20


@dataclass(frozen=True, slots=True)
class StoredHead:
    """A head: over the first *size* entries, made *at*; its event is at *place* in the spool."""

    size: int
    at: int
    root: bytes
    word: str
    place: int


_MOST_UNTOLD: Final = 1000
"""How many heads are looked at: six weeks of them."""


def state_of(db: Connection) -> EvidenceState:
    """Return what there is of the evidence, and whether it has left."""
    (count,) = db.execute("select coalesce(max(n) + 1, 0) from entry").fetchone()
    newest = db.execute("select word, at, place from head order by size desc limit 1").fetchone()
    takers = Takers(db)
    untold, since = 0, None
    query = "select at, place from head order by size desc limit ?"
    for at, place in db.execute(query, (_MOST_UNTOLD,)):
        if takers.of(place):
            break
        untold, since = untold + 1, at
    word, sealed, place = newest or (None, None, None)
    why, broken_since = branches.broken(db)
    return EvidenceState(
        count,
        word,
        sealed,
        untold,
        since,
        why,
        broken_since,
        () if place is None else takers.of(place),
    )


class Takers:
    """The sinks that are configured, each with what it has settled of our own events."""

    def __init__(self, db: Connection) -> None:
        rows = db.execute(
            "select name, since from sink join feed on feed.sink = sink.id "
            "where ends is null and source = ? order by name",
            (ALERTS,),
        ).fetchall()
        self._sinks = [(name, since, reader_of(db, name).progress) for name, since in rows]

    def of(self, place: int) -> tuple[str, ...]:
        """Return the sinks that have settled the event at *place*: not those that began behind."""
        return tuple(
            name
            for name, since, progress in self._sinks
            if since <= place and not progress.open_ranges(place, place + 1)
        )


def entries(db: Connection, start: int = 0) -> Iterator[tuple[int, str]]:
    """Yield the entries from the number *start* on: number and line."""
    yield from db.stream("select n, text from entry where n >= ? order by n", (start,))


def heads(db: Connection) -> Iterator[StoredHead]:
    """Yield every head, the oldest first."""
    for row in db.execute("select size, at, root, word, place from head order by size"):
        yield StoredHead(*row)


class KnownKeys:
    """The known keys of the source *owner* at the places from *start* on, in their order."""

    def __init__(self, db: Connection, owner: int, start: int = 0) -> None:
        # There is no index by place: the database sorts them, on the disk if there are many.
        self._rows = db.stream(
            "select position, key from known where source = ? and position >= ? order by position",
            (owner, start),
        )
        self._next: tuple[int, bytes] | None = next(self._rows, None)
        self._strays: list[int] = []

    def at(self, first: int, count: int) -> list[bytes]:
        """Return the keys at the *count* places from *first* on, which is behind all before."""
        keys = []
        while self._next is not None and self._next[0] < first + count:
            if self._next[0] >= first:
                keys.append(self._next[1])
            elif len(self._strays) < _MOST_STRAYS:
                self._strays.append(self._next[0])
            self._next = next(self._rows, None)
        return keys

    def strays(self) -> list[int]:
        """Return places that were not asked for, and that have a key; not all if there are many."""
        self.at(FOREVER, 1)
        return self._strays


def uids(db: Connection) -> Iterator[tuple[int, int, bytes]]:
    """
    Yield the keys of each page that an ``accepted`` fact tells of, in order of entries and facts.

    Each is the number of the entry, the first place, and the keys, joined. Pages are left out of
    which not all uids are known any more.
    """
    known: dict[str, KnownKeys] = {}
    rows = db.execute("select unit, n, text from entry order by n")
    for unit, lines in groupby(rows, lambda row: str(row[0])):
        pages = [
            (n, fact["via"], first, count)
            for _, n, text in lines
            for fact in json.loads(text)["facts"]
            if fact["fact"] == "accepted"
            for first, count in fact["pages"]
        ]
        if not pages:
            continue
        if unit not in known:
            query = "select id from source where name = ?"
            row = db.execute(query, (source_of(unit),)).fetchone()
            known[unit] = KnownKeys(db, -1 if row is None else row[0])
        of_unit = known[unit]
        keys = {
            first: own_keys(db, first) if via in OWN else of_unit.at(first, count)
            for _, via, first, count in sorted(pages, key=lambda page: page[2])
        }
        for n, _, first, count in pages:
            if len(keys[first]) == count:
                yield n, first, b"".join(keys[first])


def configured(db: Connection) -> dict[str, Any] | None:
    """Return the newest fact of which configuration is in force; None if there is none."""
    has = 'text like \'%"fact":"configured"%\''
    row = db.execute(
        f"select text from fact where unit = ? and {has} order by id desc limit 1",  # noqa: S608  # constants
        (INSTANCE,),
    ).fetchone()
    try:
        return _newest_configured(db, has) if row is None else json.loads(row[0])
    except (ValueError, LookupError, TypeError):  # damaged: it is written once more
        return None


def _newest_configured(db: Connection, has: str) -> dict[str, Any] | None:
    newest: dict[str, Any] | None = None
    rows = db.execute(
        f"select text from entry where unit = ? and {has} order by n desc",  # noqa: S608  # constants
        (INSTANCE,),
    )
    at = None
    for (text,) in rows:
        entry: dict[str, Any] = json.loads(text)
        for body in reversed(entry["facts"]):
            if body["fact"] != "configured":
                continue
            if newest is None:
                newest, at = body, entry["at"]
            elif (entry["at"], body["digest"]) == (at, newest["digest"]):
                # The settings did not fit into one line.
                newest = {**newest, "settings": body["settings"] | newest["settings"]}
            else:
                return newest
    return newest


def newest_word(db: Connection) -> str | None:
    """Return the newest head as a word; None if nothing was sealed yet."""
    row = db.execute("select word from head order by size desc limit 1").fetchone()
    return None if row is None else row[0]


def facts_of(
    db: Connection, unit: str, *, merged: bool = True, about: str | None = None
) -> Iterator[Fact]:
    """
    Yield all facts of *unit* in their order: those in its entries, then those that wait.

    The latter are *merged* as a seal would do it, or as they were written. Only those called
    *about* are wanted, if that is given.
    """
    # What is in neither needs not be decoded.
    like = "%" if about is None else f'%"fact":"{about}"%'
    query = "select n, text from entry where unit = ? and text like ? order by n"
    for n, text in db.execute(query, (unit, like)):
        entry: dict[str, Any] = json.loads(text)
        for body in entry["facts"]:
            if about in (None, body["fact"]):
                yield Fact(body, entry["at"], n)
    waiting = db.execute(
        "select at, text from fact where unit = ? and text like ? order by id", (unit, like)
    ).fetchall()
    if not merged:
        yield from (Fact(json.loads(text), at, None) for at, text in waiting)
        return
    at = waiting[-1][0] if waiting else 0
    for body in facts.merge(json.loads(text) for _, text in waiting):
        yield Fact(body, at, None)
