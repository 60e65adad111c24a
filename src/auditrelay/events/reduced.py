"""
The reduced copy of an event that a sink refuses: who did what, when, to what, and nothing odd.

An insider who can write into an audited record could otherwise keep it out of a SIEM, by a value
that the SIEM refuses. The copy is an event of its own; the refused one stays whole among the dead
letters. Pure.
"""

from datetime import UTC, datetime
from hashlib import sha256
from typing import Final

import msgspec

from auditrelay.events import NOTHING, Actor, AuditEvent, Target
from auditrelay.events.addresses import is_ip
from auditrelay.events.decode import encode
from auditrelay.events.marks import REDUCED
from auditrelay.events.timestamps import iso_us
from auditrelay.events.uid import Uids
from auditrelay.window import micros

ACTION: Final = "auditrelay.reduced"

_MOST: Final = 200
"""Characters of a text: below every limit of a product, and enough to recognise who and what."""

_EARLIEST: Final = micros(datetime(2000, 1, 1, tzinfo=UTC))
_MOST_AHEAD: Final = 86_400_000_000


def reduced(event: AuditEvent, reason: str) -> AuditEvent | None:
    """
    Return the reduced copy of *event*, which a sink refuses for *reason*; None if it is one itself.

    No product refuses its contents: texts are short and printable, keys are ours, the record of the
    vendor is not in it, and its time is one that a product can store. Its native id is the uid of
    the refused event, of which its own uid is made: it is the same for every sink.
    """
    if _is_reduced(event):
        return None
    actor, target = event.actor, event.target
    is_plausible = _EARLIEST <= event.at <= event.fetched + _MOST_AHEAD
    what = {
        "uid": event.uid,
        "native_id": _plain(event.native_id),
        "action": _plain(event.native_action),
        "occurred": iso_us(event.at),
        "reason": _plain(reason),
        "sha256": event.raw_sha256,
    }
    raw = encode({"reduced": what})
    return AuditEvent(
        uid=_uid_of_copy(event.vendor, event.uid),
        source=event.source,
        vendor=event.vendor,
        product=event.product,
        api_host=event.api_host,
        at=event.at if is_plausible else event.fetched,
        fetched=event.fetched,
        time_raw=None,
        time_quality=event.time_quality if is_plausible else "fetched",
        native_id=event.uid,
        native_action=ACTION,
        native_category="reduced",
        kind=event.kind,
        verb=event.verb,
        outcome=event.outcome,
        actor=Actor(
            kind=actor.kind,
            id=_plain(actor.id),
            name=_plain(actor.name),
            email=_plain(actor.email),
            ip=actor.ip if actor.ip is not None and is_ip(actor.ip) else None,
            native_type=_plain(actor.native_type),
        ),
        target=Target(
            type=_plain(target.type),
            id=_plain(target.id),
            name=_plain(target.name),
            email=_plain(target.email),
        ),
        org_id=_plain(event.org_id),
        org_name=_plain(event.org_name),
        project_id=_plain(event.project_id),
        project_name=_plain(event.project_name),
        privilege=_plain(event.privilege),
        changes=(),
        reason=None,
        message=f"Reduced, since the SIEM refuses the whole event: {_plain(event.message)}",
        metadata=msgspec.Raw(encode(what)),
        unmapped=NOTHING,
        raw=msgspec.Raw(raw),
        raw_sha256=sha256(raw).hexdigest(),
        warnings=(REDUCED,),
        tags=event.tags,
        late_by_s=event.late_by_s,
        backfill=event.backfill,
    )


def _is_reduced(event: AuditEvent) -> bool:
    # Not by its action: that of a record is its vendor's. No record can choose its uid.
    return event.native_id is not None and event.uid == _uid_of_copy(event.vendor, event.native_id)


def _uid_of_copy(vendor: str, uid: str) -> str:
    return Uids(vendor).content("", encode(["reduced", uid]), 0)


def _plain(text: str | None) -> str | None:
    """Return *text* in a form that no product refuses."""
    if text is None:
        return None
    return "".join([each if each.isprintable() else "?" for each in text[:_MOST]])
