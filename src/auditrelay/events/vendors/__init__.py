"""
The contract of a vendor's module: how to parse one of its records.

A vendor is one module in this folder that implements :class:`Vendor`. Adding one changes no other
file.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from auditrelay.events import Actor, Change, Outcome, Target
from auditrelay.events.decode import encode

MAX_TEXT_LENGTH = 8191
"""
Characters that a text field keeps; the rest is in the raw record. At four bytes each they fit into
the 32,766 bytes that Elasticsearch accepts for one term.
"""

NO_ACTOR = Actor()
NO_TARGET = Target()


class ParsedRecord(msgspec.Struct, gc=False, kw_only=True):
    """The contents of a record, by the fields of :class:`auditrelay.events.AuditEvent`."""

    native_action: str
    kind: str
    verb: str
    outcome: Outcome | None
    message: str
    native_category: str | None = None
    actor: Actor = NO_ACTOR
    target: Target = NO_TARGET
    org_name: str | None = None
    project_id: str | None = None
    project_name: str | None = None
    privilege: str | None = None
    changes: tuple[Change, ...] = ()
    reason: str | None = None
    metadata: Any = None
    warnings: tuple[str, ...] = ()


class Vendor(Protocol):
    """One vendor's module."""

    NAME: str
    """The product as a SIEM should show it."""
    FIELDS: frozenset[str]
    """Every documented field of a record; any other is ``unmapped``."""
    ID: str
    """The field with the vendor's id of the record."""
    ORGANISATION: str | None
    """
    The field with the organisation that ids are unique in; None if records have none, and it is
    the configured one.
    """
    TIME: str
    """The field with the time of the event."""

    def read(self, record: dict[str, Any], unmapped_fields: list[str]) -> ParsedRecord:
        """
        Parse *record*, whatever its fields are: missing, null, of wrong types, unknown words.

        Names of documented fields with an unusable value are added to *unmapped_fields*.
        """


def text(record: Mapping[str, Any], key: str, unmapped_fields: list[str]) -> str | None:
    """
    Return the text or whole number under *key* as text, or None.

    If the value is anything else, such as a list, *key* is added to *unmapped_fields*.
    """
    value = record.get(key)
    if value is None:
        return None
    if type(value) is str:
        return value[:MAX_TEXT_LENGTH] or None
    if type(value) is int:
        return str(value)
    unmapped_fields.append(key)
    return None


def texts(
    record: Mapping[str, Any], keys: Sequence[str], unmapped_fields: list[str]
) -> list[str | None]:
    """Return what :func:`text` returns for each of *keys*, at half the cost."""
    found: list[str | None] = []
    for key in keys:
        value = record.get(key)
        if type(value) is str:
            found.append(value[:MAX_TEXT_LENGTH] or None)
        elif type(value) is int:
            found.append(str(value))
        else:
            found.append(None)
            if value is not None:
                unmapped_fields.append(key)
    return found


Location = tuple[dict[str, Any], str]
"""An object, and the key in it."""


def path_finder(paths: Sequence[str]) -> Callable[[dict[str, Any]], Location]:
    """
    Return a function that finds, in a record, the first of *paths* with a value.

    A path is a key, or several keys joined by dots, each in the object under the one before. Null
    and an empty text are no values. If no path has a value, the location is an empty object.
    """
    if len(paths) == 1 and "." not in paths[0]:
        only = paths[0]
        return lambda record: (record, only)
    steps = [path.split(".") for path in paths]

    def find(record: dict[str, Any]) -> Location:
        for *parents, key in steps:
            node: Any = record
            for parent in parents:
                node = node.get(parent) if type(node) is dict else None
            if type(node) is dict and node.get(key) not in (None, ""):
                return node, key
        return {}, steps[0][-1]

    return find


def as_json(value: Any) -> str | None:
    """Return *value* as JSON text for a Change, or None if there is none."""
    return None if value is None else encode(value).decode()[:MAX_TEXT_LENGTH]


def differences(metadata: Mapping[str, Any]) -> tuple[Change, ...]:
    """Return what differs between the objects *before* and *after* of the metadata, if any."""
    before, after = metadata.get("before"), metadata.get("after")
    if not isinstance(before, dict | None) or not isinstance(after, dict | None):
        return ()  # other types are not documented
    old: dict[str, Any] = before or {}
    new: dict[str, Any] = after or {}
    return tuple(
        [
            Change(field[:MAX_TEXT_LENGTH], as_json(old.get(field)), as_json(new.get(field)))
            for field in dict.fromkeys((*old, *new))
            if field not in old or field not in new or old[field] != new[field]
        ]
    )
