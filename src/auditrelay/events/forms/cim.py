"""
An event for Splunk, by the Common Information Model (CIM).

CIM's own keys come first and the vendor's record last, because Splunk's search-time extraction
stops after some 5,000 bytes. A field without a value is left out: the models then say "unknown".
"""

from collections.abc import Mapping
from typing import Any

from auditrelay.events import AuditEvent
from auditrelay.events.classify import MEANINGS, MEMBERSHIPS, Meaning
from auditrelay.events.decode import splice
from auditrelay.events.marks import NO_MARKS, add_marks, changed_fields
from auditrelay.events.timestamps import iso_us


def indexed(event: AuditEvent) -> dict[str, str]:
    """Return HEC's ``fields``: flat, indexed, and available before search time."""
    return {
        "event_id": event.uid,
        "cim_model": MEANINGS[event.kind, event.verb].cim_model,
        "auditrelay_kind": event.kind,
        "auditrelay_verb": event.verb,
    }


def render(event: AuditEvent, *, marks: Mapping[str, object] = NO_MARKS) -> dict[str, Any]:
    """
    Return *event* as HEC's ``event`` part, for orjson; :func:`indexed` has its ``fields``.

    *marks* are added under ``auditrelay``.
    """
    meaning = MEANINGS[event.kind, event.verb]
    actor = event.actor
    fields: dict[str, Any] = {
        "event_id": event.uid,
        "cim_model": meaning.cim_model,
        "vendor_product": event.product,
        "dest": event.api_host or event.product,
        "dvc": event.api_host or event.product,
    }
    if actor.ip:
        fields["src"] = actor.ip
    if actor.address:
        fields["src_address"] = actor.address
    if actor.user_agent:
        fields["user_agent"] = actor.user_agent
    if event.org_id:
        fields["vendor_account"] = event.org_id
    if event.native_id:
        fields["native_event_id"] = event.native_id
    fields["signature"] = event.native_action
    fields["description"] = event.message
    if meaning.cim_model == "Authentication":
        _authentication(event, fields)
    else:
        _change(event, meaning, fields)
    risks = meaning.risks_if(event.outcome)
    if risks:
        fields["auditrelay_tags"] = risks
    own: dict[str, Any] = {
        "source": event.source,
        "kind": event.kind,
        "verb": event.verb,
        "time_quality": event.time_quality,
        "time": iso_us(event.at),
        "raw_sha256": event.raw_sha256,
    }
    if event.warnings:
        own["warnings"] = event.warnings
    if event.tags:
        own["tags"] = dict(event.tags)
    add_marks(own, event, marks)
    fields["auditrelay"] = own
    fields["vendor"] = splice(event.raw)
    return fields


def _authentication(event: AuditEvent, fields: dict[str, Any]) -> None:
    """
    Add the fields of the Authentication model; its action is the outcome.

    When one user acts as another, ``user`` is that other and ``src_user`` the actor.
    """
    actor = event.actor
    outcome = "failure" if event.verb == "login_failed" else event.outcome
    if outcome in ("success", "failure"):
        fields["action"] = outcome
    fields["app"] = event.product
    user = actor.email or actor.name or actor.id
    target = event.target
    other = target.email or target.name or target.id
    if event.verb == "impersonate" and other:
        fields["user"] = other
        if target.id:
            fields["user_id"] = target.id
        if user:
            fields["src_user"] = user
        fields["src_user_type"] = actor.kind
    else:
        if user:
            fields["user"] = user
        if actor.id:
            fields["user_id"] = actor.id
        fields["user_type"] = actor.kind
    fields["authentication_service"] = event.product
    if event.reason:
        fields["reason"] = event.reason


def _change(event: AuditEvent, meaning: Meaning, fields: dict[str, Any]) -> None:
    """Add the fields of the Change model, or of Data_Access, which differs in two."""
    target = event.target
    if meaning.cim_action:
        fields["action"] = meaning.cim_action
    if meaning.cim_model == "Change":
        fields["change_type"] = meaning.change_type
    else:
        fields["app"] = event.product
    fields["command"] = event.native_action
    fields["object"] = (
        target.email or target.name or target.id or target.type or meaning.object_category
    )
    fields["object_category"] = meaning.object_category
    if target.id:
        fields["object_id"] = target.id
    if event.changes:
        fields["object_attrs"] = changed_fields(event.changes)
    elif event.privilege:
        joins = meaning.account and event.verb in MEMBERSHIPS
        fields["object_attrs"] = ["group" if joins else "role"]
    if event.outcome in ("success", "failure"):
        fields["status"] = event.outcome
    if event.reason or event.outcome == "failure":
        fields["result"] = event.reason or event.native_action
    _add_users(event, fields, account=meaning.account)


def _add_users(event: AuditEvent, fields: dict[str, Any], *, account: bool) -> None:
    """
    Add ``user`` and ``src_user``, whose meaning depends on *account*.

    When an *account* was changed, ``user`` is that account and ``src_user`` the actor; else
    ``user`` is the actor.
    """
    actor, target = event.actor, event.target
    who = actor.email or actor.name or actor.id
    changed = target.email or target.name or target.id
    prefix = "user"
    if account:
        prefix = "src_user"
        if changed:
            fields["user"] = changed
            fields["user_name"] = target.name or changed
    if who:
        fields[prefix] = who
        fields[f"{prefix}_name"] = actor.name or who
    fields[f"{prefix}_type"] = actor.kind
