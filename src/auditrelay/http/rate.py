"""The rate limit of one peer: requests per minute, with background work behind all the rest."""

import asyncio
import math
from typing import Self

from auditrelay.clock import Clock


class RateLimiter:
    """
    Allows at most *per_minute* requests in any minute, evenly spaced after a small burst.

    That is stricter than aiolimiter, whose burst is a whole minute's worth: twice the limit can
    pass in one minute.

    A slot is reserved before the wait for it, so requests keep their order. Requests in the
    background reserve one slot at a time between them, so any other one waits for at most one of
    theirs.
    """

    def __init__(self, per_minute: int, clock: Clock) -> None:
        burst = max(1, per_minute // 10)
        # The burst is subtracted from the rest of its minute.
        self._spacing = 60 / (per_minute - burst + 1)
        self._slack = (burst - 1) * self._spacing
        self._clock = clock
        self._next = -math.inf
        self._background_turn = asyncio.Lock()

    @classmethod
    def of(cls, per_minute: int | None, clock: Clock) -> Self | None:
        """Return a limiter, or None if any number of requests is allowed."""
        return None if per_minute is None else cls(per_minute, clock)

    async def acquire(self, *, background: bool) -> None:
        """Wait until the next request may be sent; one in the *background* gives way to others."""
        if not background:
            return await self._reserve()
        async with self._background_turn:
            return await self._reserve()

    async def _reserve(self) -> None:
        now = self._clock.monotonic()
        slot = max(self._next, now)
        self._next = slot + self._spacing
        wait = slot - self._slack - now
        if wait > 0.001:  # less is the rounding of sums
            await self._clock.sleep(wait)
