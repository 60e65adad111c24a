"""
Poll one source: catch up with its settled time, window by window, and read files put before it.

A poll takes the next window off the ledger and has it read. Only what is new by uid is forwarded,
so anything may be read as often as it takes.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Final

import structlog

from auditrelay.collect.checkpoint import Checkpoint
from auditrelay.collect.file_drop import FileReader
from auditrelay.collect.health import SourceHealth
from auditrelay.collect.reader import POLL, Reader
from auditrelay.collect.resweep import Resweeper
from auditrelay.errors import Refused, RelayError, StateError, WalkBroken
from auditrelay.events.normalize import Normalizer
from auditrelay.settings import SourceSettings
from auditrelay.sources import FileSource, Source
from auditrelay.store import Store
from auditrelay.telemetry.metrics import Metrics
from auditrelay.window import Interval, holes, next_window, overdue

CATCH_UP_LIMIT: Final = "catch_up_limit"
RETENTION: Final = "retention"
UNREADABLE: Final = "unreadable"

GIVEN_UP: Final = (CATCH_UP_LIMIT, RETENTION, UNREADABLE)
"""The reasons of gaps that are left alone until a backfill is asked for."""

UNREADABLE_AFTER: Final = timedelta(hours=1)
"""How long a span that cannot be read holds a source up before it is declared as a gap."""

UNREADABLE_TRIES: Final = 5
"""How many polls must have failed at it by then."""

SET_BACK: Final = timedelta(minutes=5)
"""How far the clock may lie behind what was read until it must have been set back."""

MOST_UNREADABLE: Final = 20
"""
How many spans are declared in one go: where more cannot be read, it is the whole source.

