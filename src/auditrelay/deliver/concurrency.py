"""
Adapt how many requests one peer gets at a time.

Additive increase and multiplicative decrease, as in TCP (RFC 5681), with one more signal: an answer
that is much slower than the recent best for a request of about that size shows that requests queue
up at the peer, before it refuses the first of them. Pure: times are passed in.
"""

import math
from typing import Final

TOLERANCE: Final = 2.0
"""How many times longer than the recent best an answer may take without being slow."""

NOISE: Final = 0.05
"""Seconds by which answers differ anyway: the network's, the scheduler's and our own."""

FORGET: Final = 300.0
"""Seconds in which the recent best doubles, so that a peer may become slower for good."""

EASE: Final = 0.4
"""
What is left of the limit after a failure, or an answer that was slow.

Less than one in TOLERANCE: what answers take with so few on the wire is a good best, even if the
last one was forgotten. With more, the limit would creep up from one to the next.
"""


class AdaptiveConcurrency:
    """How many requests may be on the wire to one peer: between one and *most*."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._limit = float(most)
        self._best: dict[int, tuple[float, float]] = {}
        self._eased_at = -math.inf

    @property
    def limit(self) -> int:
        """How many requests may be on the wire now."""
        return int(self._limit)

    def on_success(self, begun: float, ended: float, *, size: int, on_wire: int) -> None:
        """
        Learn from a request of *size* bytes that was answered well, from *begun* to *ended*.

        *on_wire* is how many there were, this one included: where fewer were in use than may be,
        an answer says nothing about more.
        """
        seconds = ended - begun
        kind = size.bit_length()  # a thousand events take longer than one, and say nothing by it
        best, since = self._best.get(kind, (seconds, ended))
        best = min(seconds, best * 2 ** ((ended - since) / FORGET))
        self._best[kind] = (best, ended)
        if seconds > best * TOLERANCE + NOISE:
            self._ease(begun, ended)
        elif on_wire >= self.limit:
            self._limit = min(self._most, self._limit + 1 / self._limit)

    def on_failure(self, begun: float, ended: float) -> None:
        """Learn from a request that failed, or whose answer asks for less."""
        self._ease(begun, ended)

    def _ease(self, begun: float, ended: float) -> None:
        # The requests that were on the wire together suffer from the same congestion: once counts.
        if begun >= self._eased_at:
            self._limit = max(1.0, self._limit * EASE)
            self._eased_at = ended
