"""How a sink fares."""

from dataclasses import dataclass
from typing import Final

HOLD_FIRST: Final = 5.0
"""Seconds until a sink that refuses is tried again; doubled each time."""


HOLD_MOST: Final = 300.0
"""Most seconds between two tries of a sink that refuses."""


@dataclass(slots=True)
class SinkCondition:
    """
    How a sink fares, as ``status`` shows it; times are ISO 8601.

    *flood* is the reason for which it refuses everything, while it is held for that.
    """

    up: bool = False
    held: bool = False
    since: str | None = None
    """When it became up, held, or neither: whichever it is now."""
    last_delivered_at: str | None = None
    last_error: str | None = None
    error_code: str | None = None
    """The short code of ``last_error``."""
    flood: str | None = None
