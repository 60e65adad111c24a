"""One line of a kind a minute, for what others can cause as often as they like."""

import time
from collections.abc import Callable
from typing import Final

SECONDS: Final = 60.0
"""How long a kind is held back after one line of it."""

MOST_KINDS: Final = 100
"""How many kinds are counted; the oldest is forgotten for a new one."""


class Throttle:
    """Tells which lines to write; *monotonic* returns seconds that only ever grow."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._written: dict[str, tuple[float, int]] = {}
        """By kind: when the last line was written, and how many were held back since."""

    def admit(self, kind: str) -> int | None:
        """Return how many lines of *kind* were held back since the last, or None: hold it back."""
        now = self._monotonic()
        written, held_back = self._written.get(kind, (now - SECONDS, 0))
        if now - written < SECONDS:
            self._written[kind] = written, held_back + 1
            return None
        self._written.pop(kind, None)
        if len(self._written) == MOST_KINDS:
            del self._written[next(iter(self._written))]
        self._written[kind] = now, 0
        return held_back
