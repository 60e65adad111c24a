"""
An event in the Open Cybersecurity Schema Framework 1.8.0 (https://schema.ocsf.io/1.8.0/).

Every event is of the class Entity Management, which asks for nothing but a thing that was acted
on, unless a table names a class that says more **and** the event tells what that class requires:
nothing is made up to fill a required attribute. A verb that was guessed stays in Entity Management
too. What has no attribute stands under ``unmapped``, and our own words in ``unmapped.auditrelay``.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from auditrelay.events import NOTHING, Actor, AuditEvent, Target
from auditrelay.events.classify import MEANINGS
from auditrelay.events.decode import splice
from auditrelay.events.forms.addresses import is_email, is_ip
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
    STARTS,
    USER_ACCESS,
    VERSION,
    WEB_RESOURCES,
)
from auditrelay.events.marks import NO_MARKS, NOT_NORMALIZED, add_marks, changes_of, present
from auditrelay.events.timestamps import iso_us

_USER_TYPES: dict[str, tuple[int, str]] = {
    "user": (1, "User"),
    "api_key": (4, "Service"),
    "service": (4, "Service"),
    "system": (3, "System"),
    "unknown": (0, "Unknown"),
}

_STATUSES = {"success": (1, "Success"), "failure": (2, "Failure"), "unknown": (0, "Unknown")}
_GUESSED = "heuristic_verb"
"""The warning on an event whose verb was guessed."""
_TIMES = ["datetime"]
"""The profile that has ``time_dt``."""
_TIMES_AND_HOST = ["datetime", "host"]
"""With the profile that has ``actor`` in classes that have none themselves."""
_WITHOUT_TARGET = frozenset((AUTHENTICATION, BASE_EVENT, EVENT_LOG_ACTIVITY))
"""Classes without an attribute for what was acted on."""
_ACCOUNTS = frozenset(kind for kind, its in ENTITY_TYPES.items() if its[2] == "user")
_LONGEST_IP = 40


def _named(uid: str | None, name: str | None) -> dict[str, Any]:
    """Return an organisation, a group or a policy, without what is not known."""
    found = {}
    if uid:
        found["uid"] = uid
    if name:
        found["name"] = name
    return found


def _user(uid: str | None, name: str | None, email: str | None) -> dict[str, Any]:
    """Return a ``user``. An address that is none, to OCSF, is still a name."""
    found = _named(uid, name or email)
    if email:
        if is_email(email):
            found["email_addr"] = email
        elif name:
            found["uid_alt"] = email
    return found


def _observable(name: str, type_id: int, kind: str, value: str) -> dict[str, Any]:
    return {"name": name, "type_id": type_id, "type": kind, "value": value}


def _observables(where: str, user: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what identifies *user*, which stands at *where*, for looking up."""
    found: list[dict[str, Any]] = []
    if "name" in user:
        found.append(_observable(f"{where}.name", 4, "User Name", user["name"]))
    if "email_addr" in user:
        found.append(_observable(f"{where}.email_addr", 5, "Email Address", user["email_addr"]))
    if "uid" in user:  # tools differ in what they call the type 31
        found.append({"name": f"{where}.uid", "type_id": 31, "value": user["uid"]})
    return found


class _Acting(NamedTuple):
    """Who acted: *user* is empty if nobody is named. Shared between events: never changed."""

    user: dict[str, Any]
    observables: list[dict[str, Any]]


@lru_cache(maxsize=1024)
def _acting(actor: Actor, org_id: str | None, org_name: str | None) -> _Acting:
    user = _user(actor.id, actor.name, actor.email)
    if not user:
        return _Acting({}, [])
    observables = _observables("actor.user", user)
    user["type_id"], user["type"] = _USER_TYPES[actor.kind]
    if actor.kind == "api_key":
        key = actor.id or actor.name or actor.email
        user["programmatic_credentials"] = [{"uid": key, "type": "API Key"}]
    if org_id or org_name:
        user["org"] = _named(org_id, org_name)
    return _Acting(user, observables)


def _target_user(target: Target) -> dict[str, Any]:
    return _user(target.id, target.name, target.email)


def _target_name(event: AuditEvent) -> str | None:
    """Return the target's name; the word for its kind if nothing else is known of it."""
    target = event.target
    name = target.name or target.email
    return name if name or target.id else target.type or event.kind


# What each class has of its own. None: the event does not tell what the class requires.


def _of_authentication(event: AuditEvent, acting: _Acting) -> dict[str, Any] | None:
    user = acting.user or _target_user(event.target)
    return {"user": user, "service": {"name": event.product}} if user else None


