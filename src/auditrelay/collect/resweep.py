"""
Resweep one source: walk covered time again after each delay (``resweep``), for what came late.

A resweep goes on beside the polls and gives way to them. Only what is new by uid is forwarded, and
counted as late; what was forwarded and is not shown any more is noted as evidence.
"""

import asyncio
import time
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from auditrelay.collect.checkpoint import Checkpoint
from auditrelay.collect.reader import Purpose, Reader
from auditrelay.errors import RelayError, StateError
from auditrelay.http.rate import in_background
from auditrelay.settings import SourceSettings
from auditrelay.settings.values import format_duration
from auditrelay.sources import FileSource
from auditrelay.store import Store
from auditrelay.telemetry.metrics import Metrics
from auditrelay.telemetry.scrubber import scrub
from auditrelay.window import Interval, holes, slices

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Resweeper:
    """
    The resweeps of the source *name*, up to its *checkpoint*.

    *reader* is for this alone: the polls have their own. *clock* returns now, in UTC.
    """

    def __init__(
        self,
        name: str,
        settings: SourceSettings,
        *,
        checkpoint: Checkpoint,
        reader: Reader,
        store: Store,
        metrics: Metrics,
        clock: Callable[[], datetime],
    ) -> None:
        self.due = asyncio.Event()
        """Set after each poll: covered time may have become old enough."""
        self.reader = reader
        self._name = name
        self._settings = settings
        self._checkpoint = checkpoint
        self._store = store
        self._metrics = metrics
        self._clock = clock

    async def keep_resweeping(self) -> None:
        """Resweep whenever it may be due, until cancelled; a failure waits for the next poll."""
        in_background()
        while True:
            await self.due.wait()
            self.due.clear()
            try:
                await self.run()
            except StateError:
                raise
            except RelayError as error:
                _log.warning("second_look_failed", source=self._name, reason=scrub(str(error)))

    async def run(self) -> None:
        """
        Resweep what is due, the shortest delay first.

        Raises RelayError if it could not be read; how far each delay has come is kept.
        """
        if isinstance(self.reader.source, FileSource):
            return
        self.reader.worked_at = time.monotonic()
        try:
            await self._checkpoint.refresh()
            for delay in sorted(self._settings.resweep):
                await self._resweep(delay)
        finally:
            self.reader.worked_at = None

    async def skip_late(self, window: Interval, walked: datetime) -> None:
        """Count as swept again what in *window* was older than a delay when it was *walked*."""
        for delay in self._settings.resweep:
            until = min(window.end, walked - delay)
            if until <= window.start:
                continue
            done = await self._store.resweep_from(self._name, delay)
            if window.start <= done < until:
                await self._store.resweep_done(self._name, delay, until)

    async def _resweep(self, delay: timedelta) -> None:
        """Walk what has become older than *delay*, in few large windows; gaps are left out."""
        done = await self._store.resweep_from(self._name, delay)
        until = min(self._checkpoint.at, self._clock() - delay)
        # A resweep with every poll would double the requests; one a quarter of the delay later
        # is still soon, measured against the delay.
        if until - done < max(delay / 4, self._settings.poll_interval):
            return
        gaps = [span.interval for span in await self._store.ledger(self._name) if span.gap]
        purpose = Purpose(f"second look {format_duration(delay)}", second_look=True)
        for part in slices(Interval(done, until), self._settings.max_window):
            for window in holes(part, gaps):
                await self._walk(window, purpose)
            await self._store.resweep_done(self._name, delay, part.end)

    async def _walk(self, window: Interval, purpose: Purpose) -> None:
        tally = await self.reader.cover(window, purpose)
        if tally.new:
            self._metrics.events_late.labels(self._name).inc(tally.new)
            _log.warning(
                "late_events_found",
                source=self._name,
                count=tally.new,
                start=window.start.isoformat(),
                end=window.end.isoformat(),
            )
