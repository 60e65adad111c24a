"""
Deliver one batch to a sink: send it, and what it falls into, until each event has a verdict.

What is rejected as a whole is halved at once; what fails in the same way again and again, from the
third failure on, since something in between may neither pass nor refuse it. What is refused holds
the sink; while its check succeeds it is halved too, as something in between may read the events. An
event that fails alone is set aside, if the sink is well: the others overtake it.
"""

import asyncio
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from itertools import chain
from typing import Final

from auditrelay.clock import Clock
from auditrelay.deliver.acknowledgements import PendingAcknowledgements, SentBatch
from auditrelay.deliver.batch_size import BatchSize
from auditrelay.deliver.batches import Batches, ranges_of
from auditrelay.deliver.circuit_breaker import CircuitBreaker
from auditrelay.deliver.concurrency import AdaptiveConcurrency
from auditrelay.deliver.health import SinkHealth
from auditrelay.deliver.in_flight import InFlight
from auditrelay.deliver.one_by_one import OneByOne
from auditrelay.deliver.outcomes import Outcomes
from auditrelay.deliver.postponed import Postponed
from auditrelay.deliver.probe import ProbeDelay
from auditrelay.deliver.refusals import SAME_FAILURES, Refusals, RefusedAlone
from auditrelay.deliver.send import send_fit
from auditrelay.errors import PeerBug, Refused, Rejected, Retryable
from auditrelay.http.retry import retrying
from auditrelay.sinks import Item, Rejection, Sink, Verdict
from auditrelay.store import RejectedEvent
from auditrelay.telemetry.metrics import Metrics
from auditrelay.telemetry.scrubber import scrub
from auditrelay.window import micros

SAMPLES: Final = 8
"""
Parts of a batch whose events may all be refused: it is tried as a whole, in halves and in quarters,
and of each eighth one event.
"""


