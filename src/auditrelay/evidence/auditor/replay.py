"""
What the entries say together: each fact must fit the others, and the state of its unit.

Every instant from the start of a source on is covered or a gap, once. Every place in the spool was
given to one event. A sink has settled the places that its state says, and no other. Counts are the
sums of the facts. Each seal names the head before it. All of that is about the export alone: it can
be rewritten until it fits, and then the heads outside do not. See checker.py.
"""

import json
from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from .checker import Entry, Fact, Journal, Report, Stop, heads_in, iso

LONG = 500  # characters at which a text in a fact is cut off
HOUR, EVER = 3_600_000_000, 1 << 62
SPANS = {"covered": 1, "gap": 1, "filled": -1, "retracted": -1}  # how often they count
SUMS = ("accepted", "put_aside", "vanished", "dead", "replayed", "dropped", "excluded")
PLACES = {"delivered": "done", "excluded": "places"}  # where a fact has them, if not in "pages"
NOTES = {  # facts that an auditor wants to see, and the code for each
    "dropped": "letters",
    "void": "spool",
    "clock": "clock",
    "retired": "configuration",
    "back": "configuration",
}
FACTS = {*SPANS, *SUMS, *NOTES, "configured", "reopened", "looked_again", "parcel", "backfill"}
FACTS |= {"forgot", "taken_over", "delivered", "refilled", "began", "started", "stopped", "key"}
FACTS |= {"head", "pruned", "operator", "continued", "restored"}
NUMBERS = {"events", "late", "start", "end", "until", "size"}  # fields that are whole numbers
Ranges = list[tuple[int, int]]  # half-open


@dataclass
class Unit:
    """What the entries say of a source, a sink or the instance."""

    name: str
    state: dict[str, Any] | None = field(default_factory=dict)
    facts: list[Fact] = field(default_factory=list)
    sums: Counter[str] = field(default_factory=Counter)
    done: Ranges = field(default_factory=list)  # places that a sink has settled
    excluded: Ranges = field(default_factory=list)  # those of them that it was not sent
    started: int = EVER  # of a source: the earliest start that a state has had
    claimed: int = -EVER  # nothing is claimed of the time before
    taken_over: bool = False  # from an older version, in this entry or in its further lines
    history: list[tuple[int, int, int]] = field(default_factory=list)
    """Of a source: the number of an entry, covered until, accepted."""


