"""
The canonical audit event: who did what to what, when, from where, and how it ended.

Every source's records become :class:`AuditEvent` (``normalize``), and every form that a SIEM
understands is rendered from it (``ecs``, ``cim``, ``datadog``, ``ocsf``, ``raw``): sources plus
forms, not sources times forms. Everything here is pure: no I/O and no clock.
"""

from typing import Literal

import msgspec

ActorKind = Literal["user", "api_key", "service", "system", "unknown"]
Outcome = Literal["success", "failure", "unknown"]
TimeQuality = Literal["source", "assumed_utc", "fetched", "implausible"]
"""
Where a time comes from: the record, that in a zone that it does not name, or our clock.

An implausible one is the record's, and so far off that nothing may be concluded from it.
"""

NOTHING = msgspec.Raw(b"null")
"""The JSON text of an absent value: msgspec has no optional Raw."""


class Actor(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """
    Who acted. *native_type* is the vendor's own word for the kind of actor.

    *ip* is the address that the vendor shows; *address* is the vendor's text for it where that says
    more: a chain of proxies, a port.
    """

    kind: ActorKind = "unknown"
    id: str | None = None
    name: str | None = None
    email: str | None = None
    ip: str | None = None
    user_agent: str | None = None
    native_type: str | None = None
    address: str | None = None


class Target(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What was acted on; *type* is the vendor's own word."""

    type: str | None = None
    id: str | None = None
    name: str | None = None
    email: str | None = None


class Change(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One field that changed; *before* and *after* are JSON texts, or None where not known."""

    field: str
    before: str | None = None
    after: str | None = None


class AuditEvent(msgspec.Struct, frozen=True, array_like=True, gc=False, kw_only=True):
    """
    One audit event: a row of a :class:`auditrelay.events.page.Page`.

    Frozen, cheap to build, and cheap to store: ``array_like`` keeps the field names out of what
    is stored, so **new fields go at the end and have a default**, and no field is ever removed.
    Text fields contain valid Unicode only. *raw*, *metadata* and *unmapped* are JSON text, already
    redacted, and are spliced into what is sent without being decoded again.
    """

    uid: str
    """40 hex digits: the event's identity for life."""
    source: str
    """The name of the source in the configuration."""
    vendor: str
    """The source's type, such as ``cekura``."""
    product: str
    """The vendor's product, as a SIEM should show it."""
    api_host: str
    """The host of the vendor's API."""
    at: int
    """When it happened: microseconds since 1970 UTC, truncated."""
    fetched: int
    """When it was read: microseconds since 1970 UTC."""
    time_raw: str | None
    """The vendor's time, verbatim."""
    time_quality: TimeQuality
    native_id: str | None
    native_action: str
    """The vendor's word for what happened, verbatim."""
    native_category: str | None
    kind: str
    """The kind of object acted on: one of ``classify.KINDS``."""
    verb: str
    """What was done to it: one of ``classify.VERBS``."""
    outcome: Outcome | None
    actor: Actor
    target: Target
    org_id: str | None
    org_name: str | None
    project_id: str | None
    project_name: str | None
    privilege: str | None
    """
    The role or right that was given or taken; of a person who was added to a group or removed from
    it, that group's name.
    """
    changes: tuple[Change, ...]
    reason: str | None
    message: str
    metadata: msgspec.Raw
    """The vendor's free-form details: JSON text, redacted; NOTHING if there are none."""
    unmapped: msgspec.Raw
    """A JSON object with the record's fields that have no field above, or NOTHING."""
    raw: msgspec.Raw
    """The record as the vendor sent it: JSON text, redacted."""
    raw_sha256: str
    """Hex digest of the record's text before redaction."""
    warnings: tuple[str, ...]
    """Short codes: ``unknown_action``, ``heuristic_verb``, ``not_normalized``..."""
    tags: tuple[tuple[str, str], ...]
    """The operator's static labels for the source."""
    late_by_s: int | None = None
    """Seconds between the event and the resweep that found it; None if it came in time."""
    backfill: bool = False
    """True if a backfill fetched it."""
    replayed: bool = False
    """True if it is a replayed dead letter."""
    notice: bool = False
    """True for an event of auditrelay itself (``notices``); no record can set it."""
    redacted: tuple[str, ...] = ()
    """Where in the record a secret was replaced: keys and numbers joined by dots, the first 20."""


_ENCODE = msgspec.json.Encoder()
_DECODE = msgspec.json.Decoder(list[AuditEvent])


def pack(events: list[AuditEvent]) -> bytes:
    """Return *events* as the JSON text that a dead letter is stored as."""
    return _ENCODE.encode(events)


def unpack(text: bytes) -> list[AuditEvent]:
    """Return the events of a text of :func:`pack`, or of a page of the first spool version."""
    return _DECODE.decode(text)
