"""
An event as a row of Microsoft Sentinel, by the Advanced Security Information Model (ASIM).

A row has one of two schemas, each of which Sentinel keeps in a table of its own: ``Authentication``
0.1.3 for who signs in, signs out or acts as another, ``AuditEvent`` 0.1 for everything else
(https://learn.microsoft.com/en-us/azure/sentinel/normalization-schema-audit and
``.../normalization-schema-authentication``). What neither has a column for, the vendor's record
among it, is in the dynamic column ``AdditionalFields``. Aliases (``User``, ``IpAddr``) are for
the parser to add.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal

from auditrelay.events import Actor, AuditEvent
from auditrelay.events.addresses import is_email, is_ip
from auditrelay.events.classify import KINDS, MEANINGS, VERBS
from auditrelay.events.decode import splice
from auditrelay.events.marks import NO_MARKS, add_marks, changes_of, without_empty
from auditrelay.events.timestamps import iso_us

Schema = Literal["AuditEvent", "Authentication"]

VERSIONS: Final[Mapping[Schema, str]] = {"AuditEvent": "0.1", "Authentication": "0.1.3"}

COMMON: Final = (
    *("TimeGenerated", "EventUid", "EventCount", "EventStartTime", "EventEndTime", "EventType"),
    *("EventResult", "EventSeverity", "EventVendor", "EventProduct", "EventSchema"),
    *("EventSchemaVersion", "EventOriginalUid", "EventOriginalType", "EventMessage", "Dvc"),
)
"""The columns that say which event it is, whatever else a row has."""

_AUTHENTICATIONS: Final = {"login": "Logon", "login_failed": "Logon", "logout": "Logoff"}
"""The event types of what is done to a session, by verb."""

_EVENT_TYPES: Final = {
    "read": "Read",
    "export": "Read",
    "execute": "Execute",
    "enable": "Enable",
    "activate": "Enable",
    "unblock": "Enable",
    "disable": "Disable",
    "deactivate": "Disable",
    "block": "Disable",
    "review": "Other",
    "login": "Other",
    "login_failed": "Other",
    "logout": "Other",
}
"""The event types of verbs, where they are not :data:`_OF_CHANGES`."""

_OF_CHANGES: Final = {"creation": "Create", "change": "Set", "deletion": "Delete"}
"""The event types of verbs by what they do to the object, in ECS's words."""

_RESULTS: Final = {"success": "Success", "failure": "Failure"}

_USER_TYPES: Final = {
    "user": "Regular",
    "api_key": "Application",
    "service": "Service",
    "system": "System",
    "unknown": "Other",
}

_MAX_IP_LENGTH: Final = 40


def schema_of(kind: str, verb: str) -> Schema:
    """Return the schema of an event of *kind* and *verb*."""
    is_session = kind == "session" and verb in _AUTHENTICATIONS
    return "Authentication" if is_session or verb == "impersonate" else "AuditEvent"


def render(event: AuditEvent, *, marks: Mapping[str, object] = NO_MARKS) -> dict[str, Any]:
    """Return *event* as a row, for orjson; *marks* are under ``AdditionalFields.auditrelay``."""
    schema = schema_of(event.kind, event.verb)
    failed = event.verb == "login_failed" or event.outcome == "failure"
    at = iso_us(event.at)
    row: dict[str, Any] = {
        "TimeGenerated": at,
        "EventUid": event.uid,
        "EventCount": 1,
        "EventStartTime": at,
        "EventEndTime": at,
        "EventType": _event_type(event, schema),
        "EventResult": "Failure" if failed else _RESULTS.get(event.outcome or "", "NA"),
        "EventSeverity": "Informational",
        "EventVendor": event.product,
        "EventProduct": "Audit Log",
        "EventSchema": schema,
        "EventSchemaVersion": VERSIONS[schema],
        "EventOriginalType": event.native_action,
        "EventMessage": event.message,
        "Dvc": event.api_host or event.product,
        "TargetAppName": event.product,
        "TargetAppType": "SaaS application",
    }
    if event.native_id:
        row["EventOriginalUid"] = event.native_id
    if event.native_category:
        row["EventOriginalSubType"] = event.native_category
    if event.reason:
        row["EventOriginalResultDetails"] = event.reason
    actor = event.actor
    if _is_address(actor):
        row["SrcIpAddr"] = actor.ip
    if actor.user_agent:
        row["HttpUserAgent"] = actor.user_agent
    if schema == "Authentication":
        _add_authentication(event, row, failed=failed)
    else:
        _add_audit(event, row)
    row["AdditionalFields"] = _additional(event, marks)
    return row


