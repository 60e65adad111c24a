"""How far a sink has come: a position, and what was acknowledged beyond it. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

Range = tuple[int, int]
"""A half-open range of positions."""


@dataclass(frozen=True, slots=True)
class Progress:
    """
    Everything before *position* is done; so are the ranges *ahead* of it, sorted and disjoint.

    Requests are in flight side by side and end in any order. Remembering what ended beyond the
    first hole means that a crash sends again only what really was in flight.
    """

    position: int
    ahead: tuple[Range, ...] = ()

    def plus(self, done: Iterable[Range]) -> "Progress":
        """Return the progress once the ranges *done* are done, too."""
        merged: list[Range] = [(0, self.position)]
        for start, end in sorted((*self.ahead, *done)):
            last_start, last_end = merged[-1]
            if start <= last_end:
                merged[-1] = (last_start, max(last_end, end))
            else:
                merged.append((start, end))
        return Progress(merged[0][1], tuple(merged[1:]))

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