def _of_account_change(event: AuditEvent, _: _Acting) -> dict[str, Any] | None:
    user = _target_user(event.target)
    return {"user": user} if user else None


def _of_user_access(event: AuditEvent, _: _Acting) -> dict[str, Any] | None:
    user = _target_user(event.target)
    return {"user": user, "privileges": [event.privilege]} if user and event.privilege else None


def _of_group_management(event: AuditEvent, _: _Acting) -> dict[str, Any] | None:
    target = event.target
    if event.kind == "group":
        group = _named(target.id, target.name or target.email)
        return {"group": group} if group else None
    group = _named(event.org_id, event.org_name)  # which members join and leave
    if not group:
        return None
    user = _target_user(target)
    return {"group": group, "user": user} if user else {"group": group}


def _of_web_resources(event: AuditEvent, _: _Acting) -> dict[str, Any]:
    resource = _named(event.target.id, _target_name(event))
    if event.target.type:
        resource["type"] = event.target.type
    return {"web_resources": [resource]}


def _of_event_log(event: AuditEvent, _: _Acting) -> dict[str, Any]:
    own: dict[str, Any] = {"log_name": f"{event.vendor}.audit"}
    if event.api_host:
        own["log_provider"] = event.api_host
    return own


_OWN: dict[int, Callable[[AuditEvent, _Acting], dict[str, Any] | None]] = {
    EVENT_LOG_ACTIVITY: _of_event_log,
    ACCOUNT_CHANGE: _of_account_change,
    AUTHENTICATION: _of_authentication,
    USER_ACCESS: _of_user_access,
    GROUP_MANAGEMENT: _of_group_management,
    WEB_RESOURCES: _of_web_resources,
}


def _of_entity_management(event: AuditEvent) -> dict[str, Any]:
    target = event.target
    entity = _named(target.id, _target_name(event))
    known = ENTITY_TYPES.get(event.kind)
    if known is None:
        entity["type_id"], entity["type"] = OTHER, target.type or event.kind
    else:
        entity["type_id"], entity["type"], part = known
        if target.id or target.name or target.email:
            if part == "user":
                entity[part] = _target_user(target)
            else:
                entity[part] = _named(target.id, target.name or target.email)
    if event.changes:
        entity["data"] = {"changes": changes_of(event)}
    own: dict[str, Any] = {"entity": entity}
    if event.reason:
        own["comment"] = event.reason
    return own


def _classify(event: AuditEvent, acting: _Acting) -> tuple[int, int, dict[str, Any]]:
    """Return the class and the activity of *event*, and what that class has of its own."""
    if NOT_NORMALIZED in event.warnings:
        return BASE_EVENT, OTHER, {}
    exception = EXCEPTIONS.get((event.kind, event.verb))
    if exception is not None and _GUESSED not in event.warnings:
        own = _OWN[exception[0]](event, acting)
        if own is not None:
            return *exception, own
    activity = ACTIVITIES.get(event.verb, OTHER)
    return ENTITY_MANAGEMENT, activity, _of_entity_management(event)


def render(event: AuditEvent, *, marks: Mapping[str, object] = NO_MARKS) -> dict[str, Any]:
    """
    Return *event* as an OCSF event, for orjson; *marks* are added under ``unmapped.auditrelay``.

    ``raw_data`` is the record without its secrets, ``raw_data_hash`` that of the record as the
    vendor sent it.
    """
    acting = _acting(event.actor, event.org_id, event.org_name)
    class_uid, activity_id, own = _classify(event, acting)
    found = STARTS[class_uid, activity_id].copy()
    if activity_id == OTHER:
        found["activity_name"] = event.native_action
    found["time"] = event.at // 1000
    found["time_dt"] = iso_us(event.at)
    found["message"] = event.message
    outcome = "failure" if event.verb == "login_failed" else event.outcome
    if outcome:
        found["status_id"], found["status"] = _STATUSES[outcome]
    if event.reason and class_uid != ENTITY_MANAGEMENT:  # which has it as the comment
        found["status_detail"] = event.reason
    found["metadata"] = _metadata(event, class_uid)
    found |= own
    if class_uid != BASE_EVENT:  # of which nothing is known
        _add_origin(event, acting, class_uid, found)
    found["raw_data"] = bytes(event.raw).decode()
    found["raw_data_hash"] = {
        "algorithm_id": 3,
        "algorithm": "SHA-256",
        "value": event.raw_sha256,
    }
    found["unmapped"] = _unmapped(event, acting, class_uid, marks)
    return found


