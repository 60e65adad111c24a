"""
Read one source: windows off the ledger, walks over them, events into the store.

A poll takes the next window off the ledger, walks it, and enters it into the ledger together with
its last page. A second look walks what is covered already, for what came late. Both are the same
walk; only what is new by uid is forwarded, so a walk may be repeated as often as it takes.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar

import msgspec
import structlog

from auditrelay.errors import Refused, RelayError, StateError, StoreFull, WalkBroken
from auditrelay.events import AuditEvent
from auditrelay.events.marks import UNKNOWN_ACTION
from auditrelay.events.normalize import Normalizer
from auditrelay.events.notice import gap_event
from auditrelay.http import pause
from auditrelay.settings import SourceSettings
from auditrelay.sources import Source
from auditrelay.store import Store
from auditrelay.telemetry import Metrics, scrub
from auditrelay.walk import walk
from auditrelay.window import (
    Interval,
    covered_until,
    halves,
    holes,
    micros,
    moment,
    next_window,
    overdue,
)

T = TypeVar("T")

ROOM_INTERVAL: Final = 1.0
"""Seconds between two looks whether there is room again."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(slots=True)
class SourceCondition:
    """How a source fares, as ``status`` shows it; times are ISO 8601."""

    up: bool = False
    held: bool = False
    last_poll_at: str | None = None
    last_event_at: str | None = None
    last_error: str | None = None
    silent: bool = False
    """Whether it has shown nothing new for longer than ``max_silence``."""
    unknown_actions: int = 0
    """New events of a type that stands in no table, since the start."""


@dataclass(slots=True)
class _Tally:
    """What one window has shown, over all its walks."""

    pages: int = 0
    events: int = 0
    new: int = 0


