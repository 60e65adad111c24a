"""
Deliver to one sink: events off the spool, batches in flight side by side, verdicts into the store.

Every sink has its own position and moves at its own pace. Whatever the sink does not take for
good stays in the spool: it is sent again for as long as it takes, a batch that is refused as a
whole is halved down to the event that is to blame, and only that one becomes a dead letter, in the
same transaction in which the position moves past it. What a sink acknowledges later counts as
delivered only then.

A sink in trouble is asked by one batch at a time; the others wait behind it (``ProbeLock``).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from itertools import chain
from typing import Final

import structlog

from auditrelay.deliver.acknowledgements import Receipts, Sent
from auditrelay.deliver.batches import Batches, ranges_of
from auditrelay.deliver.circuit_breaker import MOST, Flood
from auditrelay.deliver.concurrency import Capacity
from auditrelay.deliver.health import HOLD_FIRST, HOLD_MOST, SinkCondition
from auditrelay.deliver.throughput import Pace
from auditrelay.deliver.turn import ProbeLock
from auditrelay.errors import (
    Refused,
    Rejected,
    RelayError,
    Retryable,
    StoreFull,
    TooLarge,
    code_of,
)
from auditrelay.http.retry import pause, retrying
from auditrelay.settings import SinkSettings
from auditrelay.settings.values import format_duration
from auditrelay.sinks import Channel, Item, Rejection, Sink, Verdict
from auditrelay.store import DeadLetter, Store
from auditrelay.telemetry.metrics import Metrics
from auditrelay.telemetry.scrubber import scrub

ASK_FIRST: Final = 1.0
"""Seconds until a sink is asked what it has acknowledged; doubled while it tells nothing new."""


ASK_MOST: Final = 10.0
"""Most seconds between two questions; as often as Splunk's own clients ask."""


ROOM_INTERVAL: Final = 1.0
"""Seconds between two tries to write a verdict on a full disk."""


