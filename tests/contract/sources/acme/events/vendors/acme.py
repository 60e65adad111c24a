"""Acme's audit records, a vendor that does not exist."""

from typing import Any

from auditrelay.events.vendors import Reading, text

NAME = "Acme"
ID = "key"
ORGANISATION = None
TIME = "when"
FIELDS = frozenset(("key", "when", "what"))


def read(record: dict[str, Any], misfits: list[str]) -> Reading:
    """Read one record."""
    action = text(record, "what", misfits) or "unknown"
    return Reading(
        native_action=action,
        kind="other",
        verb="other",
        outcome="unknown",
        message=f"Acme: {action}",
        warnings=("unknown_action",),
    )
