"""
A list that reaches beyond the window: what of it is shown, and where it need not be read further.

The vendor's filter is coarser than the window (whole days), or has no upper bound.
"""

from collections.abc import Sequence
from typing import Final

from auditrelay.descriptions.model import Order
from auditrelay.errors import WalkBroken
from auditrelay.window import Interval, micros

MAX_PASSED: Final = 5000
"""Pages in a row that show nothing of the window, after which it is read in smaller parts."""


class Sieve:
    """
    Passes the records of *window*; of a list in an *order* it knows the end.

    *filters*: what lies outside of the window is passed over. *at_once*: one record beyond the
    window ends the list, for as long as the order has held; else it takes a page of nothing else.
    """

    def __init__(self, window: Interval, order: Order, *, filters: bool, at_once: bool) -> None:
        self._start, self._end = micros(window.start), micros(window.end)
        self._order = order
        self._filters = filters
        self._at_once = at_once
        self._ordered = True
        self._before: int | None = None
        self._passed = 0

    def sift(
        self, records: Sequence[bytes], times: Sequence[int | None]
    ) -> tuple[list[bytes], bool]:
        """Return what is shown of a page, and whether all that follows is beyond the window."""
        shown = list(records)
        if self._filters:
            shown = [
                record
                for record, at in zip(records, times, strict=True)
                if at is None or self._start <= at < self._end
            ]
        known = [at for at in times if at is not None]
        over = self._is_over(known)
        self._passed = 0 if shown else self._passed + 1
        if self._passed > MAX_PASSED and not over:
            raise WalkBroken(
                f"{MAX_PASSED:,} pages in a row show nothing of the window", reason="over_budget"
            )
        return shown, over

    def _is_over(self, times: Sequence[int]) -> bool:
        if self._order == "none" or not times:
            return False
        newest_first = self._order == "newest_first"
        beyond = [at < self._start if newest_first else at >= self._end for at in times]
        for at in times:
            if self._before is not None:
                self._ordered &= at <= self._before if newest_first else at >= self._before
            self._before = at
        return any(beyond) if self._at_once and self._ordered else all(beyond)
