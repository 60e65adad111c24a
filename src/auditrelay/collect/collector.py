"""
Poll one source: catch up with its settled time, window by window.

A poll derives the next window from the ledger and reads it. Events are deduplicated by uid, so any
window may be read again as often as necessary.
"""

from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, Self

from auditrelay.clock import Clock
from auditrelay.collect.checkpoint import Checkpoint
from auditrelay.collect.health import SourceHealth
from auditrelay.collect.ledger import SourceStore
from auditrelay.collect.page_writer import PageWriter
from auditrelay.collect.parts import WALK, Budget, PartLength
from auditrelay.collect.polls import Polls
from auditrelay.collect.reader import POLL, WindowReader
from auditrelay.collect.resweep import Resweeper
from auditrelay.collect.source_time import SourceTime
from auditrelay.collect.unreadable import Failure, GiveUp, Probe, Unreadable, report
from auditrelay.errors import PeerBug, Refused
from auditrelay.events.normalize import Normalizer
from auditrelay.settings import SourceSettings
from auditrelay.sources import RETENTION, UNREADABLE, Source
from auditrelay.store import REOPENED
from auditrelay.store.conditions import SourceCondition
from auditrelay.telemetry.metrics import Metrics
from auditrelay.window import Interval, holes, next_window, overdue, slices

CATCH_UP_LIMIT: Final = "catch_up_limit"

GIVEN_UP: Final = (CATCH_UP_LIMIT, RETENTION, UNREADABLE)
"""Reasons of gaps that polls and resweeps do not read again; a backfill does."""


