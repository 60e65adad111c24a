"""Events that auditrelay itself has to tell: that a span of time was not read, or was after all."""

from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256

import msgspec

from auditrelay.events import NOTHING, AuditEvent
from auditrelay.events.decode import encode
from auditrelay.events.normalize import available
from auditrelay.events.reading import NO_TARGET, NOBODY
from auditrelay.events.timestamp import iso_ms, iso_us
from auditrelay.events.uid import Uids
from auditrelay.window import micros

GAP = "auditrelay.gap_declared"
FILLED = "auditrelay.gap_filled"


def gap_event(
    *,
    source: str,
    vendor: str,
    scope: str,
    start: datetime,
    end: datetime,
    reason: str,
    now: datetime,
    tags: Mapping[str, str],
    filled: bool = False,
) -> AuditEvent:
    """
    Return the event that tells of a declared gap: events from *start* to *end* were not read.

    It happens *now*, when it is declared, so that a detection which looks at recent events finds
    it; its uid is that of the gap, whenever and however often it is declared. With *filled* it
    tells that the span was read after all, and what was missing has been forwarded.
    """
    first, last = micros(start), micros(end)
    named = available().get(vendor)
    span = f"audit events of {source} from {iso_ms(first)} to {iso_ms(last)}"
    gap = {"reason": reason, "start": iso_us(first), "end": iso_us(last)}
    raw = encode({"gap": {**gap, "filled": True} if filled else gap})
    return AuditEvent(
        uid=Uids(vendor).content(
            scope, encode(["filled" if filled else "gap", first, last, reason]), 0
        ),
        source=source,
        vendor=vendor,
        product=named.NAME if named else vendor,
        api_host="",
        at=micros(now),
        fetched=micros(now),
        time_raw=None,
        time_quality="source",
        native_id=None,
        native_action=FILLED if filled else GAP,
        native_category="coverage",
        kind="audit_log",
        verb="other",
        outcome=None,
        actor=NOBODY,
        target=NO_TARGET,
        org_id=scope or None,
        org_name=None,
        project_id=None,
        project_name=None,
        privilege=None,
        changes=(),
        reason=reason,
        message=(
            f"Coverage gap filled: {span} were read after all ({reason})"
            if filled
            else f"Coverage gap: {span} were not read and are missing here ({reason})"
        ),
        metadata=msgspec.Raw(encode(gap)),
        unmapped=NOTHING,
        raw=msgspec.Raw(raw),
        raw_sha256=sha256(raw).hexdigest(),
        warnings=() if filled else ("coverage_gap",),
        tags=tuple(tags.items()),
    )
