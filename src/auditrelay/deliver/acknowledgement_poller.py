"""Ask a sink which batches it has acknowledged, for as long as any wait for that."""

from collections.abc import Callable
from typing import Final

import structlog

from auditrelay.deliver.acknowledgements import PendingAcknowledgements
from auditrelay.deliver.batches import Batches
from auditrelay.deliver.health import SinkHealth
from auditrelay.deliver.open_requests import OpenRequests
from auditrelay.deliver.outcomes import Outcomes
from auditrelay.deliver.probe_lock import PROBE_FIRST, PROBE_MOST
from auditrelay.deliver.wakeups import Wakeups
from auditrelay.errors import Refused, RelayError, Retryable
from auditrelay.http.retry import pause
from auditrelay.settings.values import format_duration
from auditrelay.sinks import Channel
from auditrelay.telemetry.scrubber import scrub

POLL_FIRST: Final = 1.0
"""Seconds until a sink is asked what it has acknowledged; doubled while there is nothing new."""


POLL_MOST: Final = 10.0
"""Most seconds between two questions; as often as Splunk's own clients ask."""


_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class AcknowledgementPoller:
    """
    Asks a sink about the *pending* batches, and has those sent again that it does not acknowledge.

    *gives_up* is for a run that shall end: it raises what otherwise would be waited for.
    """

    def __init__(
        self,
        name: str,
        pending: PendingAcknowledgements,
        *,
        batches: Batches,
        health: SinkHealth,
        outcomes: Outcomes,
        requests: OpenRequests,
        wakeups: Wakeups,
        monotonic: Callable[[], float],
        gives_up: bool,
    ) -> None:
        self._name = name
        self._pending = pending
        self._batches = batches
        self._health = health
        self._outcomes = outcomes
        self._requests = requests
        self._wakeups = wakeups
        self._monotonic = monotonic
        self._gives_up = gives_up

    async def keep_polling(self) -> None:
        """Ask for as long as any batch waits; until cancelled."""
        wait = POLL_FIRST
        while True:
            await self._pending.not_empty.wait()
            await pause(wait)
            try:
                news = await self._poll()
            except Refused as error:
                await self._health.mark_held(error)
                if self._gives_up:
                    raise
                # Until it answers, nothing is sent that could not be asked about.
                await self._health.probe_lock.acquire()
                wait = min(max(wait * 2, PROBE_FIRST), PROBE_MOST)
                continue
            if self._health.probe_lock.mine:
                await self._health.mark_up()
                self._health.probe_lock.release()
            wait = POLL_FIRST if news else min(wait * 2, POLL_MOST)

    async def hand_back(self) -> None:
        """Ask one last time; the next process sends again what is not acknowledged then."""
        try:
            if self._pending.events and not self._health.condition.held:
                await self._poll()
        except RelayError as error:
            _log.debug("acknowledgement_unasked", sink=self._name, reason=scrub(str(error)))
        finally:
            if self._pending.events:
                self._outcomes.record_missed_acknowledgement(self._pending.events, "stop")

    async def _poll(self) -> bool:
        """Ask once on every channel; return whether there was anything new."""
        news = [await self._poll_channel(channel) for channel in self._pending.channels]
        return any(news)

    async def _poll_channel(self, channel: Channel) -> bool:
        self._requests.started()
        try:
            delivered = self._pending.take(channel, await self._ask(channel))
            if delivered:
                self._health.unacknowledged = None
                done = [each for sent in delivered for each in sent.ranges]
                await self._outcomes.commit(done, delivered)
                if not self._health.condition.held:
                    await self._health.mark_up()
        finally:
            self._requests.finished()
        await self._resend_overdue(channel)
        self._wakeups.wake_waiters()
        return bool(delivered)

    async def _ask(self, channel: Channel) -> set[int]:
        """Return the numbers that the sink acknowledges on *channel*. Raises Refused."""
        if channel.lost:
            return set()
        try:
            return await channel.acknowledged(self._pending.numbers(channel))
        except Retryable as error:
            if self._health.probe_lock.mine:
                raise Refused(str(error)) from error  # it was held, and is not released by this
            return set()  # if it stays like that, the batches become overdue

    async def _resend_overdue(self, channel: Channel) -> None:
        """Send again what is not acknowledged in time, or cannot be any more."""
        missed = self._pending.take(channel, self._pending.overdue(channel, self._monotonic()))
        if not missed:
            return
        channel.retire()
        self._batches.resend(each for sent in missed for each in sent.ranges)
        self._wakeups.spool.set()
        events = sum(sent.events for sent in missed)
        reason = "channel_lost" if channel.lost else "ack_timeout"
        self._outcomes.record_missed_acknowledgement(events, reason)
        if channel.lost:
            return
        error = Retryable(
            f"it took {events} events and did not acknowledge them within "
            f"{format_duration(channel.patience)}; they are sent again. If that goes on: are its "
            "indexers well, and does a load balancer in front of it keep to its cookies?",
            reason=reason,
        )
        if self._gives_up:
            raise error
        self._health.unacknowledged = error
        await self._health.mark_unavailable(error)
