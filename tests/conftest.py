"""What many tests need: an event to put into a store or to offer to a sink."""

import hashlib
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from auditrelay.events import NOTHING, Actor, AuditEvent, Target

NOON = 1_767_268_800_000_000  # 2026-01-01T12:00:00Z


def make_event(number: int, **changes: Any) -> AuditEvent:
    """Return an event that differs from that of every other *number*, a second apart."""
    raw = b'{"id":%d,"event_type":"pathway.updated"}' % number
    fields: dict[str, Any] = {
        "uid": hashlib.sha256(b"%d" % number).hexdigest()[:40],
        "source": "voice",
        "vendor": "bland",
        "product": "Bland AI",
        "api_host": "api.bland.ai",
        "at": NOON + number * 1_000_000,
        "fetched": NOON + 3_600_000_000,
        "time_raw": None,
        "time_quality": "source",
        "native_id": str(number),
        "native_action": "pathway.updated",
        "native_category": "pathway",
        "kind": "pathway",
        "verb": "update",
        "outcome": "success",
        "actor": Actor(kind="user", id="a1", email="dana@acme.example"),
        "target": Target(type="convo_pathway", id=f"p{number}"),
        "org_id": "org-1",
        "org_name": None,
        "project_id": None,
        "project_name": None,
        "privilege": None,
        "changes": (),
        "reason": None,
        "message": f"dana@acme.example pathway.updated {number}",
        "metadata": msgspec.Raw(b'{"version_number":3}'),
        "unmapped": NOTHING,
        "raw": msgspec.Raw(raw),
        "raw_sha256": hashlib.sha256(raw).hexdigest(),
        "warnings": (),
        "tags": (),
    }
    return AuditEvent(**{**fields, **changes})


@pytest.fixture
def event() -> Callable[..., AuditEvent]:
    return make_event
