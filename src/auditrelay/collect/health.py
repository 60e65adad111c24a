"""How a source fares."""

from dataclasses import dataclass


@dataclass(slots=True)
class SourceCondition:
    """How a source fares, as ``status`` shows it; times are ISO 8601."""

    up: bool = False
    held: bool = False
    since: str | None = None
    """When it became up, held, or neither: whichever it is now."""
    paused_since: str | None = None
    """Since when there is no room for what it shows."""
    last_poll_at: str | None = None
    last_event_at: str | None = None
    last_error: str | None = None
    error_code: str | None = None
    """The short code of ``last_error``, where that is why a poll failed."""
    silent: bool = False
    """Whether it has shown nothing new for longer than ``max_silence``."""
    unknown_actions: int = 0
    """New events of a type that stands in no table, since the start."""
