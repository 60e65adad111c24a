"""The report that ``status --json`` and the status port show, from the state."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

from auditrelay import __version__
from auditrelay.config.model import Config, secrets_in
from auditrelay.deliver.throughput import Throughput
from auditrelay.settings import PeerSettings, SinkSettings, SourceSettings
from auditrelay.settings.values import format_duration
from auditrelay.status.findings import judge
from auditrelay.status.lateness import assess
from auditrelay.status.model import (
    CoverageSpan,
    Credential,
    EvidenceStatus,
    FreshnessStatus,
    LateFind,
    Report,
    SinkStatus,
    SourceStatus,
    SpoolStatus,
    StoreStatus,
)
from auditrelay.status.replicas import (
    Holders,
    failing_of,
    holders_of,
    parts_of,
    replicas_of,
    throughput_of,
    unheld_since,
)
from auditrelay.store import FoundLate, SinkState, SourceState, Span
from auditrelay.store.conditions import SinkCondition, SourceCondition
from auditrelay.store.replicas import Situation
from auditrelay.store.sealing import EvidenceState
from auditrelay.window import covered_until, iso, moment

Failing = tuple[str, datetime]
"""Why the evidence could not be sealed, and since when."""

SHOWN: Final = timedelta(days=7)
"""How far back the ledger is in the report."""

_NOTICEABLE: Final = timedelta(seconds=10)
"""A linger from which on an operator may ask where an event is."""

_UNHELD: Final = Holders((), all=False)

GAPS_SHOWN: Final = timedelta(days=30)
"""How far back gaps are listed and count as problems; older ones are in ``gap_seconds`` only."""


def report(
    config: Config,
    sources: Iterable[SourceState],
    sinks: Iterable[SinkState],
    *,
    spool_bytes: int,
    now: datetime,
    evidence: EvidenceState | None = None,
    failing: Failing | None = None,
    throughput: Mapping[str, Throughput] | None = None,
    stuck: Iterable[str] = (),
    clock_ahead: Mapping[str, timedelta] | None = None,
    restart_command: str | None = None,
    situation: Situation | None = None,
    store: StoreStatus | None = None,
) -> Report:
    """
    Return the state of every source and sink in *config*, and of those orphaned in the store.

    An orphaned source or sink is in the store and not in the configuration any more; its backlog is
    kept. *failing* (why and since when the evidence is not sealed), *throughput* (by sink),
    *stuck*, *clock_ahead* (of the clocks of peers that differ from ours) and *restart_command* (of
    the service, for a shell) are known to a running instance alone. *situation* is that of the
    replicas, if the store is shared, and *store* what a running one of them knows of that.
    """
    clock_ahead = clock_ahead or {}
    per_minute: dict[str, Sequence[int]] = {}
    if situation is not None:
        per_minute.update(throughput_of(situation))
        failing = failing or failing_of(situation)
    per_minute.update({name: each.per_minute(now) for name, each in (throughput or {}).items()})
    known_sources = {state.name: state for state in sources}
    known_sinks = {state.name: state for state in sinks}
    configured = {f"sink {name}": sink.parts for name, sink in config.sinks.items()}
    numbers = None if situation is None else parts_of(situation, configured)
    holders = None if situation is None or numbers is None else holders_of(situation, numbers)
    state = Report(
        version=__version__,
        at=iso(now),
        config=None if config.path is None else str(config.path),
        sources=tuple(
            _source(
                name,
                config.sources.get(name),
                known_sources.get(name),
                now,
                clock_ahead.get(name, timedelta(0)),
                holders=None if holders is None else holders.get(f"source {name}", _UNHELD),
            )
            for name in (*config.sources, *sorted(known_sources.keys() - config.sources.keys()))
        ),
        sinks=tuple(
            _sink(
                name,
                config,
                known_sinks.get(name),
                per_minute.get(name),
                now,
                holders=None if holders is None else holders.get(f"sink {name}", _UNHELD),
            )
            for name in (*config.sinks, *sorted(known_sinks.keys() - config.sinks.keys()))
        ),
        spool=SpoolStatus(spool_bytes, config.spool.max_bytes),
        evidence=_evidence(evidence or EvidenceState(), failing),
        stuck=tuple(stuck),
        clock_ahead_seconds={name: by.total_seconds() for name, by in clock_ahead.items()},
        restart_command=restart_command,
        replicas=UNSET if situation is None else replicas_of(situation),
        unheld=UNSET
        if situation is None or numbers is None
        else {
            unit: None if since is None else iso(since)
            for unit, since in unheld_since(situation, numbers).items()
        },
        store=store or UNSET,
        findings=(),
    )
    return msgspec.structs.replace(state, findings=tuple(judge(state)))


def _evidence(state: EvidenceState, failing: Failing | None) -> EvidenceStatus:
    why, since = failing or (None, None)
    return EvidenceStatus(
        entries=state.entries,
        head=state.head,
        sealed_at=_time(state.sealed),
        taken_by=state.taken_by,
        untold_heads=state.untold,
        untold_since=_time(state.untold_since),
        broken=state.broken,
        broken_since=_time(state.broken_since),
        failing=why,
        failing_since=None if since is None else iso(since),
    )


def _time(at: int | None) -> str | None:
    return None if at is None else iso(moment(at))


def _source(
    name: str,
    settings: SourceSettings | None,
    state: SourceState | None,
    now: datetime,
    clock_ahead: timedelta,
    *,
    holders: Holders | None,
) -> SourceStatus:
    checkpoint = lag = None
    ledger: tuple[Span, ...] = ()
    condition = SourceCondition()
    if state is not None:
        ledger, condition = state.ledger, state.condition
        checkpoint = covered_until(state.started, [span.interval for span in ledger])
        lag = round((now - clock_ahead - checkpoint).total_seconds(), 3)
    found = None
    if state is not None and settings is not None:
        found = assess(
            sum(span.events for span in ledger),
            state.lateness,
            settle=settings.settle,
            overlap=settings.overlap,
        )
    directory = None if settings is None else settings.export_directory
    return SourceStatus(
        name=name,
        type=settings.type if settings else None,
        enabled=settings is not None and settings.enabled,
        orphaned=UNSET if settings else True,
        address_key=settings.address_key if settings else UNSET,
        credentials=_credentials(settings),
        held_by=UNSET if holders is None else holders.listed,
        directory=None if directory is None else str(directory),
        up=condition.up and (holders is None or holders.all),
        held=condition.held,
        since=condition.since,
        paused_since=condition.paused_since,
        silent=condition.silent,
        started=None if state is None else iso(state.started),
        last_fetched_timestamp=None if checkpoint is None else iso(checkpoint),
        lag_seconds=lag,
        poll_interval_seconds=settings.poll_interval.total_seconds() if settings else None,
        settle_seconds=settings.settle.total_seconds() if settings else None,
        last_event_at=condition.last_event_at,
        last_poll_at=condition.last_poll_at,
        last_error=condition.last_error,
        error_code=condition.error_code,
        gap_seconds=sum(span.interval.length.total_seconds() for span in ledger if span.gap),
        coverage=tuple(
            _span(span)
            for span in ledger
            if span.interval.end > now - (GAPS_SHOWN if span.gap else SHOWN)
        ),
        late=tuple(
            _late(record)
            for record in (state.late if state else ())
            if moment(record.end) > now - SHOWN
        ),
        unknown_actions=condition.unknown_actions,
        odd_times=condition.odd_times,
        form_changed_at=condition.form_changed_at or UNSET,
        form_changed_fields=tuple(condition.form_changed_fields) or UNSET,
        dead_letters=0 if state is None else state.dead_letters,
        lateness=None if found is None else found.sentence,
        suggested_settle=None if found is None else format_duration(found.settle),
        suggested_overlap=None if found is None else format_duration(found.overlap),
    )


def _late(record: FoundLate) -> LateFind:
    return LateFind(
        iso(moment(record.start)),
        iso(moment(record.end)),
        record.events,
        record.via,
        iso(moment(record.recorded)),
    )


def _span(span: Span) -> CoverageSpan:
    return CoverageSpan(
        iso(span.interval.start),
        iso(span.interval.end),
        "gap" if span.gap else "covered",
        span.gap,
        span.events,
    )


def _sink(
    name: str,
    config: Config,
    state: SinkState | None,
    per_minute: Sequence[int] | None,
    now: datetime,
    *,
    holders: Holders | None,
) -> SinkStatus:
    settings = config.sinks.get(name)
    condition = SinkCondition() if state is None else state.condition
    oldest = None if state is None else state.oldest_undelivered
    return SinkStatus(
        name=name,
        type=settings.type if settings else None,
        enabled=settings is not None and settings.enabled,
        orphaned=UNSET if settings else True,
        address_key=settings.address_key if settings else UNSET,
        credentials=_credentials(settings),
        proves=settings.proves if settings else None,
        held_by=UNSET if holders is None else holders.listed,
        sources=() if settings is None else tuple(config.sources_of(name)),
        exclude=UNSET if settings is None or not settings.exclude else tuple(settings.exclude),
        up=condition.up and (holders is None or holders.all),
        held=condition.held,
        since=condition.since,
        backlog_events=0 if state is None else state.backlog_events,
        oldest_undelivered_seconds=(
            0 if oldest is None else max(0.0, round((now - oldest).total_seconds(), 3))
        ),
        dead_letters=0 if state is None else state.dead_letters,
        delivered_per_minute=None if per_minute is None else tuple(per_minute),
        last_delivered_at=condition.last_delivered_at,
        last_error=condition.last_error,
        error_code=condition.error_code,
        freshness=tuple(
            FreshnessStatus(
                source=each.source,
                p50_seconds=each.p50,
                p99_seconds=each.p99,
                events=each.events,
                last_at=each.at,
            )
            for each in condition.freshness
            if each.source in config.sources
        ),
        linger_seconds=_linger(settings),
    )


def _linger(settings: SinkSettings | None) -> float | UnsetType:
    if settings is None or settings.linger < _NOTICEABLE:
        return UNSET
    return settings.linger.total_seconds()


def _credentials(settings: PeerSettings | None) -> tuple[Credential, ...] | UnsetType:
    """Return the keys that contain secrets, and what they refer to; never the values."""
    if settings is None:
        return UNSET
    return tuple(
        Credential(key, tuple(secret.references))
        for key, secret in secrets_in(settings)
        if key != "pseudonym_key" and secret.hidden
    )
