"""
What the facts of a unit say that there must be: the state is compared with it. Pure.

A source or sink that an operator has removed starts again: what its facts said before is gone.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from auditrelay.store import DAMAGED, REOPENED, Fact

Part = tuple[int, int]
"""A half-open range of event time, in microseconds."""

OWN: Final = frozenset({"notice", "replay"})
"""Kinds of accepted pages whose uids are not known at their places, and are kept by the page."""

NOT_SEALED: Final = 1 << 62
"""The entry that a fact will be in which waits for the seal: behind all that there are."""

OLD_LATE: Final = frozenset({"late", "vanished"})
"""Records of an older journal that say nothing about what was read."""


@dataclass(frozen=True, slots=True)
class Pages:
    """Pages of the spool that one fact tells of: [first, count] each, and their digests."""

    fact: Fact
    places: Sequence[Sequence[int]]
    known: bool
    """Whether the uids of their events are known at these places."""
    removed: bool = False
    """Whether their source or sink was removed since."""


@dataclass
class OfSource:
    """What the facts of one source say."""

    pages: list[Pages] = field(default_factory=list)
    covered: list[Part] = field(default_factory=list)
    counted: list[Fact] = field(default_factory=list)
    """Sealed facts of what is covered whose uids, by time, must be those that are known now."""
    gaps: list[tuple[Part, str]] = field(default_factory=list)
    looked_again: dict[int, int] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)
    events: Counter[str] = field(default_factory=Counter)
    """By name of a fact how many events all facts of that name tell of."""
    replayed: int = 0
    dropped: list[str] = field(default_factory=list)
    void: dict[int, int] = field(default_factory=dict)
    """By its first place how many events a damaged page had, which was taken out."""
    forgot_before: int | None = None
    older: int = 0
    """How many of the pages were there when uids were forgotten the last time."""
    found: Fact | None = None
    """What an upgrade has found of it."""
    began: bool = False
    """Whether anything was read when it was last sealed: until then its start may be moved."""
    removed: bool = False
    """Whether there is nothing since its removal."""

    def take(self, fact: Fact) -> None:
        """Take the next fact."""
        body = fact.body
        self.removed = False
        self.events[body["fact"]] += body.get("events", 0)
        match body["fact"]:
            case "accepted":
                known = body["via"] not in OWN
                self.pages.append(Pages(fact, body["pages"], known))
                self.replayed += body["events"] if body["via"] == "replay" else 0
            case "covered":
                self._cover(fact)
            case "gap" | "reopened" | "retracted" as what:
                self._gap(what, (body["start"], body["end"]), body["reason"])
                self.began |= fact.entry is not None
            case "put_aside" | "void" as what:
                self._leave(what, fact)
            case "looked_again":
                self.looked_again[body["delay"]] = body["until"]
            case "parcel":
                self.files.add(body["key"])
            case "dropped":
                self.dropped += body["each"]
            case "forgot":
                self.forgot_before = max(self.forgot_before or body["before"], body["before"])
                self.older = len(self.pages)
            case "taken_over":
                self._take_over(fact)

    def after_removal(self) -> "OfSource":
        """Return what is left of it once an operator has removed it."""
        return OfSource(pages=[replace(each, removed=True) for each in self.pages], removed=True)

    def _cover(self, fact: Fact) -> None:
        self.covered.append((fact.body["start"], fact.body["end"]))
        if fact.entry is not None:
            self.counted.append(fact)
            self.began = True

    def _leave(self, what: str, fact: Fact) -> None:
        if what == "void":
            self.void |= dict(fact.body["pages"])
        else:  # it is known from now on, whatever its time is, and has no place
            self.counted = []

    def _gap(self, what: str, part: Part, reason: str) -> None:
        # Whatever was said of it before: a gap that was taken back may be declared again.
        self.gaps = [(rest, named) for old, named in self.gaps for rest in without([old], [part])]
        if reason == DAMAGED:
            self.covered = without(joined(self.covered), [part])
            self.counted = [
                each
                for each in self.counted
                if without([part], [(each.body["start"], each.body["end"])]) == [part]
            ]
        if what != "retracted":
            self.gaps.append((part, REOPENED if what == "reopened" else reason))

    def _take_over(self, fact: Fact) -> None:
        if self.found is None:
            self.found = fact
        for _, _, what, start, end, reason, *_ in fact.body["records"]:
            if what == "covered":
                self.covered.append((start, end))
            elif what not in OLD_LATE:
                self._gap(what, (start, end), reason or "")

    @property
    def known(self) -> int:
        """How many uids are known, those of records put aside included."""
        accepted: int = sum(
            each.fact.body["events"] for each in self.pages if each.known and not each.removed
        )
        found: int = 0 if self.found is None else self.found.body["events"]
        void = sum(
            count
            for each in self.pages
            if each.known and not each.removed
            for first, count in each.places
            if first in self.void
        )
        return found + accepted - void + self.events["put_aside"] - self.events["forgot"]

    def ledger(self) -> list[tuple[Part, str | None]]:
        """Return what is covered (None) or a gap, in order of time; parts that touch are one."""
        covered = joined(self.covered)
        parts: list[tuple[Part, str | None]] = [(part, None) for part in covered]
        reasons = {reason for _, reason in self.gaps}
        for reason in reasons:
            gaps = joined(part for part, named in self.gaps if named == reason)
            parts += [(part, reason) for part in without(gaps, covered)]
        return sorted(parts, key=lambda each: each[0])


@dataclass
class OfSink:
    """What the facts of one sink say."""

    pages: list[Pages] = field(default_factory=list)
    done: list[Part] = field(default_factory=list)
    feeds: dict[str, int] = field(default_factory=dict)
    letters: dict[str, str] = field(default_factory=dict)
    """By uid of an event that was refused: ``dead``, ``replayed`` or ``dropped``."""
    ends: int | None = None
    """The place from which on it gets nothing, since it is not configured; None: it is."""
    left: int = 0
    """The place from which on it got nothing when it was not configured the last time."""
    lost: list[Part] = field(default_factory=list)
    """Places of what may have been pruned while it was not configured."""
    gone: dict[str, int] = field(default_factory=dict)
    """Sources that were removed: a feed of one from before that place may not be gone yet."""
    removed: bool = False

    def take(self, fact: Fact) -> None:
        """Take the next fact."""
        body = fact.body
        self.removed = False
        match body["fact"]:
            case "refilled" | "replayed" as what:
                self.pages.append(Pages(fact, body["pages"], known=False))
                if what == "replayed":
                    self.letters |= dict.fromkeys(body["each"], what)
            case "dead" | "dropped" as what:
                self.letters |= dict.fromkeys(body["each"], what)
            case "delivered" | "excluded" as what:
                places = body["done" if what == "delivered" else "places"]
                # Nothing is claimed by an open one: a sink may go back to what is sealed.
                self.done += [
                    (first, first + count) for first, count in places if fact.entry is not None
                ]
            case "began":
                self.feeds |= body["since"]
            case "back":
                self.feeds, self.ends = dict(body["since"]), None
            case "retired" if "sources" in body:
                for source in body["sources"]:
                    self.feeds.pop(source, None)
            case "retired":
                self.left = self.ends = body["place"]

    def come_back(self, pruned: int) -> None:
        """Note that it is configured again; what is before the place *pruned* may be gone."""
        self.lost.append((self.left, pruned))

    def remove(self, removals: Mapping[str, int], feeds: Collection[str]) -> None:
        """
        Remove the feeds of sources that were removed, and have not come back since.

        *feeds* are those that there are: one from the place of the removal on may be of either side
        of it.
        """
        for source, place in removals.items():
            since = self.feeds.get(source)
            if since is not None and (since < place or (since == place and source not in feeds)):
                del self.feeds[source]
                self.gone[source] = place

    def after_removal(self) -> "OfSink":
        """Return what is left of it once an operator has removed it."""
        return OfSink(pages=[replace(each, removed=True) for each in self.pages], removed=True)


@dataclass
class OfInstance:
    """What the facts of the instance say."""

    start: int = 0
    """The place from which on facts tell of pages: an upgrade took over what was before."""
    pruned: int = 0
    heads: list[tuple[int | None, int, str]] = field(default_factory=list)
    """In which entry a fact tells of a head, its size and its root."""
    branches: list[tuple[int, Fact]] = field(default_factory=list)
    """The logs that the present one goes on from, the oldest first, and in which entry it did."""
    said: list[tuple[int, str]] = field(default_factory=list)
    """In which entry an operator has said why the state was restored, copied or moved, and why."""
    key: str = ""
    """The public key that is in force, in hexadecimal."""
    runs: int | None = None
    """Whether a process that began has not stopped, 1 or 0; None: none has begun."""

    def take(self, fact: Fact) -> None:
        """Take the next fact."""
        body = fact.body
        entry = NOT_SEALED if fact.entry is None else fact.entry
        match body["fact"]:
            case "taken_over":
                self.start = body["place"]
            case "pruned":
                self.pruned = max(self.pruned, body["before"])
            case "head":
                self.heads.append((fact.entry, body["size"], body["root"]))
            case "continued":
                self.branches.append((entry, fact))
            case "restored":
                self.said.append((entry, f"uid {body['by']}: {body['reason']}"))
            case "key":
                self.key = body["public"]
            case "started" | "stopped" as what:
                self.runs = int(what == "started")


def facts_in(n: int, line: str) -> tuple[dict[str, Any], Iterator[Fact]]:
    """Return the entry in a *line*, and its facts."""
    entry: dict[str, Any] = json.loads(line)
    return entry, (Fact(body, entry["at"], n) for body in entry["facts"])


def joined(parts: Any) -> list[Part]:
    """Return *parts* in order of time; those that touch or overlap are one."""
    whole: list[Part] = []
    for start, end in sorted(parts):
        if whole and start <= whole[-1][1]:
            whole[-1] = whole[-1][0], max(end, whole[-1][1])
        else:
            whole.append((start, end))
    return whole


def without(parts: Sequence[Part], others: Sequence[Part]) -> list[Part]:
    """Return what of *parts* is in none of *others*, which are in order of time and disjoint."""
    rest: list[Part] = []
    for start, end in parts:
        at = start
        for first, last in others:
            if last <= at:
                continue
            if first >= end:
                break
            if first > at:
                rest.append((at, first))
            at = last
        if at < end:
            rest.append((at, end))
    return rest
