"""The ceiling of requests per minute of one peer, with background work behind everything else."""

import asyncio
import math
import time
from collections.abc import Callable
from contextvars import ContextVar

from auditrelay.http import retry

_background: ContextVar[bool] = ContextVar("background", default=False)


def in_background() -> None:
    """Let the current task and those that it starts give way to others at a source's pace."""
    _background.set(True)


class RateLimiter:
    """
    At most *per_minute* turns in any minute, evenly spaced after a small burst.

    That is stricter than aiolimiter, whose burst is a whole minute's worth: twice the ceiling can
    pass in one minute.

    A turn is booked before it is waited for, so those who wait keep their order. Of those in the
    background (:func:`in_background`) only one at a time has booked: whoever else comes waits for
    no more than that one.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        burst = max(1, per_minute // 10)
        # What the burst takes is missing from the rest of its minute.
        self._spacing = 60 / (per_minute - burst + 1)
        self._slack = (burst - 1) * self._spacing
        self._clock = clock
        self._next = -math.inf
        self._behind = asyncio.Lock()

    async def turn(self) -> None:
        """Wait until the next request may be sent."""
        if not _background.get():
            return await self._book()
        async with self._behind:
            return await self._book()

    async def _book(self) -> None:
        now = self._clock()
        booked = max(self._next, now)
        self._next = booked + self._spacing
        wait = booked - self._slack - now
        if wait > 0.001:  # less is the rounding of sums
            await retry.pause(wait)