class Collector:
    """
    Everything that reads one source.

    *clock* returns now, in UTC. *announce* is called when new events lie in the spool. *patience*
    is how long a poll waits for room in the spool before it is given up; None: for ever.
    """

    def __init__(
        self,
        name: str,
        settings: SourceSettings,
        source: Source,
        *,
        normalizer: Normalizer,
        store: Store,
        metrics: Metrics,
        clock: Callable[[], datetime],
        announce: Callable[[], None],
        patience: timedelta | None = None,
    ) -> None:
        self.name = name
        self.due = asyncio.Event()
        """Set when a poll is due."""
        self.condition = SourceCondition()
        self.worked_at: float | None = None
        """When the poll that is under way last made progress (monotonic); None between polls."""
        self.rested_at = time.monotonic()
        """When the last poll ended, or when there was none yet, the start (monotonic)."""
        self.worked_once = False
        """Whether a poll has succeeded since the start."""
        self._checkpoint: datetime | None = None
        self._settings = settings
        self._source = source
        self._normalizer = normalizer
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._announce = announce
        self._patience = math.inf if patience is None else patience.total_seconds()

    async def keep_polling(self) -> None:
        """Poll whenever it is due, until cancelled; what goes wrong waits for the next poll."""
        while True:
            await self.due.wait()
            self.due.clear()
            try:
                await self.poll()
            except StateError:
                raise
            except RelayError as error:
                _log.debug("poll_ended_early", source=self.name, reason=type(error).__name__)

    async def poll(self) -> None:
        """
        Read the source to its settled end, then take the second looks that are due.

        Raises RelayError if it could not; what was read until then is kept, and nothing that was
        not read is claimed.
        """
        self.worked_at = time.monotonic()
        try:
            with self._faring():
                started = await self.start()
                await self._declare_overdue()
                # One now for the whole poll: while a window is walked more time settles, and a
                # poll that went after it would never end.
                now = self._clock()
                while window := self._next_window(started, now):
                    await self._cover(window)
                    await self._pass_over(window, now)
                    await self.start()
                await self._look_again()
            self._listen(started)
        finally:
            self.worked_at = None
            self.rested_at = time.monotonic()
            await self._note()

    def recall(self, condition: Mapping[str, object]) -> None:
        """Take over from *condition*, as the last process left it, what is still true."""
        last_event_at = condition.get("last_event_at")
        if isinstance(last_event_at, str):
            self.condition.last_event_at = last_event_at

    async def start(self) -> datetime:
        """
        Return where this source starts, and read its checkpoint off the ledger.

        The first time, the start is stored before any request is made.
        """
        first = self._clock() - self._settings.initial_lookback
        started = await self._store.start_source(self.name, first)
        ledger = await self._store.ledger(self.name)
        self._checkpoint = covered_until(started, (span.interval for span in ledger))
        self.measure()
        return started

    def measure(self) -> None:
        """Bring the lag up to date."""
        if self._checkpoint is not None:
            lag = (self._clock() - self._checkpoint).total_seconds()
            self._metrics.source_lag_seconds.labels(self.name).set(lag)

    @property
    def checkpoint(self) -> datetime:
        """The end of the contiguous covered or declared prefix; known once started."""
        assert self._checkpoint is not None  # noqa: S101  # start() comes first
        return self._checkpoint

    def _next_window(self, started: datetime, now: datetime) -> Interval | None:
        window = next_window(
            self.checkpoint,
            now,
            settle=self._settings.settle,
            overlap=self._settings.overlap,
            max_window=self._settings.max_window,
        )
        if window is None or window.start >= started:
            return window
        return Interval(started, window.end)

    async def _declare_overdue(self) -> None:
        limit = self._settings.catch_up_limit
        late = overdue(self.checkpoint, self._clock(), catch_up_limit=limit)
        if late is None:
            return
        reason = "catch_up_limit"
        notice = gap_event(
            source=self.name,
            vendor=self._settings.type,
            scope=self._source.scope,
            start=late.start,
            end=late.end,
            reason=reason,
            now=self._clock(),
            tags=self._settings.tags,
        )
        for gap in await self._patiently(
            lambda: self._store.declare_gap(self.name, late, reason, notice)
        ):
            self._metrics.gap_seconds.labels(self.name, reason).inc(gap.length.total_seconds())
            _log.error(
                "gap_declared",
                source=self.name,
                start=gap.start.isoformat(),
                end=gap.end.isoformat(),
                reason=reason,
            )
            self._announce()
        await self.start()

    async def _pass_over(self, window: Interval, walked: datetime) -> None:
        """Count as looked at again what was so old when it was *walked* that it was late anyway."""
        for delay in self._settings.resweep:
            reach = min(window.end, walked - delay)
            if reach <= window.start:
                continue
            done = await self._store.resweep_from(self.name, delay)
            if window.start <= done < reach:
                await self._store.resweep_done(self.name, delay, reach)

    async def _look_again(self) -> None:
        """Walk what was covered so long ago that a second look is due, in few large windows."""
        for delay in sorted(self._settings.resweep):
            done = await self._store.resweep_from(self.name, delay)
            until = min(self.checkpoint, self._clock() - delay)
            # A look with every poll would double the requests; one a quarter of the delay later
            # is still soon, measured against the delay.
            if until - done < max(delay / 4, self._settings.poll_interval):
                continue
            gaps = [span.interval for span in await self._store.ledger(self.name) if span.gap]
            while done < until:
                step = min(until, done + self._settings.max_window)
                for window in holes(Interval(done, step), gaps):
                    await self._look(window)
                await self._store.resweep_done(self.name, delay, step)
                done = step

    async def _look(self, window: Interval) -> None:
        tally = await self._cover(window, second_look=True)
        if tally.new:
            self._metrics.events_late.labels(self.name).inc(tally.new)
            _log.warning(
                "late_events_found",
                source=self.name,
                count=tally.new,
                start=window.start.isoformat(),
                end=window.end.isoformat(),
            )

    async def _cover(self, window: Interval, *, second_look: bool = False) -> _Tally:
        """Walk *window*, in halves of halves if need be, and enter each part into the ledger."""
        tally = _Tally()
        parts = [window]
        while parts:
            part = parts.pop()
            smaller = halves(part)
            try:
                await self._walk(part, tally, second_look=second_look, bounded=smaller is not None)
            except WalkBroken as error:
                if smaller is None:
                    raise
                _log.warning(
                    "window_halved",
                    source=self.name,
                    start=part.start.isoformat(),
                    end=part.end.isoformat(),
                    reason=error.reason,
                )
                parts += reversed(smaller)
        _log.info(
            "window_looked_at_again" if second_look else "window_collected",
            source=self.name,
            start=window.start.isoformat(),
            end=window.end.isoformat(),
            pages=tally.pages,
            events=tally.events,
            new=tally.new,
        )
        return tally

    async def _walk(
        self, window: Interval, tally: _Tally, *, second_look: bool, bounded: bool
    ) -> None:
        async with contextlib.aclosing(
            walk(self._source, window, self._normalize, bounded=bounded)
        ) as pages:
            async for events, complete in pages:
                if second_look:
                    events = [_late(event) for event in events]  # noqa: PLW2901  # the same, marked
                # The interval goes in with the last page, in one transaction: coverage is claimed
                # only together with everything that proves it.
                covers = window if complete and not second_look else None
                new = await self._add(events, covers)
                tally.pages += 1
                tally.events += len(events)
                tally.new += len(new)
                if new:
                    self._count(new)
                    self._announce()
                self.worked_at = time.monotonic()

    def _listen(self, started: datetime) -> None:
        """Notice when a source has shown nothing new for too long: silence is news, too."""
        if self._settings.max_silence is None:
            return
        last = self.condition.last_event_at
        since = started if last is None else datetime.fromisoformat(last)
        silent = self._clock() - since > self._settings.max_silence
        if silent and not self.condition.silent:
            _log.warning("source_silent", source=self.name, since=since.isoformat())
        self.condition.silent = silent

    def _normalize(self, records: list[bytes]) -> list[AuditEvent]:
        return self._normalizer(records, micros(self._clock()))

    async def _add(self, events: list[AuditEvent], covers: Interval | None) -> list[AuditEvent]:
        added = await self._patiently(lambda: self._store.add(self.name, events, covers=covers))
        self._metrics.events_collected.labels(self.name).inc(len(added.new))
        self._metrics.events_duplicate.labels(self.name).inc(added.known)
        return [events[index] for index in added.new]

    def _count(self, new: Sequence[AuditEvent]) -> None:
        newest = moment(max(event.at for event in new))
        if self.condition.last_event_at is not None:
            newest = max(newest, datetime.fromisoformat(self.condition.last_event_at))
        self.condition.last_event_at = newest.isoformat()
        gauge = self._metrics.source_last_event_timestamp_seconds.labels(self.name)
        gauge.set(newest.timestamp())
        unknown = sum(UNKNOWN_ACTION in event.warnings for event in new)
        self.condition.unknown_actions += unknown
        self._metrics.events_unknown.labels(self.name).inc(unknown)
        # What lies before the checkpoint came after its window was read, whatever found it.
        covered = micros(self.checkpoint)
        self._metrics.event_lateness_seconds.labels(self.name).observe_all(
            (event.fetched - event.at) / 1e6 for event in new if event.at < covered
        )

    async def _patiently(self, write: Callable[[], Awaitable[T]]) -> T:
        """Repeat *write* until the store has room for it: a full spool only pauses polling."""
        waited = 0.0
        made_room = False
        while True:
            try:
                result = await write()
            except StoreFull as error:
                # Once at a time: room that was made and did not suffice will not do so at once.
                made_room = not made_room and await self._store.make_room()
                if made_room:
                    continue
                if waited >= self._patience:
                    raise
                if not waited:
                    _log.error("polling_paused", source=self.name, reason=str(error))
                    self.condition.last_error = f"polling is paused: {error}"
                    await self._note()
                await pause(ROOM_INTERVAL)
                waited += ROOM_INTERVAL
                self.worked_at = time.monotonic()
                continue
            if waited:
                _log.warning("polling_resumed", source=self.name)
                self.condition.last_error = None
            return result

    async def _note(self) -> None:
        """Write down how the source fares; on a full disk it stays untold, which harms nobody."""
        with contextlib.suppress(StoreFull):
            await self._store.note("source", self.name, asdict(self.condition))

    @contextlib.contextmanager
    def _faring(self) -> Iterator[None]:
        """Tell the condition, the metrics and, when it changes, the log how the source fares."""
        condition, was_held = self.condition, self.condition.held
        up = self._metrics.source_up.labels(self.name)
        condition.last_poll_at = self._clock().astimezone(UTC).isoformat()
        try:
            yield
        except StateError:
            raise
        except RelayError as error:
            condition.up, condition.held = False, isinstance(error, Refused)
            condition.last_error = scrub(str(error))
            up.set(0)
            if isinstance(error, Refused):
                if not was_held:
                    _log.error("source_held", source=self.name, reason=condition.last_error)
            else:
                _log.warning("poll_failed", source=self.name, reason=condition.last_error)
            raise
        condition.up, condition.held, condition.last_error = True, False, None
        self.worked_once = True
        up.set(1)
        if was_held:
            _log.warning("source_released", source=self.name)


def _late(event: AuditEvent) -> AuditEvent:
    seconds = max(0, event.fetched - event.at) // 10**6
    return msgspec.structs.replace(event, late_by_s=seconds)
