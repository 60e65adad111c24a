"""
Stop dead-lettering when a sink refuses every event: then its configuration is wrong.

A sink that refuses event after event for one reason, and accepts none in between, would fill the
dead letters with events that nothing is wrong with. So after ``THRESHOLD`` of them the circuit
breaker opens: one event at a time is sent and dead-lettered, ever less often, until the sink
accepts one again. Pure.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Final

from auditrelay.deliver.probe import PROBE_FIRST, PROBE_MAX
from auditrelay.errors import Refused
from auditrelay.sinks import Rejection

THRESHOLD: Final = 100
"""Dead letters for one reason, with nothing delivered in between, that open the breaker."""


class CircuitBreaker:
    """Counts what one sink has refused since it last accepted an event."""

    def __init__(self) -> None:
        self.reason: str | None = None
        """The reason for which every event is refused, while the breaker is open."""
        self._refusals: Counter[str] = Counter()
        self._delay = PROBE_FIRST

    @property
    def is_open(self) -> bool:
        """Whether the sink refuses every event."""
        return self.reason is not None

    def restore(self, reason: str) -> None:
        """Open the breaker for *reason*, as the last process left it."""
        self.reason = reason

    def success(self) -> bool:
        """Record an event that the sink accepted; return whether that has closed the breaker."""
        closed = self.is_open
        self.reason = None
        self._refusals.clear()
        self._delay = PROBE_FIRST
        return closed

    def failure(self, rejections: Sequence[Rejection], *, alone: bool) -> list[Rejection]:
        """
        Count what the sink refused while it accepted nothing; return those to dead-letter.

        What auditrelay rejected before sending says nothing about the sink. An event that was sent
        *alone* becomes a dead letter even while the breaker is open: otherwise a long run of events
        that really are bad would never end.
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
        """Return how many seconds to wait before the next event is sent; doubled each time."""
        delay = self._delay
        self._delay = min(delay * 2, PROBE_MAX)
        return delay

    def error(self, sink: str, rejections: Sequence[Rejection]) -> Refused | None:
        """Return the error of *sink*, which answered *rejections* while the breaker was open."""
        refusal = next((each for each in rejections if each.status is not None), None)
        if refusal is None:
            return None
        return Refused(
            f"it refuses every event, {THRESHOLD} or more in a row, with the reason {self.reason}: "
            f"{refusal.message} | most likely the configuration is wrong: fix what the sink names "
            "(index, mapping, pipeline, token), and delivery resumes automatically. Until then the "
            "events wait, and one at a time is sent as a probe and dead-lettered. See auditrelay "
            f"dead-letters list --sink {sink} --reason {self.reason}",
            status=refusal.status,
        )
