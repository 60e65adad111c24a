"""How one replica reaches the database: whether, how fast, which server it is, and its clock."""

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog

from auditrelay.clock import Clock
from auditrelay.store.replicas import LIFE, Server, Unreachable

SLOW: Final = LIFE / 5
"""Seconds of a pulse that are worth a warning."""

OVERDUE: Final = 60.0
"""Seconds without an attempt to pulse after which this replica is stuck."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Reach:
    """
    What the pulses of a replica show of the database.

    *server* returns which server it is on; None if it does not say so.
    """

    def __init__(self, server: Callable[[], Awaitable[Server | None]], *, clock: Clock) -> None:
        self.offset = timedelta()
        """How much later it is by the clock of the database than by ours."""
        self.round_trip = 0.0
        """Seconds that the last pulse took."""
        self.away_since: datetime | None = None
        """Since when the database does not answer; None while it does."""
        self._ask = server
        self._clock = clock
        self._server: Server | None = None
        self._is_known = False
        """Whether it was asked which server it is, since it answers."""
        self._tried = self._answered = clock.boottime()
        self._asks = False

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        """Wait for the database in the block; note whether it answers. Raises Unreachable."""
        self._tried, self._asks = self._clock.boottime(), True
        try:
            yield
        except Unreachable as error:
            if self.away_since is None:
                _log.warning("store_unreachable", reason=str(error))
                self.away_since = self._clock.now().astimezone(UTC)
            self._is_known = False
            raise
        else:
            self.away_since = None
        finally:
            self._asks = False

    @contextlib.contextmanager
    def not_asking(self) -> Iterator[None]:
        """Wait for something else in the block, within one in which the database is waited for."""
        self._tried, self._asks = self._clock.boottime(), False
        yield
        self._asks = True

    async def identify(self) -> None:
        """Log which server answers now, and whether it is another one than before."""
        if self._is_known:
            return
        before, server = self._server, await self._ask()
        self._is_known = True
        if server is None:
            _log.info("store_reached")
            return
        self._server = server
        if before is not None and (before.system, before.timeline) != (
            server.system,
            server.timeline,
        ):
            _log.warning(
                "store_failed_over",
                system=server.system,
                timeline=server.timeline,
                former_system=before.system,
                former_timeline=before.timeline,
            )
        _log.info(
            "store_reached",
            version=server.version,
            system=server.system,
            timeline=server.timeline,
        )

    def answered(self, sent: float, at: datetime, now: datetime) -> None:
        """Take note of a pulse, *sent* (boot time) *at* a time; by the database it is *now*."""
        self._answered = self._clock.boottime()
        took = self._answered - sent
        if took > SLOW >= self.round_trip:
            _log.warning("store_slow", seconds=round(took, 1))
        self.round_trip = took
        self.offset = now - at - timedelta(seconds=took / 2)

    def age(self) -> float:
        """Return how many seconds ago the database has last answered a pulse."""
        return self._clock.boottime() - self._answered

    def is_overdue(self) -> bool:
        """Return whether no pulse was tried for long, though the database is not waited for."""
        return not self._asks and self._clock.boottime() - self._tried > OVERDUE
