"""
What a file from outside need not have, or may have besides: honest reasons that entries tell of.

A sink that is not configured, or is removed, gets no heads and no events until it comes back, and
what is pruned meanwhile it never gets. A reduced copy stands for an event that a sink refuses, and
is in no page of a source. Of what a state had before it had evidence nothing is claimed.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from .checker import Entry, Fact, Journal
from .replay import Unit

COMES = {"began", "back"}
GOES = {"retired", "operator"}


def moves(journal: Journal, unit: str) -> list[tuple[Entry, Fact]]:
    """Return the facts by which a sink comes or goes, in their order."""
    found = [
        (entry, fact)
        for kind in COMES | GOES
        for entry, fact in journal.facts[kind]
        if entry["unit"] == unit and "sources" not in fact  # else it is about these alone
    ]
    return sorted(found, key=lambda each: (each[0]["n"], each[0]["facts"].index(each[1])))


def was_away(journal: Journal, size: int) -> bool:
    """Return whether a sink was not there for a head, or was removed before it had taken it."""
    heads = (fact for _, fact in journal.facts["head"] if fact["size"] == size)
    taken_by = {name for fact in heads for name in fact.get("told", ())}
    for unit in journal.last:
        away = False
        for entry, fact in moves(journal, unit):
            if entry["n"] < size:
                away = fact["fact"] in GOES
            away |= fact["fact"] == "operator"
        if away and unit.startswith("sink ") and unit[5:] not in taken_by:
            return True
    return False


def lost_by(journal: Journal, unit: str) -> list[range]:
    """Return the places of what may have been pruned before a sink came back."""
    lost, left = [], 0
    for entry, fact in moves(journal, unit):
        if fact["fact"] == "retired":
            left = fact["place"]
        elif fact["fact"] == "back":
            pruned = (f["before"] for e, f in journal.facts["pruned"] if e["n"] < entry["n"])
            lost.append(range(left, max(pruned, default=0)))
    return lost


@dataclass
class Copy:
    """A reduced copy for a sink: its uid, and its place; None if it may never have been sent."""

    uid: str
    place: int | None


def copies_for(journal: Journal, unit: str) -> Iterator[Copy]:
    """Yield the reduced copies of what a sink has refused."""
    removals = [entry["n"] for entry, _ in journal.facts["operator"]]
    for entry, fact in journal.facts["refilled"]:
        if entry["unit"] == unit:
            # With a source goes what of it was not sent yet.
            sent = bool(fact["pages"]) and all(n < entry["n"] for n in removals)
            for number, uid in enumerate(fact.get("each", ())):
                yield Copy(uid, fact["pages"][0][0] + number if sent else None)


def before_evidence(journal: Journal) -> tuple[int, int]:
    """Return when an upgraded state was first sealed, and how many places it had by then."""
    found = [fact for _, fact in journal.facts["taken_over"] if "place" in fact]
    return (journal.entries[0]["at"], found[0]["place"]) if found else (0, 0)


def is_fair(journal: Journal, unit: Unit, span: Fact, more: int, *, listed: bool) -> bool:
    """
    Return whether a vendor may show so many events *more* of a span, or fewer, than were counted.

    He does not show what was deleted there or was no event. What was known before there was
    evidence may have been read again since. If the uids are not *listed*, a late event is taken for
    one of them.
    """
    gone = unit.sums["put_aside"]
    for kind in ("taken_over", "vanished"):
        for entry, fact in journal.facts[kind]:
            if entry["unit"] == unit.name and (kind == "taken_over" or touch(fact, span)):
                gone += fact["events"]
    late = 0 if listed else unit.sums["late"]
    return -gone <= more <= late and (more != 0 or bool(gone and late))


def touch(one: Fact, other: Fact) -> bool:
    """Return whether two facts about spans have an instant in common."""
    return bool(one["start"] < other["end"] and other["start"] < one["end"])


def uncounted(journal: Journal, unit: str) -> set[int]:
    """
    Return the facts, by their ids, that were not sealed yet when a source was removed.

    What they tell of could not be counted any more. What stands behind the removal could.
    """
    found, facts = set[int](), list[Fact]()
    for entry in journal.entries:
        if entry["unit"] == unit:
            for fact in entry["facts"]:
                facts.append(fact)
                if fact["fact"] == "operator":
                    found.update(map(id, facts))
            facts = facts if entry["state"] is None else []  # else it goes on in a further line
    return found
