"""
The vendors' side of a run: doubles with records, and what a receiver must have afterwards.

The records are those that the sandbox generates, and some difficult ones.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.support import daemon

from auditrelay.sandbox import Sandbox

_EACH = 300
_SPAN = timedelta(minutes=50)


@dataclass(frozen=True, slots=True)
class Made:
    """A record of a vendor's double: its *source*, native *id*, time, and content."""

    source: str
    id: str
    at: int
    """Microseconds since the epoch."""
    record: dict[str, Any]


def hard() -> Iterator[dict[str, Any]]:
    """Yield metadata that is difficult for receivers: shape, size, script."""
    yield {"note": "Grüße, 你好, שלום, 👩🏽‍🚀, a\u0301, \u2028, \x00, \x1f, \ufeff, \ufffd"}
    yield {"note": 'quote " backslash \\ newline \n tab \t </script>'}
    yield {"": "an empty key", " ": "a blank key", ".": "a dot", "a.": "ends in one", "..": "two"}
    yield {"a.b": 1, "a": {"b": "the same path, another type", "": {}}}
    yield {"null": None, "empty": {}, "list": [], "lists": [[1, [2, [None]]], {"x": [{}]}]}
    yield {"mixed": [1, "two", 3.5, True, None, {"four": 5}]}
    yield {"big": 2**63, "bigger": 10**30, "small": -(2**63), "tiny": 1e-300, "huge": 1e300}
    yield {"long": "x" * 31_000}
    yield {"longer": "é" * 40_000}
    yield {"k" * 5000: "a long key"}
    yield {f"key {number}": number for number in range(3000)}
    yield {"longest": "lorem ipsum " * 70_000}
    yield {"type": "object", "_id": "x", "_source": {"_index": "y"}, "@timestamp": "never"}
    yield {"date": "2026-01-01", "later": "not a date", "ip": "999.1.1.1", "number": "12"}
    deep: dict[str, Any] = {}
    for level in range(60):
        deep = {f"level {level}": deep}
    yield deep


def fill(sandbox: Sandbox) -> None:
    """Add records of the last hour to the doubles of all four vendors."""
    now = datetime.now(UTC)
    start = now - _SPAN
    for vendor in (sandbox.cekura, sandbox.bland, sandbox.jitsudo, sandbox.slaunch):
        vendor.fill(_EACH, start, now)
    for number, metadata in enumerate(hard()):
        at = start + timedelta(seconds=7 * number, microseconds=123_000)
        sandbox.bland.add(at, metadata=metadata)
        sandbox.jitsudo.add(at, nanos=789, metadata=metadata)


def made(sandbox: Sandbox) -> list[Made]:
    """Return all records of the doubles."""
    found: list[Made] = []
    for source in ("cekura", "bland", "jitsudo", "slaunch"):
        history = getattr(sandbox, source).history
        for native_id in history.ids():
            entry = history.find(native_id, time.time())
            assert entry is not None
            found.append(Made(source, native_id, entry.at, entry.record))
    return found


def sources(sandbox: Sandbox) -> daemon.Table:
    """Return the configuration of all four sources."""
    common = {**daemon.FAST, "resweep": []}
    jitsudo, slaunch = sandbox.jitsudo, sandbox.slaunch
    return {
        **daemon.sources(sandbox),
        "jitsudo": {
            "type": "jitsudo",
            "base_url": jitsudo.url,
            "tenant_id": jitsudo.tenant,
            "api_key": jitsudo.api_key,
            **common,
        },
        "slaunch": {
            "type": "slaunch",
            "base_url": slaunch.url,
            "api_key": slaunch.api_key,
            **common,
        },
    }
