"""What one sink has in flight, and the two events that its delivery loop waits on."""

import asyncio
from collections.abc import Callable

from auditrelay.clock import Clock


class InFlight:
    """
    Count the batches that are not finished, and the requests whose verdict is not stored yet.

    A batch may take several requests, and waits between them; a question about acknowledgements is
    a request without a batch. A process that stops waits for the requests alone: an answer that is
    lost is an event sent twice.

    Both events mean "check again", not that there is something to do. *on_batch* is called after
    each batch.
    """

    def __init__(self, clock: Clock, on_batch: Callable[[], None] = lambda: None) -> None:
        self._clock = clock
        self._on_batch = on_batch
        self.batches = 0
        self.requests = 0
        self.worked_at: float | None = None
        """When a request last started or finished (monotonic); None while none is open."""
        self.spool_changed = asyncio.Event()
        """Set when there may be more to read from the spool, or the loop may be able to end."""
        self.slot_changed = asyncio.Event()
        """Set when one more batch may be sent."""
        self.finishing = False
        """Whether the loop ends once nothing waits any more."""
        self._request_finished = asyncio.Event()

    def batch_started(self) -> None:
        """Count a batch that is about to be delivered."""
        self.batches += 1

    def batch_finished(self) -> None:
        """Count a batch as done, or as given up."""
        self.batches -= 1
        self._on_batch()
        self.wake_loop()

    def request_started(self) -> None:
        """Count a request that is about to be sent."""
        self.requests += 1
        self.worked_at = self.worked_at or self._clock.monotonic()

    def request_finished(self) -> None:
        """Count a request as done: it failed, or its verdict is in the store."""
        self.requests -= 1
        self.worked_at = self._clock.monotonic() if self.requests else None
        self._request_finished.set()

    def still_working(self) -> None:
        """Record progress: a loop that waits for room on the disk is not stuck."""
        if self.requests:
            self.worked_at = self._clock.monotonic()

    async def drain(self) -> None:
        """Wait until no request is open."""
        while self.requests:
            self._request_finished.clear()
            await self._request_finished.wait()

    async def more_before(self, end: asyncio.Future[None]) -> bool:
        """Wait for more in the spool, or for *end*; return whether there may be more."""
        changed = asyncio.ensure_future(self.spool_changed.wait())
        try:
            await asyncio.wait((changed, end), return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
        return self.spool_changed.is_set()

    def wake_loop(self) -> None:
        """Let the loop check again, since something in flight has ended."""
        self.slot_changed.set()
        if self.finishing:
            self.spool_changed.set()

    def finish(self) -> None:
        """Let the loop end once nothing waits any more."""
        self.finishing = True
        self.spool_changed.set()
