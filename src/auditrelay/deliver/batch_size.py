"""
How large a request to a sink may be, where something in between does not say so.

A proxy that limits bodies may only reset, or let a request time out. So what fails in the same way
again and again is made smaller, and what passes lets it grow again: at once after an outage, in
which size did not matter; not for a while if something smaller had passed. Pure.
"""

import math
from typing import Final

GROWS_AFTER: Final = 600.0
"""Seconds until more is tried again than what has passed, after more than that has failed."""


class BatchSize:
    """The *most* bytes that a request of several events may have; None: as configured."""

    def __init__(self) -> None:
        self.most: int | None = None
        self._has_passed = False
        self._grows_from = -math.inf

    def failed(self, size: int, now: float) -> None:
        """Record that a request of *size* bytes fails for no other reason that is known."""
        if self.most is not None and size > self.most:
            return  # that is known
        if self._has_passed:
            self._grows_from = now + GROWS_AFTER
        self.most, self._has_passed = size // 2, False

    def passed(self, size: int, now: float, limit: int) -> None:
        """Record that one of *size* bytes has passed; *limit* is what is configured."""
        if self.most is None:
            return
        self._has_passed = True
        if now >= self._grows_from:
            self.most = max(self.most, 2 * size)
            if self.most >= limit:
                self.most, self._has_passed = None, False
