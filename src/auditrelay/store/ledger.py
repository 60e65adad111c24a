"""
The ledger of a source: spans of event time, each covered or a gap, and how they change. Pure.

A change is decided from the entries near it and from counts of the known events, and is then
written: the removed and the written entries, together with the facts that tell of it.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from auditrelay.store import REOPENED, Declared, Proof
from auditrelay.store.keys import TIMELESS, sortable, time_of
from auditrelay.store.lateness import lateness_bucket
from auditrelay.window import Interval, holes, micros, moment

DAY: Final = 86_400_000_000
"""Microseconds."""

Part = tuple[int, int]
"""A half-open range of event time, in microseconds."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the ledger: times are microseconds, *gap* is None if it is covered."""

    start: int
    end: int
    gap: str | None
    events: int
    recorded: int


@dataclass(frozen=True, slots=True)
class Change:
    """What became of the part of the ledger in [*start*, *end*); *reason* is that of the gap."""

    what: Literal["covered", "gap", "filled", "reopened", "retracted"]
    start: int
    end: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class NewEvents:
    """The new events of a page: their *keys*, and how old each was when it was found (*ages*)."""

    keys: Sequence[bytes] = ()
    ages: Sequence[int] = ()
    bad: Sequence[bytes] = ()
    """Keys of new records that are no events: they are known as well, and never late."""

    def inside(self, start: int, end: int) -> int:
        """Return how many of them are in a part of event time."""
        first, last = sortable(start), sortable(end)
        return sum(first <= key < last for key in (*self.keys, *self.bad))


@dataclass(slots=True)
class Changes:
    """What a page changes in the ledger, what facts tell of it, and what is reported about it."""

    removed: list[int] = field(default_factory=list)
    """Starts of entries that are no more."""
    written: list[Entry] = field(default_factory=list)
    """Entries that are new, or that replace the one with the same start."""
    history: list[Change] = field(default_factory=list)
    """The changes, in the order in which they came about."""
    late: list[int] = field(default_factory=list)
    """Indices of the new events in spans that were covered before."""
    found_late: list[tuple[int, int, int]] = field(default_factory=list)
    """In which entries these are: start, end, and how many."""
    lateness: Mapping[int, int] = field(default_factory=dict)
    """How many of them there are in each bucket of lateness."""
    declared: list[Declared] = field(default_factory=list)
    filled: list[Declared] = field(default_factory=list)


def parts_near(proof: Proof, new: NewEvents) -> list[Part]:
    """Return the parts of event time whose entries :func:`enter` needs, and those that touch."""
    spans = (
        *proof.covers,
        *(span for span, _ in proof.gaps),
        *proof.reopens,
        *proof.retracts,
    )
    parts = [(micros(span.start), micros(span.end)) for span in spans]
    if timed := [key for key in (*new.keys, *new.bad) if not key.startswith(TIMELESS)]:
        parts.append((time_of(min(timed)), time_of(max(timed))))
    return parts


def parts_to_count(entries: Iterable[Entry], proof: Proof) -> list[Part]:
    """Return the parts of event time whose known events :func:`enter` needs to be counted."""
    parts: list[Part] = []

    def ask(start: int, end: int) -> int:
        parts.append((start, end))
        return 0

    _Ledger(entries, ask, now=0).enter(proof)
    return parts


def enter(
    entries: Iterable[Entry],
    proof: Proof,
    new: NewEvents,
    counted: Mapping[Part, int],
    *,
    now: int,
) -> Changes:
    """
    Return what a page with the *new* events changes in a ledger, and the *proof* that it brings.

    *entries* are those near :func:`parts_near`. *counted* is how many known events, without the
    new ones, are in each of :func:`parts_to_count`.
    """

    def count(start: int, end: int) -> int:
        return counted[start, end] + new.inside(start, end)

    ledger = _Ledger(entries, count, now)
    ledger.count_late(new)
    ledger.enter(proof)
    return ledger.changes()


