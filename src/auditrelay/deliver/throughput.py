"""Events delivered in each of the last minutes; counted batch by batch, without a timer."""

from datetime import datetime
from typing import Final

MINUTES: Final = 60
"""How many minutes are kept, the current one included."""


class Throughput:
    """The events of each of the last ``MINUTES`` minutes, from *start* on; in memory only."""

    def __init__(self, start: datetime) -> None:
        self.start = start
        self._counts: dict[int, int] = {}

    def add(self, now: datetime, events: int) -> None:
        """Count *events* that were delivered *now*."""
        minute = _minute(now)
        self._counts[minute] = self._counts.get(minute, 0) + events
        if len(self._counts) > MINUTES:
            del self._counts[min(self._counts)]

    def per_minute(self, now: datetime) -> list[int]:
        """Return the count of each minute up to the current one, which is not over yet."""
        last = _minute(now)
        first = max(last - MINUTES + 1, min(_minute(self.start), last))
        return [self._counts.get(minute, 0) for minute in range(first, last + 1)]


def _minute(at: datetime) -> int:
    return int(at.timestamp()) // 60