class Delivery:
    """
    Delivers batches to the *sink* called *name*, each as its own task.

    *attempts* bounds how often a request is made before its failure is raised.
    """

    def __init__(
        self,
        name: str,
        sink: Sink,
        *,
        batches: Batches,
        postponed: Postponed,
        breaker: CircuitBreaker,
        concurrency: AdaptiveConcurrency,
        size: BatchSize,
        health: SinkHealth,
        outcomes: Outcomes,
        pending: PendingAcknowledgements,
        in_flight: InFlight,
        metrics: Metrics,
        clock: Clock,
        attempts: int | None,
    ) -> None:
        self._name = name
        self._sink = sink
        self._batches = batches
        self._postponed = postponed
        self._breaker = breaker
        self._concurrency = concurrency
        self._size = size
        self._health = health
        self._outcomes = outcomes
        self._pending = pending
        self._in_flight = in_flight
        self._metrics = metrics
        self._clock = clock
        self._attempts = attempts
        self._stopping = False
        self._refusals = Refusals(sink, postponed, clock)
        self._one_by_one = OneByOne(
            sink, health=health, postponed=postponed, refusals=self._refusals, clock=clock
        )

    def stop(self) -> None:
        """Make no more requests; those in flight may finish."""
        self._stopping = True

    async def deliver(self, batch: Sequence[Item], *, again: bool) -> None:
        """
        Deliver *batch*; what is postponed of it comes *again*.

        While the circuit breaker is open, of those that come again one is sent as a probe. Some may
        be good: they are tried together, and in smaller parts, without any dead letter. The first
        that is accepted closes the breaker.
        """
        parts = deque(self._postponed.apart(batch))
        samples = 0
        try:
            if self._breaker.is_open and (again or self._attempts is not None):
                if again and self._batches.postponed_wait:
                    self._postponed.postpone(batch)  # another one has its turn
                    return
                parts = deque(await self._deliver_part(batch[:1], probe=True))
                parts.append(batch[1:])
            while parts:
                part = parts.popleft()
                if not self._breaker.is_open:
                    if not part:
                        continue
                    parts.extendleft(reversed(await self._deliver_part(part)))
                    if self._health.condition.held and self._postponed.was_set_aside(part[0]):
                        # What is refused stands together: another batch shows sooner if all is.
                        self._postponed.postpone([*chain.from_iterable(parts)])
                        parts.clear()
                elif len(part) * SAMPLES > len(batch):
                    left = await self._deliver_part(part)
                    parts.extend(halves(left[0]) if len(left) == 1 < len(left[0]) else left)
                elif part:
                    sample = samples % len(part)  # of each part another: bad ones may be regular
                    samples += 1
                    left = await self._deliver_part(part[sample : sample + 1])
                    rest = [*part[:sample], *part[sample + 1 :], *chain.from_iterable(left)]
                    parts.append(rest)
                    if self._refuses_all():
                        self._postponed.postpone(parts.pop())
        finally:
            self._in_flight.batch_finished()

    async def _deliver_part(
        self, items: Sequence[Item], *, probe: bool = False
    ) -> list[Sequence[Item]]:
        """Send *items* until they have a verdict; return the parts that are to be sent next."""
        first_at = self._clock.now()
        rest: list[Sequence[Item]] = []
        failures = _SameFailures()
        try:
            async for attempt in retrying(
                self._name, self._metrics, sleep=self._wait_to_retry, attempts=self._attempts
            ):
                with attempt:
                    number = attempt.retry_state.attempt_number
                    items = self._fitting(items, rest)
                    if await self._is_kept(items[0]):
                        return [items[1:], *rest]
                    try:
                        verdict = await self._send_once_released(items)
                    except RefusedAlone as error:
                        if len(error.items) > 1:
                            return [*halves(items), *rest]
                        self._postponed.set_aside(items[0], error.refusal)
                        return [items[1:], *rest]
                    except Rejected as error:
                        if len(items) > 1:
                            return [*halves(items), *rest]
                        verdict = Verdict(rejected=(Rejection.of(error),))
                        self._in_flight.request_started()
                    except Retryable as error:
                        if await self._is_set_aside(items, error, failures):
                            return [items[1:], *rest]
                        raise
                    verdict, withheld = self._apply_circuit_breaker(items, verdict, probe=probe)
                    await self._commit_verdict(items, verdict, first_at, number)
                    self._outcomes.record_warnings(verdict)
                    self._postponed.postpone([items[index] for index in sorted(withheld)])
                    items = [items[index] for index in verdict.retry if index not in withheld]
                    if verdict.retry_reason is not None and items:
                        await self._health.mark_unavailable(verdict.retry_reason)
                        raise verdict.retry_reason
                    return [items, *rest] if items else rest
        finally:
            self._health.probe_lock.release()
        # tenacity returns or raises; this line is for the type checker.
        raise AssertionError("the policy ended without a result")  # pragma: no cover

    async def _is_set_aside(
        self, items: Sequence[Item], error: Retryable, failures: "_SameFailures"
    ) -> bool:
        """Record that sending *items* failed, and return whether the first is set aside for it."""
        self._count_possible_duplicates(items, error)
        alike = failures.add(error, len(items)) >= SAME_FAILURES
        alone = unanswered = await self._one_by_one.unanswered(items[0], error)
        if not unanswered:
            await self._health.mark_unavailable(error)
            alone = alike and len(items) == 1
        if alone and await self._refusals.is_alone(
            items[0], in_a_row=math.inf if unanswered else 1
        ):
            self._postponed.set_aside(items[0], error)
            return True
        if alone and not unanswered and error.sent and not self._sink.deduplicates:
            await self._health.mark_unanswered()
        elif alike and not alone:
            self._size.failed(size_of(items), self._clock.monotonic())
        return False

    def _fitting(self, items: Sequence[Item], rest: list[Sequence[Item]]) -> Sequence[Item]:
        """Return as many of *items* as a request may have now; the others go before *rest*."""
        most = self._size.most
        while most is not None and len(items) > 1 and size_of(items) > most:
            items, second = halves(items)
            rest.insert(0, second)
        return items

    def _refuses_all(self) -> bool:
        return self._breaker.is_open  # a call, as it may be another answer than a moment ago

    async def _wait_to_retry(self, seconds: float) -> None:
        """
        Wait before a retry, behind the batches that wait already.

        So a sink that is down is probed as often as one batch would retry, however many wait. If it
        has recovered meanwhile, the time spent behind the others counts towards *seconds*.
        """
        since = self._clock.monotonic()
        await self._health.probe_lock.acquire()
        if self._health.condition.up:
            seconds -= self._clock.monotonic() - since
        await self._clock.sleep(max(seconds, 0.0))

    async def _take_turn(self) -> None:
        """Wait for a turn to probe, if the sink is held or gets one event at a time."""
        condition = self._health.condition
        if (condition.held or self._one_by_one.applies) and not self._breaker.is_open:
            await self._health.probe_lock.acquire()

    async def _is_kept(self, item: Item) -> bool:
        """
        Return whether *item* is set aside still, since it is too early to send it again.

        It does not wait in its turn, or others that were never sent would wait behind it.
        """
        if not self._postponed.was_set_aside(item):
            return False
        await self._take_turn()
        return self._one_by_one.keeps(item)

    async def _send_once_released(self, items: Sequence[Item]) -> Verdict:
        """
        Send *items*; while the sink refuses it is held, and they wait for a turn to probe.

        Raises RefusedAlone if it is *items* that it refuses, and not everything.
        """
        probe_lock = self._health.probe_lock
        condition = self._health.condition
        await self._take_turn()
        delay, number = ProbeDelay(), 0
        while True:
            number += 1
            if self._one_by_one.applies:
                await self._one_by_one.wait(items[0])
            try:
                return await self._request(
                    await self._batches.renew(items, micros(self._clock.confirmed.now(self._name)))
                )
            except (Refused, PeerBug) as error:
                self._count_possible_duplicates(items, error)
                if isinstance(error, PeerBug):
                    await self._health.mark_bug(error)
                else:
                    await self._judge_refusal(items, error, number)
                if self._attempts is not None:
                    raise
                failure = error
            # One batch probes; the others wait behind it.
            await probe_lock.acquire()
            if condition.held:
                await self._clock.sleep(delay.after(failure))

    async def _judge_refusal(self, items: Sequence[Item], error: Refused, number: int) -> None:
        """
        Mark the sink held for the *error*, which *items* got *number* times.

        Raises RefusedAlone if it is them that are refused, and not everything.
        """
        if self._one_by_one.met(error):
            await self._one_by_one.refused(items[0], error)
            return
        if self._attempts is None:
            await self._refusals.judge(items, error, number)
        await self._health.mark_held(error)

    def _count_possible_duplicates(
        self, items: Sequence[Item], error: Retryable | Refused | PeerBug
    ) -> None:
        if error.sent:
            self._outcomes.count_possible_duplicates(
                1 if self._one_by_one.met(error) else len(items)
            )

    async def _request(self, items: Sequence[Item]) -> Verdict:
        """Make one request; if it returns, it stays open until its verdict is stored."""
        if self._stopping:
            await asyncio.Event().wait()  # until cancelled: the events stay in the spool
        self._in_flight.request_started()
        begun = self._clock.monotonic()
        try:
            if self._one_by_one.applies:
                verdict = await self._one_by_one.send(items)
            else:
                verdict = await send_fit(self._sink, items)
        except BaseException as error:
            self._in_flight.request_finished()
            if isinstance(error, Retryable):
                self._concurrency.on_failure(begun, self._clock.monotonic())
            raise
        self._one_by_one.answered()
        size = size_of(items)
        if verdict.throttled or verdict.retry_reason is not None:
            self._concurrency.on_failure(begun, self._clock.monotonic())
        else:
            self._concurrency.on_success(
                begun, self._clock.monotonic(), size=size, in_flight=self._in_flight.requests
            )
            self._size.passed(size, self._clock.monotonic(), self._sink.limits.bytes)
        return verdict

    def _apply_circuit_breaker(
        self, items: Sequence[Item], verdict: Verdict, *, probe: bool
    ) -> tuple[Verdict, set[int]]:
        """
        Return *verdict* with a retry for each rejection that must not become a dead letter.

        The indices of these are returned as well.
        """
        if not (verdict.rejected or self._breaker.counts):
            return verdict, set()
        rejected = {each.index for each in verdict.rejected}
        named = rejected.union(verdict.retry)
        accepted = {
            item.key for index, item in enumerate(items) if index not in named and not item.reduced
        }
        if accepted and self._breaker.success(accepted):
            self._batches.resend_postponed()
        dead = self._breaker.failure(verdict.rejected, probe=probe, accepted=accepted or None)
        withheld = rejected - {each.index for each in dead}
        if withheld:
            retry = tuple(sorted((*verdict.retry, *withheld)))
            verdict = replace(verdict, rejected=tuple(dead), retry=retry)
        return verdict, withheld

    async def _commit_verdict(
        self, items: Sequence[Item], verdict: Verdict, first_at: datetime, attempts: int
    ) -> None:
        """Store the *verdict* on *items*, and with that finish their request."""
        now = self._clock.now()
        rejected = {rejection.index for rejection in verdict.rejected}
        named = {*verdict.retry, *rejected}
        accepted = items
        if named:
            accepted = [item for index, item in enumerate(items) if index not in named]
        try:
            refusal = await self._health.update(verdict)
            dead = [
                (
                    items[rejection.index],
                    RejectedEvent(
                        items[rejection.index].position,
                        rejection.reason,
                        scrub(rejection.message),
                        rejection.status,
                        attempts,
                        first_at,
                        now,
                        reduced=_is_of_content(rejection),
                    ),
                )
                for rejection in verdict.rejected
            ]
            sent = SentBatch.of(accepted, self._clock.monotonic())
            done = ranges_of(items[index].position for index in rejected)
            if verdict.ack_id is None:
                copies = await self._outcomes.commit([*done, *sent.ranges], [sent], dead)
            else:
                if accepted:
                    self._pending.add(verdict.ack_id.channel, verdict.ack_id.number, sent)
                copies = await self._outcomes.commit(done, [], dead)
            self._postponed.accepted(accepted)
            self._postponed.forget(items[index] for index in rejected)
            if copies:
                self._in_flight.spool_changed.set()
        finally:
            self._in_flight.request_finished()
        self._outcomes.count_possible_duplicates(verdict.counts.possibly_stored)
        if refusal is not None and self._attempts is not None:
            raise refusal


class _SameFailures:
    """Counts failures in a row that may be due to what was sent, for one reason."""

    def __init__(self) -> None:
        self._what: tuple[str, bool] | None = None
        self._count = 0

    def add(self, error: Retryable, events: int) -> int:
        """Count *error* of a request with so many *events*; return how many are alike so far."""
        what = error.reason, events == 1
        self._count = self._count + 1 if what == self._what else 1
        self._what = what
        # A sink that says that it is busy, or is not reached, would fail for less as well.
        return self._count if error.sent or error.while_sending else 0


def halves(items: Sequence[Item]) -> list[Sequence[Item]]:
    """Return both halves of *items*; the only one, if there is but one."""
    middle = len(items) // 2
    return [items[:middle], items[middle:]] if middle else [items]


def size_of(items: Sequence[Item]) -> int:
    """Return the bytes of *items* in a request."""
    return sum([len(item.text) for item in items])


def _is_of_content(rejection: Rejection) -> bool:
    """Return whether it is its content for which an event is rejected, and not its age."""
    return rejection.status is not None or rejection.reason == "too_large"
