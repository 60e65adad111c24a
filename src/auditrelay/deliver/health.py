"""The health of one sink: up, unavailable or held, since when and why."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from auditrelay.clock import Clock
from auditrelay.deliver.circuit_breaker import CircuitBreaker
from auditrelay.deliver.in_flight import InFlight
from auditrelay.deliver.probe import ProbeDelay, ProbeLock
from auditrelay.deliver.state_writer import StateWriter
from auditrelay.errors import PeerBug, Refused, RelayError, Retryable, code_of
from auditrelay.sinks import Verdict
from auditrelay.store.conditions import SinkCondition
from auditrelay.store.health import Health
from auditrelay.telemetry.metrics import Metrics
from auditrelay.telemetry.scrubber import scrub

T = TypeVar("T")


class SinkHealth:
    """
    Keeps the condition of the sink called *name* in store, metrics and log.

    A sink whose circuit *breaker* is open is held, and only an event that it accepts releases it.
    With *fail_fast*, for a run that has to end, a bug is raised instead of waited out.
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
        fail_fast: bool = False,
    ) -> None:
        self.condition = SinkCondition()
        self.worked_once = False
        """Whether a request to the sink has succeeded since the start."""
        self.probe_lock = ProbeLock()
        """Owned by the task that finds out whether the sink has recovered."""
        self.ack_failure: Retryable | None = None
        """Why the sink is not up although it accepts events: it has stopped acknowledging them."""
        self._has_bug = False
        """Whether a bug holds the sink: a batch that was sent before may succeed all the same."""
        self._name = name
        self._breaker = breaker
        self._in_flight = in_flight
        self._state = state
        self._clock = clock
        self._fail_fast = fail_fast
        self._health = Health("sink", name, self.condition, metrics=metrics, clock=clock)

    def restore(self, saved: SinkCondition) -> None:
        """Restore from *saved*, the condition that the last process left, what is still true."""
        self.condition.last_delivered_at = saved.last_delivered_at
        self.condition.freshness = saved.freshness
        self.condition.unproven = saved.unproven
        self.condition.unanswered = saved.unanswered
        self._health.restore(saved)
        if saved.breaker_reason is not None and saved.last_error is not None:
            # Otherwise every restart would dead-letter another hundred events.
            self._breaker.restore(saved.breaker_reason, saved.breaker_target)
            self.condition.breaker_target = saved.breaker_target
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
        """Mark the sink up, unless a success proves nothing: a breaker is open, a bug holds it."""
        self.worked_once = True
        if not self._bug_stands():
            self.condition.unproven = self.condition.unanswered = False
        if self._breaker.is_open or self._bug_stands():
            return
        failure = self.ack_failure
        if failure is None:
            changed = self._health.succeeded()
        else:
            reason = scrub(str(failure))
            changed = self._health.succeeded(up=False, error=reason, code=code_of(failure))
        await self._save(changed=changed)

    async def mark_held(self, error: Refused | PeerBug) -> None:
        """
        Mark the sink held: it refuses until an operator acts, or its check meets a bug.

        If it may have stored events all the same, it must prove itself before it gets them again.
        """
        if not self._bug_stands():
            self.condition.unproven |= error.sent
            await self._save_failure(changed=self._health.refused(error))

    async def mark_unanswered(self) -> None:
        """Mark the sink as one that is asked first, since what was sent to it was not answered."""
        self.condition.unanswered = True
        await self._save(changed=True)

    async def mark_bug(self, error: PeerBug) -> None:
        """Mark the sink held by a bug, until the owner of the probe lock marks it otherwise."""
        self._has_bug = True
        await self._save_failure(changed=self._health.refused(error))

    async def without_bug(self, step: Callable[[], Awaitable[T]]) -> T:
        """Return what *step* of a batch to come returns; while it meets a bug the sink is held."""
        delay = ProbeDelay()
        try:
            while True:
                try:
                    return await step()
                except PeerBug as error:
                    await self.mark_bug(error)
                    if self._fail_fast:
                        raise
                    # So that no batch in flight releases it. The next one that is sent does.
                    await self.probe_lock.acquire()
                    await self._clock.sleep(delay.after(error))
        finally:
            self.probe_lock.release()

    async def mark_unavailable(self, error: RelayError) -> None:
        """Mark the sink unavailable, and let another task probe it next."""
        if not self._bug_stands():
            await self._save(changed=self._health.failed(error, held=self._breaker.is_open))
        self.probe_lock.release()

    def _bug_stands(self) -> bool:
        """Return whether a bug holds the sink; the owner of the probe lock knows that none does."""
        if self.probe_lock.mine:
            self._has_bug = False
        return self._has_bug

    async def _save_failure(self, *, changed: bool) -> None:
        """
        Write the condition before a failure is raised, which ends a run that has to end.

        Another batch may have met the same, and its write is cancelled then.
        """
        await self._save(changed=changed or self._fail_fast)

    async def _save(self, *, changed: bool) -> None:
        """Write the condition if it has *changed*: what else is in it changes with every batch."""
        breaker = self._breaker.reason, self._breaker.target
        changed |= breaker != (self.condition.breaker_reason, self.condition.breaker_target)
        self.condition.breaker_reason, self.condition.breaker_target = breaker
        if changed:
            self._in_flight.slot_changed.set()
            await self._state.save_condition(self.condition)
