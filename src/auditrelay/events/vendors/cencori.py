"""
Cencori's audit-log records, as its dashboard and its exports show them.

They are undocumented; the format is taken from the vendor's source (github.com/cencori/cencori,
audit-logs route and ``lib/audit-log.ts``). The action is two words: the ``category`` is the kind of
object, the ``action`` what was done to it.

A row of a CSV export is a record with the columns as its fields: ``-`` is a missing value, and the
metadata are JSON in a text. It has neither id nor organisation, and one column for the actor: the
email address, else the kind of actor.
"""

from collections.abc import Mapping
from functools import lru_cache
from types import NoneType
from typing import Any, Self

from msgspec import UNSET

from auditrelay.events import Actor, ActorKind, Change
from auditrelay.events.addresses import ip_and_text
from auditrelay.events.classify import guess
from auditrelay.events.decode import Undecodable, decode
from auditrelay.events.marks import UNKNOWN_ACTION
from auditrelay.events.vendors import (
    NO_ACTOR,
    Action,
    Columns,
    Details,
    Documented,
    Field,
    ParsedPage,
    as_json,
    differences,
    either,
    guessed_action,
    messages,
    text,
)

NAME = "Cencori"
ID = "id"
ORGANISATION = "organization_id"
TIME = "created_at"
HEADER = (
    "Timestamp",
    "Category",
    "Action",
    "Resource Type",
    "Resource ID",
    "Project ID",
    "Actor",
    "IP Address",
    "Description",
    "Metadata",
)
"""The columns of a CSV export, in their order."""
TWIN = "Twin"
"""A field of ours: the number of this row among identical ones."""
_COLUMNS = {
    "Category": "category",
    "Action": "action",
    "Resource Type": "resource_type",
    "Resource ID": "resource_id",
    "Project ID": "project_id",
    "IP Address": "actor_ip",
    "Description": "description",
}


class Record(Documented):
    """The fields of a record of JSON."""

    id: Field = UNSET
    organization_id: Field = UNSET
    project_id: Field = UNSET
    category: Field = UNSET
    action: Field = UNSET
    resource_type: Field = UNSET
    resource_id: Field = UNSET
    actor_id: Field = UNSET
    actor_email: Field = UNSET
    actor_ip: Field = UNSET
    actor_type: Field = UNSET
    description: Field = UNSET
    metadata: Details = UNSET
    created_at: Field = UNSET

    @classmethod
    def of(cls, value: Mapping[str, Any], unmapped_fields: list[str]) -> Self:
        """Return a record of JSON, or a row of CSV, with the fields of a record of JSON."""
        if "Timestamp" not in value:
            return super().of(value, unmapped_fields)
        texts = (str, int, NoneType)
        unmapped_fields += [name for name in (*HEADER, TWIN) if type(value.get(name)) not in texts]
        return super().of(value if "category" in value else _row(value), unmapped_fields)


FIELDS = frozenset((*Record.__struct_fields__, *HEADER, TWIN))

_CATEGORIES = {
    "agent": "agent",
    "api_key": "api_key",
    "billing": "billing",
    "budget": "budget",
    "cache": "cache",
    "end_user": "end_user",
    "export": "export",
    "integration": "integration",
    "member": "member",
    "memory": "memory",
    "project": "project",
    "prompt": "prompt",
    "provider": "provider_key",  # the key for a provider of models
    "rate_plan": "rate_plan",
    "security": "security_policy",
    "settings": "settings",
    "sso": "sso",
    "webhook": "webhook",
}
_ACTIONS = {
    "activated": "activate",
    "configured": "configure",
    "created": "create",
    "deactivated": "deactivate",
    "deleted": "delete",
    "deployed": "deploy",
    "enforced": "enable",
    "exported": "export",
    "invited": "invite",
    "joined": "join",
    "left": "leave",
    "removed": "delete",
    "reviewed": "review",
    "revoked": "revoke",
    "role_changed": "role_change",
    "tier_changed": "update",
    "topup": "purchase",
    "updated": "update",
}
_PAIRS = {
    # not the sum of their two words
    "member.removed": ("member", "leave"),
    "security.reviewed": ("security_incident", "review"),
    # named in the documentation of the dashboard, without their spelling: likely spellings
    "api_key.rotated": ("api_key", "rotate"),
    "billing.credit_top_up": ("billing", "purchase"),
    "billing.stripe_connected": ("billing", "connect"),
    "billing.stripe_disconnected": ("billing", "disconnect"),
    "billing.subscription_changed": ("billing", "update"),
    "budget.alert_set": ("budget", "configure"),
    "budget.limit_configured": ("budget", "configure"),
    "end_user.blocked": ("end_user", "block"),
    "end_user.unblocked": ("end_user", "unblock"),
    "export.audit": ("audit_log", "export"),
    "export.billing": ("export", "export"),
    "export.logs": ("export", "export"),
    "integration.added": ("integration", "create"),
    "memory.modified": ("memory", "update"),
    "prompt.version_published": ("prompt", "version_publish"),
    "provider.added": ("provider_key", "create"),
    "provider.rotated": ("provider_key", "rotate"),
    "security.incident_reviewed": ("security_incident", "review"),
    "security.rule_created": ("security_policy", "create"),
    "security.rule_deleted": ("security_policy", "delete"),
    "security.rule_updated": ("security_policy", "update"),
    "security.settings_changed": ("security_policy", "update"),
}
_ACTORS: dict[str, ActorKind] = {
    "user": "user",
    "system": "system",
    "api": "api_key",
    "webhook": "service",
}
_NAMES = ("name", "key_name", "project_name", "agent_name", "provider_name", "title")
"""Metadata keys that may name the target; only ``key_name`` is in the vendor's source."""


