"""
An event in the Open Cybersecurity Schema Framework 1.8.0 (https://schema.ocsf.io/1.8.0/).

Every event is of the class Entity Management, which requires only an entity that was acted on,
unless a table names a more specific class **and** the event has what that class requires: nothing
is invented to fill a required attribute. An event with a guessed verb stays in Entity Management
too. What has no attribute is under ``unmapped``, and our own fields in ``unmapped.auditrelay``.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from auditrelay.events import NOTHING, Actor, AuditEvent, Target
from auditrelay.events.addresses import is_email, is_ip
from auditrelay.events.classify import MEANINGS, MEMBERSHIPS
from auditrelay.events.decode import splice
from auditrelay.events.forms.ocsf_classes import (
    ACCOUNT_CHANGE,
    ACTIVITIES,
    AUTHENTICATION,
    BASE_EVENT,
    ENTITY_MANAGEMENT,
    ENTITY_TYPES,
    EVENT_LOG_ACTIVITY,
    EXCEPTIONS,
    GROUP_MANAGEMENT,
    OTHER,
    TEMPLATES,
    USER_ACCESS,
    VERSION,
    WEB_RESOURCES,
)
from auditrelay.events.marks import NO_MARKS, NOT_NORMALIZED, add_marks, changes_of, without_empty
from auditrelay.events.timestamps import iso_us

_USER_TYPES: dict[str, tuple[int, str]] = {
    "user": (1, "User"),
    "api_key": (4, "Service"),
    "service": (4, "Service"),
    "system": (3, "System"),
    "unknown": (0, "Unknown"),
}

_STATUSES = {"success": (1, "Success"), "failure": (2, "Failure"), "unknown": (0, "Unknown")}
_HEURISTIC = "heuristic_verb"
"""The warning on an event whose verb was guessed."""
_TIMES = ["datetime"]
"""The profile that has ``time_dt``."""
_TIMES_AND_HOST = ["datetime", "host"]
"""With the profile that adds ``actor`` to classes without one."""
_WITHOUT_TARGET = frozenset((AUTHENTICATION, BASE_EVENT, EVENT_LOG_ACTIVITY))
"""Classes without an attribute for what was acted on."""
_ACCOUNT_KINDS = frozenset(kind for kind, its in ENTITY_TYPES.items() if its[2] == "user")
_MAX_IP_LENGTH = 40


def _uid_and_name(uid: str | None, name: str | None) -> dict[str, Any]:
    """Return an organisation, a group or a policy; unknown attributes are left out."""
    attributes = {}
    if uid:
        attributes["uid"] = uid
    if name:
        attributes["name"] = name
    return attributes


def _user(uid: str | None, name: str | None, email: str | None) -> dict[str, Any]:
    """Return a ``user``. An address that OCSF does not accept as one is still a name."""
    attributes = _uid_and_name(uid, name or email)
    if email:
        if is_email(email):
            attributes["email_addr"] = email
        elif name:
            attributes["uid_alt"] = email
    return attributes


def _observable(name: str, type_id: int, kind: str, value: str) -> dict[str, Any]:
    return {"name": name, "type_id": type_id, "type": kind, "value": value}


def _observables(where: str, user: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the observables of *user*, whose attribute path is *where*."""
    observables: list[dict[str, Any]] = []
    if "name" in user:
        observables.append(_observable(f"{where}.name", 4, "User Name", user["name"]))
    if "email_addr" in user:
        observables.append(
            _observable(f"{where}.email_addr", 5, "Email Address", user["email_addr"])
        )
    if "uid" in user:  # validators differ in the caption of type 31
        observables.append({"name": f"{where}.uid", "type_id": 31, "value": user["uid"]})
    return observables


class _ActingUser(NamedTuple):
    """The actor; *user* is empty if none is named. Shared between events: never changed."""

    user: dict[str, Any]
    observables: list[dict[str, Any]]


