"""
How many requests a peer bears at a time: more while that helps it, fewer when it does not.

Additive increase and multiplicative decrease, as TCP has it (RFC 5681), with one sign more: an
answer that takes much longer than the best of late, for a request of about that size, says that
requests queue up over there, before the first of them is refused. Pure: times are passed in.
"""

import math
from typing import Final

TOLERANCE: Final = 2.0
"""How many times longer than the best of late an answer may take without being slow."""

NOISE: Final = 0.05
"""Seconds by which answers differ anyway: the network's, the scheduler's and our own."""

FORGET: Final = 300.0
"""Seconds in which the best of late doubles, so that a peer may become slower for good."""

EASE: Final = 0.4
"""
What is left of the width after a failure, or an answer that was slow.

Less than one in TOLERANCE: what answers take with so few on the wire is a good best, even if the
last one was forgotten. With more, the width would creep up from one to the next.
"""


class Capacity:
    """How many requests may be on the wire to one peer: between one and *most*."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._width = float(most)
        self._best: dict[int, tuple[float, float]] = {}
        self._eased = -math.inf

    @property
    def width(self) -> int:
        """How many requests may be on the wire now."""
        return int(self._width)

    def answered(self, begun: float, ended: float, *, size: int, on_wire: int) -> None:
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
        elif on_wire >= self.width:
            self._width = min(self._most, self._width + 1 / self._width)

    def failed(self, begun: float, ended: float) -> None:
        """Learn from a request that failed, or whose answer asks for less."""
        self._ease(begun, ended)

    def _ease(self, begun: float, ended: float) -> None:
        # Those that were on the wire with the one that told tell of the same jam.
        if begun >= self._eased:
            self._width = max(1.0, self._width * EASE)
            self._eased = ended