def _event_type(event: AuditEvent, schema: Schema) -> str:
    if schema == "Authentication":
        return _AUTHENTICATIONS[event.verb] if event.verb != "impersonate" else "Elevate"
    known = _EVENT_TYPES.get(event.verb)
    if known is not None:
        return known
    kind, verb = KINDS.get(event.kind), VERBS.get(event.verb)
    does = None if verb is None else verb.ecs_type
    if kind is not None and kind.part and does in ("creation", "deletion"):
        does = "change"  # of the account that it is a part of
    return _OF_CHANGES.get(does or "", "Other")


def _is_address(actor: Actor) -> bool:
    return bool(actor.ip) and is_ip(actor.ip or "") and len(actor.ip or "") <= _MAX_IP_LENGTH


def _add_authentication(event: AuditEvent, row: dict[str, Any], *, failed: bool) -> None:
    """Add who signed in: that is the target. Who acts as another is the actor, and the other it."""
    if failed:
        row["EventResultDetails"] = "Other"
    actor, target = event.actor, event.target
    if event.verb == "impersonate":
        _add_user(row, "Actor", actor.id, actor.name, actor.email)
        row["ActorUserType"] = _USER_TYPES[actor.kind]
        if actor.native_type:
            row["ActorOriginalUserType"] = actor.native_type
        _add_user(row, "Target", target.id, target.name, target.email)
        return
    _add_user(row, "Target", actor.id, actor.name, actor.email)
    row["TargetUserType"] = _USER_TYPES[actor.kind]
    if actor.native_type:
        row["TargetOriginalUserType"] = actor.native_type


def _add_audit(event: AuditEvent, row: dict[str, Any]) -> None:
    actor, target = event.actor, event.target
    row["Operation"] = event.native_action
    row["Object"] = target.name or target.email or target.id or target.type or event.kind
    row["ObjectType"] = _object_type(event.kind)
    if target.id:
        row["ObjectId"] = target.id
    if event.privilege:
        row["NewValue"] = event.privilege
    _add_user(row, "Actor", actor.id, actor.name, actor.email)
    row["ActorUserType"] = _USER_TYPES[actor.kind]
    if actor.native_type:
        row["ActorOriginalUserType"] = actor.native_type


def _object_type(kind: str) -> str:
    if kind == "security_policy":
        return "Policy Rule"
    known = KINDS.get(kind)
    is_configuration = known is not None and "configuration" in known.categories
    return "Configuration Atom" if is_configuration else "Other"


def _add_user(
    row: dict[str, Any], who: str, uid: str | None, name: str | None, email: str | None
) -> None:
    """Add the user *who* (Actor or Target); an address of email is what ASIM calls a UPN."""
    if email or name:
        row[f"{who}Username"] = email or name
        row[f"{who}UsernameType"] = "UPN" if email and is_email(email) else "Simple"
    if uid:
        row[f"{who}UserId"] = uid
        row[f"{who}UserIdType"] = "Other"


def _additional(event: AuditEvent, marks: Mapping[str, object]) -> dict[str, Any]:
    """Return what has no column: auditrelay's own fields first, the vendor's record last."""
    fields: dict[str, Any] = {"auditrelay": _own(event, marks)}
    actor, target = event.actor, event.target
    if actor.address:
        fields["src_address"] = actor.address
    elif actor.ip and not _is_address(actor):
        fields["src_address"] = actor.ip
    if actor.name and actor.email:
        fields["actor_name"] = actor.name
    if target.type or target.id or target.name or target.email:
        fields["target"] = without_empty(
            id=target.id, name=target.name, email=target.email, type=target.type
        )
    if event.org_id or event.org_name:
        fields["organization"] = without_empty(id=event.org_id, name=event.org_name)
    if event.project_id or event.project_name:
        fields["project"] = without_empty(id=event.project_id, name=event.project_name)
    if event.changes:
        fields["changes"] = changes_of(event.changes)
    fields["record"] = splice(event.raw)
    return fields


def _own(event: AuditEvent, marks: Mapping[str, object]) -> dict[str, Any]:
    own: dict[str, Any] = {
        "source": event.source,
        "vendor": event.vendor,
        "kind": event.kind,
        "verb": event.verb,
        "time_quality": event.time_quality,
        "raw_sha256": event.raw_sha256,
    }
    risks = MEANINGS[event.kind, event.verb].risks_if(event.outcome)
    if risks:
        own["risks"] = risks
    if event.warnings:
        own["warnings"] = event.warnings
    if event.tags:
        own["tags"] = dict(event.tags)
    add_marks(own, event, marks)
    return own
