"""What ``status`` and the status port tell of an instance: a value for JSON, from the state."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from auditrelay import __version__
from auditrelay.config import Config
from auditrelay.lateness import assess
from auditrelay.settings import format_duration
from auditrelay.store import SinkState, SourceState
from auditrelay.window import covered_until


def report(
    config: Config,
    sources: Iterable[SourceState],
    sinks: Iterable[SinkState],
    *,
    spool_bytes: int,
    now: datetime,
) -> dict[str, Any]:
    """
    Return the state of everything in *config*, and of what the store still holds beside it.

    Times are ISO 8601 UTC. What is in the store and not in the configuration any more is listed
    with ``enabled`` false and ``leftover`` true: its backlog is kept.
    """
    known_sources = {state.name: state for state in sources}
    known_sinks = {state.name: state for state in sinks}
    return {
        "version": __version__,
        "sources": [
            _source(name, config, known_sources.get(name), now)
            for name in (*config.sources, *sorted(known_sources.keys() - config.sources.keys()))
        ],
        "sinks": [
            _sink(name, config, known_sinks.get(name), now)
            for name in (*config.sinks, *sorted(known_sinks.keys() - config.sinks.keys()))
        ],
        "spool": {"bytes": spool_bytes, "max_bytes": config.spool.max_bytes},
    }


def _source(name: str, config: Config, state: SourceState | None, now: datetime) -> dict[str, Any]:
    settings = config.sources.get(name)
    checkpoint = None
    gap_seconds = 0.0
    if state is not None:
        checkpoint = covered_until(state.started, [span.interval for span in state.ledger])
        gap_seconds = sum(span.interval.length.total_seconds() for span in state.ledger if span.gap)
    condition = {} if state is None else state.condition
    found = None
    if state is not None and settings is not None:
        found = assess(
            sum(span.events for span in state.ledger),
            state.lateness,
            settle=settings.settle,
            overlap=settings.overlap,
        )
    return {
        "name": name,
        "type": None if settings is None else settings.type,
        "enabled": settings is not None and settings.enabled,
        **({"leftover": True} if settings is None else {}),
        "up": bool(condition.get("up")),
        "held": bool(condition.get("held")),
        "silent": bool(condition.get("silent")),
        "last_fetched_timestamp": None if checkpoint is None else _iso(checkpoint),
        "lag_seconds": None if checkpoint is None else round((now - checkpoint).total_seconds(), 3),
        "last_event_at": condition.get("last_event_at"),
        "last_poll_at": condition.get("last_poll_at"),
        "last_error": condition.get("last_error"),
        "gap_seconds": gap_seconds,
        "unknown_actions": condition.get("unknown_actions", 0),
        "lateness": None if found is None else found.sentence,
        "suggested_settle": None if found is None else format_duration(found.settle),
        "suggested_overlap": None if found is None else format_duration(found.overlap),
    }


def _sink(name: str, config: Config, state: SinkState | None, now: datetime) -> dict[str, Any]:
    settings = config.sinks.get(name)
    condition = {} if state is None else state.condition
    oldest = None if state is None else state.oldest_undelivered
    return {
        "name": name,
        "type": None if settings is None else settings.type,
        "enabled": settings is not None and settings.enabled,
        **({"leftover": True} if settings is None else {}),
        "up": bool(condition.get("up")),
        "held": bool(condition.get("held")),
        "backlog_events": 0 if state is None else state.backlog_events,
        "oldest_undelivered_seconds": (
            0 if oldest is None else max(0.0, round((now - oldest).total_seconds(), 3))
        ),
        "dead_letters": 0 if state is None else state.dead_letters,
        "last_delivered_at": condition.get("last_delivered_at"),
        "last_error": condition.get("last_error"),
    }


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")
