"""Seals: which events a sink is sent together, and under which name, once and for all."""

from bisect import bisect_left
from typing import NamedTuple

import msgspec

from auditrelay.store.progress import Range


class Seal(msgspec.Struct, frozen=True):
    """The events at *places* are stored as *name*; *digest* is that of their uids in order."""

    name: str
    digest: str
    places: tuple[Range, ...]
    """Sorted and disjoint."""

    @property
    def events(self) -> int:
        """How many events it is of."""
        return sum(end - start for start, end in self.places)

    @property
    def span(self) -> Range:
        """The places from its first one to its last one, though some are not of it."""
        return self.places[0][0], self.places[-1][1]

    def is_of(self, start: int, end: int) -> bool:
        """Return whether it is of a place from *start* on and before *end*."""
        number = bisect_left(self.places, (end, end)) - 1
        return number >= 0 and start < self.places[number][1]

    def shares_places(self, other: "Seal") -> bool:
        """Return whether a place is of both."""
        return any(self.is_of(start, end) for start, end in other.places)


class Seals(NamedTuple):
    """The seals of one sink, oldest first, and the name of the state's *log* of evidence."""

    log: str
    all: tuple[Seal, ...]
