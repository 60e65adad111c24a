"""
A sink in parts: which sources each part has, and what their units are called. Pure.

The unit of a whole sink is ``sink NAME``, that of its part p of n ``sink NAME p/n``. Those of one
sink with different n have sources in common: they overlap, and are never held at a time
(docs/decisions/0046-sinks-in-parts.md).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from zlib import crc32


@dataclass(frozen=True, slots=True)
class Part:
    """The part *number* of the parts that a sink is divided *into*; they count from 0."""

    number: int
    into: int

    def __str__(self) -> str:
        return f"{self.number}/{self.into}"

    def has(self, source: str) -> bool:
        """Return whether the events of *source* are of this part."""
        return crc32(source.encode()) % self.into == self.number

    def share(self, total: int) -> int:
        """Return how much of *total* this part has; all parts together have all of it."""
        return total // self.into + (self.number < total % self.into)


def sink_units(name: str, parts: int) -> list[str]:
    """Return the units of the sink *name* in so many *parts*."""
    if parts == 1:
        return [f"sink {name}"]
    return [f"sink {name} {Part(number, parts)}" for number in range(parts)]


def peer_of(unit: str) -> str:
    """Return what *unit* is of, without the part: ``sink NAME``."""
    return " ".join(unit.split(" ")[:2])


def name_of(unit: str) -> str:
    """Return the name of the source or sink that *unit* is of; empty if it is of neither."""
    return peer_of(unit).partition(" ")[2]


def part_of(unit: str) -> Part | None:
    """Return which part of a sink *unit* is of; None if it is of no part."""
    number, slash, into = unit.rpartition(" ")[2].partition("/")
    return Part(int(number), int(into)) if slash else None


def in_force(served: Iterable[Iterable[str]]) -> Mapping[str, int]:
    """
    Return by sink (``sink NAME``) into how many parts it is divided now.

    *served* are the units that each replica serves which may hold any. The largest number counts.
    """
    numbers: dict[str, int] = {}
    for units in served:
        for unit in units:
            if unit.startswith("sink "):
                peer = peer_of(unit)
                numbers[peer] = max(numbers.get(peer, 1), _parts(unit))
    return numbers


def is_superseded(unit: str, numbers: Mapping[str, int]) -> bool:
    """Return whether *unit* is of a sink that is divided otherwise by now, as *numbers* say."""
    return numbers.get(peer_of(unit), _parts(unit)) != _parts(unit)


def _parts(unit: str) -> int:
    part = part_of(unit)
    return 1 if part is None else part.into
