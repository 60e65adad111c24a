"""
S-Launch's audit-log records (https://docs.s-launch.com/api/logging/audit).

The vendor describes the list and not its records: an id and a sortable time follow from the
list's own parameters, everything else is unknown. So a record's words are not interpreted, it is
forwarded whole, and only operations that the documentation names, spelled as there, have a
meaning. A guess would be worse than none: nobody could tell it from a fact.
"""

from typing import Any

from auditrelay.events.vendors import ParsedRecord, text

NAME = "S-Launch"
ID = "id"
ORGANISATION = None  # the tenant that is asked; records are not known to name it
TIME = "timestamp"
FIELDS = frozenset(("id", "timestamp"))

_ACTION_FIELDS = ("action", "event", "event_type", "operation")
"""Where a record may say what happened; the first one with a text does."""

_ACTIONS = {
    "sign-in": ("session", "login"),
    "permission change": ("permission", "permission_change"),
    "scope-set edit": ("scope_set", "update"),
    "API-key creation": ("api_key", "create"),
    "audit entry deletion": ("audit_log", "delete"),
}
"""Operations that the documentation speaks of. How the API spells them is not stated."""


def read(record: dict[str, Any], unmapped_fields: list[str]) -> ParsedRecord:
    """Read one record: its action, if it tells one. How it ended is never assumed."""
    del unmapped_fields  # whatever is not understood is unmapped as it is
    told = (text(record, field, []) for field in _ACTION_FIELDS if type(record.get(field)) is str)
    action = next(filter(None, told), None)
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
