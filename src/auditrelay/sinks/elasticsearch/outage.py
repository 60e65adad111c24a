"""How long a request that is useful, and not necessary, may hold up a delivery."""

import asyncio
from collections.abc import Awaitable
from typing import Final, TypeVar

from auditrelay.clock import Clock
from auditrelay.errors import Retryable

T = TypeVar("T")

TRIES: Final = 3
"""Failures in a row after which it is done without."""

PATIENCE: Final = 20.0
"""Seconds since the first of them, after which it is done without as well."""

RETRY_AFTER: Final = 30.0
"""Seconds until it is tried again."""

BRIEF: Final = 2.0
"""Seconds for such a try, which holds up a batch."""


class Outage:
    """
    Watches requests of one kind: whether they work, or have failed for long.

    After :data:`TRIES` failures in a row, or :data:`PATIENCE` seconds, the outage is long:
    callers do without, until a brief try every :data:`RETRY_AFTER` seconds succeeds.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures = 0
        self._since = 0.0
        """When the first try of those that failed was begun (monotonic)."""
        self._next_try = 0.0

    @property
    def is_long(self) -> bool:
        """Whether to do without."""
        return self._failures >= TRIES or (self._failures > 0 and self._patience <= 0)

    @property
    def is_due(self) -> bool:
        """Whether to try: as long as it works or may soon, and now and then in a long outage."""
        return not self.is_long or self._clock.monotonic() >= self._next_try

    async def attempt(self, request: Awaitable[T]) -> T:
        """
        Return the result of *request*, given only as long as it may take.

        Raises Retryable if it fails or takes too long, and whatever else it raises.
        """
        began = self._clock.monotonic()
        limit = BRIEF if self.is_long else self._patience
        self._next_try = began + RETRY_AFTER  # not for every batch that is sent meanwhile
        try:
            async with asyncio.timeout(limit):
                result = await request
        except TimeoutError as error:
            self._fail(began, TRIES)
            raise Retryable(f"no answer within {limit:.0f} seconds", reason="timeout") from error
        except Retryable:
            self._fail(began, self._failures + 1)
            raise
        self._failures = 0
        return result

    @property
    def _patience(self) -> float:
        elapsed = self._clock.monotonic() - self._since if self._failures else 0.0
        return PATIENCE - elapsed

    def _fail(self, began: float, failures: int) -> None:
        if not self._failures:
            self._since = began
        self._failures = failures