@lru_cache(maxsize=1024)
def _acting(actor: Actor, org_id: str | None, org_name: str | None) -> _ActingUser:
    user = _user(actor.id, actor.name, actor.email)
    if not user:
        return _ActingUser({}, [])
    observables = _observables("actor.user", user)
    user["type_id"], user["type"] = _USER_TYPES[actor.kind]
    if actor.kind == "api_key":
        key = actor.id or actor.name or actor.email
        user["programmatic_credentials"] = [{"uid": key, "type": "API Key"}]
    if org_id or org_name:
        user["org"] = _uid_and_name(org_id, org_name)
    return _ActingUser(user, observables)


def _target_user(target: Target) -> dict[str, Any]:
    return _user(target.id, target.name, target.email)


def _target_name(event: AuditEvent) -> str | None:
    """Return the target's name, or its kind if nothing else is known of it."""
    target = event.target
    name = target.name or target.email
    return name if name or target.id else target.type or event.kind


# The attributes specific to each class. None: the event lacks what the class requires.


def _of_authentication(event: AuditEvent, acting: _ActingUser) -> dict[str, Any] | None:
    switches = event.verb == "impersonate"
    user = (not switches and acting.user) or _target_user(event.target)
    if not user:
        return None
    own: dict[str, Any] = {"user": user, "service": {"name": event.product}}
    if switches:
        own["account_switch_type_id"] = 2
        own["account_switch_type"] = "Impersonate"
    return own


def _of_account_change(event: AuditEvent, _: _ActingUser) -> dict[str, Any] | None:
    user = _target_user(event.target)
    return {"user": user} if user else None


def _of_user_access(event: AuditEvent, _: _ActingUser) -> dict[str, Any] | None:
    user = _target_user(event.target)
    return {"user": user, "privileges": [event.privilege]} if user and event.privilege else None


def _of_group_management(event: AuditEvent, _: _ActingUser) -> dict[str, Any] | None:
    target = event.target
    if event.kind == "group":
        group = _uid_and_name(target.id, target.name or target.email)
        return {"group": group} if group else None
    if event.verb in MEMBERSHIPS:
        group = _uid_and_name(None, event.privilege)
    else:
        group = _uid_and_name(event.org_id, event.org_name)  # which members join and leave
    if not group:
        return None
    user = _target_user(target)
    return {"group": group, "user": user} if user else {"group": group}


def _of_web_resources(event: AuditEvent, _: _ActingUser) -> dict[str, Any]:
    resource = _uid_and_name(event.target.id, _target_name(event))
    if event.target.type:
        resource["type"] = event.target.type
    return {"web_resources": [resource]}


def _of_event_log(event: AuditEvent, _: _ActingUser) -> dict[str, Any]:
    own: dict[str, Any] = {"log_name": f"{event.vendor}.audit"}
    if event.api_host:
        own["log_provider"] = event.api_host
    return own


_CLASS_ATTRIBUTES: dict[int, Callable[[AuditEvent, _ActingUser], dict[str, Any] | None]] = {
    EVENT_LOG_ACTIVITY: _of_event_log,
    ACCOUNT_CHANGE: _of_account_change,
    AUTHENTICATION: _of_authentication,
    USER_ACCESS: _of_user_access,
    GROUP_MANAGEMENT: _of_group_management,
    WEB_RESOURCES: _of_web_resources,
}


def _of_entity_management(event: AuditEvent) -> dict[str, Any]:
    target = event.target
    entity = _uid_and_name(target.id, _target_name(event))
    known = ENTITY_TYPES.get(event.kind)
    if known is None:
        entity["type_id"], entity["type"] = OTHER, target.type or event.kind
    else:
        entity["type_id"], entity["type"], part = known
        if part and (target.id or target.name or target.email):
            if part == "user":
                entity[part] = _target_user(target)
            else:
                entity[part] = _uid_and_name(target.id, target.name or target.email)
    if event.changes:
        entity["data"] = {"changes": changes_of(event.changes)}
    own: dict[str, Any] = {"entity": entity}
    if event.reason:
        own["comment"] = event.reason
    return own


