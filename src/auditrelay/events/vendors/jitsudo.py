"""
JITSudo's audit-log records (https://jitsudo-docs.pages.dev/api/operations/listauditlog/).

The action is one word, ``action``, of the form ``resource.verb``. Its values are not documented,
except for two names of notifications; and since the vendor's policies can refuse a request, no
action is assumed to have succeeded.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from auditrelay.events import Actor, ActorKind, Change, Outcome, Target
from auditrelay.events.addresses import is_ip
from auditrelay.events.classify import guess
from auditrelay.events.vendors import NO_ACTOR, NO_TARGET, ParsedRecord, differences, text

NAME = "JITSudo"
ID = "id"
ORGANISATION = None
"""Records do not name their tenant: it is the configured one."""
TIME = "created_at"
FIELDS = frozenset(
    (
        "id",
        "actor_id",
        "actor_type",
        "action",
        "resource_type",
        "resource_id",
        "metadata",
        "reasoning",
        "created_at",
    )
)

_ACTIONS = {
    # names of notifications; that the audit log uses the same ones is likely, not confirmed
    "request.pending": ("other", "other"),
    "grant.active": ("permission", "activate"),
}
_RESOURCES = {
    # the API's own names of its resources; others are guessed
    "grant": "permission",
    "policy": "security_policy",
}
_ACTORS: dict[str, ActorKind] = {"api_key": "api_key", "oidc": "user", "system": "system"}
_ADDRESSES = ("ip", "ip_address")
"""Metadata keys that may contain the actor's IP address; the metadata are not documented."""


class _Action(NamedTuple):
    kind: str
    verb: str
    outcome: Outcome
    warnings: tuple[str, ...]


@lru_cache(maxsize=1024)
def _action(action: str, resource_type: str | None) -> _Action:
    """Return the meaning of an action. Only its last part is a verb: ``grant`` is a resource."""
    known = _ACTIONS.get(action)
    if known is not None:
        return _Action(*known, "unknown", ())
    resource, _, verb = action.rpartition(".")
    resource = resource_type or resource
    guessed = guess(verb)
    return _Action(
        _RESOURCES.get(resource) or guess(resource).kind,
        guessed.verb or "other",
        "failure" if guessed.failed else "unknown",
        ("unknown_action", "heuristic_verb") if guessed.verb else ("unknown_action",),
    )


def _address(metadata: Mapping[str, Any]) -> str | None:
    for key in _ADDRESSES:
        ip = metadata.get(key)
        if type(ip) is str and is_ip(ip):
            return ip
    return None


def read(record: dict[str, Any], unmapped_fields: list[str]) -> ParsedRecord:
    """Parse one record, whatever its fields are."""
    native_action = text(record, "action", unmapped_fields) or "unknown"
    actor_id = text(record, "actor_id", unmapped_fields)
    actor_type = text(record, "actor_type", unmapped_fields)
    resource_type = text(record, "resource_type", unmapped_fields)
    resource_id = text(record, "resource_id", unmapped_fields)
    metadata = record.get("metadata")
    action = _action(native_action, resource_type)
    ip = None
    changes: tuple[Change, ...] = ()
    if type(metadata) is dict and metadata:
        # A value of a wrong type stays in the metadata only.
        ip = _address(metadata)
        if "before" in metadata or "after" in metadata:
            changes = differences(metadata)
    actor = NO_ACTOR
    if actor_id or actor_type or ip:
        kind = _ACTORS.get(actor_type or "", "unknown")
        actor = Actor(kind=kind, id=actor_id, ip=ip, native_type=actor_type)
    who = actor_id or actor_type or "unknown actor"
    return ParsedRecord(
        native_action=native_action,
        kind=action.kind,
        verb=action.verb,
        outcome=action.outcome,
        warnings=action.warnings,
        actor=actor,
        target=Target(type=resource_type, id=resource_id)
        if resource_type or resource_id
        else NO_TARGET,
        changes=changes,
        reason=text(record, "reasoning", unmapped_fields),
        metadata=metadata,
        message=f"{who} {native_action} {resource_id}" if resource_id else f"{who} {native_action}",
    )
