"""Poll a sink for the acknowledgements of the batches that wait for one."""

from typing import Final

import structlog

from auditrelay.clock import Clock
from auditrelay.deliver.acknowledgements import PendingAcknowledgements
from auditrelay.deliver.batches import Batches
from auditrelay.deliver.health import SinkHealth
from auditrelay.deliver.in_flight import InFlight
from auditrelay.deliver.outcomes import Outcomes
from auditrelay.deliver.probe import PROBE_FIRST, PROBE_MAX
from auditrelay.errors import PeerBug, Refused, RelayError, Retryable
from auditrelay.settings.values import format_duration
from auditrelay.sinks import Channel
from auditrelay.supervisor import RetryDelay
from auditrelay.telemetry.scrubber import scrub

POLL_FIRST: Final = 1.0
"""Seconds until a sink is first polled; doubled while nothing new is acknowledged."""

POLL_MAX: Final = 10.0
"""Most seconds between two polls; as often as Splunk's own clients poll."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class AcknowledgementPoller:
    """
    Polls a sink about the *pending* batches, and resends those that it does not acknowledge.

    With *fail_fast*, for a run that has to end, a failure is raised instead of waited out.
    """

    def __init__(
        self,
        name: str,
        pending: PendingAcknowledgements,
        *,
        batches: Batches,
        health: SinkHealth,
        outcomes: Outcomes,
        in_flight: InFlight,
        clock: Clock,
        fail_fast: bool,
    ) -> None:
        self._name = name
        self._pending = pending
        self._batches = batches
        self._health = health
        self._outcomes = outcomes
        self._in_flight = in_flight
        self._clock = clock
        self._fail_fast = fail_fast

    async def keep_polling(self) -> None:
        """Poll while any batch waits; until cancelled."""
        wait, after_bug = POLL_FIRST, RetryDelay()
        while True:
            await self._pending.not_empty.wait()
            await self._clock.sleep(wait)
            try:
                news = await self._poll()
            except Refused as error:
                await self._health.mark_held(error)
                if self._fail_fast:
                    raise
                # Until it answers, send nothing that could not be acknowledged.
                await self._health.probe_lock.acquire()
                wait = min(max(wait * 2, PROBE_FIRST), PROBE_MAX)
                continue
            except PeerBug as bug:
                await self._health.mark_bug(bug)
                if self._fail_fast:
                    raise
                await self._health.probe_lock.acquire()
                await self._clock.sleep(after_bug.next())
                if not self._pending.events:  # they are resent: the next batch is the probe
                    self._health.probe_lock.release()
                    self._in_flight.slot_changed.set()  # it may have looked for a slot before
                wait = POLL_FIRST
                continue
            after_bug.reset()
            if self._health.probe_lock.mine:
                await self._health.mark_up()
                self._health.probe_lock.release()
            wait = POLL_FIRST if news else min(wait * 2, POLL_MAX)

    async def hand_back(self) -> None:
        """Poll one last time; the next process resends what is not acknowledged then."""
        try:
            if self._pending.events and not self._health.condition.held:
                await self._poll()
        except RelayError as error:
            _log.debug("acknowledgement_check_failed", sink=self._name, reason=scrub(str(error)))
        finally:
            if self._pending.events:
                self._outcomes.record_missed_acknowledgement(self._pending.events, "stop")

    async def _poll(self) -> bool:
        """Poll every channel once; return whether anything new was acknowledged."""
        news = [await self._poll_channel(channel) for channel in self._pending.channels]
        return any(news)

    async def _poll_channel(self, channel: Channel) -> bool:
        self._in_flight.request_started()
        try:
            delivered = self._pending.take(channel, await self._ask(channel))
            if delivered:
                self._health.ack_failure = None
                done = [each for sent in delivered for each in sent.ranges]
                await self._outcomes.commit(done, delivered)
                if not self._health.condition.held:
                    await self._health.mark_up()
        finally:
            self._in_flight.request_finished()
        await self._resend_overdue(channel)
        self._in_flight.wake_loop()
        return bool(delivered)

    async def _ask(self, channel: Channel) -> set[int]:
        """Return the numbers that the sink acknowledges on *channel*. Raises Refused."""
        if channel.lost:
            return set()
        try:
            return await channel.acknowledged(self._pending.numbers(channel))
        except Retryable as error:
            if self._health.probe_lock.mine:
                raise Refused(str(error)) from error  # it was held, and stays so
            return set()  # if that lasts, the batches become overdue

    async def _resend_overdue(self, channel: Channel) -> None:
        """Resend what is not acknowledged in time, or cannot be any more."""
        missed = self._pending.take(
            channel, self._pending.overdue(channel, self._clock.monotonic())
        )
        if not missed:
            return
        self._batches.resend(each for sent in missed for each in sent.ranges)
        self._in_flight.spool_changed.set()
        channel.retire()
        events = sum(sent.events for sent in missed)
        reason = "channel_lost" if channel.lost else "ack_timeout"
        self._outcomes.record_missed_acknowledgement(events, reason)
        if channel.lost:
            return
        error = Retryable(
            f"it accepted {events} events and did not acknowledge them within "
            f"{format_duration(channel.ack_timeout)}; they are resent. If that continues, check "
            "that its indexers are healthy, and that a load balancer in front of it is sticky "
            "(keeps to its cookies)",
            reason=reason,
        )
        if self._fail_fast:
            raise error
        self._health.ack_failure = error
        await self._health.mark_unavailable(error)
