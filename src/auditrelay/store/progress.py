"""A sink's progress in the spool: its position, and ranges acknowledged beyond it. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

Range = tuple[int, int]
"""A half-open range of positions, or of places in one log."""


@dataclass(frozen=True, slots=True)
class Progress:
    """
    Everything before *position* is done; so are the ranges *ahead* of it, sorted and disjoint.

    Concurrent requests finish in any order. Since the finished ranges beyond the first hole are
    remembered, a crash resends only what was in flight.
    """

    position: int
    ahead: tuple[Range, ...] = ()

    def plus(self, done: Iterable[Range]) -> "Progress":
        """Return the progress with the ranges *done* added."""
        merged: list[Range] = [(0, self.position)]
        for start, end in sorted((*self.ahead, *done)):
            last_start, last_end = merged[-1]
            if start <= last_end:
                merged[-1] = (last_start, max(last_end, end))
            else:
                merged.append((start, end))
        return Progress(merged[0][1], tuple(merged[1:]))

    def holes(self) -> list[Range]:
        """Return the ranges that are not done, up to the last one that is."""
        return self.open_ranges(self.position, self.ahead[-1][1]) if self.ahead else []

    def open_ranges(self, start: int, end: int) -> list[Range]:
        """Return the parts of [*start*, *end*) that are not done."""
        parts = []
        start = max(start, self.position)
        for done_start, done_end in self.ahead:
            if start >= end:
                break
            if done_end <= start:
                continue
            if done_start > start:
                parts.append((start, min(done_start, end)))
            start = max(start, done_end)
        if start < end:
            parts.append((start, end))
        return parts
