"""
Bland AI's audit-log records (https://docs.bland.ai/api-v1/get/audit-logs).

The action is one word, ``event_type``. The documentation announces further values.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from msgspec import UNSET

from auditrelay.events import Actor, Change
from auditrelay.events.classify import guess
from auditrelay.events.decode import encode
from auditrelay.events.vendors import (
    MAX_TEXT_LENGTH,
    NO_ACTOR,
    Action,
    Columns,
    Details,
    Documented,
    Field,
    ParsedPage,
    either,
    guessed_action,
    messages,
    text,
)

NAME = "Bland AI"
ID = "id"
ORGANISATION = "org_id"
TIME = "created_at"


class Record(Documented):
    """The documented fields of a record."""

    id: Field = UNSET
    org_id: Field = UNSET
    actor_id: Field = UNSET
    event_type: Field = UNSET
    resource_type: Field = UNSET
    resource_id: Field = UNSET
    metadata: Details = UNSET
    created_at: Field = UNSET


FIELDS = frozenset(Record.__struct_fields__)

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


@lru_cache(maxsize=1024)
def _action(event_type: str | None) -> Action:
    """Return the meaning of an event type: the documentation has completed actions only."""
    name = event_type or "unknown"
    category = name.partition(".")[0] if "." in name else None
    known = _EVENTS.get(name)
    if known is not None:
        return Action(name, category, *known, "success")
    guessed = guess(name)
    return guessed_action(name, category, guessed.kind, guessed)


@lru_cache(maxsize=512)
def _actor(actor_id: str | None, email: str | None) -> Actor:
    return Actor(kind="user", id=actor_id, email=email) if actor_id or email else NO_ACTOR


def _email(action: Action, details: Mapping[str, Any]) -> str | None:
    return text(details.get("email")) if action.category == "auth" else None


def _name(action: Action, details: Mapping[str, Any]) -> str | None:
    if action.category == "auth":
        return None
    return text(details.get("name")) or text(details.get("filename"))


def _changes(details: Mapping[str, Any]) -> tuple[Change, ...]:
    return tuple([_changed(key, details[key]) for key in _CHANGED if key in details])


def _changed(field: str, value: Any) -> Change:
    if type(value) is int or (type(value) is str and len(value) < 64):
        return _changed_simply(field, value)
    return Change(field, None, encode(value).decode()[:MAX_TEXT_LENGTH])


@lru_cache(maxsize=1024)
def _changed_simply(field: str, value: str | int) -> Change:
    return Change(field, None, encode(value).decode()[:MAX_TEXT_LENGTH])


def read(page: Columns) -> ParsedPage:
    """Say who did what to what. A detail of a wrong type stays in the metadata only."""
    event_type, actor_id = page.texts("event_type", "actor_id")
    target_type, target_id = page.texts("resource_type", "resource_id")
    action = list(map(_action, event_type))
    email = list(map(_email, action, page.details))
    name = list(map(_name, action, page.details))
    return ParsedPage(
        action=action,
        actor=list(map(_actor, actor_id, email)),
        target_type=target_type,
        target_id=target_id,
        target_name=name,
        changes=list(map(_changes, page.details)),
        message=messages(either(email, actor_id), action, either(name, target_id)),
    )
