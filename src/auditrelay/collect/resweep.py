"""
Resweep one source: walk covered time again after each delay (``resweep``), to find late events.

Resweeps run next to the polls, with a lower priority. Only events with a new uid are forwarded,
and counted as late; forwarded events that were deleted at the source are recorded as evidence.
"""

import asyncio
from datetime import datetime, timedelta

import structlog

from auditrelay.clock import Clock
from auditrelay.collect.checkpoint import Checkpoint
from auditrelay.collect.health import SourceHealth
from auditrelay.collect.ledger import Ledger
from auditrelay.collect.reader import ReadMode, WindowReader
from auditrelay.collect.unreadable import Failure, report
from auditrelay.errors import PeerBug, RelayError, StateError
from auditrelay.settings import SourceSettings
from auditrelay.settings.values import format_duration
from auditrelay.supervisor import RetryDelay
from auditrelay.telemetry.metrics import Metrics
from auditrelay.telemetry.scrubber import scrub
from auditrelay.window import Interval, holes, slices

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Resweeper:
    """
    The resweeps of the source *name*, up to its *checkpoint*.

    *reader* is used by the resweeps alone; polls have their own.
    """

    def __init__(
        self,
        name: str,
        settings: SourceSettings,
        *,
        checkpoint: Checkpoint,
        reader: WindowReader,
        health: SourceHealth,
        store: Ledger,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self.due = asyncio.Event()
        """Set after each poll: covered time may be old enough for a resweep."""
        self.reader = reader
        self._name = name
        self._settings = settings
        self._checkpoint = checkpoint
        self._health = health
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._until: dict[timedelta, datetime] = {}
        """Until when the resweep of each delay is done, as the store has it."""

    async def keep_resweeping(self) -> None:
        """
        Resweep after every poll, until cancelled; a failure is retried after the next poll.

        A bug holds the source (at the next poll), and resweeps are tried ever less often.
        """
        after_bug = RetryDelay()
        while True:
            await self.due.wait()
            self.due.clear()
            try:
                await self.run()
            except StateError:
                raise
            except PeerBug as error:
                self._health.resweep_bug = error
                await self._clock.sleep(after_bug.next())
                self.due.set()
            except RelayError as error:
                _log.warning("resweep_failed", source=self._name, reason=scrub(str(error)))
            else:
                self._health.resweep_bug = None
                after_bug.reset()

    async def run(self) -> None:
        """
        Resweep what is due, the shortest delay first.

        Raises RelayError if the source could not be read; the progress of each delay is stored.
        """
        self.reader.writer.record_progress()
        try:
            if not self._checkpoint.is_read:
                await self._checkpoint.refresh()
            for delay in sorted(self._settings.resweep):
                await self._resweep(delay)
        finally:
            self.reader.writer.record_end()

    async def skip(self, window: Interval, walked: datetime) -> None:
        """Skip the resweeps of what in *window* was older than their delay when it was *walked*."""
        for delay in self._settings.resweep:
            until = min(window.end, walked - delay)
            if until <= window.start:
                continue
            if window.start <= await self._done(delay) < until:
                await self._set_done(delay, until)

    async def _resweep(self, delay: timedelta) -> None:
        """Walk covered time that is older than *delay*, in few large windows, without the gaps."""
        done = await self._done(delay)
        until = min(self._checkpoint.at, self._clock.confirmed.certain(self._name) - delay)
        # A resweep after every poll would double the requests. Waiting for another quarter of the
        # delay is little compared with the delay.
        if until - done < max(delay / 4, self._settings.poll_interval):
            return
        gaps = [span.interval for span in await self._store.ledger(self._name) if span.gap]
        mode = ReadMode(f"resweep {format_duration(delay)}", resweep=True)
        for part in slices(Interval(done, until), self._settings.max_window):
            for window in holes(part, gaps):
                await self._walk(window, mode)
            await self._set_done(delay, part.end)

    async def _done(self, delay: timedelta) -> datetime:
        if delay not in self._until:
            self._until[delay] = await self._store.resweep_from(self._name, delay)
        return self._until[delay]

    async def _set_done(self, delay: timedelta, until: datetime) -> None:
        await self._store.resweep_done(self._name, delay, until)
        self._until[delay] = until

    async def _walk(self, window: Interval, mode: ReadMode) -> None:
        """Walk all of *window*; then raise the PeerBug, if our own code failed at a part of it."""
        bugs: list[PeerBug] = []

        async def pass_over(span: Interval, error: Failure) -> None:
            # It was read once, so it is no gap.
            report(self._name, span, error)
            if isinstance(error, PeerBug):
                bugs.append(error)

        stats = await self.reader.read(window, mode, pass_over)
        if stats.new:
            self._metrics.events_late.labels(self._name).inc(stats.new)
            _log.warning(
                "late_events_found",
                source=self._name,
                count=stats.new,
                start=window.start.isoformat(),
                end=window.end.isoformat(),
            )
        if bugs:
            raise bugs[0]