def _classify(event: AuditEvent, acting: _ActingUser) -> tuple[int, int, dict[str, Any]]:
    """Return the class and the activity of *event*, and the attributes specific to the class."""
    if NOT_NORMALIZED in event.warnings:
        return BASE_EVENT, OTHER, {}
    exception = EXCEPTIONS.get((event.kind, event.verb))
    if exception is not None and _HEURISTIC not in event.warnings:
        own = _CLASS_ATTRIBUTES[exception[0]](event, acting)
        if own is not None:
            return *exception, own
    activity = ACTIVITIES.get(event.verb, OTHER)
    return ENTITY_MANAGEMENT, activity, _of_entity_management(event)


def render(event: AuditEvent, *, marks: Mapping[str, object] = NO_MARKS) -> dict[str, Any]:
    """
    Return *event* as an OCSF event, for orjson; *marks* are added under ``unmapped.auditrelay``.

    ``raw_data`` is the redacted record, ``raw_data_hash`` the hash of the record as the vendor sent
    it.
    """
    acting = _acting(event.actor, event.org_id, event.org_name)
    class_uid, activity_id, own = _classify(event, acting)
    attributes = TEMPLATES[class_uid, activity_id].copy()
    if activity_id == OTHER:
        attributes["activity_name"] = event.native_action
    attributes["time"] = event.at // 1000
    attributes["time_dt"] = iso_us(event.at)
    attributes["message"] = event.message
    outcome = "failure" if event.verb == "login_failed" else event.outcome
    if outcome:
        attributes["status_id"], attributes["status"] = _STATUSES[outcome]
    if event.reason and class_uid != ENTITY_MANAGEMENT:  # which has the reason as its comment
        attributes["status_detail"] = event.reason
    attributes["metadata"] = _metadata(event, class_uid)
    attributes |= own
    if class_uid != BASE_EVENT:  # which is for records that are no JSON objects
        _add_origin(event, acting, class_uid, attributes)
    attributes["raw_data"] = bytes(event.raw).decode()
    attributes["raw_data_hash"] = {
        "algorithm_id": 3,
        "algorithm": "SHA-256",
        "value": event.raw_sha256,
    }
    attributes["unmapped"] = _unmapped(event, acting, class_uid, marks)
    return attributes


def _metadata(event: AuditEvent, class_uid: int) -> dict[str, Any]:
    attributes = _of_source(event.vendor, event.product, event.api_host, event.tags).copy()
    if class_uid == WEB_RESOURCES:
        attributes["profiles"] = _TIMES_AND_HOST
    attributes["uid"] = event.uid
    attributes["event_code"] = event.native_action
    attributes["logged_time"] = event.fetched // 1000
    if event.native_id:
        attributes["original_event_uid"] = event.native_id
    if event.time_raw:
        attributes["original_time"] = event.time_raw
    if event.org_id:
        attributes["tenant_uid"] = event.org_id
    risks = MEANINGS[event.kind, event.verb].risks_if(event.outcome)
    if risks:
        attributes["labels"] = risks
    return attributes


@lru_cache(maxsize=256)
def _of_source(
    vendor: str, product: str, api_host: str, tags: tuple[tuple[str, str], ...]
) -> dict[str, Any]:
    """Return the part of the metadata that all events of a source share."""
    attributes: dict[str, Any] = {
        "version": VERSION,
        "profiles": _TIMES,
        "product": {"name": product, "vendor_name": product},
        "log_name": f"{vendor}.audit",
    }
    if api_host:
        attributes["log_provider"] = api_host
    if tags:
        attributes["tags"] = [{"name": name, "value": value} for name, value in tags]
    return attributes


