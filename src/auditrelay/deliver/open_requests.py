"""The requests to one sink whose outcome is not written down yet."""

import asyncio
import time


class OpenRequests:
    """
    Counts the requests to one sink that are on the wire, or answered and not yet in the store.

    A process that stops waits for them: an answer that is lost is an event sent twice.
    """

    def __init__(self) -> None:
        self.count = 0
        self.worked_at: float | None = None
        """When a request last began or ended (monotonic); None while none is open."""
        self._one_finished = asyncio.Event()

    def started(self) -> None:
        """Count a request that is about to be sent."""
        self.count += 1
        self.worked_at = self.worked_at or time.monotonic()

    def finished(self) -> None:
        """Count a request as done: it failed, or its outcome is in the store."""
        self.count -= 1
        self.worked_at = time.monotonic() if self.count else None
        self._one_finished.set()

    def still_working(self) -> None:
        """Note progress: waiting for room on the disk is no reason to be taken for stuck."""
        if self.count:
            self.worked_at = time.monotonic()

    async def wait_until_done(self) -> None:
        """Wait until no request is open."""
        while self.count:
            self._one_finished.clear()
            await self._one_finished.wait()
