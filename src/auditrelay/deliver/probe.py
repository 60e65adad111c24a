"""The probes of a sink that is unavailable or held: one at a time, ever less often."""

import asyncio
from typing import Final

from auditrelay.errors import PeerBug, RelayError
from auditrelay.supervisor import RetryDelay

PROBE_FIRST: Final = 5.0
"""Seconds until a sink that refuses is probed again; doubled each time."""

PROBE_MAX: Final = 300.0
"""Most seconds between two probes of a sink that refuses."""

EVENT_MAX: Final = 3600.0
"""Most seconds between two events that are sent to a sink which leaves open whether it has them."""


class ProbeDelay:
    """How long to wait until a held sink is probed again, after each failure in a row."""

    def __init__(self) -> None:
        self._after_refusal = PROBE_FIRST
        self._after_bug = RetryDelay()

    def after(self, error: RelayError) -> float:
        """Return the seconds to wait after *error*: longer after a bug than after a refusal."""
        if isinstance(error, PeerBug):
            return self._after_bug.next()
        delay = self._after_refusal
        self._after_refusal = min(delay * 2, PROBE_MAX)
        return delay


class EventProbe:
    """
    When a sink that leaves open whether it stores events is sent one: each may be a duplicate.

    The waits double from *PROBE_FIRST* to *EVENT_MAX*: of one that is sent *again* with each that
    was not answered, of another with each of those that had not been sent before. So one event
    that nothing answers delays no other. Pure: times are passed in.
    """

    def __init__(self, now: float) -> None:
        self._sent_at = now
        self._wait = self._wait_of_others = 0.0

    def unanswered(self, now: float, *, checked: bool, again: bool) -> None:
        """Record that one was sent, after a check that succeeded or not, and was not answered."""
        self._sent_at = now
        if checked:
            self._wait = _longer(self._wait)
            if not again:
                self._wait_of_others = _longer(self._wait_of_others)

    def answered(self) -> None:
        """Begin again: the sink has said what became of its events."""
        self._wait = self._wait_of_others = 0.0

    def wait(self, now: float, *, again: bool) -> float:
        """Return the seconds until an event may be sent, perhaps *again*."""
        return max(self._sent_at + (self._wait if again else self._wait_of_others) - now, 0.0)

    def is_overdue(self, now: float) -> bool:
        """Return whether one is sent even if the sink's check fails: a check may be blocked."""
        return now - self._sent_at >= EVENT_MAX


def _longer(wait: float) -> float:
    return min(max(2 * wait, PROBE_FIRST), EVENT_MAX)


class ProbeLock:
    """
    The right to find out whether a sink has recovered; first come, first served.

    Unlike ``asyncio.Lock`` it belongs to a task, which may acquire and release it any number of
    times: only the first counts.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._owner: asyncio.Task[object] | None = None

    @property
    def locked(self) -> bool:
        """Whether any task owns it."""
        return self._lock.locked()

    @property
    def mine(self) -> bool:
        """Whether the current task owns it."""
        return self._owner is asyncio.current_task()

    async def acquire(self) -> None:
        """Wait until the current task owns it; return at once if it does already."""
        if not self.mine:
            await self._lock.acquire()
            self._owner = asyncio.current_task()

    def release(self) -> None:
        """Pass it to the next task that waits, if the current one owns it."""
        if self.mine:
            self._owner = None
            self._lock.release()
