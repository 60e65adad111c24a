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
from typing import Any, NamedTuple

from auditrelay.events import Actor, ActorKind, Change, Outcome, Target
from auditrelay.events.classify import guess
from auditrelay.events.decode import Undecodable, decode
from auditrelay.events.vendors import NO_ACTOR, NO_TARGET, ParsedRecord, as_json, differences, text

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
FIELDS = frozenset(
    (
        "id",
        "organization_id",
        "project_id",
        "category",
        "action",
        "resource_type",
        "resource_id",
        "actor_id",
        "actor_email",
        "actor_ip",
        "actor_type",
        "description",
        "metadata",
        "created_at",
        *HEADER,
        TWIN,
    )
)

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


class _Action(NamedTuple):
    name: str
    kind: str
    verb: str
    outcome: Outcome
    warnings: tuple[str, ...]


@lru_cache(maxsize=1024)
def _action(category: str | None, action: str | None) -> _Action:
    """Return the meaning of the two words: the vendor's code has completed actions only."""
    name = ".".join(part for part in (category, action) if part) or "unknown"
    pair = _PAIRS.get(name)
    if pair is not None:
        return _Action(name, *pair, "success", ())
    kind, verb = _CATEGORIES.get(category or ""), _ACTIONS.get(action or "")
    if verb is not None:
        known = kind is not None
        kind = kind or guess(category or "").kind
        return _Action(name, kind, verb, "success", () if known else ("unknown_action",))
    guessed = guess(action or "")
    return _Action(
        name,
        kind or guess(name).kind,
        guessed.verb or "other",
        "failure" if guessed.failed else "unknown",
        ("unknown_action", "heuristic_verb") if guessed.verb else ("unknown_action",),
    )


def _changes(metadata: Mapping[str, Any]) -> tuple[Change, ...]:
    """Return what differs between before and after; values that are no objects are one field."""
    before, after = metadata.get("before"), metadata.get("after")
    if isinstance(before, dict | None) and isinstance(after, dict | None):
        return differences(metadata)
    field = text(metadata, "field", []) or "value"
    return (Change(field, as_json(before), as_json(after)),)


def _role(metadata: Mapping[str, Any]) -> str | None:
    """Return the role after the change."""
    after = metadata.get("after")
    if isinstance(after, dict):
        return text(after, "role", [])
    return text(metadata, "new_role", []) or text(metadata, "role", [])


_COLUMNS = {
    "Category": "category",
    "Action": "action",
    "Resource Type": "resource_type",
    "Resource ID": "resource_id",
    "Project ID": "project_id",
    "IP Address": "actor_ip",
    "Description": "description",
}


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


def read(record: dict[str, Any], unmapped_fields: list[str]) -> ParsedRecord:
    """Parse one record, whatever its fields are."""
    if "Timestamp" not in record:
        return _read(record, unmapped_fields)
    texts = (str, int, NoneType)
    unmapped_fields += [name for name in (*HEADER, TWIN) if type(record.get(name)) not in texts]
    return _read(record if "category" in record else _row(record), unmapped_fields)


def _read(record: dict[str, Any], unmapped_fields: list[str]) -> ParsedRecord:
    category = text(record, "category", unmapped_fields)
    actor_id = text(record, "actor_id", unmapped_fields)
    email = text(record, "actor_email", unmapped_fields)
    ip = text(record, "actor_ip", unmapped_fields)
    actor_type = text(record, "actor_type", unmapped_fields)
    resource_type = text(record, "resource_type", unmapped_fields)
    resource_id = text(record, "resource_id", unmapped_fields)
    message = text(record, "description", unmapped_fields)
    action = _action(category, text(record, "action", unmapped_fields))
    actor = NO_ACTOR
    if actor_id or email or ip or actor_type:
        # An actor with an email address is a user, unless the record says otherwise.
        kind = _ACTORS.get(actor_type or ("user" if email else ""), "unknown")
        actor = Actor(kind=kind, id=actor_id, email=email, ip=ip, native_type=actor_type)
    metadata = record.get("metadata")
    target_email = name = privilege = None
    changes: tuple[Change, ...] = ()
    if type(metadata) is dict and metadata:
        # A value of a wrong type stays in the metadata only.
        if action.kind in ("member", "end_user"):
            target_email = text(metadata, "email", [])
        name = next((found for key in _NAMES if (found := text(metadata, key, []))), None)
        changes = _changes(metadata)
        if action.verb == "role_change":
            privilege = _role(metadata)
    target = NO_TARGET
    if resource_type or resource_id or name or target_email:
        target = Target(type=resource_type, id=resource_id, name=name, email=target_email)
    if message is None:
        who = email or actor_id or actor_type or "unknown actor"
        what = target_email or name or resource_id
        message = f"{who} {action.name} {what}" if what else f"{who} {action.name}"
    return ParsedRecord(
        native_action=action.name,
        native_category=category,
        kind=action.kind,
        verb=action.verb,
        outcome=action.outcome,
        warnings=action.warnings,
        actor=actor,
        target=target,
        project_id=text(record, "project_id", unmapped_fields),
        privilege=privilege,
        changes=changes,
        metadata=metadata,
        message=message,
    )
