"""
Print what a thousand events weigh: in each form, and as each sink sends them.

    python benchmarks/weight.py

Three vendors: Cekura with small flat records, Bland AI with nested ones, Okta with long ones. A
form is measured as lines of NDJSON, a sink by what its double in the sandbox got, as the metrics
`auditrelay_sent_uncompressed_bytes_total` and `auditrelay_sent_bytes_total` count it: with what the
sink puts around an event, before and after gzip. Nothing depends on the machine. Real records
differ: what counts is the ratio to the records themselves, and made-up ones compress better.
"""

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import structlog

from auditrelay import sinks
from auditrelay.clock import Clock
from auditrelay.config.model import SINKS
from auditrelay.descriptions import load
from auditrelay.descriptions.vendor import vendor_of
from auditrelay.events.forms import FORMS, SPLICED
from auditrelay.events.forms.derived import Derived, RenderContext
from auditrelay.events.normalize import vendor_named
from auditrelay.events.page import Page
from auditrelay.sandbox import siems
from auditrelay.sinks import Item
from auditrelay.sinks._requests import body_of
from auditrelay.telemetry.metrics import Metrics
from normalize import FETCHED, bland_records, cekura_records, normalizer, write
from okta import okta_records

COUNT = 1000

VENDORS = {
    "cekura": (vendor_named("cekura"), cekura_records),
    "bland": (vendor_named("bland"), bland_records),
    "okta": (vendor_of(load.named("okta").feed()), okta_records),
}


def pages() -> dict[str, tuple[int, Page]]:
    """Return by vendor a page of events, and how many bytes their records have."""
    found = {}
    for name, (vendor, records) in VENDORS.items():
        made = records(COUNT)
        found[name] = sum(map(len, made)), normalizer(vendor)(made, FETCHED)
    return found


async def of_form(form: str, page: Page) -> tuple[int, int]:
    """Return the bytes of *page* as lines in *form*, before and after gzip."""
    texts = Derived(partial(write, FORMS[form]), SPLICED[form]).texts(page, RenderContext())
    (whole, _), (packed, _) = [
        await body_of(texts, compression, between=b"\n", end=b"\n")
        for compression in ("none", "gzip")
    ]
    return len(whole), len(packed)


async def of_sink(kind: str, page: Page) -> tuple[int, int]:
    """Return the bytes that a sink of the type *kind* sends for *page*, before and after gzip."""
    clock, metrics = Clock(), Metrics(sinks=["sink"])
    async with siems.available()[kind]() as double:
        given = {**double.settings(), "compression": "gzip"}
        settings = SINKS.of(kind, given, Path()).model_validate(given)
        sink = sinks.make("sink", settings, metrics, clock)
        try:
            # As if they had just happened: what is old is sent with other marks, or not at all.
            now = page.at[0]
            rendered = sink.render(page, now)
            waiting = batches(Item.of_page(range(len(page)), page, rendered, sink.limits), sink)
            while waiting:
                batch = waiting.pop(0)
                verdict = await sink.send(batch)
                # One that goes to several tables is taken a table at a time.
                if verdict.retry:
                    waiting.insert(0, [batch[index] for index in verdict.retry])
        finally:
            await sink.close()
    return total(metrics, "sent_uncompressed_bytes"), total(metrics, "sent_bytes")


def batches(items: Sequence[Item], sink: sinks.Sink) -> list[list[Item]]:
    """Return *items* as batches within the limits of *sink*."""
    limits, found, room = sink.limits, list[list[Item]](), 0
    for item in items:
        room -= len(item.text) + limits.overhead
        if not found or room < 0 or len(found[-1]) == limits.events:
            found.append([])
            room = limits.bytes - len(item.text) - limits.overhead
        found[-1].append(item)
    return found


def total(metrics: Metrics, name: str) -> int:
    """Return the value of the metric *name*."""
    (family,) = getattr(metrics, name).collect()
    return int(sum(sample.value for sample in family.samples))


async def main() -> None:
    """Measure and print."""
    quiet = structlog.make_filtering_bound_logger(logging.ERROR)
    structlog.configure(wrapper_class=quiet)
    made = pages()
    print(f"{COUNT:,} events, in kB: before compression / gzipped\n")
    print("| | " + " | ".join(made) + " |")
    print("| --- |" + " --- |" * len(made))
    print("| the records | " + " | ".join(f"{size / 1000:.0f}" for size, _ in made.values()) + " |")
    for form in FORMS:
        sizes = [await of_form(form, page) for _, page in made.values()]
        print(f"| `{form}`, NDJSON | {cells(sizes)} |")
    for kind in siems.available():
        sizes = [await of_sink(kind, page) for _, page in made.values()]
        print(f"| sink `{kind}` | {cells(sizes)} |")


def cells(sizes: Sequence[tuple[int, int]]) -> str:
    """Return the *sizes* as cells of a table."""
    return " | ".join(f"{whole / 1000:.0f} / {packed / 1000:.0f}" for whole, packed in sizes)


if __name__ == "__main__":
    asyncio.run(main())