class Collector:
    """
    Polls one source that is asked for windows, with its checkpoint, its health and its resweeps.

    *announce* is called after new events were spooled. *patience* is how long a poll waits for room
    in the spool until it fails; None: without limit.
    """

    def __init__(
        self,
        name: str,
        settings: SourceSettings,
        source: Source,
        *,
        normalizer: Normalizer,
        store: SourceStore,
        metrics: Metrics,
        clock: Clock,
        announce: Callable[[], None],
        patience: timedelta | None = None,
    ) -> None:
        self.name = name
        self.settings = settings
        self.source = source
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self.probe = Probe(name, settings, source, clock)
        """Whether the source answers."""
        health = SourceHealth(name, settings, store=store, metrics=metrics, clock=clock)
        self._health = health
        self.condition = health.condition
        """Health of the source, as ``status`` shows it."""
        self._unreadable = Unreadable(name, self.condition, clock=clock)
        self.checkpoint = Checkpoint(
            name, lookback=settings.initial_lookback, store=store, metrics=metrics, clock=clock
        )
        self._new_writer = partial(
            PageWriter,
            name,
            settings,
            normalizer=normalizer,
            scope=source.scope,
            store=store,
            metrics=metrics,
            clock=clock,
            announce=announce,
            patience=patience,
            checkpoint=self.checkpoint,
            health=health,
        )
        self.resweeper = Resweeper(
            name,
            settings,
            checkpoint=self.checkpoint,
            reader=self.new_reader(),
            health=health,
            store=store,
            metrics=metrics,
            clock=clock,
        )
        self._reader = self.new_reader()
        self._time = SourceTime(name, settings, source, clock)
        self.polls = Polls(
            name,
            settings.poll_interval,
            writer=self._reader.writer,
            checkpoint=self.checkpoint,
            health=health,
            clock=clock,
        )

    def new_reader(self, budget: Budget = WALK) -> WindowReader:
        """Return another reader of the same source, for example for a backfill, with a *budget*."""
        return WindowReader(
            self.source,
            part_length=PartLength.of(self.settings, budget),
            probe=self.probe,
            writer=self._new_writer(),
            store=self._store,
            metrics=self._metrics,
            axis=self.settings.axis,
        )

    def for_range(self, instead: str) -> Self:  # noqa: ARG002  # for a source that reads files
        """Return this collector: its source can be asked for a range."""
        return self

    def restore(self, saved: SourceCondition) -> None:
        """Restore what is still true of *saved*, the condition that the last process left."""
        self._health.restore(saved)

    @property
    def worked_once(self) -> bool:
        """Whether a poll has succeeded since the start."""
        return self.polls.worked_once

    @property
    def worked_at(self) -> float | None:
        """
        When the poll or resweep that is stuck the longest last made progress (monotonic).

        None while neither runs.
        """
        times = (self._reader.writer.worked_at, self.resweeper.reader.writer.worked_at)
        return min((at for at in times if at is not None), default=None)

    def measure(self) -> None:
        """Update the lag metric."""
        self.checkpoint.measure()

    def loops(self) -> Sequence[Callable[[], Coroutine[Any, Any, None]]]:
        """Return what polls and what resweeps, each until it is cancelled."""
        return self.keep_polling, self.resweeper.keep_resweeping

    async def keep_polling(self) -> None:
        """Poll whenever a poll is due, until cancelled; the next poll retries what failed."""
        await self.polls.keep_polling(self._poll_before_resweeps)

    async def poll(self) -> None:
        """
        Read the source to its settled end, then resweep what is due.

        Raises RelayError if the source or the store fails; what was read until then stays in the
        store, and only time that was read to its end counts as covered.
        """
        await self._poll()
        await self.resweeper.run()

    async def close(self) -> None:
        """Release connections."""
        await self.source.close()

    async def _poll_before_resweeps(self) -> None:
        try:
            await self._poll()
        finally:
            self.resweeper.due.set()

    async def _poll(self) -> None:
        async with self.polls.track():
            await self.checkpoint.refresh()
            try:
                await self.certain_time()
                await self._declare_overdue()
                await self._catch_up()
            except Refused:
                # The reply may have shown that our clock is ahead, and with it a start just stored.
                await self.checkpoint.refresh()
                raise

    async def certain_time(self) -> datetime:
        """
        Return the latest moment that is certainly past; ask the source if that is in doubt.

        Raises what the source raises if it was asked.
        """
        known = self.checkpoint.at if self.checkpoint.is_read else None
        return await self._time.certain(known)

    async def _declare_overdue(self) -> None:
        """Declare time beyond the catch-up limit or the vendor's retention as a gap."""
        for limit, reason in (
            (self.settings.catch_up_limit, CATCH_UP_LIMIT),
            (self.settings.reach, RETENTION),
        ):
            now = self._time.known_certain
            too_old = overdue(self.checkpoint.at, now, catch_up_limit=limit)
            if too_old is not None:
                await self._reader.writer.declare(too_old, reason)

    async def _catch_up(self) -> None:
        # One *now* for the whole poll: more time settles while a window is walked, and a poll that
        # chased it would never end.
        now = self._time.known_certain
        self._time.require_past(self.checkpoint.at)
        while window := self._next_window(now):
            passed_over = [*self.checkpoint.gaps(GIVEN_UP), *self._unreadable.intervals]
            for part in holes(window, passed_over):
                await self._reader.read(part, POLL, self._pass_over)
            await self.resweeper.skip(window, now)
            # The first replies of a run may have shown that our clock was ahead.
            now = min(now, self._time.known_certain)
        await self._retry_unreadable()
        await self._read_reopened(now)
        if (ahead := self._time.beyond(now, self.checkpoint.at)) is not None:
            # Forwarded, and read again until it is certain.
            await self._reader.read(ahead, POLL, self._leave)
        if self._unreadable:
            raise self._unreadable.error()

    async def _pass_over(self, span: Interval, error: Failure) -> None:
        self._unreadable.add(span, error)
        if isinstance(error, PeerBug):
            self._health.record_bug(error)

    async def _leave(self, span: Interval, error: Failure) -> None:
        report(self.name, span, error)

    async def _declare(self, span: Interval, error: Failure) -> None:
        report(self.name, span, error)
        await self._reader.writer.declare(span, UNREADABLE)

    async def _retry_unreadable(self) -> None:
        """Read again what could not be read; declare as a gap what has failed for long enough."""

        async def read(span: Interval, give_up: GiveUp) -> None:
            await self._reader.read(span, POLL, give_up)

        self._unreadable.keep(self.checkpoint.unread)
        await self._unreadable.retry(read, self.probe.answers)
        for span in self._unreadable.given_up():
            await self._reader.writer.declare(span, UNREADABLE)
        self._unreadable.keep(self.checkpoint.unread)

    async def _read_reopened(self, now: datetime) -> None:
        """Read the gaps that an operator has taken back; what cannot be read is declared again."""
        reach = self.settings.reach
        kept_since = None if reach is None else now - reach
        for gap in self.checkpoint.gaps((REOPENED,)):
            rest = gap
            if kept_since is not None and gap.start < kept_since:
                expired = Interval(gap.start, min(gap.end, kept_since))
                await self._reader.writer.declare(expired, RETENTION)
                if gap.end <= kept_since:
                    continue
                rest = Interval(kept_since, gap.end)
            for part in slices(rest, self.settings.max_window):
                await self._reader.read(part, POLL, self._declare)

    def _next_window(self, now: datetime) -> Interval | None:
        window = next_window(
            self.checkpoint.reached(self._unreadable.intervals),
            now,
            settle=self.settings.settle,
            overlap=self.settings.overlap,
            max_window=self.settings.max_window,
        )
        if window is None or window.start >= self.checkpoint.start:
            return window
        return Interval(self.checkpoint.start, window.end)
