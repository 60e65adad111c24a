"""
The seal: all open facts become entries of the log, and a new head tells of them.

The entries are drafted beside the writer, on a connection of their own: one snapshot has the facts,
the states that they explain, and the known uids of what was covered, of which there may be
millions. What is written then is one short transaction, and only of the facts of that snapshot.
"""

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

from auditrelay.errors import EvidenceBroken, NotSealed
from auditrelay.events import AuditEvent
from auditrelay.events.page import Page
from auditrelay.evidence import facts
from auditrelay.evidence.entries import lines
from auditrelay.evidence.facts import Body
from auditrelay.evidence.heads import Head
from auditrelay.evidence.tree import Frontier, leaf
from auditrelay.settings.reserved import ALERTS
from auditrelay.store.progress import Progress
from auditrelay.store.sealing import HeadEvent, MakeHead, Sealed
from auditrelay.store.sql import branches, ledger, meta, tags
from auditrelay.store.sql.accepted import NOTICE, own
from auditrelay.store.sql.connection import Connection
from auditrelay.store.sql.engine import Engine
from auditrelay.store.sql.evidence import Takers
from auditrelay.store.sql.facts import INSTANCE, insert, of_sink, of_source, sink_of, source_of
from auditrelay.store.sql.known import FORGOTTEN
from auditrelay.store.sql.sources import own_id
from auditrelay.store.sql.spool import PRUNED, Spool
from auditrelay.store.sql.spooling import Spooling
from auditrelay.store.sql.tags import OPEN_WRONG
from auditrelay.window import covered_until, micros, moment

_OF_SOURCE: Final = ("accepted", "put_aside", "vanished")
_OF_SINK: Final = ("dead", "replayed", "dropped", "excluded")
"""The facts whose events are summed up in the states of a source and of a sink."""

_EVENT_BYTES: Final = 64 << 10
"""More than the event of a head takes."""


@dataclass(frozen=True, slots=True)
class _Draft:
    """What a seal is to write: *entries* are unit and line, from the number *first* on."""

    frontier: bytes
    """As it was: the seal holds only if there was no other seal since."""
    after: bytes
    last_fact: int
    """The newest fact that is in the entries."""
    strange: int
    """How many facts are left out, since they are not what we wrote."""
    first: int
    entries: Sequence[tuple[str, bytes]]
    sealed: Sealed


class Sealing:
    """Seals the evidence of a state, one seal after the other."""

    def __init__(self, engine: Engine, spooling: Spooling, spool: Spool) -> None:
        self._engine = engine
        self._spooling = spooling
        self._spool = spool
        self._lock = asyncio.Lock()

    async def seal(
        self, event: HeadEvent, make_head: MakeHead, now: int, *, hash_all: bool = False
    ) -> Sealed:
        """
        Seal what has been done by *now*; see ``service.store.Upkeep.seal``.

        To *hash_all* entries again shows whether any has changed on the disk since.
        """
        async with self._lock:
            made = await asyncio.to_thread(self._draft, make_head, now, hash_all)
            carrier = event(made.sealed)

            def work(db: Connection) -> None:
                _write(db, self._spool, made, carrier, now)
                self._engine.tip.enter(db, made.sealed.head)

            await self._spooling.append(work, self._spool.waiting.clear)
            return made.sealed

    def _draft(self, make_head: MakeHead, now: int, hash_all: bool) -> _Draft:  # noqa: FBT001  # for a thread
        with self._engine.snapshot() as db:
            try:
                if hash_all:
                    _hash_all(db)
                return draft(db, make_head, now)
            except (ValueError, LookupError, TypeError, ArithmeticError) as error:
                # Of a row that is not as we write it: who changes one must not end the service.
                raise NotSealed(f"no entry can be made of what is stored: {error!r}") from error