class _Ledger:
    """The *entries* near a change, while it is decided."""

    def __init__(
        self, entries: Iterable[Entry], count: Callable[[int, int], int], now: int
    ) -> None:
        self._before = {each.start: each for each in entries}
        self._entries = dict(self._before)
        self._count = count
        self._now = now
        self._changes = Changes()

    def changes(self) -> Changes:
        """Return all that has changed."""
        changes = self._changes
        changes.removed = [start for start in self._before if start not in self._entries]
        changes.written = [each for each in self._sorted() if self._before.get(each.start) != each]
        return changes

    def count_late(self, new: NewEvents) -> None:
        """Add those of the *new* events that are in covered spans to the entries of these."""
        late: list[int] = []
        for each in self._sorted():
            if each.gap is not None:
                continue
            first, last = sortable(each.start), sortable(each.end)
            inside = [index for index, key in enumerate(new.keys) if first <= key < last]
            bad = sum(first <= key < last for key in new.bad)
            if inside or bad:
                self._put(replace(each, events=each.events + len(inside) + bad))
            if not inside:
                continue
            self._changes.found_late.append((each.start, each.end, len(inside)))
            late += inside
        self._changes.late = sorted(late)
        self._changes.lateness = Counter(lateness_bucket(new.ages[index]) for index in late)

    def enter(self, proof: Proof) -> None:
        """Enter which gaps *proof* takes back, what it covers, and the gaps that it declares."""
        for span in proof.reopens:
            for each, part in self._take_out(span, _is_given_up):
                self._put(Entry(*part, REOPENED, self._count(*part), self._now))
                self._tell("reopened", part, each.gap)
        for span in proof.retracts:
            for each, part in self._take_out(span, _is_gap):
                self._tell("retracted", part, each.gap)
        for span in proof.covers:
            self._cover(span)
        for span, reason in proof.gaps:
            self._declare(span, reason)

    def _cover(self, span: Interval) -> None:
        """Enter *span* as covered; gaps in it are filled by that."""
        start, end = micros(span.start), micros(span.end)
        near = [each for each in self._sorted() if each.start <= end and each.end >= start]
        for each, part in self._take_out(span, _is_gap):
            self._tell("filled", part, each.gap)
            filled = Declared(Interval(*map(moment, part)), each.gap or "", new=True)
            self._changes.filled.append(filled)
        covered = [_interval(each) for each in near if each.gap is None]
        for hole in holes(span, covered):
            self._add(hole, None)

    def _take_out(self, span: Interval, which: Callable[[Entry], bool]) -> list[tuple[Entry, Part]]:
        """Remove *span* from the entries *which*; return each of them, and what is removed."""
        start, end = micros(span.start), micros(span.end)
        taken: list[tuple[Entry, Part]] = []
        for each in self._sorted():
            if not which(each) or each.end <= start or each.start >= end:
                continue
            del self._entries[each.start]
            for left, right in ((each.start, start), (end, each.end)):
                if left < right:
                    self._put(Entry(left, right, each.gap, self._count(left, right), self._now))
            taken.append((each, (max(start, each.start), min(end, each.end))))
        return taken

    def _declare(self, span: Interval, reason: str) -> None:
        """Enter the parts of *span* that are not in the ledger as gaps, or were reopened."""
        self._take_out(span, lambda each: each.gap == REOPENED)
        start, end = micros(span.start), micros(span.end)
        entered = [
            _interval(each) for each in self._sorted() if each.start < end and each.end > start
        ]
        for hole in holes(span, entered):
            self._changes.declared.append(Declared(hole, reason, new=self._add(hole, reason)))

    def _add(self, span: Interval, gap: str | None) -> bool:
        """Enter *span*, which is not in the ledger; return whether it became its own entry."""
        start, end = micros(span.start), micros(span.end)
        events = self._count(start, end)
        self._tell("covered" if gap is None else "gap", (start, end), gap)
        # One entry a day, so that the ledger stays small and readable after years of polls.
        for each in self._entries.values():
            if (each.end, each.gap, each.start // DAY) == (start, gap, start // DAY):
                self._put(Entry(each.start, end, gap, each.events + events, self._now))
                return False
        self._put(Entry(start, end, gap, events, self._now))
        return True

    def _put(self, entry: Entry) -> None:
        self._entries[entry.start] = entry

    def _sorted(self) -> list[Entry]:
        return sorted(self._entries.values(), key=lambda each: each.start)

    def _tell(
        self,
        what: Literal["covered", "gap", "filled", "reopened", "retracted"],
        part: Part,
        gap: str | None,
    ) -> None:
        self._changes.history.append(Change(what, *part, gap or ""))


def _is_gap(entry: Entry) -> bool:
    return entry.gap is not None


def _is_given_up(entry: Entry) -> bool:
    return entry.gap not in (None, REOPENED)


def _interval(entry: Entry) -> Interval:
    return Interval(moment(entry.start), moment(entry.end))
