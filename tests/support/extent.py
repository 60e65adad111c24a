"""
How much is tried: in ``make test`` what differs, in ``make test-all`` also what only multiplies it.

A test that asks here asserts the same in both. It tries more cases in the second: a longer history,
more examples of a property, the product of two lists and not each member of both.
"""

import os
from collections.abc import Sequence
from typing import TypeVar

ALL = bool(os.environ.get("TEST_ALL"))
"""Whether everything is tried."""

T = TypeVar("T")


def extent(usual: T, everything: T) -> T:
    """Return *usual* in ``make test``, *everything* in ``make test-all``."""
    return everything if ALL else usual


def some_of(cases: Sequence[T], every: int, first: int = 0) -> Sequence[T]:
    """Return each *every*-th of *cases* from the *first* on; all of them in ``make test-all``."""
    return extent(cases[first::every], cases)
