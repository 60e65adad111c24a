"""When one source is polled, and what became of the last poll: the same for windows and files."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta

import structlog

from auditrelay.clock import Clock
from auditrelay.collect.checkpoint import Checkpoint
from auditrelay.collect.health import SourceHealth
from auditrelay.collect.page_writer import PageWriter
from auditrelay.errors import PeerBug, RelayError, StateError
from auditrelay.supervisor import RetryDelay

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Polls:
    """The polls of the source *name*, every *interval*, which store pages through *writer*."""

    def __init__(
        self,
        name: str,
        interval: timedelta,
        *,
        writer: PageWriter,
        checkpoint: Checkpoint,
        health: SourceHealth,
        clock: Clock,
    ) -> None:
        self.due = asyncio.Event()
        """Set when a poll is due."""
        self.rested_at = clock.monotonic()
        """
        When the last poll ended, or the start if there was none yet (monotonic).

        In the future while a bug holds the source: then it is polled again.
        """
        self.worked_once = False
        """Whether a poll has succeeded since the start."""
        self._name = name
        self._interval = interval
        self._writer = writer
        self._checkpoint = checkpoint
        self._health = health
        self._clock = clock

    async def keep_polling(self, poll: Callable[[], Awaitable[None]]) -> None:
        """Call *poll* whenever one is due, until cancelled; the next poll retries what failed."""
        # The scheduler that sets *due* uses the wall clock, which may be set back. This time-out
        # is monotonic.
        max_wait = 2 * self._interval.total_seconds()
        after_bug = RetryDelay()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max_wait):
                    await self.due.wait()
            self.due.clear()
            try:
                await poll()
            except StateError:
                raise
            except PeerBug:
                seconds = after_bug.next()
                self.rested_at += seconds
                await self._clock.sleep(seconds)
                self.due.set()
            except RelayError as error:
                _log.debug("poll_ended_early", source=self._name, reason=type(error).__name__)
            else:
                after_bug.reset()

    @contextlib.asynccontextmanager
    async def track(self) -> AsyncIterator[None]:
        """
        Record the poll in this block: its progress, its outcome, and the health after it.

        A poll that is cancelled has no outcome. Nor does it wait for a store that may be away.
        """
        self._writer.record_progress()
        cancelled = False
        try:
            with self._health.track():
                yield
            self.worked_once = True
            self._health.check_silence(self._checkpoint.start)
        except asyncio.CancelledError:
            cancelled = True
            raise
        finally:
            self._writer.record_end()
            self.rested_at = self._clock.monotonic()
            if not cancelled:
                await self._health.save()
