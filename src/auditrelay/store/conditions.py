"""The conditions of sources and sinks, as the store keeps them and ``status`` shows them."""

from dataclasses import dataclass


@dataclass(slots=True)
class SourceCondition:
    """Health of a source, as ``status`` shows it; times are ISO 8601."""

    up: bool = False
    held: bool = False
    since: str | None = None
    """When the current state (up, held, or neither) began."""
    paused_since: str | None = None
    """Since when polling waits for room in the store; None while it does not."""
    last_poll_at: str | None = None
    last_event_at: str | None = None
    last_error: str | None = None
    error_code: str | None = None
    """The short code of ``last_error``; ``file_rejected`` if polls succeed but for some files."""
    silent: bool = False
    """Whether the source has shown no new event for longer than ``max_silence``."""
    unknown_actions: int = 0
    """New events with an unrecognised action type, since the start."""


@dataclass(slots=True)
class SinkCondition:
    """The health of a sink, as the store keeps it and ``status`` shows it; times are ISO 8601."""

    up: bool = False
    held: bool = False
    since: str | None = None
    """When it became what it is now: up, held, or neither."""
    last_delivered_at: str | None = None
    last_error: str | None = None
    error_code: str | None = None
    """The short code of ``last_error``."""
    breaker_reason: str | None = None
    """The reason for which it refuses every event, while its circuit breaker is open."""
