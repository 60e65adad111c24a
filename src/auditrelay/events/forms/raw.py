"""The vendor's record, redacted and otherwise unchanged, next to its identity."""

from collections.abc import Mapping
from typing import Any

from auditrelay.events import AuditEvent
from auditrelay.events.decode import splice
from auditrelay.events.marks import NO_MARKS, add_marks
from auditrelay.events.timestamps import iso_us


def render(event: AuditEvent, *, marks: Mapping[str, object] = NO_MARKS) -> dict[str, Any]:
    """Return the record of *event* next to an ``auditrelay`` object, for orjson."""
    own: dict[str, Any] = {
        "uid": event.uid,
        "source": event.source,
        "vendor": event.vendor,
        "at": iso_us(event.at),
    }
    if event.warnings:
        own["warnings"] = event.warnings
    if event.tags:
        own["tags"] = dict(event.tags)
    add_marks(own, event, marks)
    return {"auditrelay": own, "record": splice(event.raw)}
