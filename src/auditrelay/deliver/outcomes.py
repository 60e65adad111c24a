"""Record what became of a sink's events: first in the store, then in metrics and log."""

from collections.abc import Sequence
from typing import Final

import structlog

from auditrelay.clock import Clock
from auditrelay.deliver.acknowledgements import SentBatch
from auditrelay.deliver.exclusion import Exclusion, by_glob
from auditrelay.deliver.freshness import Freshness
from auditrelay.deliver.state_writer import StateWriter
from auditrelay.deliver.throughput import Throughput
from auditrelay.sinks import Item, Sink, Verdict
from auditrelay.store import RejectedEvent
from auditrelay.store.conditions import SinkCondition
from auditrelay.store.progress import Range
from auditrelay.telemetry.metrics import Metrics
from auditrelay.telemetry.scrubber import scrub
from auditrelay.window import micros

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


SAVE_SECONDS: Final = 60.0
"""How often the freshness is saved at most; only a batch does it, a sink at rest writes nothing."""


class Outcomes:
    """Records which events of the *sink* called *name* were delivered, dead-lettered or resent."""

    def __init__(
        self,
        name: str,
        sink: Sink,
        condition: SinkCondition,
        *,
        state: StateWriter,
        metrics: Metrics,
        clock: Clock,
        exclusion: Exclusion | None = None,
    ) -> None:
        self.throughput = Throughput(clock.now())
        self._name = name
        self._sink = sink
        self._condition = condition
        self._state = state
        self._metrics = metrics
        self._clock = clock
        self._exclusion = exclusion
        self._freshness = Freshness()
        self._saved = clock.monotonic()
        self._warned: tuple[str, ...] = ()

    async def commit(
        self,
        done: Sequence[Range],
        delivered: Sequence[SentBatch],
        dead: Sequence[tuple[Item, RejectedEvent]] = (),
    ) -> int:
        """
        Store that the ranges in *done* are done, together with the *dead* letters, then count.

        One transaction writes both: neither is right without the other. What is excluded between
        those ranges is done with them. Returns how many reduced copies it has added to the spool.
        """
        letters = [rejected for _, rejected in dead]
        if self._exclusion is None:
            copies = await self._state.settle(done, letters)
        else:
            excluded = self._exclusion.take_beside(done)
            copies = await self._state.settle(done, letters, by_glob(excluded))
            self._exclusion.count(excluded)
        for item, rejected in dead:
            self._count_dead_letter(item, rejected, reduced=rejected.place in copies)
        for sent in delivered:
            self._count_delivered(sent, rejected=len(dead))
        if delivered and self._clock.monotonic() - self._saved >= SAVE_SECONDS:
            await self.save_freshness()
        return len(copies)

    def measure(self) -> None:
        """Bring the freshness in the condition up to date."""
        self._condition.freshness = self._freshness.measured() or self._condition.freshness

    async def save_freshness(self) -> None:
        """Save the condition with it, if there is news: ``status`` reads the store."""
        before = self._condition.freshness
        self.measure()
        self._saved = self._clock.monotonic()
        if self._condition.freshness != before:
            await self._state.try_save_condition(self._condition)

    def _count_dead_letter(self, item: Item, rejected: RejectedEvent, *, reduced: bool) -> None:
        if reduced:
            self._metrics.events_reduced.labels(self._name).inc()
        self._metrics.dead_letters_total.labels(self._name, rejected.reason).inc()
        _log.error(
            "event_dead_lettered",
            sink=self._name,
            source=item.source,
            uid=item.uid,
            reason=rejected.reason,
            status=rejected.status,
            reduced=reduced,
        )

    def _count_delivered(self, sent: SentBatch, *, rejected: int) -> None:
        now = self._clock.now()
        present = micros(now)
        for times in (sent.occurred, sent.past):
            for source, occurred in times.items():
                ages = sorted([present - at for at in occurred])
                self._metrics.events_delivered.labels(self._name, source).inc(len(ages))
                self._metrics.end_to_end_seconds.labels(source, self._name).observe_micros(ages)
                if times is sent.occurred:
                    self._freshness.add(source, ages, now)
        if sent.events:
            self.throughput.add(now, sent.events)
            self._condition.last_delivered_at = now.isoformat()
            _log.debug("batch_delivered", sink=self._name, events=sent.events, rejected=rejected)

    def count_possible_duplicates(self, events: int) -> None:
        """Count *events* that are resent and may be stored, unless the sink deduplicates."""
        if events and not self._sink.deduplicates:
            self._metrics.events_possible_duplicate.labels(self._name).inc(events)

    def record_missed_acknowledgement(self, events: int, reason: str) -> None:
        """Record that *events* were accepted and never acknowledged: they are resent."""
        self.count_possible_duplicates(events)
        _log.warning("acknowledgement_missed", sink=self._name, events=events, reason=reason)

    def record_warnings(self, verdict: Verdict) -> None:
        """Record the counters and warnings that came with *verdict*."""
        counts = verdict.counts
        if counts.restamped:
            self._metrics.events_restamped.labels(self._name).inc(counts.restamped)
        if counts.duplicates:
            self._metrics.events_already_stored.labels(self._name).inc(counts.duplicates)
        if counts.stored_elsewhere:
            self._metrics.events_diverted.labels(self._name).inc(counts.stored_elsewhere)
        if counts.dropped:
            self._metrics.events_dropped.labels(self._name).inc(counts.dropped)
        if counts.unsearched:
            self._metrics.events_possible_duplicate.labels(self._name).inc(counts.unsearched)
        if counts.changed:
            self._metrics.events_stored_changed.labels(self._name).inc(counts.changed)
        if verdict.warnings and verdict.warnings != self._warned:
            warnings = scrub("; ".join(verdict.warnings))
            _log.warning("sink_warned", sink=self._name, warnings=warnings)
        self._warned = verdict.warnings
