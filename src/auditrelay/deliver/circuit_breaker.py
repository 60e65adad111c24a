"""
Stop dead-lettering when a sink refuses everything: that is a fault of the configuration.

A sink that refuses event after event for one reason, and takes none in between, would fill the
dead letters with events that nothing is wrong with. So after ``THRESHOLD`` of them the breaker
opens: only one event at a time is offered and dead-lettered, ever more slowly, until the sink takes
one again. Pure.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Final

from auditrelay.deliver.probe_lock import PROBE_FIRST, PROBE_MOST
from auditrelay.errors import Refused
from auditrelay.sinks import Rejection

THRESHOLD: Final = 100
"""Dead letters for one reason, with nothing delivered in between, that open the breaker."""


class CircuitBreaker:
    """What one sink has refused since it last took an event."""

    def __init__(self) -> None:
        self.reason: str | None = None
        """Why everything is refused, while the breaker is open."""
        self._refusals: Counter[str] = Counter()
        self._delay = PROBE_FIRST

    @property
    def is_open(self) -> bool:
        """Whether the sink refuses everything."""
        return self.reason is not None

    def restore(self, reason: str) -> None:
        """Go on where the last process left off: open, for *reason*."""
        self.reason = reason

    def success(self) -> bool:
        """Count an event that the sink took; return whether that has closed the breaker."""
        closed = self.is_open
        self.reason = None
        self._refusals.clear()
        self._delay = PROBE_FIRST
        return closed

    def failure(self, rejections: Sequence[Rejection], *, alone: bool) -> list[Rejection]:
        """
        Count what the sink refused while it took nothing; return those that become dead letters.

        What we refused ourselves, without asking the sink, is no sign of a fault. An event that
        was offered *alone* becomes a dead letter even while the breaker is open: otherwise a long
        run of events that really are bad would never end.
        """
        dead = []
        for rejection in rejections:
            if rejection.status is not None:
                if self.is_open and not alone:
                    continue
                self._refusals[rejection.reason] += 1
                if self._refusals[rejection.reason] >= THRESHOLD:
                    self.reason = rejection.reason
            dead.append(rejection)
        return dead

    def probe_delay(self) -> float:
        """Return how many seconds to wait before the next event is offered; doubled each time."""
        delay = self._delay
        self._delay = min(delay * 2, PROBE_MOST)
        return delay

    def fault(self, sink: str, rejections: Sequence[Rejection]) -> Refused | None:
        """Return what is wrong with *sink*, which gave *rejections* while the breaker was open."""
        refusal = next((each for each in rejections if each.status is not None), None)
        if refusal is None:
            return None
        return Refused(
            f"it refuses every event, {THRESHOLD} or more in a row, with the reason {self.reason}: "
            f"{refusal.message} | that is taken for a fault of the configuration: mend what the "
            "sink names (index, mapping, pipeline, token), and it goes on by itself. Until then "
            "the events wait, and one at a time is tried and put aside. See auditrelay "
            f"dead-letters list --sink {sink} --reason {self.reason}",
            status=refusal.status,
        )
