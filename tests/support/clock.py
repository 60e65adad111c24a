"""A clock that stands still until a test moves it, or sleeps on it."""

import asyncio
import math
import time
from datetime import datetime, timedelta

from auditrelay.clock import Clock
from auditrelay.confirmed_time import ConfirmedTime

NOON = datetime.fromisoformat("2026-01-01T12:00:00Z")
"""About when the test events happened."""


class FakeClock(Clock):
    """
    A clock that shows *now* until it is moved. Sleeping moves it, and takes no time.

    Sleepers wake in the order of their deadlines. With a finite *speed* the clock runs, so many
    times faster than the real one, and sleeping takes so much less. *waits* are the seconds that
    were slept; a loop that sleeps without end fails the test.
    """

    def __init__(self, now: datetime = NOON, speed: float = math.inf) -> None:
        super().__init__()
        self.waits: list[float] = []
        self._speed = speed
        self._began = time.monotonic()
        self._wall, self._monotonic = now, 1000.0
        self._sleepers: set[tuple[float, int]] = set()

    def now(self) -> datetime:
        return self._wall + timedelta(seconds=self._ran)

    def monotonic(self) -> float:
        return self._monotonic + self._ran

    def boottime(self) -> float:
        return self.monotonic()

    def seconds(self) -> float:
        """Return :meth:`now` as the doubles know it: seconds since 1970."""
        return self.now().timestamp()

    @property
    def _ran(self) -> float:
        """How many seconds it ran by itself."""
        return 0.0 if math.isinf(self._speed) else (time.monotonic() - self._began) * self._speed

    def restart(self) -> None:
        """Forget what peers have said, as a new process does."""
        self.confirmed = ConfirmedTime(self.now, self.monotonic)

    def set(self, now: datetime) -> None:
        """Set the time of day, as an administrator does: no time passes."""
        self._wall += now - self.now()

    def advance(self, by: timedelta | float) -> None:
        """Let so much time, or so many seconds, pass."""
        by = by if isinstance(by, timedelta) else timedelta(seconds=by)
        self._wall += by
        self._monotonic += by.total_seconds()

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        assert len(self.waits) < (5000 if math.isinf(self._speed) else 20_000), "endless waits"
        if math.isinf(self._speed):
            await self._sleep_until(self.monotonic() + seconds)
        else:
            await asyncio.sleep(seconds / self._speed)

    async def _sleep_until(self, deadline: float) -> None:
        me = deadline, len(self.waits)
        self._sleepers.add(me)
        try:
            await asyncio.sleep(0)
            while min(self._sleepers) != me:  # noqa: ASYNC110  # it lasts a few rounds of the loop
                await asyncio.sleep(0)
            if deadline > self._monotonic:
                self.advance(deadline - self._monotonic)
        finally:
            self._sleepers.remove(me)
