"""The checkpoint of a source: until when it was read without a hole, derived from its ledger."""

from datetime import datetime, timedelta

from auditrelay.clock import Clock
from auditrelay.store import Store
from auditrelay.telemetry.metrics import Metrics
from auditrelay.window import covered_until


class Checkpoint:
    """
    The start and the checkpoint of the source *name*.

    *lookback* is how long before its first poll a source starts. Call ``refresh`` before ``start``
    or ``at`` is read.
    """

    def __init__(
        self,
        name: str,
        *,
        lookback: timedelta,
        store: Store,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self._name = name
        self._lookback = lookback
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._start: datetime | None = None
        self._at: datetime | None = None

    async def refresh(self) -> None:
        """
        Derive the checkpoint from the ledger.

        The first call stores the start of the source before any request is made, so that the start
        stays the same even if the source is down on its first day.
        """
        first = self._clock.now() - self._lookback
        self._start = await self._store.start_source(self._name, first)
        ledger = await self._store.ledger(self._name)
        self._at = covered_until(self._start, (span.interval for span in ledger))
        self.measure()

    def measure(self) -> None:
        """Update the lag metric: now minus the checkpoint."""
        if self._at is not None:
            lag = (self._clock.now() - self._at).total_seconds()
            self._metrics.source_lag_seconds.labels(self._name).set(lag)

    @property
    def start(self) -> datetime:
        """Where the source starts; only a backfill reads older time."""
        assert self._start is not None  # noqa: S101  # refresh() comes first
        return self._start

    @property
    def at(self) -> datetime:
        """The end of the unbroken run of covered or declared time from the start."""
        assert self._at is not None  # noqa: S101  # as above
        return self._at
