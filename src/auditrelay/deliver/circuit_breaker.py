"""
Stop dead-lettering when a sink refuses every event: then its configuration is wrong.

A sink that refuses event after event for one reason, and accepts none in between, would fill the
dead letters with events that nothing is wrong with. So after ``THRESHOLD`` of them the circuit
breaker opens: only one event at a time becomes a dead letter, ever less often, until the sink
accepts one again. What is not known to be refused yet is tried meanwhile, so that a run of events
that really are bad delays no others. Pure.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Final

from auditrelay.deliver.probe import PROBE_FIRST, PROBE_MAX
from auditrelay.errors import Refused
from auditrelay.sinks import Rejection

THRESHOLD: Final = 100
"""Dead letters for one reason, with nothing delivered in between, that open the breaker."""

_Run = tuple[str | None, str]
"""What is counted together: a target, or None for the sink as a whole, and a reason."""


class CircuitBreaker:
    """
    Counts what one sink has refused since it last accepted an event for the same target.

    What is accepted for one target says nothing about another: an index that cannot be written to
    is noticed however well the others do.
    """

    def __init__(self) -> None:
        self._runs: Counter[_Run] = Counter()
        self._open: dict[_Run, None] = {}
        self._delay = PROBE_FIRST

    @property
    def is_open(self) -> bool:
        """Whether the sink refuses every event, or every one for some target."""
        return bool(self._open)

    @property
    def counts(self) -> bool:
        """Whether anything was refused for which an accepted event makes a difference."""
        return bool(self._runs or self._open)

    @property
    def reason(self) -> str | None:
        """The reason for which every event is refused, while the breaker is open."""
        return next((reason for _, reason in self._open), None)

    @property
    def target(self) -> str | None:
        """The target for which that is so; None: for all."""
        return next((target for target, _ in self._open), None)

    def restore(self, reason: str, target: str | None = None) -> None:
        """Open the breaker for *reason* and *target*, as the last process left it."""
        self._open = {(target, reason): None}

    def success(self, targets: Collection[object]) -> bool:
        """Record that events for *targets* were accepted; return whether the breaker closes."""
        closed = False
        for run in [*self._open, *self._runs]:
            if run[0] is None or run[0] in targets:
                closed |= run in self._open
                self._open.pop(run, None)
                self._runs.pop(run, None)
        if not self._open:
            self._delay = PROBE_FIRST
        return closed

    def failure(
        self,
        rejections: Sequence[Rejection],
        *,
        probe: bool = False,
        accepted: Collection[object] | None = None,
    ) -> list[Rejection]:
        """
        Count what the sink refused; return those to dead-letter.

        *accepted* are the targets of what it accepted with the same request, None if nothing: then
        a refusal shows that an event is bad, and is not counted. What auditrelay rejected before
        sending says nothing about the sink. The event of a *probe* becomes a dead letter even while
        the breaker is open: otherwise a long run of events that really are bad would never end.
        """
        dead = []
        for rejection in rejections:
            target = rejection.target
            shows_the_event = accepted is not None and (target is None or target in accepted)
            if rejection.status is not None and not shows_the_event:
                if self._is_open_for(target) and not probe:
                    continue
                run = target, rejection.reason
                self._runs[run] += 1
                if self._runs[run] >= THRESHOLD:
                    self._open[run] = None
            dead.append(rejection)
        return dead

    def _is_open_for(self, target: str | None) -> bool:
        return any(each is None or each == target for each, _ in self._open)

    def probe_delay(self) -> float:
        """Return how many seconds to wait before the next probe; doubled each time."""
        delay = self._delay
        self._delay = min(delay * 2, PROBE_MAX)
        return delay

    def error(self, sink: str, rejections: Sequence[Rejection]) -> Refused | None:
        """Return the error of *sink*, which answered *rejections* while the breaker was open."""
        refusal = next((each for each in rejections if each.status is not None), None)
        if refusal is None:
            return None
        what = "every event" if self.target is None else f"every event for {self.target}"
        return Refused(
            f"it refuses {what}, {THRESHOLD} or more in a row, with the reason {self.reason}: "
            f"{refusal.message} | most likely the configuration is wrong: fix what the sink names "
            "(index, mapping, pipeline, token), and delivery resumes automatically. Until then the "
            "events wait, and one at a time is sent as a probe and dead-lettered. See auditrelay "
            f"dead-letters list --sink {sink} --reason {self.reason}",
            status=refusal.status,
        )
