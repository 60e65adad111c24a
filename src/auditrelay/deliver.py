"""
Deliver to one sink: events off the spool, batches in flight side by side, verdicts into the store.

Every sink has its own position and moves at its own pace. Whatever the sink does not take for
good stays in the spool: it is sent again for as long as it takes, a batch that is refused as a
whole is halved down to the event that is to blame, and only that one becomes a dead letter, in the
same transaction in which the position moves past it.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import structlog

from auditrelay.errors import (
    Refused,
    Rejected,
    RelayError,
    Retryable,
    StoreFull,
    TooLarge,
    code_of,
)
from auditrelay.http import pause, retrying
from auditrelay.pace import Pace
from auditrelay.settings import SinkSettings
from auditrelay.sinks import Item, Origin, Rejection, Sink, Verdict
from auditrelay.store import DeadLetter, Store
from auditrelay.store.progress import Range
from auditrelay.telemetry import Metrics, scrub

if TYPE_CHECKING:  # only annotations name it
    from auditrelay.events import AuditEvent

HOLD_FIRST: Final = 5.0
"""Seconds until a sink that refuses is tried again; doubled each time."""

HOLD_MOST: Final = 300.0
"""Most seconds between two tries of a sink that refuses."""

READ_WEIGHT: Final = 1 << 20
"""Bytes of the spool, compressed, that are held unsent at the most, but for the last page."""

ROOM_INTERVAL: Final = 1.0
"""Seconds between two tries to write a verdict on a full disk."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(slots=True)
class SinkCondition:
    """How a sink fares, as ``status`` shows it; times are ISO 8601."""

    up: bool = False
    held: bool = False
    since: str | None = None
    """When it became up, held, or neither: whichever it is now."""
    last_delivered_at: str | None = None
    last_error: str | None = None
    error_code: str | None = None
    """The short code of ``last_error``."""


