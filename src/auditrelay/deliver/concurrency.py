"""
Adapt how many requests are in flight to one sink.

Additive increase and multiplicative decrease, as in TCP (RFC 5681), with one more signal: a
response much slower than the recent minimum latency for a request of that size shows that requests
queue up at the sink, before it throttles the first of them. Pure: times are passed in.
"""

import math
from typing import Final

TOLERANCE: Final = 2.0
"""How many times the recent minimum latency a response may take without being slow."""

NOISE: Final = 0.05
"""Seconds by which latency varies anyway: network, scheduler and our own work."""

MINIMUM_DOUBLES_AFTER: Final = 300.0
"""Seconds in which the minimum doubles, so that a sink may become slower for good."""

MOST_DOUBLINGS: Final = 64
"""By then every minimum has expired; after days without a batch of a size 2 ** n has no value."""

DECREASE_FACTOR: Final = 0.4
"""
The factor by which a failure or a slow response lowers the limit.

Below 1 / TOLERANCE: with so few in flight, latency shows a true minimum, even if the last one has
expired. With a higher factor the limit would creep up from one expired minimum to the next.
"""


class AdaptiveConcurrency:
    """The limit of requests in flight to one sink: between 1 and *most*."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._limit = float(most)
        self._minimum: dict[int, tuple[float, float]] = {}
        self._decreased_at = -math.inf

    @property
    def limit(self) -> int:
        """How many requests may be in flight now."""
        return int(self._limit)

    def on_success(self, begun: float, ended: float, *, size: int, in_flight: int) -> None:
        """
        Learn from a request of *size* bytes that succeeded, from *begun* to *ended*.

        *in_flight* is how many there were, this one included: below the limit, a fast response says
        nothing about whether the sink could take more.
        """
        seconds = ended - begun
        size_class = size.bit_length()  # a thousand events take longer than one anyway
        minimum, since = self._minimum.get(size_class, (seconds, ended))
        doublings = min((ended - since) / MINIMUM_DOUBLES_AFTER, MOST_DOUBLINGS)
        minimum = min(seconds, minimum * 2**doublings)
        self._minimum[size_class] = (minimum, ended)
        if seconds > minimum * TOLERANCE + NOISE:
            self._decrease(begun, ended)
        elif in_flight >= self.limit:
            self._limit = min(self._most, self._limit + 1 / self._limit)

    def on_failure(self, begun: float, ended: float) -> None:
        """Learn from a request that failed or was throttled."""
        self._decrease(begun, ended)

    def _decrease(self, begun: float, ended: float) -> None:
        # Requests that were in flight together suffer from the same congestion: count it once.
        if begun >= self._decreased_at:
            self._limit = max(1.0, self._limit * DECREASE_FACTOR)
            self._decreased_at = ended
