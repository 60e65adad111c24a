"""
What comes of a record never changes: its uid, its texts, what is redacted, what a warning says.

``frozen.json`` holds for each record of the corpus a digest of its event. They are identities and
evidence in the systems that events were sent to; only a decision to change them may change the
file, with ``AUDITRELAY_WRITE_GOLDEN=1``.
"""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.support.records import USUAL, variants

from auditrelay.events import AuditEvent
from auditrelay.events.normalize import Normalizer
from auditrelay.events.pseudonyms import Pseudonyms

FROZEN = Path(__file__).parent / "frozen.json"
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "off": {"redact": "off"},
    "globs": {"redact": ["*email*", "extra", "before", "name", "*_id"]},
    "paths": {"id_path": ["id", "_id"], "time_path": ["created_at", "timestamp", "Timestamp"]},
    "pseudonyms": {"pseudonyms": Pseudonyms("k" * 32, ("actor.email", "actor.id", "target.id"))},
}


def digest(event: AuditEvent) -> str:
    # Without what came later, at the end (notice, redacted): what was frozen stays as it was.
    assert not event.notice, "no record makes an event of auditrelay itself"
    fields = msgspec.structs.astuple(event)[:-2]
    return hashlib.sha256(msgspec.json.encode([fields])).hexdigest()[:12]


@pytest.mark.parametrize("vendor", USUAL)
@pytest.mark.parametrize("how", SETTINGS)
def test_the_event_of_a_record_is_the_same_for_ever(
    vendor: str, how: str, normalizer: Callable[..., Normalizer], fetched: int
) -> None:
    records = list(variants(vendor))
    normalize = normalizer(vendor, **SETTINGS[how])
    found = [digest(normalize([record], fetched)[0]) for record in records]
    frozen = json.loads(FROZEN.read_text()) if FROZEN.exists() else {}
    if os.environ.get("AUDITRELAY_WRITE_GOLDEN"):
        frozen[f"{vendor} {how}"] = " ".join(found)
        FROZEN.write_text(json.dumps(frozen, indent=1, sort_keys=True) + "\n")
    wanted = frozen[f"{vendor} {how}"].split()
    assert len(wanted) == len(records)
    changed = [record for record, a, b in zip(records, found, wanted, strict=True) if a != b]
    assert changed == []
