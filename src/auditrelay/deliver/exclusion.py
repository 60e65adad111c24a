"""
Settle what a sink is not sent, because its ``exclude`` says so.

A page of which nothing is left is settled as it is read. Else what is excluded is settled together
with the events between which it lies: so the progress of the sink has no holes, and no event costs
a transaction of its own. Until then it is in memory only; after a crash it is read again.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from auditrelay.deliver.state_writer import StateWriter
from auditrelay.events.exclude import Exclude
from auditrelay.store import SpoolPage
from auditrelay.store.progress import Range
from auditrelay.telemetry.metrics import Metrics


class Excluded(NamedTuple):
    """Places [*start*, *end*) of events of one *source* that fit *glob*."""

    start: int
    end: int
    glob: str
    source: str


class Exclusion:
    """What the sink called *name* is not sent: all that fits one of its *globs*."""

    def __init__(
        self, name: str, globs: Sequence[str], *, state: StateWriter, metrics: Metrics
    ) -> None:
        self._name = name
        self._exclude = Exclude(globs)
        self._state = state
        self._metrics = metrics
        self._pending: list[Excluded] = []
        """In the order of their places."""
        for glob in globs:
            metrics.events_excluded_by_glob.labels(name, glob)

    async def sift(self, pages: Iterable[SpoolPage]) -> list[tuple[SpoolPage, Sequence[int]]]:
        """Return what is sent of *pages*, each with the places of its events."""
        kept: list[tuple[SpoolPage, Sequence[int]]] = []
        whole: list[Excluded] = []
        for page in pages:
            events, first = page.events, page.first
            rows, excluded = self._exclude.sift(events)
            found = [
                Excluded(first + start, first + end, glob, page.source)
                for glob, of_glob in excluded.items()
                for start, end in _runs(of_glob)
            ]
            if not rows:
                whole += found
                continue
            self._pending += found
            size = page.size * len(rows) // len(events)
            rest = SpoolPage(first, page.source, events.take(rows), size)
            kept.append((rest, [first + row for row in rows]))
        self._pending.sort()
        if whole:
            await self._state.settle([], excluded=by_glob(whole))
            self.count(whole)
        return kept

    def take_beside(self, done: Sequence[Range]) -> list[Excluded]:
        """Return, once, what is excluded between the ranges *done*, or touches them."""
        if not (done and self._pending):
            return []
        start, end = min(done)[0], max(done)[1]
        first = bisect_left(self._pending, (start,))
        while first and self._pending[first - 1].end == start:
            first -= 1
            start = self._pending[first].start
        last = first
        while last < len(self._pending) and self._pending[last].start <= end:
            end = max(end, self._pending[last].end)
            last += 1
        taken = self._pending[first:last]
        del self._pending[first:last]
        return taken

    def count(self, taken: Iterable[Excluded]) -> None:
        """Count what was *taken*, now that it is settled."""
        sources, globs = Counter[str](), Counter[str]()
        for each in taken:
            sources[each.source] += each.end - each.start
            globs[each.glob] += each.end - each.start
        for source, events in sources.items():
            self._metrics.events_excluded.labels(self._name, source).inc(events)
        for glob, events in globs.items():
            self._metrics.events_excluded_by_glob.labels(self._name, glob).inc(events)


def by_glob(excluded: Iterable[Excluded]) -> dict[str, list[Range]]:
    """Return the places *excluded*, in their order, by the glob that excludes them."""
    found: dict[str, list[Range]] = {}
    for each in sorted(excluded):
        found.setdefault(each.glob, []).append((each.start, each.end))
    return found


def _runs(rows: Sequence[int]) -> list[Range]:
    """Return *rows*, which are in order, as half-open ranges."""
    ends = [place for place, (row, after) in enumerate(pairwise(rows), 1) if after != row + 1]
    return [
        (rows[start], rows[end - 1] + 1)
        for start, end in zip([0, *ends], [*ends, len(rows)], strict=True)
    ]
