"""Parts that all forms share: auditrelay's own markers, changes, and identities."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from auditrelay.events import AuditEvent, Change

NO_MARKS: Mapping[str, object] = MappingProxyType({})

NO_TIME = "no_time"
"""The warning on an event whose time cannot be read: it has that at which it was fetched."""

IMPLAUSIBLE_TIME = "implausible_time"
"""The warning on an event of before 2000, or of later than tomorrow."""

NOT_NORMALIZED = "not_normalized"
"""The warning on an event whose record is not a JSON object."""

UNKNOWN_ACTION = "unknown_action"
"""The warning on an event with an unrecognised action type."""


def add_marks(own: dict[str, Any], event: AuditEvent, marks: Mapping[str, object]) -> None:
    """Add the markers of *event* to *own*, and the *marks* of the deliverer."""
    if event.late_by_s is not None:
        own["late_by_s"] = event.late_by_s
    if event.backfill:
        own["backfill"] = True
    if event.replayed:
        own["replayed"] = True
    if marks:
        own.update(marks)


def changed_fields(changes: Sequence[Change]) -> list[str]:
    """Return the names of the fields that changed."""
    return [change.field for change in changes]


def changes_of(changes: Sequence[Change]) -> list[dict[str, str]]:
    """Return *changes* as objects; unknown values are left out."""
    found = []
    for change in changes:
        entry = {"field": change.field}
        if change.before is not None:
            entry["before"] = change.before
        if change.after is not None:
            entry["after"] = change.after
        found.append(entry)
    return found


def without_empty(
    *,
    id: str | None,  # noqa: A002  # the name in every form
    name: str | None,
    email: str | None = None,
    type: str | None = None,  # noqa: A002  # likewise
) -> dict[str, Any]:
    """Return the identity of an actor, target or organisation; empty values are left out."""
    found = {}
    if id:
        found["id"] = id
    if name:
        found["name"] = name
    if email:
        found["email"] = email
    if type:
        found["type"] = type
    return found