@lru_cache(maxsize=1024)
def _action(category: str | None, action: str | None) -> Action:
    """Return the meaning of the two words: the vendor's code has completed actions only."""
    name = ".".join(part for part in (category, action) if part) or "unknown"
    pair = _PAIRS.get(name)
    if pair is not None:
        return Action(name, category, *pair, "success")
    kind, verb = _CATEGORIES.get(category or ""), _ACTIONS.get(action or "")
    if verb is not None:
        known = kind is not None
        kind = kind or guess(category or "").kind
        warnings = () if known else (UNKNOWN_ACTION,)
        return Action(name, category, kind, verb, "success", warnings)
    guessed = guess(action or "")
    return guessed_action(name, category, kind or guess(name).kind, guessed)


def _changes(details: Mapping[str, Any]) -> tuple[Change, ...]:
    """Return what differs between before and after; values that are no objects are one field."""
    if not details:
        return ()
    before, after = details.get("before"), details.get("after")
    if isinstance(before, dict | None) and isinstance(after, dict | None):
        return differences(details)
    field = text(details.get("field")) or "value"
    return (Change(field, as_json(before), as_json(after)),)


def _role(action: Action, details: Mapping[str, Any]) -> str | None:
    """Return the role after the change."""
    if action.verb != "role_change":
        return None
    after = details.get("after")
    if isinstance(after, dict):
        return text(after.get("role"))
    return text(details.get("new_role")) or text(details.get("role"))


def _name(details: Mapping[str, Any]) -> str | None:
    return next((found for key in _NAMES if (found := text(details.get(key)))), None)


def _member(action: Action, details: Mapping[str, Any]) -> str | None:
    return text(details.get("email")) if action.kind in ("member", "end_user") else None


@lru_cache(maxsize=512)
def _actor(
    actor_id: str | None, email: str | None, ip: str | None, actor_type: str | None
) -> Actor:
    if not (actor_id or email or ip or actor_type):
        return NO_ACTOR
    # An actor with an email address is a user, unless the record says otherwise.
    kind = _ACTORS.get(actor_type or ("user" if email else ""), "unknown")
    ip, address = ip_and_text(ip)
    return Actor(
        kind=kind, id=actor_id, email=email, ip=ip, native_type=actor_type, address=address
    )


def _row(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of CSV with the field names of a JSON record."""
    fields: dict[str, Any] = {
        field: None if record.get(column) == "-" else record.get(column)
        for column, field in _COLUMNS.items()
    }
    actor = record.get("Actor")
    if isinstance(actor, str) and actor != "-":
        # A word such as "system" is the kind of actor; "System" is written where there is none.
        fields["actor_email" if "@" in actor else "actor_type"] = (
            actor if "@" in actor else actor.lower()
        )
    metadata = record.get("Metadata")
    if isinstance(metadata, str) and metadata != "-":
        try:
            fields["metadata"] = decode(metadata.encode("utf-8", "replace")).value
        except Undecodable:
            fields["metadata"] = metadata
    return fields


def read(page: Columns) -> ParsedPage:
    """Say who did what to what. A detail of a wrong type stays in the metadata only."""
    actor_id, email, ip, actor_type = page.texts(
        "actor_id", "actor_email", "actor_ip", "actor_type"
    )
    target_type, target_id = page.texts("resource_type", "resource_id")
    project, description = page.texts("project_id", "description")
    action = list(map(_action, *page.texts("category", "action")))
    member = list(map(_member, action, page.details))
    name = list(map(_name, page.details))
    sentences = messages(
        either(email, actor_id, actor_type), action, either(member, name, target_id)
    )
    return ParsedPage(
        action=action,
        actor=list(map(_actor, actor_id, email, ip, actor_type)),
        target_type=target_type,
        target_id=target_id,
        target_name=name,
        target_email=member,
        project_id=project,
        privilege=list(map(_role, action, page.details)),
        changes=list(map(_changes, page.details)),
        message=[own or other for own, other in zip(description, sentences, strict=True)],
    )
