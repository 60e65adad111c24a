"""Initech's audit records, a vendor that does not exist."""

from typing import Any

from auditrelay.events.vendors import ParsedRecord, text

NAME = "Initech"
ID = "key"
ORGANISATION = None
TIME = "when"
FIELDS = frozenset(("key", "when", "what"))


def read(record: dict[str, Any], unmapped_fields: list[str]) -> ParsedRecord:
    """Read one record."""
    action = text(record, "what", unmapped_fields) or "unknown"
    return ParsedRecord(
        native_action=action,
        kind="other",
        verb="other",
        outcome="unknown",
        message=f"Initech: {action}",
        warnings=("unknown_action",),
    )