def draft(db: Connection, make_head: MakeHead, now: int) -> _Draft:
    """
    Return the entries that tell of everything that *db* shows, and the head over them.

    Raises EvidenceBroken if the log does not give its newest head.
    """
    log, before, frontier = _log(db)
    written = frontier.dump()
    (last_fact,) = db.execute("select coalesce(max(id), 0) from fact").fetchone()
    strange = set(tags.wrong(db, "fact"))
    also: list[Body] = []
    at = now
    if before is not None:
        head, sealed_at, place = before
        if now < sealed_at:
            at = sealed_at
            also.append(facts.clock(seconds=-(-(sealed_at - now) // 1_000_000)))
        also.append(facts.head(size=head.size, root=head.root, taken_by=Takers(db).of(place)))
    units = {INSTANCE}
    rows = db.execute("select id, unit from fact")
    units.update(unit for number, unit in rows if number not in strange)
    units.update(of_source(source) for (source,) in db.execute("select name from source"))
    units.update(of_sink(sink) for (sink,) in db.execute("select name from sink"))
    first = frontier.size
    entries: list[tuple[str, bytes]] = []
    states: dict[str, Body] = {}
    for unit in sorted(units):
        last = _last(db, unit)
        bodies = chain(_facts_of(db, unit, strange), also if unit == INSTANCE else ())
        merged = _counted(db, unit, _merged(bodies))
        state = _state(db, unit, merged, {} if last is None else last["state"])
        if sink_of(unit) is not None:
            before_it = None if last is None else last["state"]
            done = _newly_done(merged, state, before_it)
            if done:
                merged.append(facts.delivered(done=done))
            if not merged:
                continue
        states[unit] = state
        made = lines(
            unit,
            merged,
            state,
            log=log,
            n=first + len(entries),
            seq=1 if last is None else last["seq"] + 1,
            since=None if last is None else last["at"],
            at=at,
        )
        entries += [(unit, line) for line in made]
    for _, line in entries:
        frontier.append(leaf(line))
    sealed = Sealed(
        head=make_head(log, frontier.size, frontier.root()),
        before=before and before[0],
        at=at,
        entries=len(entries),
        sources=_named(states, source_of),
        sinks=_named(states, sink_of),
    )
    return _Draft(written, frontier.dump(), last_fact, len(strange), first, entries, sealed)


def _log(db: Connection) -> tuple[str, tuple[Head, int, int] | None, Frontier]:
    """Return the log, its newest head with time and place, and its frontier, which must fit."""
    log, data = branches.log_of(db), meta.find_bytes(db, branches.FRONTIER)
    (entries,) = db.execute("select coalesce(max(n) + 1, 0) from entry").fetchone()
    row = db.execute(
        "select word, at, place, size, root from head order by size desc limit 1"
    ).fetchone()
    try:
        frontier = Frontier.load(data or b"")
        head = None if row is None else Head.parse(row[0])
    except (ValueError, TypeError) as error:
        raise EvidenceBroken(f"the log {log} is damaged: {error}") from error
    if head is not None and head.log != log:
        # No head of this log has left yet; what it goes on from was hashed when it was begun.
        if frontier.size != entries:
            raise EvidenceBroken(f"the log {log} goes on from other entries than those here")
        return log, (head, row[1], row[2]), frontier
    size, root = (0, Frontier().root()) if row is None else row[3:]
    stated = (size, root) if head is None else (head.size, head.root)
    if not (frontier.size == entries == size == stated[0] and frontier.root() == root == stated[1]):
        raise EvidenceBroken(
            f"the log {log} has {entries} entries, and its newest head is over {size}, or over "
            "others: it cannot be continued"
        )
    return log, None if head is None else (head, row[1], row[2]), frontier


def _hash_all(db: Connection) -> None:
    """Raise EvidenceBroken unless the entries, as they are stored, give the frontier."""
    frontier = Frontier()
    for n, line in db.stream("select n, text from entry order by n"):
        if n != frontier.size:
            raise EvidenceBroken(f"entry {frontier.size} of the log is missing")
        frontier.append(leaf(line.encode()))
    if meta.find_bytes(db, branches.FRONTIER) != frontier.dump():
        raise EvidenceBroken(f"the first {frontier.size} entries are not what was sealed")


def _facts_of(db: Connection, unit: str, strange: AbstractSet[object]) -> Iterator[Body]:
    """Yield the open facts of *unit* as they were written, but for those that are *strange*."""
    rows = db.execute("select id, text from fact where unit = ? order by id", (unit,))
    for number, text in rows:
        if number not in strange:
            yield json.loads(text)


def _last(db: Connection, unit: str) -> dict[str, Any] | None:
    """Return the last entry of *unit*."""
    row = db.execute(
        "select text from entry where unit = ? order by n desc limit 1", (unit,)
    ).fetchone()
    return None if row is None else json.loads(row[0])


def _merged(bodies: Iterable[Body]) -> list[Body]:
    """Return *bodies*, merged; what was before a removal stays apart from what came after it."""
    rest = iter(bodies)
    return [fact for first in rest for fact in facts.merge(_to_removal(first, rest))]


def _to_removal(first: Body, rest: Iterator[Body]) -> Iterator[Body]:
    """Yield *first*, and of the *rest* as much as follows up to a removal."""
    for body in chain([first], rest):
        yield body
        if body["fact"] == "operator":
            break


def _counted(db: Connection, unit: str, merged: Sequence[Body]) -> list[Body]:
    """Return the *merged* facts of *unit*, with the known events of what is covered."""
    spans = [body for body in merged if body["fact"] == "covered"]
    if not spans:
        return list(merged)
    row = db.execute("select id from source where name = ?", (source_of(unit),)).fetchone()
    owner = -1 if row is None else row[0]  # a removed source has no known events
    counted = []
    for body in merged:
        if body["fact"] != "covered":
            counted.append(body)
            continue
        events, uids = ledger.digest_of(db, owner, body["start"], body["end"], body["before"])
        counted.append(facts.counted(body, events=events, uids=uids))
    return counted


def _state(db: Connection, unit: str, bodies: Sequence[Body], before: Body) -> Body:
    """Return the state of *unit* once *bodies* are sealed; *before* is the sealed one."""
    if (source := source_of(unit)) is not None:
        return _state_of_source(db, source, bodies, before)
    if (sink := sink_of(unit)) is not None:
        return _state_of_sink(db, sink, bodies, before)
    forgotten, pruned = meta.find(db, FORGOTTEN), meta.find(db, PRUNED)
    return {"forgotten": forgotten, "pruned": pruned or 0}


def _sums(names: Sequence[str], bodies: Sequence[Body], before: Body) -> Body:
    """Return by name of a fact how many events all facts of that name tell of."""
    return {
        name: before.get(name, 0) + sum(body["events"] for body in bodies if body["fact"] == name)
        for name in names
    }


def _state_of_source(db: Connection, source: str, bodies: Sequence[Body], before: Body) -> Body:
    if source == ALERTS:
        return _sums(("accepted",), bodies, before)
    sums = _sums(_OF_SOURCE, bodies, before)
    row = db.execute("select id, started from source where name = ?", (source,)).fetchone()
    if row is None:
        return {**sums, "started": None, "covered_until": None, "looked_again": {}}
    owner, started = row
    spans = [span.interval for span in ledger.spans(db, owner)]
    looked_again = db.execute(
        "select cast(delay / 1000000 as text), until from resweep where source = ?", (owner,)
    )
    return {
        **sums,
        "started": started,
        "covered_until": micros(covered_until(moment(started), spans)),
        "looked_again": dict(looked_again.fetchall()),
    }


def _state_of_sink(db: Connection, sink: str, bodies: Sequence[Body], before: Body) -> Body:
    sums = _sums(_OF_SINK, bodies, before)
    row = db.execute("select id, position, ahead from sink where name = ?", (sink,)).fetchone()
    if row is None:
        return {**sums, "position": None, "ahead": [], "since": {}}
    number, position, ahead = row
    since = db.execute("select source, since from feed where sink = ?", (number,))
    return {
        **sums,
        "position": position,
        "ahead": [[start, end - start] for start, end in json.loads(ahead)],
        "since": dict(since.fetchall()),
    }


def _newly_done(bodies: Sequence[Body], state: Body, before: Body | None) -> list[tuple[int, int]]:
    """
    Return the places that a sink has settled since its state *before*, as first and count.

    Without one they count from where it began, by the open facts, *bodies*.
    """
    if state["position"] is None:  # it was removed
        return []
    if before is None or before["position"] is None:
        begun = [
            place for body in bodies if body["fact"] == "began" for place in body["since"].values()
        ]
        base = Progress(min(begun, default=state["position"]))
    else:
        base = _progress(before)
    now = _progress(state)
    return facts.newly_done((base.position, base.ahead), (now.position, now.ahead))


def _progress(state: Body) -> Progress:
    return Progress(
        state["position"], tuple((first, first + count) for first, count in state["ahead"])
    )


def _named(states: dict[str, Body], name_of: Callable[[str], str | None]) -> dict[str, Body]:
    """Return by name those *states* whose unit is of the kind of *name_of*."""
    named = ((name_of(unit), state) for unit, state in states.items())
    return {name: state for name, state in named if name is not None and name != ALERTS}


def _write(db: Connection, spool: Spool, made: _Draft, event: AuditEvent, now: int) -> None:
    """
    Write the entries of *made*, the head and its *event*, and delete the facts that are in them.

    Raises EvidenceBroken if the log is not what the draft goes on from, or what was written is not
    what was hashed: a wrong head that has left could never be taken back.
    """
    written = meta.find_bytes(db, branches.FRONTIER)
    if written != made.frontier:
        raise EvidenceBroken("the log was changed while its next entries were made")
    db.executemany(
        "insert into entry values (?, ?, ?)",
        [
            (made.first + number, unit, line.decode("ascii"))
            for number, (unit, line) in enumerate(made.entries)
        ],
    )
    again = Frontier.load(written)
    for (line,) in db.execute("select text from entry where n >= ? order by n", (made.first,)):
        again.append(leaf(line.encode("ascii")))
    whole = tags.are_open_whole(db)  # before there is another head
    head = made.sealed.head
    if (again.size, again.root()) != (head.size, head.root) or again.dump() != made.after:
        raise EvidenceBroken("the entries that were written are not those that were hashed")
    # A head needs little room, and none of what is kept for verdicts.
    spool.room.require_for(db, _EVENT_BYTES)
    page = Page.of([event])
    owner = own_id(db, now)
    placed = spool.append(db, owner, page, now, beyond=True)
    db.execute(
        "insert into head values (?, ?, ?, ?, ?)",
        (head.size, made.sealed.at, head.root, head.word, placed.first),
    )
    meta.put_bytes(db, branches.FRONTIER, made.after)
    db.execute("delete from fact where id <= ?", (made.last_fact,))
    tags.begin_open(db)
    if made.strange:
        what = f"{made.strange} facts that were to be sealed were changed or put in: left out"
        branches.set_broken(db, what, now)
    elif not whole:
        branches.set_broken(db, OPEN_WRONG, now)
    insert(db, of_source(ALERTS), [own(db, NOTICE, owner, placed, page, now=now)], now)