class Deliverer:
    """
    Everything that writes to one sink.

    *clock* returns now, in UTC. With *attempts*, a request is given up after so many and the
    failure is raised, for a run that shall end; without, it is repeated for ever.
    """

    def __init__(
        self,
        name: str,
        settings: SinkSettings,
        sink: Sink,
        *,
        store: Store,
        metrics: Metrics,
        clock: Callable[[], datetime],
        attempts: int | None = None,
    ) -> None:
        self.name = name
        self.wake = asyncio.Event()
        """Set when new events may lie in the spool."""
        self.condition = SinkCondition()
        self.worked_at: float | None = None
        """When a request last began or ended (monotonic); None while none is in flight."""
        self.worked_once = False
        """Whether the sink has answered well since the start."""
        self.pace = Pace(clock())
        """What it has acknowledged of late."""
        self._fared: tuple[bool, bool] | None = None
        self.settings = settings
        self._sink = sink
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._attempts = attempts
        self._finishing = False
        self._stopping = False
        self._ready: deque[tuple[int, AuditEvent]] = deque()
        self._weight = 0
        self._passed: list[Range] = []
        self._read_to = 0
        self._width = settings.concurrency
        self._in_flight = 0
        self._landed = asyncio.Event()
        self._on_wire = 0
        self._off_wire = asyncio.Event()
        self._gate = asyncio.Lock()
        self._warned: tuple[str, ...] = ()

    async def keep_delivering(self) -> None:
        """Deliver whatever comes, until cancelled, or until told to finish and all is done."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._slot()
                batch = await self._next_batch()
                if not batch:
                    return
                self._in_flight += 1
                tasks.create_task(self._deliver(batch))

    async def greet(self) -> None:
        """
        Find out how the sink fares before the first event does; it changes nothing.

        It is asked until it answers well, or a quiet sink would seem to be down long after it was
        mended. Once there are events to send, they tell.
        """
        wait = HOLD_FIRST
        while True:
            trouble: RelayError | None = None
            try:
                await self._sink.check()
            except RelayError as error:
                trouble = error
            if self.worked_once or self._in_flight:
                return None
            if trouble is None:
                return await self._work_again()
            if isinstance(trouble, Refused):
                await self._hold(trouble)
            else:
                await self._fare(up=False, held=False, error=trouble)
            await pause(wait)
            wait = min(wait * 2, HOLD_MOST)

    def recall(self, condition: Mapping[str, object]) -> None:
        """Take over from *condition*, as the last process left it, what is still true."""
        last_delivered_at = condition.get("last_delivered_at")
        if isinstance(last_delivered_at, str):
            self.condition.last_delivered_at = last_delivered_at
        since, up = condition.get("since"), bool(condition.get("up"))
        if isinstance(since, str) and not up:
            # A trouble that outlasts a restart has not begun with it.
            self.condition.since, self._fared = since, (up, bool(condition.get("held")))

    def stop(self) -> None:
        """Begin no new batch and repeat no request; what is in flight may end."""
        self._stopping = True

    def finish(self) -> None:
        """End :meth:`keep_delivering` once nothing waits any more."""
        self._finishing = True
        self.wake.set()

    async def land(self) -> None:
        """Wait until no request is on the wire and no verdict unwritten."""
        while self._on_wire:
            self._off_wire.clear()
            await self._off_wire.wait()

    # -- batches -----------------------------------------------------------------------------------

    async def _slot(self) -> None:
        """Wait until one more batch may be in flight: a peer that struggles gets fewer."""
        while self._in_flight >= self._width or (self.condition.held and self._in_flight):
            self._landed.clear()
            await self._landed.wait()

    async def _next_batch(self) -> list[Item]:
        """Return the next batch, as full as it gets within *linger*; empty when finished."""
        while True:
            self.wake.clear()
            if await self._fill():
                return self._cut()
            if self._ready:
                if not self._finishing:
                    await self._linger()
                    await self._fill()
                return self._cut()
            if self._finishing:
                return []
            await self.wake.wait()

    async def _linger(self) -> None:
        deadline = self.settings.linger.total_seconds()
        if deadline:
            await pause(deadline)

    async def _fill(self) -> bool:
        """Read until a batch is full, and return whether it is; never more than about one batch."""
        limits = self._sink.limits
        while len(self._ready) < limits.events and self._weight < READ_WEIGHT:
            missing = limits.events - len(self._ready)
            pages = await self._store.read(self.name, self._read_to, missing)
            if not pages:
                return False
            for page in pages:
                if page.first > self._read_to:
                    # What lies between belongs to sources of other sinks, or was done before.
                    self._passed.append((self._read_to, page.first))
                self._read_to = page.first + len(page.events)
                self._ready.extend(enumerate(page.events, page.first))
                self._weight += page.size
        return True

    def _cut(self) -> list[Item]:
        limits, ready, render = self._sink.limits, self._ready, self._sink.render
        items: list[Item] = []
        room = limits.bytes
        while ready and len(items) < limits.events:
            position, event = ready[0]
            text = render(event)
            room -= len(text) + limits.overhead
            if room < 0 and items:
                break
            ready.popleft()
            # Not the event itself: it would hold on to its whole page.
            items.append(Item(position, Origin(event.uid, event.source, event.at), text))
        if not ready:
            self._weight = 0
        return items

    # -- one batch ---------------------------------------------------------------------------------

    async def _deliver(self, batch: list[Item]) -> None:
        try:
            parts: list[Sequence[Item]] = [batch]
            while parts:
                parts += reversed(await self._offer(parts.pop()))
        finally:
            self._in_flight -= 1
            self._landed.set()

    async def _offer(self, items: Sequence[Item]) -> list[Sequence[Item]]:
        """Send *items* until the sink has said something of each; return what to send anew."""
        first_at = self._clock()
        singly: list[Sequence[Item]] = []
        async for attempt in retrying(self.name, self._metrics, attempts=self._attempts):
            with attempt:
                number = attempt.retry_state.attempt_number
                try:
                    verdict = await self._send(items)
                except Rejected as error:
                    if len(items) > 1:
                        middle = len(items) // 2
                        return [*singly, items[:middle], items[middle:]]
                    reason = "too_large" if isinstance(error, TooLarge) else error.reason
                    verdict = Verdict(rejected=(Rejection(0, reason, str(error), error.status),))
                    self._take_off()
                except Retryable as error:
                    await self._struggle(error, len(items))
                    raise
                await self._settle(items, verdict, first_at, number)
                self._heed(verdict)
                items, alone = _left(items, verdict)
                singly += alone
                if verdict.because is not None and items:
                    await self._struggle(verdict.because, 0)
                    raise verdict.because
                return [part for part in (*singly, items) if part]
        # tenacity returns or raises; this tells the type checker so.
        raise AssertionError("the policy ended without a result")  # pragma: no cover

    async def _send(self, items: Sequence[Item]) -> Verdict:
        """Send *items* once; a sink that refuses is held, and they wait until it no longer does."""
        while True:
            try:
                return await self._request(items)
            except Refused as error:
                await self._hold(error)
                if self._attempts is not None:
                    raise
            wait = HOLD_FIRST
            # One of those in flight goes on asking; the others wait behind it.
            async with self._gate:
                while self.condition.held:
                    await pause(wait)
                    try:
                        return await self._request(items)
                    except Refused as error:
                        await self._hold(error)
                        wait = min(wait * 2, HOLD_MOST)

    async def _request(self, items: Sequence[Item]) -> Verdict:
        if self._stopping:
            await asyncio.Event().wait()  # until cancelled: it stays in the spool
        self._take_off()
        try:
            verdict = await self._sink.send(items)
            await self._work_again()
        except BaseException:
            self._touch_down()
            raise
        # It is still in the air: it has landed when its verdict is written, see _settle.
        return verdict

    def _take_off(self) -> None:
        self._on_wire += 1
        self.worked_at = self.worked_at or time.monotonic()

    def _touch_down(self) -> None:
        self._on_wire -= 1
        self.worked_at = time.monotonic() if self._on_wire else None
        self._off_wire.set()

    async def _settle(
        self, items: Sequence[Item], verdict: Verdict, first_at: datetime, attempts: int
    ) -> None:
        """Write down what the sink said of *items*, which have landed with that."""
        now = self._clock()
        open_ = {*verdict.retry, *verdict.alone}
        refused = {rejection.index for rejection in verdict.rejected}
        done = items
        if open_:
            done = [item for index, item in enumerate(items) if index not in open_]
        try:
            dead = [
                DeadLetter(
                    await self._store.event_at(items[rejection.index].position),
                    rejection.reason,
                    scrub(rejection.message),
                    rejection.status,
                    attempts,
                    first_at,
                    now,
                )
                for rejection in verdict.rejected
            ]
            passed, self._passed = self._passed, []
            ranges = [*passed, *_ranges(item.position for item in done)]
            # Position and dead letters in one: neither is right without the other.
            await self._patiently(lambda: self._store.settle(self.name, ranges, dead))
        finally:
            self._touch_down()
        delivered = done
        if refused:
            delivered = [
                item
                for index, item in enumerate(items)
                if index not in open_ and index not in refused
            ]
        self._count(delivered, dead, now)

    def _count(self, delivered: Sequence[Item], dead: Sequence[DeadLetter], now: datetime) -> None:
        seconds = now.timestamp()
        for source, count in Counter(item.event.source for item in delivered).items():
            self._metrics.events_delivered.labels(self.name, source).inc(count)
            self._metrics.end_to_end_seconds.labels(source, self.name).observe_all(
                seconds - item.event.at / 1e6 for item in delivered if item.event.source == source
            )
        for letter in dead:
            self._metrics.dead_letters_total.labels(self.name, letter.reason).inc()
            _log.error(
                "event_dead_lettered",
                sink=self.name,
                source=letter.event.source,
                uid=letter.event.uid,
                reason=letter.reason,
                status=letter.status,
            )
        if delivered:
            self.pace.add(now, len(delivered))
            self.condition.last_delivered_at = now.isoformat()
            _log.debug("batch_delivered", sink=self.name, events=len(delivered), rejected=len(dead))

    async def _patiently(self, write: Callable[[], Awaitable[None]]) -> None:
        """Repeat *write* until the disk takes it: a verdict that is lost is an event sent twice."""
        while True:
            try:
                return await write()
            except StoreFull as error:
                _log.warning("verdict_unwritten", sink=self.name, reason=str(error))
                await pause(ROOM_INTERVAL)
                if self._on_wire:  # waiting for room is no reason to be taken for stuck
                    self.worked_at = time.monotonic()

    # -- how the sink fares ------------------------------------------------------------------------

    async def _struggle(self, error: Retryable, resent: int) -> None:
        """Give a sink that cannot answer less to do, and count what it may get twice."""
        self._width = max(1, self._width // 2)
        if error.sent and resent and not self._sink.recognises_duplicates:
            self._metrics.events_possible_duplicate.labels(self.name).inc(resent)
        await self._fare(up=False, held=False, error=error)

    def _heed(self, verdict: Verdict) -> None:
        """Take to heart what a sink says beside its verdict."""
        if verdict.crowded:
            self._width = max(1, self._width // 2)
        if verdict.restamped:
            self._metrics.events_restamped.labels(self.name).inc(verdict.restamped)
        if verdict.duplicates:
            self._metrics.events_already_stored.labels(self.name).inc(verdict.duplicates)
        if verdict.diverted:
            self._metrics.events_diverted.labels(self.name).inc(verdict.diverted)
        if verdict.warnings and verdict.warnings != self._warned:
            _log.warning("sink_warned", sink=self.name, words=scrub("; ".join(verdict.warnings)))
        self._warned = verdict.warnings

    async def _hold(self, error: Refused) -> None:
        if not self.condition.held:
            _log.error("sink_held", sink=self.name, status=error.status, reason=scrub(str(error)))
        await self._fare(up=False, held=True, error=error)

    async def _work_again(self) -> None:
        if self.condition.held:
            _log.warning("sink_released", sink=self.name)
        self.worked_once = True
        self._width = min(self._width + 1, self.settings.concurrency)
        await self._fare(up=True, held=False, error=None)

    async def _fare(self, *, up: bool, held: bool, error: RelayError | None) -> None:
        self._metrics.sink_up.labels(self.name).set(up)
        said = None if error is None else scrub(str(error))
        condition = self.condition
        if (condition.up, condition.held, condition.last_error) == (up, held, said):
            return
        condition.up, condition.held, condition.last_error = up, held, said
        condition.error_code = None if error is None else code_of(error)
        if self._fared != (up, held):
            self._fared = (up, held)
            condition.since = self._clock().astimezone(UTC).isoformat()
        await self._patiently(lambda: self._store.note("sink", self.name, asdict(condition)))


def _ranges(positions: Iterable[int]) -> list[Range]:
    """Return *positions*, which rise, as half-open ranges."""
    ranges: list[Range] = []
    for position in positions:
        if ranges and ranges[-1][1] == position:
            ranges[-1] = (ranges[-1][0], position + 1)
        else:
            ranges.append((position, position + 1))
    return ranges


def _left(items: Sequence[Item], verdict: Verdict) -> tuple[Sequence[Item], list[Sequence[Item]]]:
    """Return the items to send again together, and those to send again each alone."""
    again = [items[index] for index in verdict.retry]
    return again, [[items[index]] for index in verdict.alone]
