"""
Measure the cost of one event in `auditrelay.events`, on one core.

    python benchmarks/normalize.py [events a page] [rounds]

Prints, for each step, the best of the rounds: CPU microseconds an event, and events a second. The
events are records of 300 to 1,800 bytes of JSON, as an API sends them; no number includes I/O. Two
vendors are read twice: by their module, and by their description (tests/descriptions/seeds); of
okta there is only a description. At last the two ways are compared, measured in turn.
"""

import sys
import time
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import orjson

from auditrelay.descriptions import load
from auditrelay.descriptions.model import DescriptionFile, feed_of
from auditrelay.descriptions.vendor import vendor_of
from auditrelay.events import AuditEvent
from auditrelay.events.forms import FORMS, SPLICED, Render
from auditrelay.events.forms.derived import Derived, RenderContext
from auditrelay.events.normalize import Normalizer, vendor_named
from auditrelay.events.vendors import Vendor
from auditrelay.sinks._requests import dump
from auditrelay.store.packing import pack, unpack
from okta import okta_records

FETCHED = 1_795_167_600_123_456
SEEDS = Path(__file__).parents[1] / "tests" / "descriptions" / "seeds"


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


def described(name: str) -> Vendor:
    """Return the vendor *name* by its description instead of its module."""
    tables = tomllib.loads((SEEDS / f"{name}.toml").read_text())
    return vendor_of(feed_of(DescriptionFile(**tables), None))


def normalizer(vendor: Vendor) -> Normalizer:
    """Return a normalizer with realistic settings."""
    return Normalizer(
        vendor=vendor,
        source=f"acme-{vendor.name}",
        api_host="api.example.com",
        scope="acme",
        redact="default",
        tags={"team": "voice"},
    )


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
    for name, vendor, records in (
        ("bland", vendor_named("bland"), bland_records(count)),
        ("cekura", vendor_named("cekura"), cekura_records(count)),
        ("okta, described", vendor_of(load.named("okta").feed()), okta_records(count)),
    ):
        normalize = normalizer(vendor)
        page = normalize(records, FETCHED)
        blob, _ = pack(page)
        size = sum(map(len, records)) / count
        print(f"{name}: {count} records of {size:.0f} bytes, {len(blob) / count:.0f} in the spool")

        def show(step_name: str, step: Callable[[], object]) -> None:
            each = best(step, rounds) / count * 1e6
            print(f"  {step_name:<40}{each:8.2f} us {1e6 / each:12,.0f} events/s")

        show(
            "identify: all that a known event costs", partial(normalize.identify, records, FETCHED)
        )
        show("normalize", partial(normalize, records, FETCHED))
        show("pack and deflate", partial(pack, page))
        show("inflate and unpack", partial(unpack, blob, 0, count))
        for form in FORMS:
            texts = Derived(partial(write, FORMS[form]), SPLICED[form]).texts
            show(f"render as {form}", partial(texts, page, RenderContext()))
    compare("bland", bland_records(count), rounds)
    compare("cekura", cekura_records(count), rounds)


def compare(name: str, records: list[bytes], rounds: int) -> None:
    """Print what a description costs, in shares of what the module of the same vendor does."""
    ways = (normalizer(vendor_named(name)), normalizer(described(name)))
    steps: list[Callable[[], object]] = [partial(way.identify, records, FETCHED) for way in ways]
    steps += [partial(way, records, FETCHED) for way in ways]
    costs = [float("inf")] * len(steps)
    for _ in range(rounds):  # in turn: the machine may be faster or slower from one to the next
        costs = [min(cost, best(step, 1)) for cost, step in zip(costs, steps, strict=True)]
    print(f"{name}, described: {costs[1] / costs[0]:.2f} of its module to identify", end=", ")
    print(f"{costs[3] / costs[2]:.2f} to normalize")


def write(render: Render, event: AuditEvent, context: RenderContext) -> bytes:
    """Return the text of one event: what pages of them are written like."""
    return dump(render(event, marks=context.marks))


if __name__ == "__main__":
    main()