_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Deliverer:
    """
    Everything that writes to one sink.

    *clock* returns now, in UTC; *monotonic* counts seconds. With *attempts*, a request is given up
    after so many and the failure is raised, for a run that shall end; without, it is repeated for
    ever.
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
        monotonic: Callable[[], float] = time.monotonic,
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
        self._monotonic = monotonic
        self._attempts = attempts
        self._finishing = False
        self._stopping = False
        self._batches = Batches(name, sink, store)
        self._capacity = Capacity(settings.concurrency)
        self._flood = Flood()
        self._receipts = Receipts()
        self._in_flight = 0
        self._landed = asyncio.Event()
        self._on_wire = 0
        self._off_wire = asyncio.Event()
        self._turn = ProbeLock()
        self._crawl = HOLD_FIRST
        self._warned: tuple[str, ...] = ()

    async def keep_delivering(self) -> None:
        """Deliver whatever comes, until cancelled, or until told to finish and all is done."""
        async with asyncio.TaskGroup() as tasks:
            asking = tasks.create_task(self._keep_asking())
            while True:
                await self._slot()
                batch = await self._next_batch()
                if not batch:
                    asking.cancel()
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
        flood, last_error = condition.get("flood"), condition.get("last_error")
        if isinstance(flood, str) and isinstance(last_error, str):
            # Or every start would put the first hundred aside again.
            self._flood.resume(flood)
            self.condition.flood, self.condition.held = flood, True
            self.condition.last_error = last_error

    def stop(self) -> None:
        """Begin no new batch and repeat no request; what is in flight may end."""
        self._stopping = True

    def finish(self) -> None:
        """End :meth:`keep_delivering` once nothing waits any more."""
        self._finishing = True
        self.wake.set()

    async def land(self) -> None:
        """
        Wait until no request is on the wire and no verdict unwritten.

        What the sink has taken by then and does not acknowledge at the last question is handed
        back: whoever delivers next sends it again.
        """
        while self._on_wire:
            self._off_wire.clear()
            await self._off_wire.wait()
        try:
            if self._receipts.events and not self.condition.held:
                await self._ask()
        except RelayError as error:
            _log.debug("acknowledgement_unasked", sink=self.name, reason=scrub(str(error)))
        finally:
            left = self._receipts.events
            if left:
                self._doubt(left)
                _log.warning("acknowledgement_missed", sink=self.name, events=left, reason="stop")

    # -- batches -----------------------------------------------------------------------------------

    async def _slot(self) -> None:
        """Wait until one more batch may be in flight."""
        while not self._may_begin():
            self._landed.clear()
            await self._landed.wait()

    def _may_begin(self) -> bool:
        if self._in_flight >= self._capacity.width or self._receipts.full:
            return False
        if self._receipts.unheard is not None:  # one batch shall show whether it acknowledges again
            return not self._in_flight and not self._receipts.events
        # In a flood the next ones are needed: one may begin with an event that the sink takes.
        held = self.condition.held and self._flood.reason is None
        return not held or not (self._in_flight or self._turn.taken)

    async def _next_batch(self) -> list[Item]:
        """Return the next batch, as full as it gets within *linger*; empty when finished."""
        batches = self._batches
        while True:
            self.wake.clear()
            if await batches.fill():
                return batches.cut()
            if batches.ready:
                if not self._finishing:
                    await self._linger()
                    await batches.fill()
                return batches.cut()
            # An acknowledgement on the wire is no receipt any more, and not yet written down.
            if self._finishing and not (self._in_flight or self._receipts.events or self._on_wire):
                return []
            await self.wake.wait()

    async def _linger(self) -> None:
        deadline = self.settings.linger.total_seconds()
        if deadline:
            await pause(deadline)

    # -- one batch ---------------------------------------------------------------------------------

    async def _deliver(self, batch: list[Item]) -> None:
        try:
            parts: list[Sequence[Item]] = [batch]
            while parts:
                part = parts.pop()
                if self._flood.reason is not None:
                    # One event will show; the others make room for those behind them.
                    self._batches.later([*part[1:], *chain.from_iterable(parts)])
                    part, parts = part[:1], []
                parts += reversed(await self._offer(part))
        finally:
            self._in_flight -= 1
            self._stir()

    def _stir(self) -> None:
        """Let those look again who wait for room, or for the end."""
        self._landed.set()
        if self._finishing:
            self.wake.set()

    async def _offer(self, items: Sequence[Item]) -> list[Sequence[Item]]:
        """Send *items* until the sink has said something of each; return what to send anew."""
        first_at = self._clock()
        singly: list[Sequence[Item]] = []
        try:
            async for attempt in retrying(
                self.name, self._metrics, attempts=self._attempts, sleep=self._sleep_in_turn
            ):
                with attempt:
                    number = attempt.retry_state.attempt_number
                    try:
                        verdict = await self._send(items)
                    except Rejected as error:
                        if len(items) > 1:
                            middle = len(items) // 2
                            return [*singly, items[:middle], items[middle:]]
                        reason = "too_large" if isinstance(error, TooLarge) else error.reason
                        refusal = Rejection(0, reason, str(error), error.status)
                        verdict = Verdict(rejected=(refusal,))
                        self._take_off()
                    except Retryable as error:
                        await self._struggle(error, len(items) if error.sent else 0)
                        raise
                    verdict = self._spare(items, verdict)
                    await self._settle(items, verdict, first_at, number)
                    self._heed(verdict)
                    items, alone = _left(items, verdict)
                    singly += alone
                    if verdict.because is not None and items:
                        await self._struggle(verdict.because, 0)
                        raise verdict.because
                    return [part for part in (*singly, items) if part]
        finally:
            self._turn.give()
        # tenacity returns or raises; this tells the type checker so.
        raise AssertionError("the policy ended without a result")  # pragma: no cover

    async def _sleep_in_turn(self, seconds: float) -> None:
        """
        Wait before a request is made again, behind the others who wait.

        So a sink that is down is asked as often as one batch would ask, however many wait. If it
        works again by the time, the time spent behind the others counts.
        """
        since = self._monotonic()
        await self._turn.take()
        if self.condition.up:
            seconds -= self._monotonic() - since
        await pause(max(seconds, 0.0))

    async def _send(self, items: Sequence[Item]) -> Verdict:
        """Send *items* once; a sink that refuses is held, and they wait until it no longer does."""
        if self.condition.held:
            await self._turn.take()
            if self._flood.reason is not None and self._attempts is None:
                await pause(self._crawl)
                self._crawl = min(self._crawl * 2, HOLD_MOST)
        wait = HOLD_FIRST
        while True:
            try:
                return await self._request(items)
            except Refused as error:
                self._doubt(len(items) if error.sent else 0)
                await self._hold(error)
                if self._attempts is not None:
                    raise
            # One of those in flight goes on asking; the others wait behind it.
            await self._turn.take()
            if self.condition.held:
                await pause(wait)
                wait = min(wait * 2, HOLD_MOST)

    async def _request(self, items: Sequence[Item]) -> Verdict:
        if self._stopping:
            await asyncio.Event().wait()  # until cancelled: it stays in the spool
        self._take_off()
        begun = self._monotonic()
        try:
            verdict = await self._sink.send(items)
        except BaseException as error:
            self._touch_down()
            if isinstance(error, Retryable):
                self._capacity.failed(begun, self._monotonic())
            raise
        if verdict.crowded or verdict.because is not None:
            self._capacity.failed(begun, self._monotonic())
        else:
            size = sum([len(item.text) for item in items])
            self._capacity.answered(begun, self._monotonic(), size=size, on_wire=self._on_wire)
        # It is still in the air: it has landed when its verdict is written, see _settle.
        return verdict

    def _take_off(self) -> None:
        self._on_wire += 1
        self.worked_at = self.worked_at or time.monotonic()

    def _touch_down(self) -> None:
        self._on_wire -= 1
        self.worked_at = time.monotonic() if self._on_wire else None
        self._off_wire.set()

    def _spare(self, items: Sequence[Item], verdict: Verdict) -> Verdict:
        """Return *verdict* without what a flood would put aside: that is offered again."""
        named = len(verdict.retry) + len(verdict.alone) + len(verdict.rejected)
        if named < len(items):
            if self._flood.taken():
                self._batches.recall()
            return verdict
        aside = self._flood.refused(verdict.rejected, alone=len(items) == 1)
        if len(aside) == len(verdict.rejected):
            return verdict
        spared = {each.index for each in verdict.rejected} - {each.index for each in aside}
        retry = tuple(sorted((*verdict.retry, *spared)))
        return replace(verdict, rejected=tuple(aside), retry=retry)

    async def _settle(
        self, items: Sequence[Item], verdict: Verdict, first_at: datetime, attempts: int
    ) -> None:
        """Write down what the sink said of *items*, which have landed with that."""
        now = self._clock()
        open_ = {*verdict.retry, *verdict.alone}
        refused = {rejection.index for rejection in verdict.rejected}
        taken = items
        if open_ or refused:
            taken = [
                item
                for index, item in enumerate(items)
                if index not in open_ and index not in refused
            ]
        try:
            fault = await self._take_stock(verdict)
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
            sent = Sent.of(taken, self._monotonic())
            ranges = [*self._batches.passed(), *ranges_of(items[i].position for i in refused)]
            if verdict.receipt is None:
                ranges += sent.ranges
            elif taken:
                self._receipts.add(verdict.receipt.channel, verdict.receipt.number, sent)
            # Position and dead letters in one: neither is right without the other.
            await self._patiently(lambda: self._store.settle(self.name, ranges, dead))
        finally:
            self._touch_down()
        self._doubt(verdict.doubtful)
        self._count_dead(dead)
        if verdict.receipt is None:
            self._count_delivered([sent], rejected=len(dead))
        if fault is not None and self._attempts is not None:
            raise fault

    async def _take_stock(self, verdict: Verdict) -> Refused | None:
        """Hold a sink that refuses everything, and return why; any other one works."""
        reason = self._flood.reason
        if reason is None:
            await self._work_again()
            return None
        refusal = next((each for each in verdict.rejected if each.status is not None), None)
        if refusal is None:
            return None
        fault = Refused(
            f"it refuses every event, {MOST} or more in a row, with the reason {reason}: "
            f"{refusal.message} | that is taken for a fault of the configuration: mend what the "
            "sink names (index, mapping, pipeline, token), and it goes on by itself. Until then "
            "the events wait, and one at a time is tried and put aside. See auditrelay "
            f"dead-letters list --sink {self.name} --reason {reason}",
            status=refusal.status,
        )
        await self._hold(fault)
        return fault

    def _count_dead(self, dead: Sequence[DeadLetter]) -> None:
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

    def _count_delivered(self, delivered: Sequence[Sent], rejected: int = 0) -> None:
        now = self._clock()
        seconds = now.timestamp()
        for sent in delivered:
            for source, occurred in sent.occurred.items():
                self._metrics.events_delivered.labels(self.name, source).inc(len(occurred))
                self._metrics.end_to_end_seconds.labels(source, self.name).observe_all(
                    seconds - at / 1e6 for at in occurred
                )
            if sent.events:
                self.pace.add(now, sent.events)
                self.condition.last_delivered_at = now.isoformat()
                _log.debug("batch_delivered", sink=self.name, events=sent.events, rejected=rejected)

    # -- what is acknowledged later ----------------------------------------------------------------

    async def _keep_asking(self) -> None:
        """Ask what the sink has acknowledged, for as long as anything waits for that."""
        wait = ASK_FIRST
        while True:
            await self._receipts.some.wait()
            await pause(wait)
            try:
                news = await self._ask()
            except Refused as error:
                await self._hold(error)
                if self._attempts is not None:
                    raise
                # Until it answers, nothing is sent that could not be asked about.
                await self._turn.take()
                wait = min(max(wait * 2, HOLD_FIRST), HOLD_MOST)
                continue
            if self._turn.mine:
                await self._work_again()
                self._turn.give()
            wait = ASK_FIRST if news else min(wait * 2, ASK_MOST)

    async def _ask(self) -> bool:
        """Ask once on every channel; return whether there was anything new."""
        news = [await self._ask_on(channel) for channel in self._receipts.channels]
        return any(news)

    async def _ask_on(self, channel: Channel) -> bool:
        told: set[int] = set()
        self._take_off()
        try:
            if not channel.lost:
                try:
                    told = await channel.acknowledged(self._receipts.numbers(channel))
                except Retryable as error:
                    if self._turn.mine:
                        raise Refused(str(error)) from error  # it has not come round yet
                    # If that does not mend, the time of those that wait runs out.
            delivered = self._receipts.take(channel, told)
            if delivered:
                self._receipts.unheard = None
                ranges = [each for sent in delivered for each in sent.ranges]
                await self._patiently(lambda: self._store.settle(self.name, ranges))
                self._count_delivered(delivered)
                if not self.condition.held:
                    await self._work_again()
        finally:
            self._touch_down()
        await self._give_up(channel)
        self._stir()
        return bool(delivered)

    async def _give_up(self, channel: Channel) -> None:
        """Let be sent again what is not acknowledged in time, or cannot be any more."""
        back = self._receipts.take(channel, self._receipts.overdue(channel, self._monotonic()))
        if not back:
            return
        channel.retire()
        self._batches.again(each for sent in back for each in sent.ranges)
        self.wake.set()
        events = sum(sent.events for sent in back)
        self._doubt(events)
        reason = "channel_lost" if channel.lost else "ack_timeout"
        _log.warning("acknowledgement_missed", sink=self.name, events=events, reason=reason)
        if channel.lost:
            return
        error = Retryable(
            f"it took {events} events and did not acknowledge them within "
            f"{format_duration(channel.patience)}; they are sent again. If that goes on: are its "
            "indexers well, and does a load balancer in front of it keep to its cookies?",
            reason=reason,
        )
        if self._attempts is not None:
            raise error
        self._receipts.unheard = error
        await self._struggle(error, 0)

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
        """Note that a sink cannot answer, and count what it may get twice."""
        self._doubt(resent)
        await self._fare(up=False, held=False, error=error)
        self._turn.give()

    def _doubt(self, events: int) -> None:
        """Count *events* that the sink may hold and gets again, unless it can tell."""
        if events and not self._sink.recognises_duplicates:
            self._metrics.events_possible_duplicate.labels(self.name).inc(events)

    def _heed(self, verdict: Verdict) -> None:
        """Take to heart what a sink says beside its verdict."""
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
        self.worked_once = True
        if self._flood.reason is not None:
            return
        if self.condition.held:
            _log.warning("sink_released", sink=self.name)
        self._crawl = HOLD_FIRST
        # One that takes everything and acknowledges nothing does not work.
        trouble = self._receipts.unheard
        await self._fare(up=trouble is None, held=False, error=trouble)

    async def _fare(self, *, up: bool, held: bool, error: RelayError | None) -> None:
        self._metrics.sink_up.labels(self.name).set(up)
        said = None if error is None else scrub(str(error))
        flood = self._flood.reason
        held = held or flood is not None
        condition = self.condition
        new = (up, held, said, flood)
        if (condition.up, condition.held, condition.last_error, condition.flood) == new:
            return
        condition.up, condition.held, condition.last_error, condition.flood = new
        condition.error_code = None if error is None else code_of(error)
        if self._fared != (up, held):
            self._fared = (up, held)
            condition.since = self._clock().astimezone(UTC).isoformat()
        self._landed.set()
        await self._patiently(lambda: self._store.note("sink", self.name, asdict(condition)))


def _left(items: Sequence[Item], verdict: Verdict) -> tuple[Sequence[Item], list[Sequence[Item]]]:
    """Return the items to send again together, and those to send again each alone."""
    again = [items[index] for index in verdict.retry]
    return again, [[items[index]] for index in verdict.alone]
