"""Whose turn it is to ask a sink in trouble."""

import asyncio


class ProbeLock:
    """Whose turn it is to find out whether the sink works again; first come, first served."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._holder: asyncio.Task[object] | None = None

    @property
    def taken(self) -> bool:
        """Whether it is anybody's."""
        return self._lock.locked()

    @property
    def mine(self) -> bool:
        """Whether it is that of the task that asks."""
        return self._holder is asyncio.current_task()

    async def take(self) -> None:
        """Wait for one's turn; at once if it is one's own already."""
        if not self.mine:
            await self._lock.acquire()
            self._holder = asyncio.current_task()

    def give(self) -> None:
        """Leave it to the next, if it is one's own."""
        if self.mine:
            self._holder = None
            self._lock.release()
