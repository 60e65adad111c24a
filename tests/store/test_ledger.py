"""The ledger without a database: whatever is read, it is true to what is known."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.support.stores import MINUTE, NOON, span

from auditrelay.evidence import facts
from auditrelay.store import REOPENED, Fact, Proof, Span
from auditrelay.store.expected import OfSource, joined
from auditrelay.store.keys import TIMELESS, sortable, time_of
from auditrelay.store.ledger import (
    Change,
    Changes,
    Entry,
    NewEvents,
    Part,
    enter,
    parts_near,
    parts_to_count,
)
from auditrelay.window import Interval, micros, moment

NONE = NewEvents()

HORIZON = 3 * 24 * 60
"""Minutes: three days, so that entries end with their day."""


def key(number: int, minute: float | None) -> bytes:
    time = TIMELESS if minute is None else sortable(micros(NOON + minute * MINUTE))
    return time + number.to_bytes(20)


@dataclass
class Source:
    """A ledger in memory, with its changes and the known events, kept as a database would."""

    entries: dict[int, Entry] = field(default_factory=dict)
    history: list[Change] = field(default_factory=list)
    known: list[bytes] = field(default_factory=list)
    now: int = micros(NOON)

    def enter(self, proof: Proof, new: NewEvents = NONE) -> Changes:
        self.now += micros(NOON + 7 * MINUTE) - micros(NOON)
        near = parts_near(proof, new)
        entries = [
            each
            for each in self.entries.values()
            if any(each.start <= end and each.end >= start for start, end in near)
        ]
        counted = {part: self.count(part) for part in parts_to_count(entries, proof)}
        changes = enter(entries, proof, new, counted, now=self.now)
        for start in changes.removed:
            del self.entries[start]
        self.entries.update((each.start, each) for each in changes.written)
        self.history += changes.history
        self.known += (*new.keys, *new.bad)
        return changes

    def count(self, part: Part) -> int:
        return sum(part[0] <= time_of(key) < part[1] for key in self.known)

    def spans(self) -> list[Span]:
        return [
            Span(Interval(moment(each.start), moment(each.end)), each.gap, each.events)
            for each in sorted(self.entries.values(), key=lambda each: each.start)
        ]


MINUTES = st.integers(0, HORIZON)
SPANS = st.builds(
    lambda start, length: span(start, start + length), MINUTES, st.integers(1, HORIZON // 2)
)
PROOFS = st.builds(
    lambda covers, gaps, reopens, retracts: Proof(
        covers=tuple(covers), gaps=tuple(gaps), reopens=tuple(reopens), retracts=tuple(retracts)
    ),
    st.lists(SPANS, max_size=3),
    st.lists(st.tuples(SPANS, st.sampled_from(["retention", "unreadable"])), max_size=2),
    st.lists(SPANS, max_size=1),
    st.lists(SPANS, max_size=1),
)
PAGES = st.lists(
    st.tuples(
        PROOFS,
        st.lists(st.one_of(st.none(), MINUTES), max_size=4),
        st.integers(0, 1),
    ),
    max_size=8,
)


@given(pages=PAGES)
def test_the_ledger_is_true_to_its_facts_and_to_what_is_known(
    pages: list[tuple[Proof, list[int | None], int]],
) -> None:
    source, number = Source(), 0
    covered: set[int] = set()
    declared: set[int] = set()
    for proof, times, bad in pages:
        keys = [key(number + each, minute) for each, minute in enumerate((*times, *[None] * bad))]
        number += len(keys)
        events = NewEvents(keys[: len(times)], [0] * len(times), keys[len(times) :])
        late = [index for index, minute in enumerate(times) if minute in covered]
        changes = source.enter(proof, events)
        assert changes.late == late
        assert sum(events for _, _, events in changes.found_late) == len(late)
        assert sum(changes.lateness.values()) == len(late)
        for part in proof.retracts:
            declared -= minutes(part)
        for part in proof.covers:
            covered |= minutes(part)
        for part, _ in proof.gaps:
            declared |= minutes(part)

    entries = source.spans()
    for one, other in pairwise(entries):
        assert one.interval.end <= other.interval.start
    assert {m for each in entries if each.gap is None for m in minutes(each.interval)} == covered
    gaps = {m for each in entries if each.gap is not None for m in minutes(each.interval)}
    assert gaps == declared - covered
    for entry in source.entries.values():
        if entry.gap is None:
            assert entry.events == source.count((entry.start, entry.end))
    expected = OfSource()
    for change in source.history:
        expected.take(Fact(body_of(change), 0, None))
    by_gap = {
        gap: joined(part for part, named in expected.ledger() if named == gap) for gap in GAPS
    }
    assert by_gap == {
        gap: joined((each.start, each.end) for each in source.entries.values() if each.gap == gap)
        for gap in GAPS
    }


GAPS = (None, REOPENED, "retention", "unreadable")


def body_of(change: Change) -> facts.Body:
    """Return the fact that tells of *change*."""
    part: Any = {"start": change.start, "end": change.end}
    if change.what == "covered":
        return facts.covered(via="poll", before=0, **part)
    if change.what in ("gap", "filled"):
        made = facts.gap if change.what == "gap" else facts.filled
        return made(reason=change.reason, **part)
    taken = facts.reopened if change.what == "reopened" else facts.retracted
    return taken(reason=change.reason, by=None, **part)


def minutes(span: Interval) -> set[int]:
    return set(range(int((span.start - NOON) / MINUTE), int((span.end - NOON) / MINUTE)))


def test_the_events_of_the_page_itself_count() -> None:
    source = Source()
    page = NewEvents([key(1, 5), key(2, 15), key(3, None)], [0, 0, 0], [key(4, 6)])
    changes = source.enter(Proof(covers=(span(0, 10),)), page)
    assert changes.late == [], "it was not covered before"
    (entry,) = source.spans()
    assert entry.events == 2


def test_what_a_gap_was_filled_by_and_what_is_left_of_it_is_reported() -> None:
    source = Source()
    source.enter(Proof(gaps=((span(0, 30), "retention"),)))
    changes = source.enter(Proof(covers=(span(10, 20),)))
    (filled,) = changes.filled
    assert (filled.interval, filled.reason, filled.new) == (span(10, 20), "retention", True)
    assert [(each.interval, each.gap) for each in source.spans()] == [
        (span(0, 10), "retention"),
        (span(10, 20), None),
        (span(20, 30), "retention"),
    ]


def test_a_gap_that_goes_on_is_not_a_new_one() -> None:
    source = Source()
    first = source.enter(Proof(gaps=((span(0, 10), "retention"),)))
    again = source.enter(Proof(gaps=((span(0, 20), "retention"),)))
    assert [each.new for each in (*first.declared, *again.declared)] == [True, False]
    assert again.declared[0].interval == span(10, 20)
