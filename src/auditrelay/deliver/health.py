"""The health of one sink: up, unavailable or held, since when and why."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC

import structlog

from auditrelay.clock import Clock
from auditrelay.deliver.circuit_breaker import CircuitBreaker
from auditrelay.deliver.in_flight import InFlight
from auditrelay.deliver.probe import ProbeLock
from auditrelay.deliver.state_writer import StateWriter
from auditrelay.errors import Refused, RelayError, Retryable, code_of
from auditrelay.sinks import Verdict
from auditrelay.telemetry.metrics import Metrics
from auditrelay.telemetry.scrubber import scrub

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(slots=True)
class SinkCondition:
    """The health of a sink, as the store keeps it and ``status`` shows it; times are ISO 8601."""

    up: bool = False
    held: bool = False
    since: str | None = None
    """When it became what it is now: up, held, or neither."""
    last_delivered_at: str | None = None
    last_error: str | None = None
    error_code: str | None = None
    """The short code of ``last_error``."""
    breaker_reason: str | None = None
    """The reason for which it refuses every event, while its circuit breaker is open."""


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

    def restore(self, saved: Mapping[str, object]) -> None:
        """Restore from *saved*, the condition that the last process left, what is still true."""
        last_delivered_at = saved.get("last_delivered_at")
        if isinstance(last_delivered_at, str):
            self.condition.last_delivered_at = last_delivered_at
        since, up = saved.get("since"), bool(saved.get("up"))
        if isinstance(since, str) and not up:
            # A failure that outlasts a restart began before it.
            self.condition.since, self._last = since, (up, bool(saved.get("held")))
        reason, last_error = saved.get("breaker_reason"), saved.get("last_error")
        if reason is None:
            reason = saved.get("flood")  # the key in the states that older commits wrote
        if isinstance(reason, str) and isinstance(last_error, str):
            # Otherwise every restart would dead-letter another hundred events.
            self._breaker.restore(reason)
            self.condition.breaker_reason, self.condition.held = reason, True
            self.condition.last_error = last_error

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
        await self._state.save_condition(asdict(condition))
