"""What the status port, the supervisor and the alerts ask a running instance."""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final, Protocol

from auditrelay.clock import Clock
from auditrelay.collect.source_loop import SourceLoop
from auditrelay.deliver.deliverer import Deliverer
from auditrelay.http.retry import MAX_SOURCE_WAIT, SOURCE_ATTEMPTS
from auditrelay.service.store import EvidenceLog, States
from auditrelay.service.topology import Topology, units_of
from auditrelay.status.findings import PULSES, STUCK
from auditrelay.status.model import Report, StoreStatus
from auditrelay.status.port import Unready
from auditrelay.status.replicas import UNKNOWN, holders_of, parts_of
from auditrelay.status.report import Failing, report
from auditrelay.store import SinkState, SourceState
from auditrelay.store.leases import KEEPER
from auditrelay.store.replicas import Situation
from auditrelay.store.sealing import EvidenceState
from auditrelay.telemetry.metrics import Metrics
from auditrelay.window import covered_until

READ: Final = 5.0
"""Seconds that a page waits for a shared store before it shows what was there before."""


class Fleet(Protocol):
    """What one replica of several knows of the others and of the store that they share."""

    def situation(self) -> Situation | None:
        """Return what the last pulse has seen; None before the first one."""

    def has_joined(self) -> bool:
        """Return whether it is a member, and what it was given then runs."""

    def held(self) -> Collection[str]:
        """Return the units that this replica holds."""

    def store(self) -> StoreStatus:
        """Return how the store is, and what the replicas do not agree on."""

    def clock_offset(self) -> float:
        """Return how far the clock of the store is ahead of ours, in seconds."""

    def pulse_age(self) -> float:
        """Return how many seconds ago the store has last answered a pulse."""

    def is_overdue(self) -> bool:
        """Return whether no pulse was tried for long, though the store is not waited for."""

    def away_until(self) -> float:
        """Return until when (monotonic) the store was waited for: now, if it is."""


@dataclass(frozen=True, slots=True)
class _Stored:
    """What the store had at one moment."""

    sources: tuple[SourceState, ...] = ()
    sinks: tuple[SinkState, ...] = ()
    spool_bytes: int = 0
    evidence: EvidenceState = field(default_factory=EvidenceState)


