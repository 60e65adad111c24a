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
from auditrelay.collect.parts import WALK, PartLength
from auditrelay.collect.polls import Polls
from auditrelay.collect.reader import POLL, WindowReader
from auditrelay.collect.resweep import Resweeper
from auditrelay.collect.source_time import SourceTime
from auditrelay.errors import Refused, WalkBroken
from auditrelay.events.normalize import Normalizer
from auditrelay.settings import SourceSettings
from auditrelay.sources import Source
from auditrelay.store import REOPENED
from auditrelay.store.conditions import SourceCondition
from auditrelay.telemetry.metrics import Metrics
from auditrelay.window import Interval, holes, next_window, overdue, slices

CATCH_UP_LIMIT: Final = "catch_up_limit"
RETENTION: Final = "retention"
UNREADABLE: Final = "unreadable"

GIVEN_UP: Final = (CATCH_UP_LIMIT, RETENTION, UNREADABLE)
"""Reasons of gaps that polls and resweeps do not read again; a backfill does."""

UNREADABLE_AFTER: Final = timedelta(hours=1)
"""How long polls must have failed at an unreadable span until it is declared as a gap."""

UNREADABLE_TRIES: Final = 5
"""How many polls must have failed at the span by then."""

MAX_UNREADABLE_SPANS: Final = 20
"""
How many spans one poll, or one slice of a backfill, declares as unreadable.

If there are more, the whole source is unreadable: the poll fails, and the next one tries again,
instead of sending request after request and giving up second by second.
"""


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
        health = SourceHealth(name, settings, store=store, metrics=metrics, clock=clock)
        self._health = health
        self.condition = health.condition
        """Health of the source, as ``status`` shows it."""
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
        self._stuck_at: tuple[datetime, float, int] | None = None
        """The checkpoint at which polls fail, since when (monotonic), and how many failed."""

    def new_reader(self) -> WindowReader:
        """Return another reader of the same source, for example for a backfill."""
        return WindowReader(
            self.source,
            part_length=PartLength.of(self.settings, WALK),
            writer=self._new_writer(),
            store=self._store,
            metrics=self._metrics,
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

    def loops(self) -> Sequence[Coroutine[Any, Any, None]]:
        """Return what polls and what resweeps, each until it is cancelled."""
        return self.keep_polling(), self.resweeper.keep_resweeping()

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
            (self.settings.retention, RETENTION),
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
        unreadable = 0
        while window := self._next_window(now):
            for part in holes(window, self.checkpoint.gaps(GIVEN_UP)):
                try:
                    await self._reader.read(part, POLL)
                except WalkBroken as error:
                    if unreadable == MAX_UNREADABLE_SPANS or not await self._give_up(error):
                        raise
                    unreadable += 1
                    break
            else:
                await self.resweeper.skip(window, now)
                # The first replies of a run may have shown that our clock was ahead.
                now = min(now, self._time.known_certain)
        await self._read_reopened(now)
        if (ahead := self._time.beyond(now, self.checkpoint.at)) is not None:
            await self._reader.read(ahead, POLL)  # forwarded, and read again until it is certain

    async def _read_reopened(self, now: datetime) -> None:
        """Read the gaps that an operator has taken back; what cannot be read is declared again."""
        retention = self.settings.retention
        kept_since = None if retention is None else now - retention
        for gap in self.checkpoint.gaps((REOPENED,)):
            rest = gap
            if kept_since is not None and gap.start < kept_since:
                expired = Interval(gap.start, min(gap.end, kept_since))
                await self._reader.writer.declare(expired, RETENTION)
                if gap.end <= kept_since:
                    continue
                rest = Interval(kept_since, gap.end)
            todo = list(slices(rest, self.settings.max_window))[::-1]
            while todo:
                part = todo.pop()
                try:
                    await self._reader.read(part, POLL)
                except WalkBroken as error:
                    if error.window is None:
                        raise
                    await self._reader.writer.declare(error.window, UNREADABLE)
                    todo += reversed(list(holes(part, [error.window])))

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

    async def _give_up(self, error: WalkBroken) -> bool:
        """Declare the unreadable span of *error* as a gap, if polls have failed at it for long."""
        now = self._clock.monotonic()
        checkpoint, since, tries = self.checkpoint.at, now, 0
        if self._stuck_at is not None and self._stuck_at[0] == checkpoint:
            since, tries = self._stuck_at[1:]
        tries += 1
        self._stuck_at = (checkpoint, since, tries)
        if error.window is None or tries < UNREADABLE_TRIES:
            return False
        if now - since < UNREADABLE_AFTER.total_seconds():
            return False
        await self._reader.writer.declare(error.window, UNREADABLE)
        # An unreadable span next to it need not block the source for another hour.
        self._stuck_at = (self.checkpoint.at, since, tries)
        return True
