"""
Compare the state of one source or sink with what its facts say: L2, L3, L5 and L6 of the checks.

Works on a connection, within one snapshot.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from typing import Any

from auditrelay.evidence.facts import chain, digest
from auditrelay.settings.reserved import ALERTS
from auditrelay.store import Fact, Proved
from auditrelay.store.expected import OfInstance, OfSink, OfSource, Part, joined, without
from auditrelay.store.progress import Progress
from auditrelay.store.sql import ledger, meta
from auditrelay.store.sql.accepted import own_keys
from auditrelay.store.sql.connection import Connection
from auditrelay.store.sql.counted import check_counted
from auditrelay.store.sql.engine import Engine
from auditrelay.store.sql.evidence import KnownKeys, facts_of
from auditrelay.store.sql.facts import INSTANCE, of_sink, of_source
from auditrelay.store.sql.known import FORGOTTEN
from auditrelay.store.sql.readers import reader_of
from auditrelay.store.sql.row_checks import Say, check_row
from auditrelay.store.sql.sources import source_id
from auditrelay.window import iso, moment

Entry = dict[str, Any]


def check_source(
    db: Connection,
    name: str,
    expected: OfSource,
    sealed: Entry | None,
    *,
    start: int,
    say: Say,
) -> None:
    """
    Say what of the source *name* is not as *expected*; *sealed* is its last entry.

    Facts tell of its events from the place *start* on.
    """
    if expected.removed:
        return  # its removal may not be finished yet
    row = db.execute("select id, started from source where name = ?", (name,)).fetchone()
    if row is None:
        say("state", "the source is missing", where=of_source(name))
        return
    owner, started = row
    _OneSource(db, name, owner, started, expected, sealed, start, say).check()


@dataclass(frozen=True)
class _OneSource:
    """One source, and what its facts say."""

    db: Connection
    name: str
    owner: int
    started: int
    expected: OfSource
    sealed: Entry | None
    start: int
    say: Say
    doubted: list[Part] = field(default_factory=list)
    """Places whose known uids are not those that were accepted."""

    def check(self) -> None:
        """Check all of it."""
        self._check_ledger()
        self._check_known()
        self._check_counted()
        self._check_own()
        self._check_state()

    def _say(self, code: str, what: str, **more: Any) -> None:
        self.say(code, what, where=of_source(self.name), **more)

    def _check_ledger(self) -> None:
        spans = self.db.execute(
            'select start, "end", gap, events from coverage where source = ? order by start',
            (self.owner,),
        ).fetchall()
        for gap in {each[2] for each in spans} | {reason for _, reason in self.expected.ledger()}:
            have = joined((start, end) for start, end, named, _ in spans if named == gap)
            must = joined(part for part, reason in self.expected.ledger() if reason == gap)
            state = "covered" if gap is None else f"a gap ({gap})"
            for start, end in without(have, must)[:1]:
                what = f"{_span(start, end)} is {state} in the ledger, and facts do not say so"
                self._say("ledger", what)
            for start, end in without(must, have)[:1]:
                what = f"{_span(start, end)} is {state} by the facts, and not in the ledger"
                self._say("ledger", what)
        oldest = self.expected.forgot_before
        for start, end, gap, events in spans:
            if gap is not None:
                continue
            known = ledger.count(self.db, self.owner, start, end)
            is_older = oldest is not None and start < oldest
            forgotten = self.expected.events["forgot"] if is_older else 0
            if not known <= events <= known + forgotten:
                what = f"the ledger counts {events} events in {_span(start, end)}; {known} are "
                what += f"known, and {forgotten} at most forgotten" if forgotten else "known"
                self._say("ledger", what)

    def _check_known(self) -> None:
        (known,) = self.db.execute(
            "select count(*) from known where source = ?", (self.owner,)
        ).fetchone()
        if known != self.expected.known:
            what = f"{known} uids are known, and facts tell of {self.expected.known}"
            self._say("known", what)
        if self.expected.found is not None and not self.expected.events["forgot"]:
            self._check_found(self.expected.found)
        order = sorted(
            (first, count, number)
            for number, each in enumerate(self.expected.pages)
            if each.known and not each.removed
            for first, count in each.places
        )
        known_keys = KnownKeys(self.db, self.owner, self.start)
        digests: dict[int, list[bytes]] = {}
        incomplete: set[int] = set()
        for first, count, number in order:
            keys = known_keys.at(first, count)
            if first in self.expected.void:
                incomplete.add(number)
                continue
            digests.setdefault(number, []).append(digest(keys))
            if len(keys) == count:
                continue
            incomplete.add(number)
            if len(keys) > count or number >= self.expected.older:
                self._doubt(number)
                what = f"{count - len(keys)} of the {count} uids at place {first} are missing"
                self._say("known", what, entry=self.expected.pages[number].fact.entry)
        for place in known_keys.strays():
            what = f"a uid is known at place {place}, which no fact tells of"
            self._say("known", what)
        for number, found in digests.items():
            each = self.expected.pages[number].fact
            if number not in incomplete and digest_of_pages(each, found) != each.body["uids"]:
                self._doubt(number)
                first = self.expected.pages[number].places[0][0]
                what = f"the uids from place {first} on are not those that were accepted"
                self._say("known", what, entry=each.entry, at=each.at)

    def _check_counted(self) -> None:
        if self.expected.events["forgot"]:
            self.doubted.extend(check_counted(self.db, self.owner, self.expected, self._say))

    def _doubt(self, number: int) -> None:
        places = self.expected.pages[number].places
        self.doubted.extend((first, first + count) for first, count in places)

    def proved(self) -> Proved:
        """Return which of the known uids facts tell of."""
        self._check_known()
        self._check_counted()
        pages = [each for each in self.expected.pages if each.known and not each.removed]
        places = [(first, first + count) for each in pages for first, count in each.places]
        ranges = without(joined([(0, self.start), *places]), joined(self.doubted))
        end = meta.read(self.db, "next_position")
        beyond = self.db.stream(
            "select position from known where source = ? and position >= ?", (self.owner, end)
        )
        (aside,) = self.db.execute(
            "select count(*) from known where source = ? and position < 0", (self.owner,)
        ).fetchone()
        events = self.expected.events
        fits = bool(events["forgot"]) or aside == events["put_aside"]
        return Proved(ranges, end, frozenset(place for (place,) in beyond), fits)

    def _check_own(self) -> None:
        """Check the uids of our own events, and of records that were put aside and then sent."""
        forgotten = meta.find(self.db, FORGOTTEN) is not None
        for each in self.expected.pages:
            if each.known or each.removed:
                continue
            places = [place for place in each.places if place[0] not in self.expected.void]
            keys = [own_keys(self.db, first) for first, _ in places]
            if [len(page) for page in keys] != [count for _, count in places]:
                # The facts of our own pages tell of no forgetting: it is that of known uids.
                if not forgotten:
                    what = f"uids of our own events from place {each.places[0][0]} on are missing"
                    self._say("known", what, entry=each.fact.entry, at=each.fact.at)
            elif len(places) == len(each.places) and (
                digest_of_pages(each.fact, [digest(page) for page in keys])
                != each.fact.body["uids"]
            ):
                what = f"the uids of our own events from place {each.places[0][0]} on are others"
                self._say("known", what, entry=each.fact.entry, at=each.fact.at)

    def _check_found(self, found: Fact) -> None:
        """Check what an upgrade has found: nothing was forgotten since."""
        hashing, events = sha256(), 0
        for (key,) in self.db.stream(
            "select key from known where source = ? and position >= 0 and position < ? "
            "order by key",
            (self.owner, self.start),
        ):
            hashing.update(key)
            events += 1
        if (events, hashing.hexdigest()) != (found.body["events"], found.body["uids"]):
            self.doubted.append((0, self.start))
            what = "the uids from before the upgrade are not those that it found"
            self._say("known", what, entry=found.entry)

    def _check_state(self) -> None:
        resweeps = dict(
            self.db.execute(
                "select delay / 1000000, until from resweep where source = ?", (self.owner,)
            )
        )
        if resweeps != self.expected.looked_again:
            self._say("state", "the resweeps are not where facts say they are")
        (vanished,) = self.db.execute(
            "select count(*) from vanished where source = ?", (self.owner,)
        ).fetchone()
        must = self.expected.events["vanished"]
        if vanished != must:
            what = f"{vanished} events are deleted at the source, and facts say {must}"
            self._say("state", what)
        files = {
            key.hex()
            for (key,) in self.db.execute("select key from parcel where source = ?", (self.owner,))
        }
        if files != self.expected.files:
            must = len(self.expected.files)
            what = f"{len(files)} files were read, and facts tell of {must}, or of others"
            self._say("state", what)
        if self.name == ALERTS:
            return
        before = self.sealed["state"]["started"] if self.sealed and self.expected.began else None
        if before not in (None, self.started):
            now, then = iso(moment(self.started)), iso(moment(before))
            self._say("state", f"it starts at {now}, and was sealed as {then}")
        (letters,) = self.db.execute(
            "select count(*) from dead_letter where source = ? and sink is null", (self.name,)
        ).fetchone()
        must = self.expected.events["put_aside"] - self.expected.replayed
        if letters != must and self.expected.found is None:
            what = f"{letters} records that were put aside are there, and facts tell of {must}"
            self._say("letters", what)


def proved(db: Connection, name: str) -> Proved:
    """Return which of the known uids of the source *name* its facts tell of."""
    expected, instance = OfSource(), OfInstance()
    for fact in facts_of(db, of_source(name), merged=False):
        expected.take(fact)
        if fact.body["fact"] == "operator" and fact.body["did"] == "forget":
            expected = expected.after_removal()
    for fact in facts_of(db, INSTANCE, merged=False):
        instance.take(fact)
    owner = source_id(db, name)
    return _OneSource(
        db, name, owner, 0, expected, None, instance.start, lambda *_, **__: None
    ).proved()


def proved_now(engine: Engine, name: str) -> Proved:
    """Return :func:`proved` as the state of *engine* is now; it blocks."""
    with engine.snapshot() as db:
        return proved(db, name)


def check_sink(
    db: Connection,
    name: str,
    expected: OfSink,
    sealed: Entry | None,
    *,
    removals: Mapping[str, int],
    say: Say,
) -> None:
    """
    Say what of the sink *name* is not as *expected*; *sealed* is its last entry.

    *removals* are the sources that were removed, and the place at which each was.
    """
    if expected.removed:
        return
    unit = of_sink(name)
    row = db.execute("select id from sink where name = ?", (name,)).fetchone()
    if row is None:
        say("state", "the sink is missing", where=unit)
        return
    (number,) = row
    feeds = dict(db.execute("select source, since from feed where sink = ?", (number,)).fetchall())
    # With a source go its feeds, and what was in the spool of it for one sink alone.
    expected.remove(removals, feeds)
    gone = {source for source, place in expected.gone.items() if feeds.get(source, place) < place}
    if {source: since for source, since in feeds.items() if source not in gone} != expected.feeds:
        what = "it receives other sources than facts say, or from other places on"
        say("state", what, where=unit)
    check_row(db, number, expected, feeds, partial(say, where=unit))
    progress = reader_of(db, name).progress
    if any(start >= end for start, end in progress.ahead):
        say("position", "it has settled ranges of places that end before they begin", where=unit)
    if sealed is not None and sealed["state"]["position"] is not None:
        state = sealed["state"]
        done = [(0, state["position"])]
        done += [(first, first + count) for first, count in state["ahead"]]
        for start, end in without(joined((*done, *expected.done)), _done(progress))[:1]:
            what = f"it had settled the places {start} to {end - 1} by then, and has not now"
            say("position", what, where=unit, entry=sealed["n"], at=sealed["at"])
    end = meta.read(db, "next_position")
    if _done(progress)[-1][1] > end:
        say("position", f"it has settled places that no event has: {end}", where=unit)
    _check_letters(db, number, unit, expected, say)


def _check_letters(db: Connection, number: int, unit: str, expected: OfSink, say: Say) -> None:
    have: dict[str, str] = {
        uid: "dropped" if dropped else "replayed" if replayed else "dead"
        for uid, dropped, replayed in db.execute(
            "select uid, dropped is not null, replayed is not null from dead_letter "
            "where sink = ? order by id",
            (number,),
        )
    }
    for uid, state in expected.letters.items():
        found = have.pop(uid, None)
        # A letter is deleted with the delivery of its replay.
        if found != state and not (state == "replayed" and found is None):
            what = f"the dead letter {uid} is {found or 'missing'}, and facts say {state}"
            say("letters", what, where=unit)
    for uid in have:
        say("letters", f"no fact tells of the dead letter {uid}", where=unit)


def digest_of_pages(fact: Fact, digests: Sequence[bytes]) -> str:
    """Return the digest of the pages that a *fact* is about: only what was merged is chained."""
    if fact.entry is None or fact.body["fact"] != "accepted":
        return digests[0].hex()
    return chain(digests).hex()


def _done(progress: Progress) -> list[Part]:
    return [(0, progress.position), *progress.ahead]


def _span(start: int, end: int) -> str:
    return f"{iso(moment(start))} .. {iso(moment(end))}"
