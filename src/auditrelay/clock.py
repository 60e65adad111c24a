"""The one way to ask for the time and to wait; tests pass a clock that they move."""

import asyncio
import time
from datetime import UTC, datetime

from auditrelay.confirmed_time import ConfirmedTime


class Clock:
    """
    The clock of this machine. The command line builds one, for all that need the time.

    What bounds a wait for the network, a process or a disk is not asked for here (such as
    ``asyncio.timeout``): those take the time that they take, whatever a test's clock shows.
    """

    def __init__(self) -> None:
        self.confirmed = ConfirmedTime(self.now, self.monotonic)
        """What peers say about the time, for what is written for good."""

    def now(self) -> datetime:
        """Return the time of day, in UTC. It may be set back."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds that only ever grow, to compare with each other."""
        return time.monotonic()

    def boottime(self) -> float:
        """Return seconds that also grow while this machine is suspended, for what may expire."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    async def sleep(self, seconds: float) -> None:
        """Wait for *seconds*."""
        await asyncio.sleep(seconds)
