"""
Bland AI's audit-log records (https://docs.bland.ai/api-v1/get/audit-logs).

The action is one word, ``event_type``. The documentation announces further values.
"""

from functools import lru_cache
from typing import Any, NamedTuple

from auditrelay.events import Actor, Change, Outcome, Target
from auditrelay.events.classify import guess
from auditrelay.events.decode import encode
from auditrelay.events.vendors import (
    MAX_TEXT_LENGTH,
    NO_ACTOR,
    NO_TARGET,
    ParsedRecord,
    text,
    texts,
)

NAME = "Bland AI"
ID = "id"
ORGANISATION = "org_id"
TIME = "created_at"
FIELDS = frozenset(
    (
        "id",
        "org_id",
        "actor_id",
        "event_type",
        "resource_type",
        "resource_id",
        "metadata",
        "created_at",
    )
)
_TEXTS = ("event_type", "actor_id", "resource_type", "resource_id")

_EVENTS = {
    "auth.sso_login": ("session", "login"),
    "auth.logout": ("session", "logout"),
    "pathway.created": ("pathway", "create"),
    "pathway.updated": ("pathway", "update"),
    "pathway.deleted": ("pathway", "delete"),
    "pathway.published": ("pathway", "publish"),
    "kb.content_updated": ("knowledge_base", "update"),
    "kb.file_replaced": ("knowledge_base", "replace"),
    "kb.urls_replaced": ("knowledge_base", "replace"),
    "kb.version_restored": ("knowledge_base", "restore"),
}
_CHANGED = ("version_number", "version", "environment")
"""Metadata keys that describe the state after the event."""


class _Action(NamedTuple):
    kind: str
    verb: str
    outcome: Outcome
    category: str | None
    warnings: tuple[str, ...]


@lru_cache(maxsize=1024)
def _action(event_type: str) -> _Action:
    """Return the meaning of an event type: the documentation has completed actions only."""
    category = event_type.partition(".")[0] if "." in event_type else None
    known = _EVENTS.get(event_type)
    if known is not None:
        return _Action(*known, "success", category, ())
    guessed = guess(event_type)
    return _Action(
        guessed.kind,
        guessed.verb or "other",
        "failure" if guessed.failed else "unknown",
        category,
        ("unknown_action", "heuristic_verb") if guessed.verb else ("unknown_action",),
    )


def _changed(field: str, value: Any) -> Change:
    return Change(field, None, encode(value).decode()[:MAX_TEXT_LENGTH])


def read(record: dict[str, Any], unmapped_fields: list[str]) -> ParsedRecord:
    """Parse one record, whatever its fields are."""
    event_type, actor_id, resource_type, resource_id = texts(record, _TEXTS, unmapped_fields)
    event_type = event_type or "unknown"
    metadata = record.get("metadata")
    action = _action(event_type)
    email = name = None
    changes: tuple[Change, ...] = ()
    if type(metadata) is dict and metadata:
        # A value of a wrong type stays in the metadata only.
        if action.category == "auth":
            email = text(metadata, "email", [])
        else:
            name = text(metadata, "name", []) or text(metadata, "filename", [])
        changes = tuple([_changed(key, metadata[key]) for key in _CHANGED if key in metadata])
    who = email or actor_id or "unknown actor"
    what = name or resource_id
    return ParsedRecord(
        native_action=event_type,
        native_category=action.category,
        kind=action.kind,
        verb=action.verb,
        outcome=action.outcome,
        warnings=action.warnings,
        actor=Actor(kind="user", id=actor_id, email=email) if actor_id or email else NO_ACTOR,
        target=(
            Target(type=resource_type, id=resource_id, name=name)
            if resource_type or resource_id or name
            else NO_TARGET
        ),
        changes=changes,
        metadata=metadata,
        message=f"{who} {event_type} {what}" if what else f"{who} {event_type}",
    )