def _metadata(event: AuditEvent, class_uid: int) -> dict[str, Any]:
    found = _of_source(event.vendor, event.product, event.api_host, event.tags).copy()
    if class_uid == WEB_RESOURCES:
        found["profiles"] = _TIMES_AND_HOST
    found["uid"] = event.uid
    found["event_code"] = event.native_action
    found["logged_time"] = event.fetched // 1000
    if event.native_id:
        found["original_event_uid"] = event.native_id
    if event.time_raw:
        found["original_time"] = event.time_raw
    if event.org_id:
        found["tenant_uid"] = event.org_id
    risks = MEANINGS[event.kind, event.verb].risks
    if risks:
        found["labels"] = risks
    return found


@lru_cache(maxsize=256)
def _of_source(
    vendor: str, product: str, api_host: str, tags: tuple[tuple[str, str], ...]
) -> dict[str, Any]:
    """Return the part of the metadata that all events of a source have."""
    found: dict[str, Any] = {
        "version": VERSION,
        "profiles": _TIMES,
        "product": {"name": product, "vendor_name": product},
        "log_name": f"{vendor}.audit",
    }
    if api_host:
        found["log_provider"] = api_host
    if tags:
        found["tags"] = [{"name": name, "value": value} for name, value in tags]
    return found


def _add_origin(event: AuditEvent, acting: _Acting, class_uid: int, found: dict[str, Any]) -> None:
    """Add who acted, from where and with what, and the values to look the event up by."""
    actor = event.actor
    observables = acting.observables
    if acting.user:
        found["actor"] = {"user": acting.user}
    if actor.ip:
        if is_ip(actor.ip) and len(actor.ip) <= _LONGEST_IP:
            found["src_endpoint"] = {"ip": actor.ip}
            ip = _observable("src_endpoint.ip", 2, "IP Address", actor.ip)
            observables = [*observables, ip]
        else:
            found["src_endpoint"] = {"name": actor.ip}
    if actor.user_agent and class_uid != EVENT_LOG_ACTIVITY:  # which has no http_request
        found["http_request"] = {"user_agent": actor.user_agent}
        agent = _observable("http_request.user_agent", 16, "HTTP User-Agent", actor.user_agent)
        observables = [*observables, agent]
    if class_uid != ENTITY_MANAGEMENT or event.kind in _ACCOUNTS:
        observables = observables + _target_observables(event, acting, class_uid, found)
    if observables:
        found["observables"] = observables


def _target_observables(
    event: AuditEvent, acting: _Acting, class_uid: int, found: dict[str, Any]
) -> list[dict[str, Any]]:
    if class_uid == ENTITY_MANAGEMENT:
        return _observables("entity.user", found["entity"].get("user", {}))
    if class_uid == WEB_RESOURCES:
        uid = event.target.id
        return [_observable("web_resources[0].uid", 10, "Resource UID", uid)] if uid else []
    user = found.get("user", {})
    return [] if user is acting.user else _observables("user", user)


def _unmapped(
    event: AuditEvent, acting: _Acting, class_uid: int, marks: Mapping[str, object]
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
    found: dict[str, Any] = {"auditrelay": own}
    if event.native_category:
        found["native_category"] = event.native_category
    if event.actor.native_type:
        found["actor_type"] = event.actor.native_type
    if event.target.type:
        found["target_type"] = event.target.type
    if event.org_name and not acting.user:
        found["organization_name"] = event.org_name
    if event.project_id or event.project_name:
        found["project"] = present(id=event.project_id, name=event.project_name)
    if class_uid != ENTITY_MANAGEMENT or event.privilege or event.target.email:
        _add_lacking(event, class_uid, found)
    if event.metadata != NOTHING:
        found["metadata"] = splice(event.metadata)
    if event.unmapped != NOTHING:
        found["record"] = splice(event.unmapped)
    return found


def _add_lacking(event: AuditEvent, class_uid: int, found: dict[str, Any]) -> None:
    """Add what some class has an attribute for, but not this one."""
    target = event.target
    if class_uid in _WITHOUT_TARGET:
        if target.id or target.name or target.email:
            found["target"] = present(id=target.id, name=target.name, email=target.email)
    elif target.email and event.kind not in _ACCOUNTS:
        found["target_email"] = target.email
    if event.privilege and class_uid != USER_ACCESS:
        found["privilege"] = event.privilege
    if event.changes and class_uid != ENTITY_MANAGEMENT:
        found["changes"] = changes_of(event)
    if event.actor.user_agent and class_uid == EVENT_LOG_ACTIVITY:
        found["user_agent"] = event.actor.user_agent
