"""The checkpoint of a source: until when it was read without a hole, derived from its ledger."""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from auditrelay.clock import Clock
from auditrelay.collect.ledger import Ledger
from auditrelay.store import Declared, Proof
from auditrelay.telemetry.metrics import Metrics
from auditrelay.window import Interval, covered_until, holes


class Checkpoint:
    """
    The start and the checkpoint of the source *name*.

    *lookback* is how long before its first poll a source starts. Only ``refresh`` reads the ledger;
    it comes first. From then on ``advance`` follows what is entered, and it only moves forward,
    unless gaps were reopened.
    """

    def __init__(
        self,
        name: str,
        *,
        lookback: timedelta,
        store: Ledger,
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
        self._ahead: list[Interval] = []
        """What is known of the time after the checkpoint."""
        self._gaps: list[tuple[Interval, str]] = []
        self._goes_back = False
        """Whether the next refresh starts from the start."""
        self._is_empty = True
        """Whether nothing is known of any time."""

    async def refresh(self) -> None:
        """
        Read the ledger, and derive the checkpoint from it.

        The first call registers the source: it stores where the source starts before any request
        is made, so that the start stays the same even if the source is down on its first day. Until
        something was read it is only known by then whether our clock was ahead.
        """
        first = self._clock.confirmed.certain(self._name) - self._lookback
        if self._start is None or (self._is_empty and first < self._start):
            self._start = await self._store.start_source(self._name, first)
            self._goes_back = True
        goes_back, self._goes_back = self._goes_back, False
        ledger = await self._store.ledger(self._name)
        self._gaps = [(span.interval, span.gap) for span in ledger if span.gap is not None]
        self._is_empty = not ledger
        # Not back to the start: a poll may have advanced it since the ledger was read.
        since = self._start if goes_back or self._at is None else self._at
        self._derive(since, [span.interval for span in ledger])

    def go_back(self) -> None:
        """Let the next refresh derive it from the start: time that was declared is open again."""
        self._goes_back = True

    def advance(self, proof: Proof, declared: Sequence[Declared]) -> None:
        """Follow the ledger: *proof* was entered into it, and has *declared* gaps."""
        if self._at is None:
            return  # refresh() finds it in the ledger
        self._gaps = [
            *((part, reason) for gap, reason in self._gaps for part in holes(gap, proof.covers)),
            *((gap.interval, gap.reason) for gap in declared),
        ]
        entered = [*proof.covers, *(span for span, _ in proof.gaps)]
        self._derive(self._at, [*self._ahead, *entered])

    def _derive(self, since: datetime, known: list[Interval]) -> None:
        self._at = covered_until(since, known)
        self._ahead = [span for span in known if span.end > self._at]
        self.measure()

    def gaps(self, reasons: Collection[str]) -> list[Interval]:
        """Return what is declared as a gap for one of the *reasons*, and was not read since."""
        return [interval for interval, reason in self._gaps if reason in reasons]

    def unread(self, span: Interval) -> list[Interval]:
        """Return what of *span* is behind the checkpoint in time, and neither read nor declared."""
        read = [Interval(self.start, self.at)] if self.start < self.at else []
        return list(holes(span, [*read, *self._ahead]))

    def reached(self, passed_over: Sequence[Interval]) -> datetime:
        """Return where the checkpoint would be if what is *passed_over* had been read."""
        return covered_until(self.at, [*self._ahead, *passed_over])

    def measure(self) -> None:
        """Update the lag metric: now, by the vendor's clock, minus the checkpoint."""
        if self._at is not None:
            lag = (self._clock.confirmed.now(self._name) - self._at).total_seconds()
            self._metrics.source_lag_seconds.labels(self._name).set(lag)

    @property
    def is_read(self) -> bool:
        """Whether the ledger was read, so that there is a checkpoint."""
        return self._at is not None

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
