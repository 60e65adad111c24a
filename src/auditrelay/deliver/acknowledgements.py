"""
What a sink has taken and not acknowledged yet.

Some products answer at once that they have a batch, and tell later, when asked, that it is safe.
Until then it is not delivered. What has to be remembered of it is little: its places in the spool,
from where it can be read again, and what the metrics want to know.
"""

from __future__ import annotations

import asyncio
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from auditrelay.deliver.batches import ranges_of

if TYPE_CHECKING:  # only annotations name them
    from collections.abc import Collection, Iterable

    from auditrelay.errors import Retryable
    from auditrelay.sinks import Channel, Item
    from auditrelay.store.progress import Range

MOST_BYTES: Final = 16 << 20
"""About how much memory the receipts of one sink may take before no more is sent."""

_BATCH_BYTES: Final = 1000
_EVENT_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class Sent:
    """
    What is remembered of a batch: its places, and when its events happened, by source.

    *at* counts seconds on the clock of the sender, *occurred* microseconds since 1970.
    """

    ranges: list[Range]
    occurred: dict[str, array[int]]
    events: int
    at: float

    @classmethod
    def of(cls, items: Collection[Item], at: float) -> Sent:
        """Return what to remember of *items*, sent *at*."""
        occurred: dict[str, array[int]] = {}
        for item in items:
            occurred.setdefault(item.event.source, array("q")).append(item.event.at)
        return cls(ranges_of(item.position for item in items), occurred, len(items), at)

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        return _BATCH_BYTES + _EVENT_BYTES * self.events


@dataclass(slots=True)
class Receipts:
    """The batches of one sink that wait for their acknowledgement, by channel and number."""

    events: int = 0
    unheard: Retryable | None = None
    """What to say of the last that was to be acknowledged, if it was not, in time."""
    some: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while any wait."""
    _size: int = 0
    _waiting: dict[Channel, dict[int, Sent]] = field(default_factory=dict)

    @property
    def full(self) -> bool:
        """Whether no more may be added for now."""
        return self._size >= MOST_BYTES

    @property
    def channels(self) -> list[Channel]:
        """Where there is something to ask about."""
        return list(self._waiting)

    def add(self, channel: Channel, number: int, sent: Sent) -> None:
        """Remember a batch that was taken under *number* on *channel*."""
        self._waiting.setdefault(channel, {})[number] = sent
        self._size += sent.size
        self.events += sent.events
        self.some.set()

    def numbers(self, channel: Channel) -> list[int]:
        """Return what waits on *channel*."""
        return list(self._waiting.get(channel, ()))

    def take(self, channel: Channel, numbers: Iterable[int]) -> list[Sent]:
        """Forget *numbers* of *channel*, and return what was sent under them."""
        waiting = self._waiting.get(channel, {})
        taken = [waiting.pop(number) for number in numbers if number in waiting]
        if not waiting:
            self._waiting.pop(channel, None)
        self._size -= sum(sent.size for sent in taken)
        self.events -= sum(sent.events for sent in taken)
        if not self._waiting:
            self.some.clear()
        return taken

    def overdue(self, channel: Channel, now: float) -> list[int]:
        """Return what of *channel* will not be acknowledged any more."""
        waiting = self._waiting.get(channel, {})
        if channel.lost:
            return list(waiting)
        oldest = now - channel.patience.total_seconds()
        return [number for number, sent in waiting.items() if sent.at <= oldest]
