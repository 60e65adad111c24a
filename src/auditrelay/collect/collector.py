"""
Keep one source read: windows off the ledger, second looks, files that are put before it.

A poll takes the next window off the ledger and has it read (``cover``). A second look reads again
what is covered already, for what came late; it goes on beside the polls and gives way to them. Only
what is new by uid is forwarded, so anything may be read as often as it takes.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog

from auditrelay.collect.health import SourceCondition
from auditrelay.collect.reader import POLL, Found, Purpose, Reader
from auditrelay.errors import (
    Refused,
    Rejected,
    RelayError,
    StateError,
    StoreFull,
    WalkBroken,
    code_of,
)
from auditrelay.events.normalize import Normalizer
from auditrelay.http.rate import in_background
from auditrelay.settings import SourceSettings
from auditrelay.settings.values import format_duration
from auditrelay.sources import Drop, Parcel, ParcelPage, Source
from auditrelay.store import DeadLetter, Proof, Store
from auditrelay.store import Parcel as KnownParcel
from auditrelay.telemetry.metrics import Metrics
from auditrelay.telemetry.scrubber import scrub
from auditrelay.window import (
    Interval,
    covered_until,
    holes,
    next_window,
    overdue,
)

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
    Everything that reads one source.

    *clock* returns now, in UTC. *announce* is called when new events lie in the spool. *patience*
    is how long a poll waits for room in the spool before it is given up; None: for ever.
    """

    def __init__(
        self,
        name: str,
        settings: SourceSettings,
        source: Source | Drop,
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
        self.condition = SourceCondition()
        self.rested_at = time.monotonic()
        """When the last poll ended, or when there was none yet, the start (monotonic)."""
        self.worked_once = False
        """Whether a poll has succeeded since the start."""
        self._look_due = asyncio.Event()
        self._fared: tuple[bool, bool] | None = None
        self._checkpoint: datetime | None = None
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._found = Found()
        self._stuck_at: tuple[datetime, datetime, int] | None = None
        self._refused: dict[bytes, str] = {}

        def reader() -> Reader:
            return Reader(
                name,
                settings,
                source,
                normalizer=normalizer,
                store=store,
                metrics=metrics,
                clock=clock,
                announce=announce,
                patience=patience,
                complain=self._complain,
                found=self._found,
            )

        self.reader: Callable[[], Reader] = reader
        """Makes another reader of the same source, for a backfill or a comparison."""
        self._live = reader()
        self._again = reader()

    @property
    def worked_at(self) -> float | None:
        """When that of its loops which is stuck the longest last made progress (monotonic)."""
        moments = (self._live.worked_at, self._again.worked_at)
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
            self._look_due.set()

    async def keep_looking_again(self) -> None:
        """Take the second looks that are due, beside the polls and after them, until cancelled."""
        in_background()
        while True:
            await self._look_due.wait()
            self._look_due.clear()
            try:
                await self._look_again()
            except StateError:
                raise
            except RelayError as error:
                _log.warning("second_look_failed", source=self.name, reason=scrub(str(error)))

    async def poll(self) -> None:
        """
        Read the source to its settled end, then take the second looks that are due.

        Raises RelayError if it could not; what was read until then is kept, and nothing that was
        not read is claimed.
        """
        await self._poll()
        await self._look_again()

    async def _poll(self) -> None:
        self._live.worked_at = time.monotonic()
        try:
            with self._faring():
                started = await self.start()
                if isinstance(self.source, Drop):
                    await self._read_parcels(self.source)
                else:
                    await self._declare_overdue()
                    await self._catch_up(started)
            self._listen(started)
        finally:
            self._live.worked_at = None
            self.rested_at = time.monotonic()
            await self._note()

    async def _catch_up(self, started: datetime) -> None:
        # One now for the whole poll: while a window is walked more time settles, and a poll that
        # went after it would never end.
        now = self._clock()
        if self.checkpoint - now > SET_BACK:
            raise Refused(
                f"the clock of this machine says {now.isoformat(timespec='seconds')}, and time up "
                f"to {self.checkpoint.isoformat(timespec='seconds')} has been read already: set it "
                "right; until then nothing new can be read"
            )
        unreadable = 0
        while window := self._next_window(started, now):
            given_up = [
                span.interval
                for span in await self._store.ledger(self.name)
                if span.gap in GIVEN_UP
            ]
            for part in holes(window, given_up):
                try:
                    await self._live.cover(part, POLL)
                except WalkBroken as error:
                    if unreadable == MOST_UNREADABLE or not await self._give_up(error, now):
                        raise
                    unreadable += 1
                    break
            else:
                await self._pass_over(window, now)
            await self.start()

    async def _give_up(self, error: WalkBroken, now: datetime) -> bool:
        """Declare what cannot be read as a gap, if it has held the source up for too long."""
        since, tries = now, 0
        if self._stuck_at is not None and self._stuck_at[0] == self.checkpoint:
            since, tries = self._stuck_at[1:]
        self._stuck_at = (self.checkpoint, since, tries + 1)
        if error.window is None or tries + 1 < UNREADABLE_TRIES or now - since < UNREADABLE_AFTER:
            return False
        await self._live.declare(error.window, UNREADABLE)
        await self.start()
        # What lies beside it and cannot be read either need not wait for another hour.
        self._stuck_at = (self.checkpoint, since, tries + 1)
        return True

    def recall(self, condition: Mapping[str, object]) -> None:
        """Take over from *condition*, as the last process left it, what is still true."""
        last_event_at = condition.get("last_event_at")
        if isinstance(last_event_at, str):
            self._found.last_event_at = datetime.fromisoformat(last_event_at)
            self.condition.last_event_at = last_event_at
        last_poll_at = condition.get("last_poll_at")
        if isinstance(last_poll_at, str):
            self.condition.last_poll_at = last_poll_at
        since, up = condition.get("since"), bool(condition.get("up"))
        if isinstance(since, str) and not up:
            # A trouble that outlasts a restart has not begun with it.
            self.condition.since, self._fared = since, (up, bool(condition.get("held")))

    async def start(self) -> datetime:
        """
        Return where this source starts, and read its checkpoint off the ledger.

        The first time, the start is stored before any request is made.
        """
        first = self._clock() - self.settings.initial_lookback
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
            settle=self.settings.settle,
            overlap=self.settings.overlap,
            max_window=self.settings.max_window,
        )
        if window is None or window.start >= started:
            return window
        return Interval(started, window.end)

    async def _declare_overdue(self) -> None:
        for limit, reason in (
            (self.settings.catch_up_limit, CATCH_UP_LIMIT),
            (self.settings.retention, RETENTION),
        ):
            late = overdue(self.checkpoint, self._clock(), catch_up_limit=limit)
            if late is not None:
                await self._live.declare(late, reason)
                await self.start()

    async def _pass_over(self, window: Interval, walked: datetime) -> None:
        """Count as looked at again what was so old when it was *walked* that it was late anyway."""
        for delay in self.settings.resweep:
            reach = min(window.end, walked - delay)
            if reach <= window.start:
                continue
            done = await self._store.resweep_from(self.name, delay)
            if window.start <= done < reach:
                await self._store.resweep_done(self.name, delay, reach)

    async def _look_again(self) -> None:
        """Walk what was covered so long ago that a second look is due, in few large windows."""
        if isinstance(self.source, Drop):
            return
        self._again.worked_at = time.monotonic()
        try:
            await self.start()
            for delay in sorted(self.settings.resweep):
                await self._look_after(delay)
        finally:
            self._again.worked_at = None

    async def _look_after(self, delay: timedelta) -> None:
        done = await self._store.resweep_from(self.name, delay)
        until = min(self.checkpoint, self._clock() - delay)
        # A look with every poll would double the requests; one a quarter of the delay later
        # is still soon, measured against the delay.
        if until - done < max(delay / 4, self.settings.poll_interval):
            return
        gaps = [span.interval for span in await self._store.ledger(self.name) if span.gap]
        purpose = Purpose(f"second look {format_duration(delay)}", second_look=True)
        while done < until:
            step = min(until, done + self.settings.max_window)
            for window in holes(Interval(done, step), gaps):
                await self._look(window, purpose)
            await self._store.resweep_done(self.name, delay, step)
            done = step

    async def _look(self, window: Interval, purpose: Purpose) -> None:
        tally = await self._again.cover(window, purpose)
        if tally.new:
            self._metrics.events_late.labels(self.name).inc(tally.new)
            _log.warning(
                "late_events_found",
                source=self.name,
                count=tally.new,
                start=window.start.isoformat(),
                end=window.end.isoformat(),
            )

    # -- files that are put before it --------------------------------------------------------------

    async def _read_parcels(self, drop: Drop) -> None:
        refused: dict[bytes, str] = {}

        async def known(key: bytes) -> bool:
            return await self._store.is_parcel_known(self.name, key)

        async with contextlib.aclosing(drop.parcels(known, self._clock())) as parcels:
            async for parcel in parcels:
                try:
                    await self._read_parcel(parcel)
                except Rejected as error:
                    refused[parcel.key] = scrub(str(error))
                    if parcel.key not in self._refused:
                        _log.error(
                            "parcel_refused",
                            source=self.name,
                            parcel=parcel.name,
                            reason=refused[parcel.key],
                        )
        self._refused = refused

    async def _read_parcel(self, parcel: Parcel) -> None:
        rows = new = bad = ambiguous = 0
        async with contextlib.aclosing(parcel.pages) as pages:
            async for page in pages:
                proof = None
                if page.last:
                    known = KnownParcel(parcel.key, parcel.name)
                    proof = Proof(covers=page.covers, gaps=page.gaps, parcel=known)
                added = await self._live.add(
                    self._live.normalize(page.records),
                    f"export {parcel.name}",
                    proof,
                    self._bad_rows(parcel, page),
                )
                rows += len(page.records)
                new += len(added.new)
                bad += len(page.bad)
                ambiguous += len(added.late)
                self._live.worked_at = time.monotonic()
        # What is new in a span that was read before came late, or is known by another uid: an
        # export without ids cannot tell.
        self._metrics.events_ambiguous.labels(self.name).inc(ambiguous)
        _log.info(
            "parcel_collected",
            source=self.name,
            parcel=parcel.name,
            events=rows,
            new=new,
            bad=bad,
            ambiguous=ambiguous,
        )

    def _bad_rows(self, parcel: Parcel, page: ParcelPage) -> list[DeadLetter]:
        now = self._clock()
        letters = []
        for row in page.bad:
            (event,) = self._live.normalize([row.text])
            message = f"{parcel.name}, line {row.line}: {row.why}"
            letters.append(DeadLetter(event, "bad_row", scrub(message), None, 1, now, now))
            _log.error(
                "row_dead_lettered",
                source=self.name,
                parcel=parcel.name,
                line=row.line,
                reason=row.why,
            )
        return letters

    # -- how the source fares ----------------------------------------------------------------------

    def _listen(self, started: datetime) -> None:
        """Notice when a source has shown nothing new for too long: silence is news, too."""
        if self.settings.max_silence is None:
            return
        since = self._found.last_event_at or started
        silent = self._clock() - since > self.settings.max_silence
        if silent and not self.condition.silent:
            _log.warning("source_silent", source=self.name, since=since.isoformat())
        self.condition.silent = silent

    async def _complain(self, error: str | None) -> None:
        self.condition.last_error = error
        self.condition.error_code = None
        self.condition.paused_since = None
        if error is not None:
            self.condition.paused_since = self._clock().astimezone(UTC).isoformat()
            await self._note()

    async def _note(self) -> None:
        """Write down how the source fares; on a full disk it stays untold, which harms nobody."""
        self.condition.unknown_actions = self._found.unknown_actions
        if self._found.last_event_at is not None:
            self.condition.last_event_at = self._found.last_event_at.isoformat()
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
            condition.last_error, condition.error_code = scrub(str(error)), code_of(error)
            self._note_turn()
            up.set(0)
            if isinstance(error, Refused):
                if not was_held:
                    _log.error("source_held", source=self.name, reason=condition.last_error)
            else:
                _log.warning("poll_failed", source=self.name, reason=condition.last_error)
            raise
        condition.up, condition.held = True, False
        condition.last_error = "; ".join(self._refused.values()) or None
        condition.error_code = None
        self._note_turn()
        self.worked_once = True
        up.set(1)
        if was_held:
            _log.warning("source_released", source=self.name)

    def _note_turn(self) -> None:
        """Remember when it became what it is now: up, held, or neither."""
        condition = self.condition
        if self._fared != (condition.up, condition.held):
            self._fared = (condition.up, condition.held)
            condition.since = self._clock().astimezone(UTC).isoformat()