def _add_origin(
    event: AuditEvent, acting: _ActingUser, class_uid: int, attributes: dict[str, Any]
) -> None:
    """Add the actor, its address and user agent, and the observables."""
    actor = event.actor
    observables = acting.observables
    if acting.user:
        attributes["actor"] = {"user": acting.user}
    if actor.ip:
        if is_ip(actor.ip) and len(actor.ip) <= _MAX_IP_LENGTH:
            attributes["src_endpoint"] = {"ip": actor.ip}
            ip = _observable("src_endpoint.ip", 2, "IP Address", actor.ip)
            observables = [*observables, ip]
        else:
            attributes["src_endpoint"] = {"name": actor.ip}
    if actor.user_agent and class_uid != EVENT_LOG_ACTIVITY:  # which has no http_request
        attributes["http_request"] = {"user_agent": actor.user_agent}
        agent = _observable("http_request.user_agent", 16, "HTTP User-Agent", actor.user_agent)
        observables = [*observables, agent]
    if class_uid != ENTITY_MANAGEMENT or event.kind in _ACCOUNT_KINDS:
        observables = observables + _target_observables(event, acting, class_uid, attributes)
    if observables:
        attributes["observables"] = observables


def _target_observables(
    event: AuditEvent, acting: _ActingUser, class_uid: int, attributes: dict[str, Any]
) -> list[dict[str, Any]]:
    if class_uid == ENTITY_MANAGEMENT:
        return _observables("entity.user", attributes["entity"].get("user", {}))
    if class_uid == WEB_RESOURCES:
        uid = event.target.id
        return [_observable("web_resources[0].uid", 10, "Resource UID", uid)] if uid else []
    user = attributes.get("user", {})
    return [] if user is acting.user else _observables("user", user)


def _unmapped(
    event: AuditEvent, acting: _ActingUser, class_uid: int, marks: Mapping[str, object]
) -> dict[str, Any]:
    """Return what the class has no attribute for."""
    own: dict[str, Any] = {
        "source": event.source,
        "kind": event.kind,
        "verb": event.verb,
        "actor_kind": event.actor.kind,
        "time_quality": event.time_quality,
    }
    if event.warnings:
        own["warnings"] = event.warnings
    add_marks(own, event, marks)
    attributes: dict[str, Any] = {"auditrelay": own}
    if event.native_category:
        attributes["native_category"] = event.native_category
    if event.actor.native_type:
        attributes["actor_type"] = event.actor.native_type
    if event.target.type:
        attributes["target_type"] = event.target.type
    if event.org_name and not acting.user:
        attributes["organization_name"] = event.org_name
    if event.project_id or event.project_name:
        attributes["project"] = without_empty(id=event.project_id, name=event.project_name)
    if event.actor.address or (
        class_uid != ENTITY_MANAGEMENT or event.privilege or event.target.email
    ):
        _add_unsupported(event, class_uid, attributes)
    if event.metadata != NOTHING:
        attributes["metadata"] = splice(event.metadata)
    if event.unmapped != NOTHING:
        attributes["record"] = splice(event.unmapped)
    return attributes


def _add_unsupported(event: AuditEvent, class_uid: int, attributes: dict[str, Any]) -> None:
    """Add values that other classes have an attribute for, but not this one."""
    target = event.target
    if event.actor.address:
        attributes["actor_address"] = event.actor.address
    if class_uid in _WITHOUT_TARGET:
        switched = class_uid == AUTHENTICATION and event.verb == "impersonate"
        if not switched and (target.id or target.name or target.email):
            attributes["target"] = without_empty(id=target.id, name=target.name, email=target.email)
    elif target.email and event.kind not in _ACCOUNT_KINDS:
        attributes["target_email"] = target.email
    joined = class_uid == GROUP_MANAGEMENT and event.verb in MEMBERSHIPS and event.kind != "group"
    if event.privilege and class_uid != USER_ACCESS and not joined:
        attributes["privilege"] = event.privilege
    if event.changes and class_uid != ENTITY_MANAGEMENT:
        attributes["changes"] = changes_of(event.changes)
    if event.actor.user_agent and class_uid == EVENT_LOG_ACTIVITY:
        attributes["user_agent"] = event.actor.user_agent
