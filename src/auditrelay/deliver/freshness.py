"""
How soon the events of each source arrive at a sink: from when they occur to the acknowledgement.

Of the last hour in which any arrived; a backfill and a replay do not count, which are meant to be
late. Memory is bounded, however many events: counts by age, in steps of a tenth, between which ages
count as spread evenly. So what is shown is within a tenth of the truth. The cost is one of a batch.
"""

from bisect import bisect_left, bisect_right
from collections import Counter, deque
from collections.abc import Sequence
from datetime import UTC, datetime
from math import ceil
from typing import Final

from auditrelay.store.conditions import SourceFreshness

_BOUNDS: Final = tuple(ceil(1_000_000 * 1.1**step) for step in range(-24, 169))
"""Microseconds, from a tenth of a second to more than a hundred days."""

_SLOT: Final = 600
"""Seconds whose events are counted together, and forgotten together."""

_SLOTS: Final = 6
"""How many of these are kept: an hour, of which the last part is under way."""


class Freshness:
    """The ages at which events arrived, by source."""

    def __init__(self) -> None:
        self._of: dict[str, deque[tuple[int, Counter[int]]]] = {}
        self._last: dict[str, datetime] = {}

    def add(self, source: str, ages: Sequence[int], now: datetime) -> None:
        """Count *ages* of events that arrive *now*: microseconds, in order."""
        slots = self._of.setdefault(source, deque(maxlen=_SLOTS))
        slot = int(now.timestamp()) // _SLOT
        if not slots or slots[-1][0] != slot:
            slots.append((slot, Counter()))
        counts, place = slots[-1][1], 0
        while place < len(ages):
            bound = bisect_left(_BOUNDS, ages[place], hi=len(_BOUNDS) - 1)
            # The last step has all that is older.
            is_last = bound == len(_BOUNDS) - 1
            end = len(ages) if is_last else bisect_right(ages, _BOUNDS[bound], place)
            counts[bound] += end - place
            place = end
        self._last[source] = now

    def measured(self) -> tuple[SourceFreshness, ...]:
        """Return how old half of the events of each source were at most, and 99 % of them."""
        return tuple(
            _measured(source, slots, self._last[source])
            for source, slots in sorted(self._of.items())
        )


def _measured(
    source: str, slots: Sequence[tuple[int, Counter[int]]], last: datetime
) -> SourceFreshness:
    counts = Counter[int]()
    for slot, of_slot in slots:
        if slot > slots[-1][0] - _SLOTS:
            counts += of_slot
    return SourceFreshness(
        source,
        _below(0.5, counts),
        _below(0.99, counts),
        counts.total(),
        last.astimezone(UTC).isoformat(),
    )


def _below(share: float, counts: Counter[int]) -> float:
    """Return the seconds within which that *share* of the events arrived."""
    left = share * counts.total()
    for bound in sorted(counts):
        if left <= counts[bound]:
            start, end = (_BOUNDS[bound - 1] if bound else 0), _BOUNDS[bound]
            return round((start + (end - start) * left / counts[bound]) / 1_000_000, 1)
        left -= counts[bound]
    return 0.0
