"""
Tell a fault of the configuration from bad events: what refuses everything is no event's fault.

A sink that refuses event after event for one reason, and takes none in between, would fill the
dead letters with events that nothing is wrong with. So after a few of them no more are put aside
but one at a time, slowly, until the sink takes one again. Pure.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Final

from auditrelay.sinks import Rejection

MOST: Final = 100
"""Dead letters for one reason, with nothing delivered in between, that make a flood."""


class Flood:
    """What one sink has refused since it last took an event."""

    def __init__(self) -> None:
        self.reason: str | None = None
        """The reason of the flood, while there is one."""
        self._run: Counter[str] = Counter()

    def resume(self, reason: str) -> None:
        """Go on where the last process left off: in a flood of *reason*."""
        self.reason = reason

    def taken(self) -> bool:
        """Count an event that the sink took; return whether that ends a flood."""
        ended = self.reason is not None
        self.reason = None
        self._run.clear()
        return ended

    def refused(self, rejections: Sequence[Rejection], *, alone: bool) -> list[Rejection]:
        """
        Count what the sink refused while it took nothing; return what of it may be put aside.

        What we refused ourselves, without asking the sink, is no sign of a flood. An event that
        was offered *alone* may always be put aside: that is how the sink crawls on.
        """
        aside = []
        for rejection in rejections:
            if rejection.status is not None:
                if self.reason is not None and not alone:
                    continue
                self._run[rejection.reason] += 1
                if self._run[rejection.reason] >= MOST:
                    self.reason = rejection.reason
            aside.append(rejection)
        return aside
