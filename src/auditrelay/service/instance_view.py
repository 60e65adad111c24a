"""What the status port, the supervisor and the alerts ask a running instance."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

from auditrelay.clock import Clock
from auditrelay.collect.source_loop import SourceLoop
from auditrelay.deliver.deliverer import Deliverer
from auditrelay.http.retry import MAX_SOURCE_WAIT, SOURCE_ATTEMPTS
from auditrelay.service.store import EvidenceLog, States
from auditrelay.service.topology import Topology
from auditrelay.status.findings import STUCK
from auditrelay.status.model import Report
from auditrelay.status.port import Unready
from auditrelay.status.report import Failing, report
from auditrelay.store.replicas import Situation
from auditrelay.telemetry.metrics import Metrics


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
        self.situation: Callable[[], Situation | None] = _alone
        """Returns what was seen last of the replicas on a shared store; None without one."""
        self.joined: Callable[[], bool] = _joined
        """Returns whether this is a member of those, and what it holds is built."""
        self._topology = topology
        self._log = log
        self._store = store
        self._metrics = metrics
        self._clock = clock

    async def status(self) -> Report:
        """Return the report on the state, with what is known to the running instance alone."""
        # Health is taken from memory: the store's copy waits for the next poll or, on a full disk,
        # for room.
        collectors, deliverers = self._topology.collectors, self._topology.deliverers
        return report(
            self._topology.config,
            [
                replace(state, condition=collectors[state.name].condition)
                if state.name in collectors
                else state
                for state in await self._store.sources()
            ],
            [
                replace(state, condition=deliverers[state.name].condition)
                if state.name in deliverers
                else state
                for state in await self._store.sinks()
            ],
            spool_bytes=self._store.spool_bytes,
            evidence=await self._log.state(),
            failing=self.failing,
            now=self._clock.now(),
            throughput={name: sink.throughput for name, sink in deliverers.items()},
            stuck=self.stuck(),
            clock_ahead=self._clock.confirmed.differences(),
            restart_command=self.restart_command,
            situation=self.situation(),
        )

    async def render_metrics(self, accept: str) -> tuple[bytes, str]:
        """Update the gauges; return the metrics and their content type, as *accept* asks."""
        for collector in self._topology.collectors.values():
            collector.measure()
        now = self._clock.now()
        for sink in await self._store.sinks():
            if sink.name not in self._topology.config.sinks:
                continue
            self._metrics.sink_backlog_events.labels(sink.name).set(sink.backlog_events)
            self._metrics.dead_letters.labels(sink.name).set(sink.dead_letters)
            oldest = sink.oldest_undelivered
            self._metrics.sink_oldest_undelivered_seconds.labels(sink.name).set(
                0 if oldest is None else max(0.0, (now - oldest).total_seconds())
            )
        evidence = await self._log.state()
        self._metrics.evidence_entries.set(evidence.entries)
        self._metrics.evidence_head_timestamp_seconds.set((evidence.sealed or 0) / 1_000_000)
        self._metrics.evidence_untold_heads.set(evidence.untold)
        self._metrics.evidence_broken.set(evidence.broken is not None)
        self._metrics.spool_bytes.set(self._store.spool_bytes)
        self._metrics.spool_max_bytes.set(self._topology.config.spool.max_bytes)
        return self._metrics.render(accept)

    def stuck(self) -> list[str]:
        """
        Return the names of the loops that make no progress.

        A poll or a batch in progress has to move, and polls have to begin even if the scheduler
        fails.
        """
        now = self._clock.monotonic()
        collectors, deliverers = self._topology.collectors, self._topology.deliverers
        return [
            *(name for name, collector in collectors.items() if _polls_are_stuck(collector, now)),
            *(name for name, deliverer in deliverers.items() if _batches_are_stuck(deliverer, now)),
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


def _alone() -> None:
    """Return None: no other instance works on this state."""


def _joined() -> bool:
    return True


def _polls_are_stuck(collector: SourceLoop, now: float) -> bool:
    settings = collector.settings
    if collector.worked_at is None:
        due = settings.poll_interval + STUCK
        return now - collector.polls.rested_at > due.total_seconds()
    longest = settings.timeout + timedelta(seconds=MAX_SOURCE_WAIT)
    return now - collector.worked_at > (STUCK + SOURCE_ATTEMPTS * longest).total_seconds()


def _batches_are_stuck(deliverer: Deliverer, now: float) -> bool:
    limit = STUCK + deliverer.settings.timeout
    return deliverer.worked_at is not None and now - deliverer.worked_at > limit.total_seconds()


def _blocked(loop: SourceLoop | Deliverer) -> str:
    return f"{loop.name} is blocked, action required: {loop.condition.last_error}"
