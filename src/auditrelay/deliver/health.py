"""The health of one sink: up, unavailable or held, since when and why."""

from datetime import UTC

import structlog

from auditrelay.clock import Clock
from auditrelay.deliver.circuit_breaker import CircuitBreaker
from auditrelay.deliver.in_flight import InFlight
from auditrelay.deliver.probe import ProbeLock
from auditrelay.deliver.state_writer import StateWriter
from auditrelay.errors import Refused, RelayError, Retryable, code_of
from auditrelay.sinks import Verdict
from auditrelay.store.conditions import SinkCondition
from auditrelay.telemetry.metrics import Metrics
from auditrelay.telemetry.scrubber import scrub

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class SinkHealth:
    """
    Keeps the condition of the sink called *name* in store, metrics and log.

    A sink whose circuit *breaker* is open is held, and only an event that it accepts releases it.
    """

    def __init__(
        self,
        name: str,
        breaker: CircuitBreaker,
        in_flight: InFlight,
        *,
        state: StateWriter,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self.condition = SinkCondition()
        self.worked_once = False
        """Whether a request to the sink has succeeded since the start."""
        self.probe_lock = ProbeLock()
        """Owned by the task that finds out whether the sink has recovered."""
        self.ack_failure: Retryable | None = None
        """Why the sink is not up although it accepts events: it has stopped acknowledging them."""
        self._name = name
        self._breaker = breaker
        self._in_flight = in_flight
        self._state = state
        self._metrics = metrics
        self._clock = clock
        self._last: tuple[bool, bool] | None = None
        """``up`` and ``held`` since ``condition.since``."""

    def restore(self, saved: SinkCondition) -> None:
        """Restore from *saved*, the condition that the last process left, what is still true."""
        self.condition.last_delivered_at = saved.last_delivered_at
        if saved.since is not None and not saved.up:
            # A failure that outlasts a restart began before it.
            self.condition.since, self._last = saved.since, (False, saved.held)
        if saved.breaker_reason is not None and saved.last_error is not None:
            # Otherwise every restart would dead-letter another hundred events.
            self._breaker.restore(saved.breaker_reason)
            self.condition.breaker_reason, self.condition.held = saved.breaker_reason, True
            self.condition.last_error = saved.last_error

    async def update(self, verdict: Verdict) -> Refused | None:
        """Mark the sink up, or held if its circuit breaker is open; return why it is held."""
        if not self._breaker.is_open:
            await self.mark_up()
            return None
        refusal = self._breaker.error(self._name, verdict.rejected)
        if refusal is not None:
            await self.mark_held(refusal)
        return refusal

    async def mark_up(self) -> None:
        """Mark the sink up, unless its circuit breaker is open: then a success proves nothing."""
        self.worked_once = True
        if self._breaker.is_open:
            return
        if self.condition.held:
            _log.warning("sink_released", sink=self._name)
        await self._set(up=self.ack_failure is None, held=False, error=self.ack_failure)

    async def mark_held(self, error: Refused) -> None:
        """Mark the sink held: it refuses until an operator acts."""
        if not self.condition.held:
            _log.error("sink_held", sink=self._name, status=error.status, reason=scrub(str(error)))
        await self._set(up=False, held=True, error=error)

    async def mark_unavailable(self, error: RelayError) -> None:
        """Mark the sink unavailable, and let another task probe it next."""
        await self._set(up=False, held=False, error=error)
        self.probe_lock.release()

    async def _set(self, *, up: bool, held: bool, error: RelayError | None) -> None:
        self._metrics.sink_up.labels(self._name).set(up)
        last_error = None if error is None else scrub(str(error))
        breaker_reason = self._breaker.reason
        held = held or self._breaker.is_open
        condition = self.condition
        old = (condition.up, condition.held, condition.last_error, condition.breaker_reason)
        if old == (up, held, last_error, breaker_reason):
            return
        condition.up, condition.held = up, held
        condition.last_error, condition.breaker_reason = last_error, breaker_reason
        condition.error_code = None if error is None else code_of(error)
        if self._last != (up, held):
            self._last = (up, held)
            condition.since = self._clock.now().astimezone(UTC).isoformat()
        self._in_flight.slot_changed.set()
        await self._state.save_condition(condition)
