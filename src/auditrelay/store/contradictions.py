"""Contradictions between a ledger and its journal; pure."""

from collections.abc import Sequence

from auditrelay.store import Span
from auditrelay.store.journal import NO_DIGEST, Record, xor
from auditrelay.window import Interval, covered_until, holes, micros, moment


def find_contradiction(entries: Sequence[Span], journal: Sequence[Record]) -> str | None:
    """Return where the ledger *entries* and their *journal* differ, or None if they agree."""
    recorded = sorted(
        Interval(moment(each.start), moment(each.end)) for each in journal if each.what == "covered"
    )
    covered = sorted(entry.interval for entry in entries if entry.gap is None)
    if differs := _first_difference(covered, recorded):
        return f"the ledger and its journal differ in what is covered at {differs}"
    open_gaps = [part for gap in _declared_gaps(journal) for part in holes(gap, covered)]
    if differs := _first_difference(
        sorted(entry.interval for entry in entries if entry.gap is not None), open_gaps
    ):
        return f"the ledger and its journal differ in what is a gap at {differs}"
    for entry in entries:
        if entry.gap is not None:
            continue
        events, digest = 0, NO_DIGEST
        for each in journal:
            if each.what in ("covered", "late") and (
                micros(entry.interval.start) <= each.start < micros(entry.interval.end)
            ):
                events, digest = events + each.events, xor(digest, each.digest)
        if (events, digest.hex()) != (entry.events, entry.digest):
            return (
                f"the ledger counts {entry.events} events from {entry.interval.start} on, and its "
                f"journal {events}, or not the same ones"
            )
    return None


def _declared_gaps(journal: Sequence[Record]) -> list[Interval]:
    """Return what was declared as a gap and not taken back as if it had never been."""
    gaps: list[Interval] = []
    for each in journal:
        span = Interval(moment(each.start), moment(each.end))
        if each.what == "gap":
            gaps.append(span)
        elif each.what == "retracted":
            gaps = [part for gap in gaps for part in holes(gap, [span])]
    return _union(sorted(gaps))


def _union(intervals: Sequence[Interval]) -> list[Interval]:
    joined: list[Interval] = []
    for each in intervals:
        if joined and each.start <= joined[-1].end:
            end = covered_until(joined[-1].start, [joined[-1], each])
            joined[-1] = Interval(joined[-1].start, end)
        else:
            joined.append(each)
    return joined


def _first_difference(one: Sequence[Interval], other: Sequence[Interval]) -> str | None:
    left, right = _union(one), _union(other)
    for part in left:
        for hole in holes(part, right):
            return str(hole.start)
    for part in right:
        for hole in holes(part, left):
            return str(hole.start)
    return None
