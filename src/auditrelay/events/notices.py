"""
Events of auditrelay itself: gaps, filled gaps, changed records, alerts, heads, tests of a sink.

A vendor may call its own events alike. What no record can set is ``notice``, which every form shows
as ``auditrelay.notice: true``.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import sha256

import msgspec
import orjson

from auditrelay.events import NOTHING, AuditEvent, Change
from auditrelay.events.decode import encode
from auditrelay.events.marks import OWN_PREFIX
from auditrelay.events.normalize import available
from auditrelay.events.timestamps import iso_ms, iso_us
from auditrelay.events.uid import Uids
from auditrelay.events.vendors import MAX_TEXT_LENGTH, NO_ACTOR, NO_TARGET
from auditrelay.window import micros

GAP = f"{OWN_PREFIX}gap_declared"
FILLED = f"{OWN_PREFIX}gap_filled"
CHANGED = f"{OWN_PREFIX}record_changed"
SEALED = f"{OWN_PREFIX}ledger_sealed"
TEST = f"{OWN_PREFIX}test"
OWN = "auditrelay"
"""The vendor of events about the instance itself."""


def gap_event(
    *,
    source: str,
    vendor: str,
    vendor_key: str | None = None,
    product: str | None = None,
    scope: str,
    start: datetime,
    end: datetime,
    reason: str,
    now: datetime,
    tags: Mapping[str, str],
    filled: bool = False,
) -> AuditEvent:
    """
    Return the event for a declared gap: events from *start* to *end* were not read.

    Its time is *now*, when the gap is declared, so that a detection over recent events finds it;
    its uid depends on the gap alone, however often it is declared. With *filled* it reports that
    the span was read later and the missing events were forwarded.
    """
    first, last = micros(start), micros(end)
    span = f"audit events of {source} from {iso_ms(first)} to {iso_ms(last)}"
    gap = {"reason": reason, "start": iso_us(first), "end": iso_us(last)}
    return _event(
        uid=Uids(vendor_key or vendor).content(
            scope, encode(["filled" if filled else "gap", first, last, reason]), 0
        ),
        source=source,
        vendor=vendor,
        product=product,
        action=FILLED if filled else GAP,
        category="coverage",
        scope=scope,
        reason=reason,
        message=(
            f"Coverage gap filled: {span} were read after all ({reason})"
            if filled
            else f"Coverage gap: {span} were not read and are missing here ({reason})"
        ),
        detail={"gap": {**gap, "filled": True} if filled else gap},
        metadata=gap,
        warnings=() if filled else ("coverage_gap",),
        now=now,
        tags=tags,
    )


def changed_uid(event: AuditEvent) -> str:
    """Return the uid of the event that reports the content of *event*, whose uid is known."""
    content = encode(["changed", event.uid, event.raw_sha256])
    # No record has this number: a vendor cannot make one with this uid.
    return Uids(event.vendor).content("", content, -1)


def changed_event(
    event: AuditEvent, *, former: str, fields: Sequence[Change] | None, last: bool, now: datetime
) -> AuditEvent:
    """
    Return the event for a record that was shown again, with other content under the same uid.

    *event* is the record as it is shown now: who acted, and on what, are taken from it, and it is
    inside as a whole. *former* is the digest of the content that was forwarded, *fields* are those
    that differ; None if the former record is gone. With *last* no further content of this record
    will be reported. Its time is *now*, when that was noticed; its uid depends on the record's uid
    and its new content.
    """
    about = {
        "uid": event.uid,
        "action": event.native_action,
        "kind": event.kind,
        "verb": event.verb,
        "occurred_at": iso_us(event.at),
        "former_digest": former,
        "digest": event.raw_sha256[: len(former)],
        "raw_sha256": event.raw_sha256,
    }
    if fields is not None:
        about["fields"] = ", ".join(each.field for each in fields)
    if last:
        about["last"] = "later contents of this record are not reported"
    record = orjson.Fragment(bytes(event.raw))
    raw = orjson.dumps({"record_changed": {**about, "record": record}})
    which = "" if event.native_id is None else f" {event.native_id}"
    return msgspec.structs.replace(
        event,
        uid=changed_uid(event),
        at=micros(now),
        time_raw=None,
        time_quality="source",
        native_action=CHANGED,
        native_category="record_changed",
        kind="audit_log",
        verb="other",
        outcome=None,
        privilege=None,
        changes=tuple(fields or ()),
        reason=None,
        message=(
            f"Record changed: {event.source} shows its record{which} with other content than the "
            f"one that was forwarded; its action is {event.native_action} now"
        )[:MAX_TEXT_LENGTH],
        metadata=msgspec.Raw(encode(about)),
        unmapped=NOTHING,
        raw=msgspec.Raw(raw),
        raw_sha256=sha256(raw).hexdigest(),
        warnings=("record_changed",),
        late_by_s=None,
        backfill=False,
        notice=True,
    )


def alert_event(
    *, source: str, code: str, about: str, what: str, todo: str, over: bool, now: datetime
) -> AuditEvent:
    """
    Return the event for a problem of auditrelay itself, or (*over*) for its end.

    *code* is the kind of problem, *about* the source or sink concerned, *what* a sentence, *todo*
    what an operator should do. Each occurrence is a separate event.
    """
    state = "cleared" if over else "raised"
    alert = {"code": code, "about": about, "state": state, "what": what, "todo": todo}
    return _event(
        uid=Uids(OWN).content("", encode([state, code, about, micros(now)]), 0),
        source=source,
        vendor=OWN,
        action=f"{OWN_PREFIX}alert_{state}",
        category="alert",
        scope="",
        reason=code,
        message=f"auditrelay: {'resolved: ' if over else ''}{what}",
        detail={"alert": alert},
        metadata=alert,
        warnings=() if over else ("alert",),
        now=now,
        tags={},
    )


def sealed_event(
    *,
    source: str,
    uid: str,
    head: str,
    log: str,
    size: int,
    root: bytes,
    before: tuple[int, bytes] | None,
    sources: Mapping[str, Mapping[str, object]],
    sinks: Mapping[str, Mapping[str, object]],
    now: datetime,
) -> AuditEvent:
    """
    Return the event that carries a *head* of the evidence: the word, and its parts.

    *before* are size and root of the head before it. *sources* and *sinks* say what each had done
    by *now*, when the head was made. The *uid* follows from the head (``evidence.heads``).
    """
    sealed = {
        "head": head,
        "log": log,
        "size": size,
        "root": root.hex(),
        "before": before and {"size": before[0], "root": before[1].hex()},
        "sealed_at": micros(now),
        "sources": sources,
        "sinks": sinks,
    }
    return _event(
        uid=uid,
        source=source,
        vendor=OWN,
        action=SEALED,
        category="evidence",
        scope="",
        reason=None,
        message=f"Ledger sealed: {size:,} entries, head {head}",
        detail={"ledger_sealed": sealed},
        metadata=sealed,
        warnings=(),
        now=now,
        tags={},
    )


def test_event(
    *,
    source: str,
    vendor: str,
    product: str | None,
    nonce: str,
    now: datetime,
    tags: Mapping[str, str],
) -> AuditEvent:
    """
    Return a test event for a sink; it has the form of an event of *source*.

    Its time is *now*; its uid is different for every *nonce*.
    """
    test = {"nonce": nonce}
    return _event(
        uid=Uids(vendor).content("", encode(["test", nonce]), 0),
        source=source,
        vendor=vendor,
        product=product,
        action=TEST,
        category="test",
        scope="",
        reason=None,
        message=f"Test event of auditrelay for the events of {source}: nothing has happened",
        detail={"test": test},
        metadata=test,
        warnings=(),
        now=now,
        tags=tags,
    )


def _event(
    *,
    uid: str,
    source: str,
    vendor: str,
    product: str | None = None,
    action: str,
    category: str,
    scope: str,
    reason: str | None,
    message: str,
    detail: Mapping[str, object],
    metadata: Mapping[str, object],
    warnings: tuple[str, ...],
    now: datetime,
    tags: Mapping[str, str],
) -> AuditEvent:
    if product is None:
        named = available().get(vendor)
        product = named.NAME if named else vendor
    raw = encode(detail)
    return AuditEvent(
        uid=uid,
        source=source,
        vendor=vendor,
        product=product,
        api_host="",
        at=micros(now),
        fetched=micros(now),
        time_raw=None,
        time_quality="source",
        native_id=None,
        native_action=action,
        native_category=category,
        kind="audit_log",
        verb="other",
        outcome=None,
        actor=NO_ACTOR,
        target=NO_TARGET,
        org_id=scope or None,
        org_name=None,
        project_id=None,
        project_name=None,
        privilege=None,
        changes=(),
        reason=reason,
        message=message,
        metadata=msgspec.Raw(encode(metadata)),
        unmapped=NOTHING,
        raw=msgspec.Raw(raw),
        raw_sha256=sha256(raw).hexdigest(),
        warnings=warnings,
        tags=tuple(tags.items()),
        notice=True,
    )