class Replay:
    """The units of an export, entry by entry."""

    def __init__(self, journal: Journal, report: Report) -> None:
        self.journal, self.report = journal, report
        self.units: dict[str, Unit] = {}
        self.seals: set[int] = set()  # where one begins
        self.named: set[int] = set()  # the sizes of the heads that entries name
        self.own: set[int] = set()  # the sizes of the heads in heads.txt
        self.pages: Ranges = []
        self.at = 0
        report.attempt(None, self.compare_own)
        self.whole = journal.whole and all(
            report.attempt(entry["n"], self.take, entry) for entry in journal.entries
        )
        self.whole = self.whole and report.attempt(None, self.compare)

    def compare_own(self) -> None:
        """Compare the heads in the export itself with its entries."""
        file = self.journal.path.parent / "heads.txt"
        for head in heads_in(file) if file.exists() else ():
            self.own.add(head.size)
            if (verdict := self.journal.verdict(head)) != "fit":
                what = "a head in its own heads.txt does not fit"
                self.report.say("bad", verdict, what, where=head.where)
                return

    def take(self, entry: Entry) -> None:
        """Take the next entry."""
        name, n, at = entry["unit"], entry["n"], entry["at"]
        unit = self.units.setdefault(name, Unit(name))
        if name == "instance" and n and unit.state is not None:  # else it is a further line
            if entry["log"] == self.journal.entries[n - 1]["log"]:
                self.seals.add(n)
            if at - self.at > 3 * HOUR:
                self.report.say("note", "downtime", f"nothing from {iso(self.at)} to {iso(at)}", n)
        self.at, unit.state = at, entry["state"]
        for fact in entry["facts"]:
            self.take_fact(entry, unit, fact)
            ends = (record[4] for record in fact.get("records", ()))  # of an older journal
            unit.claimed = max(unit.claimed, *ends, -EVER)
        if unit.state and unit.state.get("started") is not None:
            unit.started = min(unit.started, unit.state["started"])
            end = unit.state["covered_until"]
            unit.history.append((n, end, unit.state["accepted"]))
            if unit.taken_over:
                unit.claimed, unit.taken_over = max(unit.claimed, end), False

    def take_fact(self, entry: Entry, unit: Unit, fact: Fact) -> None:
        """Take a fact of an entry."""
        kind = fact["fact"]
        if kind not in FACTS:
            raise Stop("form", f"is by a newer auditrelay: {kind}")
        for key in NUMBERS & fact.keys():
            if type(fact[key]) is not int:
                raise Stop("form", f"{kind} has a number that is none")
        if kind == "operator" and fact["did"] == "forget":
            unit.facts, unit.done, unit.excluded, unit.started = [], [], [], EVER
        unit.facts.append(fact)
        unit.sums[kind] += fact.get("events", 0)
        unit.sums["late"] += fact.get("late", 0)
        unit.taken_over |= kind == "taken_over"
        if kind == "head":
            self.named.add(fact["size"])
            if fact["size"] > entry["n"] or self.journal.tree.root(fact["size"]) != fact["root"]:
                what = f"head {fact['size']} has another root in this entry"
                self.report.say("bad", "rewritten", what, entry["n"])
        pairs = fact.get(PLACES.get(kind, "pages"), ())
        if any(count <= 0 for _, count in pairs):
            raise Stop("form", f"{kind} has a page of no event")
        ranges = [(first, first + count) for first, count in pairs]
        if kind in {"accepted", "refilled", "replayed"}:
            self.pages += ranges
        elif kind in PLACES:
            (unit.done if kind == "delivered" else unit.excluded).extend(ranges)

    def compare(self) -> None:
        """Compare the facts with each other, and with the states."""
        for n in sorted(self.seals - self.named):
            self.report.say("bad", "order", "the entry does not name the head before it", n)
        for kind, code in NOTES.items():
            for entry, fact in self.journal.facts[kind]:
                what = f"{entry['unit']}: {json.dumps(fact, sort_keys=True)}"
                self.report.say("note", code, what, entry["n"])
        self.compare_configurations()
        self.say_excluded()
        self.pages = joined(self.pages)
        for (_, end), (first, _) in pairwise(self.pages):
            what = f"places from {min(first, end)} on were given to no event, or to several"
            self.report.say("bad", "spool", what)
        for unit in self.units.values():
            if unit.state is None:
                what = f"the last entry of {unit.name} goes on in a line that is missing"
                raise Stop("order", what)
            self.compare_sums(unit, unit.state)
            self.compare_places(unit, unit.state)
            self.compare_spans(unit, unit.state)

    def compare_configurations(self) -> None:
        """Say what was changed from one configuration to the next."""
        versions: dict[Any, dict[str, Any]] = defaultdict(dict)
        for entry, fact in self.journal.facts["configured"]:
            versions[entry["at"], fact["digest"]] |= fact["settings"]  # one may have several facts
        for (_, old), ((at, _), new) in pairwise([((0, ""), {}), *versions.items()]):
            # An older version may not have known a key. At first only what is excluded counts.
            changed = [
                key
                for key in new
                if (new[key] or None) != (old.get(key) or None) and (old or is_exclude(key))
            ]
            what = ", ".join(f"{key} {old.get(key)} -> {new[key]}" for key in changed)
            if what:
                self.report.say("note", "configuration", f"{iso(at)}: {what}")

    def say_excluded(self) -> None:
        """Say what each sink was not sent, since when, and whether a configuration says so."""
        configured = [fact["settings"] for _, fact in self.journal.facts["configured"]]
        found: dict[tuple[str, str], list[tuple[int, Entry]]] = defaultdict(list)
        for entry, fact in self.journal.facts["excluded"]:
            found[entry["unit"], fact["glob"]].append((fact["events"], entry))
        for (unit, glob), facts in found.items():
            events, first, last = sum(n for n, _ in facts), facts[0][1], facts[-1][1]
            since = iso(first["at"] if first["since"] is None else first["since"])
            what = f"{unit}: {events} events were not sent, as its exclude has {json.dumps(glob)}, "
            what += f"from {since} to {iso(last['at'])}"
            lists = [str(each.get(f"sinks.{unit[5:]}.exclude") or "") for each in configured]
            # A long list is cut off in the fact.
            if not any(glob in text.split(", ") or len(text) >= LONG for text in lists):
                what += "; no configuration says so"
            self.report.say("note", "configuration", what, first["n"])

    def compare_sums(self, unit: Unit, state: dict[str, Any]) -> None:
        """Compare the counts and the second looks in a state with the facts."""
        for key in SUMS:
            if state.get(key, unit.sums[key]) != unit.sums[key]:
                what = f"{unit.name}: {state[key]} {key}, but {unit.sums[key]} by its entries"
                self.report.say("bad", "letters" if unit.name.startswith("sink") else "state", what)
        looks = [fact for fact in unit.facts if fact["fact"] == "looked_again"]
        looked = {str(fact["delay"]): fact["until"] for fact in looks}
        for delay, until in state.get("looked_again", {}).items():
            if until > looked.get(delay, -EVER):
                what = f"{unit.name}: not yet reswept until {iso(until)} ({delay} s)"
                self.report.say("bad", "state", what)

    def compare_places(self, unit: Unit, state: dict[str, Any]) -> None:
        """Compare the places that a sink has settled with those in its state."""
        unit.done, unit.excluded = joined(unit.done), joined(unit.excluded)
        if any(not is_in(unit.done, *places) for places in unit.excluded):
            what = f"{unit.name}: its entries exclude {brief(unit.excluded)}"
            self.report.say("bad", "position", f"{what}, and do not settle all of that")
        if not unit.done or state["position"] is None:
            return
        start, position = min(unit.done[0][0], state["position"]), state["position"]
        stated = [(first, first + count) for first, count in state["ahead"]]
        stated += [(start, position)] * (start < position)
        given = [end for _, end in self.pages[-1:]]
        given += [fact.get("place", 0) for _, fact in self.journal.facts["taken_over"]]
        last = max(given, default=0)
        if unit.done != joined(stated) or unit.done[-1][1] > last:
            what = f"{unit.name}: its entries settle {brief(unit.done)}, its state {brief(stated)}"
            self.report.say("bad", "position", f"{what}, of places below {last}")

    def compare_spans(self, unit: Unit, state: dict[str, Any]) -> None:
        """Say where a source has a hole: an instant that is not covered or a gap, once."""
        again = [(f["start"], f["end"]) for f in unit.facts if f["fact"] == "reopened"]
        spans = [(f["start"], f["end"], SPANS[f["fact"]]) for f in unit.facts if f["fact"] in SPANS]
        spans += [  # what was read and is damaged in the spool stays covered, and is a gap as well
            (fact["start"], fact["end"], -1)
            for fact in unit.facts
            if fact["fact"] == "gap" and fact["reason"] == "damaged"
        ]
        start, end = max(unit.started, unit.claimed), state.get("covered_until") or 0
        for at, level in levels([*spans, (start, max(start, end), 0)]):
            spare = level > 1 and any(first <= at < last for first, last in again)
            if start <= at < end and level != 1 and not spare:
                what = f"from {iso(at)} on it is covered or a gap {level} times"
                self.report.say("bad", "hole", f"{unit.name}: {what}")

    def say_units(self) -> None:
        """Add a line about each unit."""
        for name, unit in sorted(self.units.items()):
            state = {key: value for key, value in (unit.state or {}).items() if type(value) is int}
            words = {key: str(value) for key, value in state.items()}
            words |= {key: iso(state[key]) for key in ("started", "covered_until") if key in state}
            if "started" in state:
                gaps = sum(fact["fact"] == "gap" for fact in unit.facts)
                words |= {"gaps": str(gaps), "late": str(unit.sums["late"])}
            line = ", ".join(f"{key} {value}" for key, value in words.items())
            self.report.lines.append(f"{name}: {line}")


