"""What is measured of transactions: how long they take, and why they are run again."""

from typing import Final

from auditrelay.clock import Clock
from auditrelay.store.postgres.errors import Kind
from auditrelay.telemetry.metrics import Metrics

_REASONS: Final = {Kind.AGAIN: "busy", Kind.LOST: "lost", Kind.REFUSED: "refused"}


class Watch:
    """
    Measures the transactions for *what* (``telemetry.metrics.STORE_WORK``), of one thread.

    *metrics* are those of a shared store.
    """

    def __init__(self, metrics: Metrics, what: str, clock: Clock) -> None:
        self._seconds = metrics.store_request_seconds.labels(what)
        self._retried = metrics.store_retried
        self._clock = clock
        self._began = clock.monotonic()

    def begin(self) -> None:
        """Take note that a transaction begins."""
        self._began = self._clock.monotonic()

    def done(self) -> None:
        """Take note that it has succeeded."""
        self._seconds.observe(self._clock.monotonic() - self._began)

    def retried(self, kind: Kind) -> None:
        """Take note that it is run again, because of an error of *kind*."""
        if reason := _REASONS.get(kind):
            self._retried.labels(reason).inc()
