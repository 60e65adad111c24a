"""
JITSudo's audit-log records (https://jitsudo-docs.pages.dev/api/operations/listauditlog/).

The action is one word, ``action``, of the form ``resource.verb``. Its values are not documented,
except for two names of notifications; and since the vendor's policies can refuse a request, no
action is assumed to have succeeded.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from msgspec import UNSET

from auditrelay.events import Actor, ActorKind, Change
from auditrelay.events.addresses import client_ip, ip_and_text
from auditrelay.events.classify import guess
from auditrelay.events.vendors import (
    NO_ACTOR,
    Action,
    Columns,
    Details,
    Documented,
    Field,
    ParsedPage,
    differences,
    either,
    guessed_action,
    messages,
    text,
)

NAME = "JITSudo"
ID = "id"
ORGANISATION = None
"""Records do not name their tenant: it is the configured one."""
TIME = "created_at"


class Record(Documented):
    """The documented fields of a record."""

    id: Field = UNSET
    actor_id: Field = UNSET
    actor_type: Field = UNSET
    action: Field = UNSET
    resource_type: Field = UNSET
    resource_id: Field = UNSET
    metadata: Details = UNSET
    reasoning: Field = UNSET
    created_at: Field = UNSET


FIELDS = frozenset(Record.__struct_fields__)

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
"""
Metadata keys that may contain the actor's IP address. The metadata are not documented: the one who
asks for access may have written them, so that such an address is marked as claimed.
"""
CLAIMED_IP = "claimed_ip"
"""The warning on an event whose actor's address is from its metadata."""


@lru_cache(maxsize=1024)
def _action(action: str | None, resource_type: str | None, ip: bool) -> Action:  # noqa: FBT001
    """
    Return the meaning of an action. Only its last part is a verb: ``grant`` is a resource.

    *ip* is whether the metadata claim the actor's address.
    """
    if ip:
        meaning = _action(action, resource_type, False)  # noqa: FBT003  # as the page's columns
        return meaning._replace(warnings=(*meaning.warnings, CLAIMED_IP))
    name = action or "unknown"
    known = _ACTIONS.get(name)
    if known is not None:
        return Action(name, None, *known, "unknown")
    resource, _, verb = name.rpartition(".")
    resource = resource_type or resource
    guessed = guess(verb)
    return guessed_action(name, None, _RESOURCES.get(resource) or guess(resource).kind, guessed)


@lru_cache(maxsize=512)
def _actor(actor_id: str | None, actor_type: str | None, ip: str | None) -> Actor:
    if not (actor_id or actor_type or ip):
        return NO_ACTOR
    kind = _ACTORS.get(actor_type or "", "unknown")
    ip, address = ip_and_text(ip)
    return Actor(kind=kind, id=actor_id, ip=ip, native_type=actor_type, address=address)


def _address(details: Mapping[str, Any]) -> str | None:
    for key in _ADDRESSES:
        ip = text(details.get(key))
        if ip and client_ip(ip):
            return ip
    return None


def _changes(details: Mapping[str, Any]) -> tuple[Change, ...]:
    return differences(details) if "before" in details or "after" in details else ()


def read(page: Columns) -> ParsedPage:
    """Say who did what to what. A detail of a wrong type stays in the metadata only."""
    actor_id, actor_type, reasoning = page.texts("actor_id", "actor_type", "reasoning")
    native_action, target_type, target_id = page.texts("action", "resource_type", "resource_id")
    address = list(map(_address, page.details))
    action = list(map(_action, native_action, target_type, map(bool, address)))
    return ParsedPage(
        action=action,
        actor=list(map(_actor, actor_id, actor_type, address)),
        target_type=target_type,
        target_id=target_id,
        changes=list(map(_changes, page.details)),
        reason=reasoning,
        message=messages(either(actor_id, actor_type), action, target_id),
    )