class InstanceView:
    """The health of all loops of *topology*, and the report of it with what *store* keeps."""

    def __init__(
        self,
        topology: Topology,
        store: States,
        metrics: Metrics,
        log: EvidenceLog,
        *,
        clock: Clock,
    ) -> None:
        self.restart_command: str | None = None
        """How an operator restarts the service; None where no service manager is known."""
        self.failing: Failing | None = None
        """Why the evidence could not be sealed, and since when."""
        self.fleet: Fleet | None = None
        """The replicas that share the store; None without a shared one."""
        self._topology = topology
        self._log = log
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._before = _Stored()

    async def status(self) -> Report:
        """Return the report on the state, with what is known to the running instance alone."""
        # Health is taken from memory: the store's copy waits for the next poll or, on a full disk,
        # for room.
        stored = await self._stored()
        collectors, deliverers = self._topology.collectors, self._topology.deliverers
        fleet = self.fleet
        for deliverer in deliverers.values():
            deliverer.measure()
        return report(
            self._topology.config,
            [
                replace(state, condition=collectors[state.name].condition)
                if state.name in collectors
                else state
                for state in stored.sources
            ],
            [
                replace(state, condition=deliverers[state.name].condition)
                if state.name in deliverers
                else state
                for state in stored.sinks
            ],
            spool_bytes=stored.spool_bytes,
            evidence=stored.evidence,
            failing=self.failing,
            now=self._clock.now(),
            # Of a sink in parts the replicas tell each other.
            throughput={
                name: sink.throughput for name, sink in deliverers.items() if name == sink.name
            },
            stuck=self.stuck(),
            clock_ahead=self._clock.confirmed.differences(),
            restart_command=self.restart_command,
            situation=None if fleet is None else fleet.situation() or UNKNOWN,
            store=None if fleet is None else fleet.store(),
        )

    def joined(self) -> bool:
        """Return whether it is a member of the replicas, if there are several, and works."""
        return self.fleet is None or self.fleet.has_joined()

    async def _stored(self) -> _Stored:
        """Return what the store has; while a shared one is away, what it had before."""
        if self.fleet is None:
            return await self._read()
        if self.fleet.store().up:
            try:
                async with asyncio.timeout(READ):
                    self._before = await self._read()
            except TimeoutError:  # a pulse will soon say why
                pass
        return self._before

    async def _read(self) -> _Stored:
        return _Stored(
            tuple(await self._store.sources()),
            tuple(await self._store.sinks()),
            await self._store.spool_size(),
            await self._log.state(),
        )

    async def render_metrics(self, accept: str) -> tuple[bytes, str]:
        """Update the gauges; return the metrics and their content type, as *accept* asks."""
        stored = await self._stored()
        for collector in self._topology.collectors.values():
            collector.measure()
        now = self._clock.now()
        if self.fleet is not None:
            self._measure_fleet(self.fleet, stored, now)
        for sink in stored.sinks:
            if sink.name not in self._topology.config.sinks:
                continue
            self._metrics.sink_backlog_events.labels(sink.name).set(sink.backlog_events)
            self._metrics.dead_letters.labels(sink.name).set(sink.dead_letters)
            oldest = sink.oldest_undelivered
            self._metrics.sink_oldest_undelivered_seconds.labels(sink.name).set(
                0 if oldest is None else max(0.0, (now - oldest).total_seconds())
            )
        evidence = stored.evidence
        self._metrics.evidence_entries.set(evidence.entries)
        self._metrics.evidence_head_timestamp_seconds.set((evidence.sealed or 0) / 1_000_000)
        self._metrics.evidence_untold_heads.set(evidence.untold)
        self._metrics.evidence_broken.set(evidence.broken is not None)
        self._metrics.spool_bytes.set(stored.spool_bytes)
        self._metrics.spool_max_bytes.set(self._topology.config.spool.max_bytes)
        return self._metrics.render(accept)

    def _measure_fleet(self, fleet: Fleet, stored: _Stored, now: datetime) -> None:
        """Update the gauges of the replicas, and of what another one polls and delivers."""
        metrics, config = self._metrics, self._topology.config
        situation, held, store = fleet.situation() or UNKNOWN, fleet.held(), fleet.store()
        metrics.store_up.set(store.up)
        metrics.clock_offset_seconds.set(fleet.clock_offset())
        metrics.pulse_age_seconds.set(fleet.pulse_age())
        metrics.replicas.set(sum(each.fresh and not each.command for each in situation.replicas))
        metrics.unit_held.clear()
        configured = {f"sink {name}": sink.parts for name, sink in config.sinks.items()}
        numbers = parts_of(situation, configured)
        for unit in (*units_of(config, numbers), KEEPER):
            metrics.unit_held.labels(unit).set(unit in held)
        works = {peer for peer, each in holders_of(situation, numbers).items() if each.all}
        for source in stored.sources:
            name, condition = source.name, source.condition
            if name not in config.sources or name in self._topology.collectors:
                continue
            checkpoint = covered_until(source.started, [span.interval for span in source.ledger])
            metrics.source_lag_seconds.labels(name).set((now - checkpoint).total_seconds())
            metrics.source_up.labels(name).set(condition.up and f"source {name}" in works)
            if condition.last_event_at is not None:
                last = datetime.fromisoformat(condition.last_event_at).timestamp()
                metrics.source_last_event_timestamp_seconds.labels(name).set(last)
        for sink in stored.sinks:
            if sink.name in config.sinks and sink.name not in self._topology.deliverers:
                is_up = sink.condition.up and f"sink {sink.name}" in works
                metrics.sink_up.labels(sink.name).set(is_up)

    def stuck(self) -> list[str]:
        """
        Return the names of the loops that make no progress.

        A poll or a batch in progress has to move, and polls have to begin even if the scheduler
        fails. Who waits for a shared store that is away is not stuck: a restart would not help.
        """
        now = self._clock.monotonic()
        since = float("-inf") if self.fleet is None else self.fleet.away_until()
        collectors, deliverers = self._topology.collectors, self._topology.deliverers
        return [
            *(name for name, each in collectors.items() if _polls_are_stuck(each, now, since)),
            *(name for name, each in deliverers.items() if _batches_are_stuck(each, now, since)),
            *([PULSES] if self.fleet is not None and self.fleet.is_overdue() else []),
        ]

    def summary(self) -> str:
        """Return the overall health in a sentence: every problem, or that all are healthy."""
        problems = []
        for loop in self._topology.loops:
            condition = loop.condition
            if condition.held:
                problems.append(_blocked(loop))
            elif condition.last_error or not loop.worked_once:
                problems.append(f"{loop.name}: {condition.last_error or 'no response yet'}")
        names = ", ".join(loop.name for loop in self._topology.loops)
        return "; ".join(problems) or f"All healthy: {names}"

    def unready(self) -> list[Unready]:
        """Return why this is not ready: what is held, or has not succeeded since the start."""
        reasons = []
        if self.fleet is not None and not self.fleet.store().up:
            reasons.append(Unready("store", "away", "The shared store does not answer"))
        elif not self.joined():
            reasons.append(Unready("replica", "not_joined", "This replica has not joined yet"))
        for loop in self._topology.loops:
            condition = loop.condition
            if condition.held:
                code = condition.error_code or "refused"
                reasons.append(Unready(loop.name, f"held, {code}", _blocked(loop)))
            elif not loop.worked_once:
                why = condition.last_error or "no response yet"
                code = condition.error_code or "no_response"
                sentence = f"{loop.name} has not succeeded since the start: {why}"
                reasons.append(Unready(loop.name, code, sentence))
        return reasons


def _polls_are_stuck(collector: SourceLoop, now: float, away_until: float) -> bool:
    settings = collector.settings
    if collector.worked_at is None:
        due = settings.poll_interval + STUCK
        return now - max(collector.polls.rested_at, away_until) > due.total_seconds()
    longest = settings.timeout + timedelta(seconds=MAX_SOURCE_WAIT)
    worked_at = max(collector.worked_at, away_until)
    return now - worked_at > (STUCK + SOURCE_ATTEMPTS * longest).total_seconds()


def _batches_are_stuck(deliverer: Deliverer, now: float, away_until: float) -> bool:
    if deliverer.worked_at is None:
        return False
    limit = STUCK + deliverer.settings.timeout
    return now - max(deliverer.worked_at, away_until) > limit.total_seconds()


def _blocked(loop: SourceLoop | Deliverer) -> str:
    return f"{loop.name} is blocked, action required: {loop.condition.last_error}"
