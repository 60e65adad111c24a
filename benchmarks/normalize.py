"""
Measure the cost of one event in `auditrelay.events`, on one core.

    python benchmarks/normalize.py [events a page] [rounds]

Prints, for each step, the best of the rounds: CPU microseconds an event, and events a second. The
events are records of about 700 bytes of nested JSON, as an API sends them; no number includes I/O.
"""

import sys
import time
from collections.abc import Callable
from functools import partial

import orjson

from auditrelay.events import AuditEvent
from auditrelay.events.forms import FORMS, SPLICED, Render
from auditrelay.events.forms.derived import Derived, RenderContext
from auditrelay.events.normalize import Normalizer, vendor_named
from auditrelay.sinks._requests import dump
from auditrelay.store.packing import pack, unpack

FETCHED = 1_795_167_600_123_456


def bland_records(count: int) -> list[bytes]:
    """Return *count* records of Bland AI with nested details."""
    return [
        orjson.dumps(
            {
                "id": f"6b2f9f3e-0c1e-4b8e-9f3e-3b1f{number:08x}",
                "org_id": "0d5c7a40-52f1-4e0e-8f5e-7f6a0c1e0100",
                "actor_id": f"a3c1{number % 97:04x}-52f1-4e0e-8f5e-7f6a0c1e0200",
                "event_type": ("pathway.published", "kb.file_replaced", "pathway.updated")[
                    number % 3
                ],
                "resource_type": "convo_pathway",
                "resource_id": f"f1b7{number % 89:04x}-52f1-4e0e-8f5e-7f6a0c1e0300",
                "metadata": {
                    "name": f"Inbound support {number % 50}",
                    "version_number": number % 40,
                    "environment": "production",
                    "nodes": {
                        "added": ["greeting", "triage"],
                        "removed": [],
                        "edited": {"prompt": "You are a helpful agent on the phone", "turns": 4},
                    },
                    "client": {"app": "dashboard", "release": "2026.11.3", "locale": "en-GB"},
                },
                "created_at": f"2026-11-20T09:{number // 60 % 60:02d}:{number % 60:02d}.412Z",
            }
        )
        for number in range(count)
    ]


def cekura_records(count: int) -> list[bytes]:
    """Return *count* records of Cekura, which are flat."""
    return [
        orjson.dumps(
            {
                "id": 90_000 + number,
                "organization": 42,
                "organization_name": "Acme Voice",
                "project": 742,
                "project_name": "prod",
                "user": 118 + number % 50,
                "user_email": f"dana{number % 50}@acme.example",
                "api_key_name": None,
                "action_type": "object",
                "operation_type": ("create", "update", "delete")[number % 3],
                "object_type": ("aiagent", "metric", "scenario")[number % 3],
                "object_id": 5512 + number,
                "timestamp": f"2026-05-11T08:{number // 60 % 60:02d}:{number % 60:02d}.990052Z",
            }
        )
        for number in range(count)
    ]


def best(step: Callable[[], object], rounds: int) -> float:
    """Return the CPU seconds of the fastest of *rounds* runs of *step*."""
    times = []
    for _ in range(rounds):
        begun = time.process_time()
        step()
        times.append(time.process_time() - begun)
    return min(times)


def main() -> None:
    """Measure every step for each vendor and print a table."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 30
    for vendor, records in (
        ("bland", bland_records(count)),
        ("cekura", cekura_records(count)),
    ):
        normalize = Normalizer(
            vendor=vendor_named(vendor),
            source=f"acme-{vendor}",
            api_host="api.example.com",
            scope="acme",
            redact="default",
            tags={"team": "voice"},
        )
        page = normalize(records, FETCHED)
        blob, _ = pack(page)
        size = sum(map(len, records)) / count
        print(
            f"{vendor}: {count} records of {size:.0f} bytes, {len(blob) / count:.0f} in the spool"
        )

        def show(name: str, step: Callable[[], object]) -> None:
            each = best(step, rounds) / count * 1e6
            print(f"  {name:<40}{each:8.2f} us {1e6 / each:12,.0f} events/s")

        show(
            "identify: all that a known event costs", partial(normalize.identify, records, FETCHED)
        )
        show("normalize", partial(normalize, records, FETCHED))
        show("pack and deflate", partial(pack, page))
        show("inflate and unpack", partial(unpack, blob, 0, count))
        for name in FORMS:
            texts = Derived(partial(write, FORMS[name]), SPLICED[name]).texts
            show(f"render as {name}", partial(texts, page, RenderContext()))


def write(render: Render, event: AuditEvent, context: RenderContext) -> bytes:
    """Return the text of one event: what pages of them are written like."""
    return dump(render(event, marks=context.marks))


if __name__ == "__main__":
    main()