Then it is asked again with the next poll, and neither hammered nor given up second by second.
"""

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Collector:
    """
    The polls of one source; its resweeps, health and checkpoint are collaborators of their own.

    *clock* returns now, in UTC. *announce* is called when new events lie in the spool. *patience*
    is how long a poll waits for room in the spool before it is given up; None: for ever.
    """

    def __init__(
        self,
        name: str,
        settings: SourceSettings,
        source: Source | FileSource,
        *,
        normalizer: Normalizer,
        store: Store,
        metrics: Metrics,
        clock: Callable[[], datetime],
        announce: Callable[[], None],
        patience: timedelta | None = None,
    ) -> None:
        self.name = name
        self.settings = settings
        self.source = source
        self.due = asyncio.Event()
        """Set when a poll is due."""
        self.rested_at = time.monotonic()
        """When the last poll ended, or when there was none yet, the start (monotonic)."""
        self.worked_once = False
        """Whether a poll has succeeded since the start."""
        self._normalizer = normalizer
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._announce = announce
        self._patience = patience
        self._health = SourceHealth(name, settings, store=store, metrics=metrics, clock=clock)
        self.condition = self._health.condition
        """How the source fares, as ``status`` shows it."""
        self.checkpoint = Checkpoint(
            name,
            lookback=settings.initial_lookback,
            store=store,
            metrics=metrics,
            clock=clock,
        )
        self.resweeper = Resweeper(
            name,
            settings,
            checkpoint=self.checkpoint,
            reader=self.new_reader(),
            store=store,
            metrics=metrics,
            clock=clock,
        )
        self._reader = self.new_reader()
        self._files: FileReader | None = None
        if isinstance(source, FileSource):
            self._files = FileReader(
                name,
                source,
                reader=self._reader,
                health=self._health,
                store=store,
                metrics=metrics,
                clock=clock,
            )
        self._stuck_at: tuple[datetime, datetime, int] | None = None
        """The checkpoint that cannot be passed, since when, and how many polls failed at it."""

    def new_reader(self) -> Reader:
        """Return another reader of the same source, such as a backfill needs."""
        return Reader(
            self.name,
            self.settings,
            self.source,
            normalizer=self._normalizer,
            store=self._store,
            metrics=self._metrics,
            clock=self._clock,
            announce=self._announce,
            patience=self._patience,
            health=self._health,
        )

    def recall(self, condition: Mapping[str, object]) -> None:
        """Take over from *condition*, as the last process saved it, what is still true."""
        self._health.recall(condition)

    @property
    def worked_at(self) -> float | None:
        """When that of its loops which is stuck the longest last made progress (monotonic)."""
        moments = (self._reader.worked_at, self.resweeper.reader.worked_at)
        return min((at for at in moments if at is not None), default=None)

    async def keep_polling(self) -> None:
        """Poll whenever it is due, until cancelled; what goes wrong waits for the next poll."""
        # Who says when goes by the clock on the wall, which may be set back; this goes by another.
        longest = 2 * self.settings.poll_interval.total_seconds()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(longest):
                    await self.due.wait()
            self.due.clear()
            try:
                await self._poll()
            except StateError:
                raise
            except RelayError as error:
                _log.debug("poll_ended_early", source=self.name, reason=type(error).__name__)
            self.resweeper.due.set()

    async def poll(self) -> None:
        """
        Read the source to its settled end, then resweep what is due.

        Raises RelayError if it could not; what was read until then is kept, and nothing that was
        not read is claimed.
        """
        await self._poll()
        await self.resweeper.run()

    async def _poll(self) -> None:
        self._reader.worked_at = time.monotonic()
        try:
            with self._health.track():
                await self.checkpoint.refresh()
                if self._files is not None:
                    await self._files.read()
                else:
                    await self._declare_overdue()
                    await self._catch_up()
            self.worked_once = True
            self._health.check_silence(self.checkpoint.start)
        finally:
            self._reader.worked_at = None
            self.rested_at = time.monotonic()
            await self._health.save()

    async def _declare_overdue(self) -> None:
        """Declare as a gap what is too old to be read, by our limit or the vendor's retention."""
        for limit, reason in (
            (self.settings.catch_up_limit, CATCH_UP_LIMIT),
            (self.settings.retention, RETENTION),
        ):
            late = overdue(self.checkpoint.at, self._clock(), catch_up_limit=limit)
            if late is not None:
                await self._reader.declare(late, reason)
                await self.checkpoint.refresh()

    async def _catch_up(self) -> None:
        # One now for the whole poll: while a window is walked more time settles, and a poll that
        # went after it would never end.
        now = self._clock()
        if self.checkpoint.at - now > SET_BACK:
            raise Refused(
                f"the clock of this machine says {now.isoformat(timespec='seconds')}, and time up "
                f"to {self.checkpoint.at.isoformat(timespec='seconds')} has been read already: set "
                "it right; until then nothing new can be read"
            )
        unreadable = 0
        while window := self._next_window(now):
            given_up = [
                span.interval
                for span in await self._store.ledger(self.name)
                if span.gap in GIVEN_UP
            ]
            for part in holes(window, given_up):
                try:
                    await self._reader.cover(part, POLL)
                except WalkBroken as error:
                    if unreadable == MOST_UNREADABLE or not await self._give_up(error, now):
                        raise
                    unreadable += 1
                    break
            else:
                await self.resweeper.skip_late(window, now)
            await self.checkpoint.refresh()

    def _next_window(self, now: datetime) -> Interval | None:
        window = next_window(
            self.checkpoint.at,
            now,
            settle=self.settings.settle,
            overlap=self.settings.overlap,
            max_window=self.settings.max_window,
        )
        if window is None or window.start >= self.checkpoint.start:
            return window
        return Interval(self.checkpoint.start, window.end)

    async def _give_up(self, error: WalkBroken, now: datetime) -> bool:
        """Declare what cannot be read as a gap, if it has held the source up for too long."""
        checkpoint, since, tries = self.checkpoint.at, now, 0
        if self._stuck_at is not None and self._stuck_at[0] == checkpoint:
            since, tries = self._stuck_at[1:]
        tries += 1
        self._stuck_at = (checkpoint, since, tries)
        if error.window is None or tries < UNREADABLE_TRIES or now - since < UNREADABLE_AFTER:
            return False
        await self._reader.declare(error.window, UNREADABLE)
        await self.checkpoint.refresh()
        # What lies beside it and cannot be read either need not wait for another hour.
        self._stuck_at = (self.checkpoint.at, since, tries)
        return True
