"""Parts that all forms share: auditrelay's own markers, changes, and identities."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from auditrelay.events import AuditEvent, Change

NO_MARKS: Mapping[str, object] = MappingProxyType({})

NO_TIME = "no_time"
"""The warning on an event whose time cannot be read: it has that at which it was fetched."""

IMPLAUSIBLE_TIME = "implausible_time"
"""The warning on an event of before 2000, or of later than tomorrow."""

NOT_SPLIT = "not_split"
"""The warning on an event whose record has more events in it than are taken apart."""

NOT_NORMALIZED = "not_normalized"
"""The warning on an event whose record is not a JSON object."""

REDUCED = "reduced"
"""The warning on the reduced copy of an event that a sink refuses, and its marker."""

UNKNOWN_ACTION = "unknown_action"
"""The warning on an event with an unrecognised action type."""

OWN_PREFIX = "auditrelay."
"""What the actions of auditrelay itself begin with (``notices``)."""

FOREIGN_ACTION = "foreign_action"
"""The warning on a vendor's event whose action is spelt like one of auditrelay itself."""


_MAX_PLACES = 20
MAX_PLACE_LENGTH = 100


def places(paths: Sequence[str]) -> tuple[str, ...]:
    """Return *paths* in a record, as they are shown on an event: not too many, nor too long."""
    shown = [path[:MAX_PLACE_LENGTH] for path in dict.fromkeys(paths)]
    return tuple(shown if len(shown) <= _MAX_PLACES else [*shown[: _MAX_PLACES - 1], "..."])


def add_marks(own: dict[str, Any], event: AuditEvent, marks: Mapping[str, object]) -> None:
    """Add the markers of *event* to *own*, and the *marks* of the deliverer."""
    if event.redacted:
        own["redacted"] = event.redacted
    if event.late_by_s is not None:
        own["late_by_s"] = event.late_by_s
    if event.backfill:
        own["backfill"] = True
    if event.replayed:
        own["replayed"] = True
    if event.notice:
        own["notice"] = True
    if REDUCED in event.warnings:
        own[REDUCED] = True
    if marks:
        own.update(marks)


def changed_fields(changes: Sequence[Change]) -> list[str]:
    """Return the names of the fields that changed."""
    return [change.field for change in changes]


_LONGEST_CHANGE: Final = 8189
"""
Characters of a value: at four bytes each they fit, with their key before them, into the 32,766
bytes of a term of Elasticsearch.
"""


def changes_of(changes: Sequence[Change]) -> list[dict[str, str]]:
    """Return *changes* as objects; unknown values are left out."""
    found = []
    for change in changes:
        entry = {"field": change.field[:_LONGEST_CHANGE]}
        if change.before is not None:
            entry["before"] = change.before[:_LONGEST_CHANGE]
        if change.after is not None:
            entry["after"] = change.after[:_LONGEST_CHANGE]
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
