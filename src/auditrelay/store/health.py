"""
The health of one source or sink: up, held or neither, since when and why.

It lies here because ``collect`` and ``deliver`` keep it alike and do not know each other, and
because the store has it: a failure that outlasts a restart did not begin with it.
"""

from datetime import UTC
from typing import Generic, Literal, TypeVar

import structlog

from auditrelay.clock import Clock
from auditrelay.errors import Refused, RelayError, code_of
from auditrelay.store.conditions import SinkCondition, SourceCondition
from auditrelay.telemetry.metrics import Metrics
from auditrelay.telemetry.scrubber import scrub

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

C = TypeVar("C", SourceCondition, SinkCondition)


class Health(Generic[C]):
    """
    Keeps the *condition* of the source or sink *name*, with its metric, and logs each change once.

    What else is in the condition is up to its owner.
    """

    def __init__(
        self,
        peer: Literal["source", "sink"],
        name: str,
        condition: C,
        *,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self.condition: C = condition
        self._peer = peer
        self._name = name
        self._gauge = (metrics.source_up if peer == "source" else metrics.sink_up).labels(name)
        self._clock = clock
        self._last: tuple[bool, bool] | None = None
        """``up`` and ``held`` since ``condition.since``; None while nothing is known."""

    def restore(self, saved: C) -> None:
        """Restore since when it is down, if it is, from what the last process *saved*."""
        if saved.since is not None and not saved.up:
            self.condition.since, self._last = saved.since, (False, saved.held)

    def succeeded(
        self, *, up: bool = True, error: str | None = None, code: str | None = None
    ) -> bool:
        """
        Record a success, which releases it; return whether the condition has changed.

        *error* is what is wrong all the same: with some of it, or (*up* is false) with the whole.
        """
        released = self.condition.held
        changed = self._set(up=up, held=False, error=error, code=code)
        if released and self._peer == "source":
            _log.warning("source_released", source=self._name)
        elif released:
            _log.warning("sink_released", sink=self._name)
        return changed

    def refused(self, error: RelayError) -> bool:
        """
        Record that it is held: it refuses until an operator acts, or our code for it has a bug.

        Return whether that changed.
        """
        reason, new = scrub(str(error)), not self.condition.held
        status = error.status if isinstance(error, Refused) else None
        if new and self._peer == "source":
            _log.error("source_held", source=self._name, reason=reason)
        elif new:
            _log.error("sink_held", sink=self._name, status=status, reason=reason)
        return self._set(up=False, held=True, error=reason, code=code_of(error))

    def failed(self, error: RelayError, *, held: bool = False) -> bool:
        """Record a failure; it is *held* for another reason, or not. Return whether it changed."""
        return self._set(up=False, held=held, error=scrub(str(error)), code=code_of(error))

    def time(self) -> str:
        """Return what time it is, as conditions have it."""
        return self._clock.now().astimezone(UTC).isoformat()

    def _set(self, *, up: bool, held: bool, error: str | None, code: str | None) -> bool:
        self._gauge.set(up)
        condition = self.condition
        before = (condition.up, condition.held, condition.last_error)
        condition.up, condition.held = up, held
        condition.last_error, condition.error_code = error, code
        if self._last != (up, held):
            self._last = up, held
            condition.since = self.time()
        return before != (up, held, error)
