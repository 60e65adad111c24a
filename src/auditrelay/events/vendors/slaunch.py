"""
S-Launch's audit-log records (https://docs.s-launch.com/api/logging/audit).

The vendor documents the list and not its records: an id and a sortable time follow from the list's
own parameters, everything else is unknown. So a record is not interpreted but forwarded whole, and
only operations that the documentation names, spelled as there, have a meaning. A guess would be
worse than none: it could not be distinguished from a fact.
"""

from typing import Any

from auditrelay.events.vendors import ParsedRecord, text

NAME = "S-Launch"
ID = "id"
ORGANISATION = None  # the configured tenant; records are not known to name it
TIME = "timestamp"
FIELDS = frozenset(("id", "timestamp"))

_ACTION_FIELDS = ("action", "event", "event_type", "operation")
"""Fields that may name the action; the first one with a text counts."""

_ACTIONS = {
    "sign-in": ("session", "login"),
    "permission change": ("permission", "permission_change"),
    "scope-set edit": ("scope_set", "update"),
    "API-key creation": ("api_key", "create"),
    "audit entry deletion": ("audit_log", "delete"),
}
"""Operations that the documentation names. How the API spells them is not stated."""


def read(record: dict[str, Any], unmapped_fields: list[str]) -> ParsedRecord:
    """Parse one record: its action, if it names one. The outcome is never assumed."""
    del unmapped_fields  # fields other than id and time are unmapped anyway
    named = (text(record, field, []) for field in _ACTION_FIELDS if type(record.get(field)) is str)
    action = next(filter(None, named), None)
    known = _ACTIONS.get(action or "")
    kind, verb = known or ("other", "other")
    return ParsedRecord(
        native_action=action or "unknown",
        kind=kind,
        verb=verb,
        outcome="unknown",
        warnings=() if known else ("unknown_action",),
        message=f"S-Launch: {action}" if action else "S-Launch: an audit record without an action",
    )
