"""
An event as Elastic Common Schema 9.4.0 (https://www.elastic.co/docs/reference/ecs).

No document can be refused because of a value or a key: an address that is not an IP stays text,
vendor details are written as a ``flattened`` field accepts them (:mod:`.fields`) or, where they are
too large or too deep, are in ``event.original`` alone, and every other text is short enough for one
term (:data:`auditrelay.events.vendors.MAX_TEXT_LENGTH`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import orjson

from auditrelay.events import NOTHING, AuditEvent
from auditrelay.events.addresses import is_ip
from auditrelay.events.classify import MEANINGS, MEMBERSHIPS, Meaning, ecs_types
from auditrelay.events.decode import one_lines
from auditrelay.events.forms.fields import acceptable, may_have_long_parts, may_have_odd_keys
from auditrelay.events.forms.nesting import deeper_than
from auditrelay.events.marks import NO_MARKS, NOT_NORMALIZED, add_marks, changes_of, without_empty
from auditrelay.events.timestamps import iso_ms

VERSION = "9.4.0"

_ECS = {"version": VERSION}
_MAX_DETAILS_BYTES = 32_000
"""Bytes: a leaf of a ``flattened`` field is one term with its path, of at most 32,766 bytes."""
_MAX_DETAILS_DEPTH = 20
"""``depth_limit`` of a ``flattened`` field, by default."""
_OMITTED = b'{"omitted":"too large or too deep to be indexed: see event.original"}'
_ADMIN_ROLES = frozenset(("admin", "administrator", "owner", "superadmin", "super_admin"))


def is_admin_role(privilege: str) -> bool:
    """Return whether *privilege* is the role of an administrator."""
    return privilege.lower() in _ADMIN_ROLES


def flattened(texts: Sequence[bytes]) -> list[bytes]:
    """Return JSON *texts* as a ``flattened`` field accepts them: objects of bounded size."""
    odd = may_have_odd_keys(b"".join(texts))
    return [
        _flattened(text, line, odd=odd and may_have_odd_keys(text))
        for text, line in zip(texts, one_lines(texts), strict=True)
    ]


def _flattened(text: bytes, line: bytes, *, odd: bool) -> bytes:
    if len(text) > _MAX_DETAILS_BYTES or deeper_than(_MAX_DETAILS_DEPTH, text):
        return _OMITTED
    text = line if line[:1] == b"{" else b'{"value":%b}' % line
    if odd or may_have_long_parts(text):
        text = acceptable(text)
        if len(text) > _MAX_DETAILS_BYTES:
            return _OMITTED
    return text


def _fragment(text: msgspec.Raw) -> orjson.Fragment:
    [accepted] = flattened([bytes(text)])
    return orjson.Fragment(accepted)


SPLICED = {"metadata": flattened, "unmapped": flattened}
"""How JSON texts of a page are embedded, where they are not as one line."""


def render(event: AuditEvent, *, marks: Mapping[str, object] = NO_MARKS) -> dict[str, Any]:
    """
    Return *event* as an ECS document, for orjson.

    *marks* are added under ``auditrelay``. The sink adds the fields ``data_stream.*``: they must
    name the stream that the document is written to.
    """
    meaning = MEANINGS[event.kind, event.verb]
    document: dict[str, Any] = {
        "@timestamp": iso_ms(event.at),
        "message": event.message,
        "tags": ["auditrelay", *meaning.risks_if(event.outcome)],
        "ecs": _ECS,
        "event": _event(event, meaning),
        "labels": _labels(event),
        "auditrelay": _own(event, marks),
    }
    # Both are under one key for an event of our own: an alert, a gap.
    document.setdefault(event.vendor, {})["audit"] = _audit(event)
    if event.org_id or event.org_name:
        document["organization"] = without_empty(id=event.org_id, name=event.org_name)
    if event.kind == "group" and (event.target.id or event.target.name):
        document["group"] = without_empty(id=event.target.id, name=event.target.name)
    if NOT_NORMALIZED in event.warnings:
        document["error"] = {"message": event.message}
    _add_people(event, meaning, document)
    return document


def _event(event: AuditEvent, meaning: Meaning) -> dict[str, Any]:
    """Return ``event.*``."""
    about: dict[str, Any] = {
        "kind": "event",
        "category": meaning.categories,
        "action": event.native_action,
        "id": event.native_id or event.uid,
        "created": iso_ms(event.fetched),
        "dataset": f"auditrelay.{event.vendor}",
        "module": event.vendor,
        "provider": event.product,
        "hash": event.raw_sha256,
        "original": bytes(event.raw).decode(),
    }
    types = meaning.types
    if event.privilege and is_admin_role(event.privilege) and "admin" not in types:
        types = ecs_types(tuple(meaning.categories), [*types, "admin"])
    if types:
        about["type"] = types
    if event.outcome:
        about["outcome"] = event.outcome
    if event.native_category:
        about["code"] = event.native_category
    if event.reason:
        about["reason"] = event.reason
    if NOT_NORMALIZED in event.warnings:
        about["kind"] = "pipeline_error"
        del about["category"]  # unknown
    return about


def _labels(event: AuditEvent) -> dict[str, str]:
    """Return ``labels``: the operator's tags, with dots in keys replaced, and two of ours."""
    labels = {key.replace(".", "_"): value for key, value in event.tags}
    labels["actor_type"] = event.actor.kind
    if event.project_id:
        labels["project_id"] = event.project_id
    return labels


