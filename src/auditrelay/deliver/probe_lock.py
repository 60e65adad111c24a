"""Who probes a sink in trouble, and how often: one batch at a time, ever more slowly."""

import asyncio
from typing import Final

PROBE_FIRST: Final = 5.0
"""Seconds until a sink that refuses is tried again; doubled each time."""


PROBE_MOST: Final = 300.0
"""Most seconds between two tries of a sink that refuses."""


class ProbeLock:
    """
    The right to find out whether a sink works again; first come, first served.

    Unlike ``asyncio.Lock`` it belongs to a task, which may acquire and release it any number of
    times: only the first counts.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._owner: asyncio.Task[object] | None = None

    @property
    def locked(self) -> bool:
        """Whether any task has it."""
        return self._lock.locked()

    @property
    def mine(self) -> bool:
        """Whether the current task has it."""
        return self._owner is asyncio.current_task()

    async def acquire(self) -> None:
        """Wait until the current task has it; at once if it does already."""
        if not self.mine:
            await self._lock.acquire()
            self._owner = asyncio.current_task()

    def release(self) -> None:
        """Leave it to the next task that waits, if the current one has it."""
        if self.mine:
            self._owner = None
            self._lock.release()