def is_in(ranges: Ranges, start: int, end: int) -> bool:
    """Return whether one of *ranges*, which are joined, has all places from *start* to *end*."""
    at = bisect(ranges, (start, EVER)) - 1
    return at >= 0 and end <= ranges[at][1]


def joined(ranges: Ranges) -> Ranges:
    """Return ranges in their order, those that touch as one; those that overlap stay apart."""
    found: Ranges = []
    for start, end in sorted(ranges):
        if found and found[-1][1] == start:
            found[-1] = found[-1][0], end
        else:
            found.append((start, end))
    return found


def is_exclude(key: str) -> bool:
    """Return whether a key of the configuration says what a sink is not sent."""
    return key.startswith("sinks.") and key.endswith(".exclude")


def levels(ranges: Iterable[tuple[int, int, int]]) -> Iterator[tuple[int, int]]:
    """Yield from where on how many ranges lie there; they are given as start, end, weight."""
    steps, level = Counter[int](), 0
    for start, end, weight in ranges:
        steps[start] += weight
        steps[end] -= weight
    for at in sorted(steps):
        level += steps[at]
        yield at, level


def brief(ranges: Ranges) -> str:
    """Return ranges in words, the last three of them."""
    return " and ".join(f"{start} to {end - 1}" for start, end in sorted(ranges)[-3:]) or "none"
