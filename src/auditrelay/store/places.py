"""
Places in the spool: a log, and a position in it, as one number. Pure.

A spool consists of one log or several, each with consecutive positions from 0 on. So the places of
one log are consecutive, too, and say nothing about those of another. Both engines have one log,
number 0, where a place is its position.
"""

from typing import Final

POSITION_BITS: Final = 44
"""Room for 2^44 events in a log, 48,000 years at a million a day, and for 2^19 logs."""

_POSITION: Final = (1 << POSITION_BITS) - 1


def place(log: int, position: int) -> int:
    """Return the place of *position* in *log*."""
    return log << POSITION_BITS | position


def log_of(at: int) -> int:
    """Return the log of the place *at*."""
    return at >> POSITION_BITS


def position_of(at: int) -> int:
    """Return the position of the place *at* in its log."""
    return at & _POSITION
