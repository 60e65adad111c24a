"""Supervised sinks: what topology and commands use in place of a sink."""

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Protocol, runtime_checkable
from weakref import WeakValueDictionary

from auditrelay import sinks
from auditrelay.clock import Clock
from auditrelay.errors import PeerBug, Retryable
from auditrelay.events.marks import NO_MARKS
from auditrelay.events.page import Page
from auditrelay.settings import SinkSettings
from auditrelay.sinks import (
    AckId,
    Channel,
    Counts,
    Item,
    Limits,
    Part,
    Rendered,
    Sealing,
    Sink,
    Verdict,
)
from auditrelay.supervisor import Supervisor
from auditrelay.telemetry.metrics import Metrics


def always() -> bool:
    """Return True: no other instance sends to this sink."""
    return True


class SupervisedSink:
    """A :class:`Sink` whose bugs are PeerBugs; what it returns fits what it was given."""

    def __init__(
        self, sink: Sink, supervise: Supervisor, may_send: Callable[[], bool] = always
    ) -> None:
        self._sink = sink
        self._supervise = supervise
        self._may_send = may_send
        self.deduplicates = sink.deduplicates
        self._channels: WeakValueDictionary[int, _SupervisedChannel] = WeakValueDictionary()
        """By the identity of what they supervise: a channel in use has one supervised channel."""

    @property
    def limits(self) -> Limits:
        """See :class:`Sink`."""
        with self._supervise("limits"):
            return self._sink.limits

    def render(
        self, page: Page, now: int, *, marks: Mapping[str, object] = NO_MARKS
    ) -> list[Rendered]:
        """See :class:`Sink`."""
        with self._supervise("render"):
            rendered = self._sink.render(page, now, marks=marks)
            if len(rendered) != len(page):
                raise ValueError(f"{len(rendered)} texts for {len(page)} events")
            return rendered

    async def send(self, batch: Sequence[Item]) -> Verdict:
        """See :class:`Sink`; Retryable while another instance may be sending the same."""
        self._require_turn()
        with self._supervise("send"):
            verdict = await self._sink.send(batch)
            named = [*verdict.retry, *(rejection.index for rejection in verdict.rejected)]
            if named and not 0 <= min(named) <= max(named) < len(batch):
                raise ValueError(f"a verdict on events that are not in a batch of {len(batch)}")
            ack_id = verdict.ack_id
            if ack_id is None:
                return verdict
            return replace(verdict, ack_id=AckId(self._channel(ack_id.channel), ack_id.number))

    def _require_turn(self) -> None:
        """Raise Retryable while another instance may be sending the same."""
        if not self._may_send():
            raise Retryable(
                "the shared store has not answered for seconds: another replica may deliver",
                reason="store",
            )

    def _channel(self, channel: Channel) -> "_SupervisedChannel":
        supervised = self._channels.get(id(channel))
        if supervised is None:
            supervised = _SupervisedChannel(channel, self._supervise)
            self._channels[id(channel)] = supervised
        return supervised

    async def check(self) -> str:
        """See :class:`Sink`."""
        with self._supervise("check"):
            return await self._sink.check()

    def backfill_notice(self, start: datetime, end: datetime, now: datetime) -> str | None:
        """See :class:`Sink`."""
        with self._supervise("backfill_notice"):
            return self._sink.backfill_notice(start, end, now)

    def query(self, uid: str) -> Sequence[str]:
        """See :class:`Sink`."""
        with self._supervise("query"):
            return self._sink.query(uid)

    async def close(self) -> None:
        """See :class:`Sink`; a bug in it is only logged."""
        with contextlib.suppress(PeerBug), self._supervise("close"):
            await self._sink.close()


@runtime_checkable
class _Searchable(Protocol):
    async def find_stored(self, events: Sequence[Any]) -> Collection[str]: ...


class SearchableSink(SupervisedSink):
    """A supervised sink that can be searched for its events."""

    def __init__(
        self,
        sink: Sink,
        search: _Searchable,
        supervise: Supervisor,
        may_send: Callable[[], bool] = always,
    ) -> None:
        super().__init__(sink, supervise, may_send)
        self._search = search

    async def find_stored(self, events: Sequence[Any]) -> Collection[str]:
        """See :class:`auditrelay.collect.verify.Searchable`."""
        with self._supervise("find_stored"):
            return await self._search.find_stored(events)


class SealingSink(SupervisedSink, Sealing):
    """A supervised sink that stores each part of a batch under a name."""

    def __init__(
        self,
        sink: Sink,
        sealing: Sealing,
        supervise: Supervisor,
        may_send: Callable[[], bool] = always,
    ) -> None:
        super().__init__(sink, supervise, may_send)
        self._sealing = sealing

    def parts(self, batch: Sequence[Item], log: str, now: datetime) -> Sequence[Part]:
        """See :class:`Sealing`."""
        with self._supervise("parts"):
            parts = self._sealing.parts(batch, log, now)
            if sorted(index for part in parts for index in part.indices) != [*range(len(batch))]:
                raise ValueError(f"the parts are not all of a batch of {len(batch)}")
            return parts

    async def put(self, batch: Sequence[Item], name: str, *, again: bool) -> Counts:
        """See :class:`Sealing`; Retryable while another instance may be sending the same."""
        self._require_turn()
        with self._supervise("send"):
            return await self._sealing.put(batch, name, again=again)

    async def holds(self, name: str, digest: str) -> bool:
        """See :class:`Sealing`."""
        with self._supervise("holds"):
            return await self._sealing.holds(name, digest)


class _SupervisedChannel:
    """A :class:`Channel` whose bugs are PeerBugs."""

    def __init__(self, channel: Channel, supervise: Supervisor) -> None:
        self._channel = channel
        self._supervise = supervise
        self.ack_timeout: timedelta = channel.ack_timeout

    @property
    def lost(self) -> bool:
        """See :class:`Channel`."""
        with self._supervise("acknowledge"):
            return self._channel.lost

    async def acknowledged(self, numbers: Sequence[int]) -> set[int]:
        """See :class:`Channel`."""
        with self._supervise("acknowledge"):
            return await self._channel.acknowledged(numbers)

    def retire(self) -> None:
        """See :class:`Channel`."""
        with self._supervise("acknowledge"):
            self._channel.retire()


def make_sink(
    name: str,
    settings: SinkSettings,
    metrics: Metrics,
    clock: Clock,
    may_send: Callable[[], bool] = always,
) -> SupervisedSink:
    """
    Return what :func:`sinks.make` makes, supervised; nothing is sent unless it *may_send*.

    Raises ConfigError, and PeerBug.
    """
    supervise = Supervisor(name, metrics)
    with supervise("make"):
        sink = sinks.make(name, settings, metrics, clock)
        if isinstance(sink, _Searchable):
            return SearchableSink(sink, sink, supervise, may_send)
        if isinstance(sink, Sealing):
            return SealingSink(sink, sink, supervise, may_send)
        return SupervisedSink(sink, supervise, may_send)
