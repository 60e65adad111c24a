"""The report that ``status --json`` and the status port show: a value for JSON, from the state."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any, Final

from auditrelay import __version__
from auditrelay.config.model import Config
from auditrelay.deliver.throughput import Throughput
from auditrelay.settings import PeerSettings
from auditrelay.settings.secrets import Secret
from auditrelay.settings.values import format_duration
from auditrelay.status.findings import judge
from auditrelay.status.lateness import assess
from auditrelay.store import SinkState, SourceState, Span
from auditrelay.store.journal import Record
from auditrelay.window import covered_until, iso, moment

SHOWN: Final = timedelta(days=7)
"""How far back the ledger is in the report."""

GAPS_SHOWN: Final = timedelta(days=30)
"""How far back gaps are listed and count as problems; older ones are in ``gap_seconds`` only."""


def report(
    config: Config,
    sources: Iterable[SourceState],
    sinks: Iterable[SinkState],
    *,
    spool_bytes: int,
    now: datetime,
    throughput: Mapping[str, Throughput] | None = None,
    stuck: Iterable[str] = (),
    restart_command: str | None = None,
) -> dict[str, Any]:
    """
    Return the state of every source and sink in *config*, and of those orphaned in the store.

    Times are ISO 8601 UTC. An orphaned source or sink is in the store and not in the configuration
    any more; it is listed with ``enabled`` false and ``orphaned`` true, and its backlog is kept.
    *throughput* (by sink), *stuck* and *restart_command* (of the service, for a shell) are known to
    a running instance alone. ``findings`` are the problems, worst first, see
    :mod:`auditrelay.status.findings`.
    """
    known_sources = {state.name: state for state in sources}
    known_sinks = {state.name: state for state in sinks}
    throughput = throughput or {}
    result: dict[str, Any] = {
        "version": __version__,
        "at": iso(now),
        "config": None if config.path is None else str(config.path),
        "sources": [
            _source(name, config, known_sources.get(name), now)
            for name in (*config.sources, *sorted(known_sources.keys() - config.sources.keys()))
        ],
        "sinks": [
            _sink(name, config, known_sinks.get(name), throughput.get(name), now)
            for name in (*config.sinks, *sorted(known_sinks.keys() - config.sinks.keys()))
        ],
        "spool": {"bytes": spool_bytes, "max_bytes": config.spool.max_bytes},
        "stuck": list(stuck),
        "restart_command": restart_command,
    }
    result["findings"] = [asdict(finding) for finding in judge(result)]
    return result


def _source(
    name: str,
    config: Config,
    state: SourceState | None,
    now: datetime,
) -> dict[str, Any]:
    settings = config.sources.get(name)
    checkpoint = None
    ledger: tuple[Span, ...] = ()
    if state is not None:
        ledger = state.ledger
        checkpoint = covered_until(state.started, [span.interval for span in ledger])
    condition = {} if state is None else state.condition
    found = None
    if state is not None and settings is not None:
        found = assess(
            sum(span.events for span in state.ledger),
            state.lateness,
            settle=settings.settle,
            overlap=settings.overlap,
        )
    directory = None if settings is None else settings.export_directory
    return {
        **_peer(name, settings),
        "directory": None if directory is None else str(directory),
        "up": bool(condition.get("up")),
        "held": bool(condition.get("held")),
        "since": condition.get("since"),
        "paused_since": condition.get("paused_since"),
        "silent": bool(condition.get("silent")),
        "started": None if state is None else iso(state.started),
        "last_fetched_timestamp": None if checkpoint is None else iso(checkpoint),
        "lag_seconds": None if checkpoint is None else round((now - checkpoint).total_seconds(), 3),
        "poll_interval_seconds": settings and settings.poll_interval.total_seconds(),
        "settle_seconds": settings and settings.settle.total_seconds(),
        "last_event_at": condition.get("last_event_at"),
        "last_poll_at": condition.get("last_poll_at"),
        "last_error": condition.get("last_error"),
        "error_code": condition.get("error_code"),
        "gap_seconds": sum(span.interval.length.total_seconds() for span in ledger if span.gap),
        "coverage": [
            _span(span)
            for span in ledger
            if span.interval.end > now - (GAPS_SHOWN if span.gap else SHOWN)
        ],
        "late": [
            _late(record)
            for record in (state.late if state else ())
            if moment(record.end) > now - SHOWN
        ],
        "unknown_actions": condition.get("unknown_actions", 0),
        "dead_letters": 0 if state is None else state.dead_letters,
        "lateness": None if found is None else found.sentence,
        "suggested_settle": None if found is None else format_duration(found.settle),
        "suggested_overlap": None if found is None else format_duration(found.overlap),
    }


def _late(record: Record) -> dict[str, Any]:
    return {
        "start": iso(moment(record.start)),
        "end": iso(moment(record.end)),
        "events": record.events,
        "via": record.via,
        "found_at": iso(moment(record.recorded)),
    }


def _span(span: Span) -> dict[str, Any]:
    return {
        "start": iso(span.interval.start),
        "end": iso(span.interval.end),
        "state": "gap" if span.gap else "covered",
        "reason": span.gap,
        "events": span.events,
    }


def _sink(
    name: str, config: Config, state: SinkState | None, throughput: Throughput | None, now: datetime
) -> dict[str, Any]:
    settings = config.sinks.get(name)
    condition = {} if state is None else state.condition
    oldest = None if state is None else state.oldest_undelivered
    return {
        **_peer(name, settings),
        "sources": [] if settings is None else list(config.sources_of(name)),
        "up": bool(condition.get("up")),
        "held": bool(condition.get("held")),
        "since": condition.get("since"),
        "backlog_events": 0 if state is None else state.backlog_events,
        "oldest_undelivered_seconds": (
            0 if oldest is None else max(0.0, round((now - oldest).total_seconds(), 3))
        ),
        "dead_letters": 0 if state is None else state.dead_letters,
        "delivered_per_minute": None if throughput is None else throughput.per_minute(now),
        "last_delivered_at": condition.get("last_delivered_at"),
        "last_error": condition.get("last_error"),
        "error_code": condition.get("error_code"),
    }


def _peer(name: str, settings: Any) -> dict[str, Any]:
    return {
        "name": name,
        "type": None if settings is None else settings.type,
        "enabled": settings is not None and settings.enabled,
        **({"orphaned": True} if settings is None else _address_and_credentials(settings)),
    }


def _address_and_credentials(settings: PeerSettings) -> dict[str, Any]:
    """Return the keys of the peer's address and credentials, which an operator may have to fix."""
    return {"address_key": settings.address_key, "credentials": _credentials(settings)}


def _credentials(settings: PeerSettings) -> list[dict[str, Any]]:
    """Return the keys that contain secrets, and what they refer to; never the values."""
    return [
        {"key": key, "references": list(secret.references)}
        for key in type(settings).model_fields
        if key != "pseudonym_key" and isinstance(secret := getattr(settings, key), Secret)
    ]