def _own(event: AuditEvent, marks: Mapping[str, object]) -> dict[str, Any]:
    """Return ``auditrelay.*``."""
    own: dict[str, Any] = {
        "uid": event.uid,
        "kind": event.kind,
        "verb": event.verb,
        "actor_kind": event.actor.kind,
        "raw_sha256": event.raw_sha256,
        "time_quality": event.time_quality,
        "source_instance": event.source,
    }
    if event.warnings:
        own["warnings"] = event.warnings
    if event.changes:
        own["changes"] = changes_of(event.changes)
    if event.unmapped != NOTHING:
        own["unmapped"] = _fragment(event.unmapped)
    add_marks(own, event, marks)
    return own


def _audit(event: AuditEvent) -> dict[str, Any]:
    """Return ``<vendor>.audit.*``: what ECS has no field for, in the vendor's terms."""
    target = event.target
    audit: dict[str, Any] = {"actor_type": event.actor.native_type or event.actor.kind}
    if target.type:
        audit["object_type"] = target.type
    if target.id:
        audit["object_id"] = target.id
    if target.name:
        audit["object_name"] = target.name
    if event.project_id or event.project_name:
        audit["project"] = without_empty(id=event.project_id, name=event.project_name)
    if event.metadata != NOTHING:
        audit["metadata"] = _fragment(event.metadata)
    return audit


def _add_people(event: AuditEvent, meaning: Meaning, document: dict[str, Any]) -> None:
    """Add the actor, the affected account, the source address, and the ``related`` fields."""
    actor, target = event.actor, event.target
    # An actor known only by email address has it as both id and email.
    user: dict[str, Any] = without_empty(
        id=actor.id or actor.email, name=actor.name or actor.email, email=actor.email
    )
    names = [actor.id, actor.name, actor.email]
    # Whose privileges were assumed, or whose account was acted on.
    other = "effective" if event.verb == "impersonate" else "target" if meaning.account else None
    if other and (target.id or target.name or target.email):
        user[other] = without_empty(
            id=target.id, name=target.name or target.email, email=target.email
        )
        names += target.id, target.name, target.email
    if event.privilege:
        if meaning.account and event.verb in MEMBERSHIPS:
            document["group"] = {"name": event.privilege}
        else:
            user["changes"] = {"roles": [event.privilege]}
    if user:
        document["user"] = user
    related: dict[str, list[str]] = {}
    users = [name for name in dict.fromkeys(names) if name]
    if users:
        related["user"] = users
    if actor.ip:
        document["source"] = {"address": actor.address or actor.ip}
        if is_ip(actor.ip):
            document["source"]["ip"] = actor.ip
            related["ip"] = [actor.ip]
    if related:
        document["related"] = related
    if actor.user_agent:
        document["user_agent"] = {"original": actor.user_agent}
