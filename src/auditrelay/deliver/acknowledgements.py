"""
The batches that a sink has accepted and not acknowledged yet.

Some products accept a batch at once and report only later, when asked, that it is stored. Until
then it is not delivered. Memory keeps only its positions in the spool, from where it can be read
again, and what the metrics need.
"""

import asyncio
from array import array
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import Final, Self

from auditrelay.deliver.batches import ranges_of
from auditrelay.sinks import Channel, Item
from auditrelay.store.progress import Range

MAX_BYTES: Final = 16 << 20
"""About how much memory the pending batches of one sink may take before sending pauses."""

_BATCH_BYTES: Final = 1000
_EVENT_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class SentBatch:
    """
    A batch that was sent: its positions in the spool, and when its events happened, by source.

    *at* is in seconds on the monotonic clock, *occurred* in microseconds since 1970; *past* is the
    same for events that were meant to come late.
    """

    ranges: list[Range]
    occurred: dict[str, "array[int]"]  # quoted: array cannot be subscripted before Python 3.12
    events: int
    at: float
    past: dict[str, "array[int]"] = field(default_factory=dict)

    @classmethod
    def of(cls, items: Collection[Item], at: float) -> Self:
        """Return what to keep of *items*, sent *at*."""
        occurred: dict[str, array[int]] = {}
        past: dict[str, array[int]] = {}
        # A batch is made of pages, each from one source.
        for (source, live), together in groupby(items, attrgetter("source", "live")):
            times = (occurred if live else past).setdefault(source, array("q"))
            times.extend([item.at for item in together])
        return cls(ranges_of(item.position for item in items), occurred, len(items), at, past)

    @property
    def size(self) -> int:
        """About how many bytes of memory it takes."""
        return _BATCH_BYTES + _EVENT_BYTES * self.events


class PendingAcknowledgements:
    """The batches of one sink that wait for an acknowledgement, by channel and number."""

    def __init__(self) -> None:
        self.events = 0
        self.not_empty = asyncio.Event()
        """Set while any batch waits."""
        self._size = 0
        self._waiting: dict[Channel, dict[int, SentBatch]] = {}

    @property
    def full(self) -> bool:
        """Whether sending has to pause until some are acknowledged."""
        return self._size >= MAX_BYTES

    @property
    def channels(self) -> list[Channel]:
        """The channels on which a batch waits."""
        return list(self._waiting)

    def add(self, channel: Channel, number: int, sent: SentBatch) -> None:
        """Add a batch that was accepted under *number* on *channel*."""
        self._waiting.setdefault(channel, {})[number] = sent
        self._size += sent.size
        self.events += sent.events
        self.not_empty.set()

    def numbers(self, channel: Channel) -> list[int]:
        """Return the numbers of the batches that wait on *channel*."""
        return list(self._waiting.get(channel, ()))

    def take(self, channel: Channel, numbers: Iterable[int]) -> list[SentBatch]:
        """Remove the batches with *numbers* on *channel*, and return them."""
        waiting = self._waiting.get(channel, {})
        taken = [waiting.pop(number) for number in numbers if number in waiting]
        if not waiting:
            self._waiting.pop(channel, None)
        self._size -= sum(sent.size for sent in taken)
        self.events -= sum(sent.events for sent in taken)
        if not self._waiting:
            self.not_empty.clear()
        return taken

    def overdue(self, channel: Channel, now: float) -> list[int]:
        """Return the numbers on *channel* that are overdue: all of them, if it is lost."""
        waiting = self._waiting.get(channel, {})
        if channel.lost:
            return list(waiting)
        oldest = now - channel.ack_timeout.total_seconds()
        return [number for number, sent in waiting.items() if sent.at <= oldest]
