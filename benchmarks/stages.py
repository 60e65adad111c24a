"""
Measure what each stage of the way of an event costs, in this process, a page at a time.

    python benchmarks/stages.py [--vendor cekura] [--page 1000] [--events 20000] [--store URL]

Printed are microseconds of CPU an event, of all threads, and the same in units: what the standard
library's json takes to decode and encode a record, measured again every thousand events. A page
goes through all stages before the next one. What this leaves out, and `run.py` includes: the loops
that wait between the stages, and that a page of the daemon is not in the processor's caches any
more when its turn comes.
"""

import argparse
import asyncio
import gc
import logging
import os
import platform
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import structlog

from auditrelay import config, sinks, sources
from auditrelay.clock import Clock
from auditrelay.descriptions import load as descriptions
from auditrelay.descriptions.vendor import vendor_of
from auditrelay.events.normalize import Normalizer, vendor_named
from auditrelay.service import state
from auditrelay.service.app import GC_THRESHOLD
from auditrelay.service.heap import tune_heap
from auditrelay.sinks import Item
from auditrelay.telemetry.metrics import Metrics
from auditrelay.window import Interval, micros
from load import DESCRIBED, SINKS, Load, configure, folder, sandbox, unit


class Stages:
    """The CPU that each stage took, in seconds and in units."""

    def __init__(self, vendor: str) -> None:
        self.seconds: Counter[str] = Counter()
        self.units: Counter[str] = Counter()
        self._vendor = vendor
        self._unit = unit(vendor)

    def calibrate(self) -> None:
        """Measure the unit again: the machine may be faster or slower than before."""
        self._unit = (self._unit + unit(self._vendor)) / 2

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Count what the block takes, of all threads, as part of *stage*."""
        began = time.process_time()
        yield
        spent = time.process_time() - began
        self.seconds[stage] += spent  # type: ignore[assignment]  # a Counter adds anything
        self.units[stage] += spent / self._unit  # type: ignore[assignment]


async def walk(path: Path, load: Load, events: int, stage: Stages) -> None:
    """Take *events* events through all stages."""
    settings, metrics, clock = config.load(path, {}), Metrics(shared=True), Clock()
    source = sources.make("load", settings.sources["load"], metrics, clock, settings.state_dir)
    vendor = (
        vendor_of(descriptions.named(load.vendor).feed())
        if load.vendor in DESCRIBED
        else vendor_named(load.vendor)
    )
    normalize = Normalizer.of("load", settings.sources["load"], vendor=vendor, scope=source.scope)
    targets = {
        name: sinks.make(name, sink, metrics, clock) for name, sink in settings.sinks.items()
    }
    async with state.opened(settings, clock, metrics, has_end=True) as opened:
        store = opened.store
        now = datetime.now(UTC)
        await store.start_source("load", now)
        for name in targets:
            await store.start_sink(name, ["load"])
        reached: dict[str, Any] = dict.fromkeys(targets)
        pages = source.walk(Interval(now - timedelta(hours=2), now))
        count = 0
        while count < events:
            if count % 1000 == 0:
                stage.calibrate()
            with stage("get a page"):
                page = await anext(pages)
            with stage("identify"):
                shown = normalize.identify(page.records, micros(clock.now()))
            with stage("look up new ones"):
                rows = (await store.look_up("load", shown.uid, shown.at, shown.content)).new
            with stage("read"):
                found = shown.page(rows)
            with stage("store"):
                added = await store.add("load", found)
            count += len(added.new)
            with stage("look up known ones"):
                await store.look_up("load", shown.uid, shown.at, shown.content)
            for name, sink in targets.items():
                with stage("read back (each sink)"):
                    read, reached[name] = await store.read(name, reached[name], load.page)
                with stage(f"render for {name}"):
                    items = []
                    for each in read:
                        places = range(each.first, each.first + len(each.events))
                        texts = sink.render(each.events, micros(clock.now()))
                        items += Item.of_page(places, each.events, texts, sink.limits)
                with stage(f"gzip, send, judge for {name}"):
                    await sink.send(items)
                with stage("settle (each sink)"):
                    await store.settle(name, [(items[0].position, items[-1].position + 1)])
    await source.close()
    for sink in targets.values():
        await sink.close()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument(
        "--vendor", choices=["cekura", "bland", "jitsudo", "okta"], default="cekura"
    )
    parser.add_argument("--page", type=int, default=1000)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--store", metavar="URL", help="an empty database in PostgreSQL")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    tune_heap()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 50, 1000)  # as the service does
    load, stage = Load(options.vendor, options.page), Stages(options.vendor)
    names = [name for name in SINKS if name != "file"]
    with folder() as where, sandbox(load, options.events) as addresses:
        more = f'store = "{options.store}"\n' if options.store else ""
        path = configure(where, load, names, addresses, more)
        asyncio.run(walk(path, load, options.events, stage))
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}")
    print(f"\n| {options.vendor}, pages of {options.page:,} | µs | units |\n| --- | --- | --- |")
    for name, seconds in stage.seconds.items():
        share = len(names) if "each sink" in name else 1
        micro, units = (each / options.events / share for each in (seconds, stage.units[name]))
        print(f"| {name} | {micro * 1e6:.2f} | {units:.2f} |")


if __name__ == "__main__":
    main()
