"""
S-Launch's audit-log records (https://docs.s-launch.com/api/logging/audit).

The vendor documents the list and not its records: an id and a sortable time follow from the list's
own parameters, everything else is unknown. So a record is not interpreted but forwarded whole, and
only operations that the documentation names, spelled as there, have a meaning. A guess would be
worse than none: it could not be distinguished from a fact.
"""

from collections.abc import Mapping
from typing import Any, Self

from msgspec import UNSET, UnsetType

from auditrelay.events.marks import UNKNOWN_ACTION
from auditrelay.events.vendors import (
    MAX_TEXT_LENGTH,
    NO_ACTOR,
    Action,
    Columns,
    Documented,
    Field,
    ParsedPage,
    either,
)

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


Word = str | None | UnsetType


class Record(Documented, forbid_unknown_fields=False):
    """The fields that are known, and those that may name the action; there are others."""

    id: Field = UNSET
    timestamp: Field = UNSET
    action: Word = UNSET
    event: Word = UNSET
    event_type: Word = UNSET
    operation: Word = UNSET

    @classmethod
    def of(cls, value: Mapping[str, Any], unmapped_fields: list[str]) -> Self:
        """Return what is known of a record; only a text names the action."""
        del unmapped_fields  # fields other than id and time are unmapped anyway
        named = [name for name in _ACTION_FIELDS if type(value.get(name)) is str]
        return cls(**{name: value[name][:MAX_TEXT_LENGTH] for name in named})


def _action(name: str | None) -> Action:
    known = _ACTIONS.get(name or "")
    kind, verb = known or ("other", "other")
    warnings = () if known else (UNKNOWN_ACTION,)
    return Action(name or "unknown", None, kind, verb, "unknown", warnings)


def read(page: Columns) -> ParsedPage:
    """Say what was done, if the records name it. The outcome is never assumed."""
    names = either(*page.texts(*_ACTION_FIELDS))
    return ParsedPage(
        action=list(map(_action, names)),
        actor=[NO_ACTOR] * len(page),
        message=[
            f"S-Launch: {name}" if name else "S-Launch: an audit record without an action"
            for name in names
        ],
    )
