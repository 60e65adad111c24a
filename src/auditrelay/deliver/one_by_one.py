"""
Events for a sink that has left open what becomes of them: one at a time, after its check.

Each may be a duplicate, so they are sent ever less often. A sink is such a one after a success that
proves nothing (*unproven*), or once single events were sent and not answered (*unanswered*).
"""

from collections.abc import Sequence

from auditrelay.clock import Clock
from auditrelay.deliver.health import SinkHealth
from auditrelay.deliver.postponed import Postponed
from auditrelay.deliver.probe import EventProbe
from auditrelay.deliver.refusals import Refusals
from auditrelay.deliver.send import is_well, send_first_alone
from auditrelay.errors import Refused, RelayError, Retryable, Unanswered
from auditrelay.sinks import Item, Sink, Verdict


class OneByOne:
    """Sends single events to *sink* while its *health* says so; the owner of the lock calls it."""

    def __init__(
        self,
        sink: Sink,
        *,
        health: SinkHealth,
        postponed: Postponed,
        refusals: Refusals,
        clock: Clock,
    ) -> None:
        self._sink = sink
        self._health = health
        self._postponed = postponed
        self._refusals = refusals
        self._clock = clock
        self._probe = EventProbe(clock.monotonic())
        self._is_checked = False
        """Whether the check succeeded that was made before the last event."""
        self._error: RelayError | None = None
        """What the last event met; batches that were sent before may fail at any time."""

    @property
    def applies(self) -> bool:
        """Whether the sink gets one event alone, after its check."""
        return self._health.condition.unproven or self._health.condition.unanswered

    async def wait(self, item: Item) -> None:
        """Wait until *item* may be sent."""
        again = self._postponed.was_set_aside(item)
        await self._clock.sleep(self._probe.wait(self._clock.monotonic(), again=again))

    def keeps(self, item: Item) -> bool:
        """Return whether *item*, set aside before, is kept, since it is too early to send it."""
        wait = self._probe.wait(self._clock.monotonic(), again=True)
        if not (self.applies and wait):
            return False
        self._postponed.keep(item, wait)
        return True

    async def send(self, items: Sequence[Item]) -> Verdict:
        """Check the sink, then send the first of *items*; the others are to be retried."""
        self._is_checked = False
        # Who answered with a success that proves nothing is another product until its check
        # succeeds. If nothing was answered, the check may be blocked where events are not.
        overdue = self._probe.is_overdue(self._clock.monotonic())
        must_be = self._health.condition.unproven or not overdue
        try:
            self._is_checked = await is_well(self._sink, must_be=must_be)
            verdict = await send_first_alone(self._sink, items)
        except RelayError as error:
            self._error = error
            raise
        if not (verdict.rejected or 0 in verdict.retry):
            self._refusals.passed_alone()
        return verdict

    def met(self, error: RelayError) -> bool:
        """Return whether it is the last event sent alone that met *error*, and not a batch."""
        return error is self._error

    def answered(self) -> None:
        """Record that the sink has said what became of events, of one or of many."""
        self._probe.answered()
        self._error = None  # with all that its traceback holds

    async def refused(self, item: Item, error: Refused) -> None:
        """
        Mark the sink held for the *error* that its check, or *item*, has met.

        Raises RefusedAlone if it was *item* that was refused, and not everything.
        """
        await self._health.mark_held(error)
        if not self._is_checked:
            return
        if error.is_success:
            self._left_open(item)
        await self._refusals.judge_first(item, error)

    async def unanswered(self, item: Item, error: Retryable) -> bool:
        """
        Return whether *error* is of *item* alone, sent to a sink that has left others unanswered.

        Then the sink is held, and gets the next one later; unless its check has failed as well.
        """
        if not (self._health.condition.unanswered and error.sent and self.met(error)):
            return False
        self._left_open(item)
        if self._is_checked:
            await self._health.mark_held(_unanswered(error))
        return self._is_checked

    def _left_open(self, item: Item) -> None:
        again = self._postponed.was_set_aside(item)
        self._probe.unanswered(self._clock.monotonic(), checked=self._is_checked, again=again)


def _unanswered(error: Retryable) -> Unanswered:
    """Return the error that holds a sink for *error* of yet another event that was sent alone."""
    return Unanswered(
        f"{error}; the same with the requests before. Whether their events were stored is unknown, "
        "and each further attempt might store them again: they wait, and one is sent alone ever "
        "less often, up to once an hour, if the sink's check succeeds. Check what lies in between, "
        "such as a proxy that waits less long than the sink takes"
    )
