"""
The progress of a walk through a list in order of time that no bound cuts off.

Such a walk ends by the records' own times. The order is documented or asked for, never trusted: as
long as it has held, one record beyond the window ends the walk; once it was broken, it takes a page
of nothing else.
"""

from collections.abc import Hashable, Sequence
from typing import Final, TypeVar

from auditrelay.errors import Refused, Retryable, WalkBroken, may_be_due_to_size
from auditrelay.window import Interval, moment

MAX_IDLE: Final = 50
"""Consecutive pages without a record of the window or an older one, after which a walk breaks."""

MAX_UNTIMED: Final = 250
"""Consecutive records without a readable time, after which the path to it must be wrong."""

MAX_PLACES: Final = 2000
"""Places of pages that are remembered; at this number every second one is discarded."""

P = TypeVar("P", bound=Hashable)


class Progress:
    """
    A walk from its first page on, newest first.

    *product* is for messages, and so is *cure*: where no record has a time, what the operator can
    do about it.
    """

    def __init__(self, product: str, cure: str) -> None:
        self.ordered = True
        """True as long as no record was newer than the one before it."""
        self._product = product
        self._cure = cure
        self._before: int | None = None
        self._oldest: int | None = None
        self._idle = self._untimed = 0
        self._moved = False

    def add(self, times: Sequence[int | None]) -> None:
        """Record the times of a page's records."""
        self._moved = False
        for at in times:
            if at is None:
                self._untimed += 1
                continue
            self._untimed = 0
            self.ordered &= self._before is None or at <= self._before
            self._before = at
            if self._oldest is None or at < self._oldest:
                self._oldest, self._moved = at, True

    def not_shown(self, window: Interval, error: Retryable | WalkBroken) -> Interval:
        """Return what the walk, which ended with *error*, has not shown of *window*."""
        if self._oldest is None or not self.ordered or not may_be_due_to_size(error):
            raise error
        end = min(moment(self._oldest + 1), window.end)  # others may be of the same time
        return Interval(window.start, end)

    def has_passed(self, start: int, times: Sequence[int | None]) -> bool:
        """Return whether, after a page of *times*, all further records are older than *start*."""
        older = [at < start for at in times if at is not None]
        return any(older) if self.ordered else bool(older) and all(older)

    def check(self, *, found: bool) -> None:
        """Raise if the walk makes no progress: no record *found*, and none that was older."""
        if self._untimed >= MAX_UNTIMED:
            raise Refused(
                f"{self._untimed} consecutive records of {self._product} have no readable time "
                f"{self._cure}"
            )
        self._idle = 0 if found or self._moved else self._idle + 1
        if self._idle >= MAX_IDLE:
            raise WalkBroken(
                f"{MAX_IDLE} consecutive pages of {self._product} show nothing of the window and "
                "lead no further back in time",
                reason="no_progress",
            )


class Places(dict[P, int]):
    """
    Time of the first record by the place of its page: a cursor, or a number.

    They are those of the pages since the last walk from the top. A walk of a deep window begins at
    the deepest one before it, instead of turning all pages from the top again.
    """

    def deepest(self, end: int) -> P | None:
        """Return the place of the deepest page known to begin at or after *end*."""
        before = [(first, place) for place, first in self.items() if first >= end]
        return min(before, key=lambda each: each[0])[1] if before else None

    def remember(self, place: P, first: int) -> None:
        """Remember that the page at *place* begins with a record of the time *first*."""
        if len(self) >= MAX_PLACES:
            kept = list(self.items())[1::2]
            self.clear()
            self.update(kept)
        self[place] = first
