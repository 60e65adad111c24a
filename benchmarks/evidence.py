"""
What a year of evidence costs: its size, the time that a seal takes, and an auditor's program.

    .venv/bin/python benchmarks/evidence.py [HOURS]

Five sources with 240 events an hour each, two sinks, a seal an hour: 8 entries and a head. The
entries are written by the code that seals, without a database; what a seal takes with one is
measured on a real store. Times are CPU seconds of this process.
"""

import asyncio
import gc
import gzip
import json
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from auditrelay.clock import Clock
from auditrelay.evidence import facts
from auditrelay.evidence.auditor import program
from auditrelay.evidence.entries import lines
from auditrelay.evidence.facts import Body
from auditrelay.evidence.heads import Head, Keys
from auditrelay.evidence.tree import Frontier, leaf
from auditrelay.service.seal import head_event
from auditrelay.settings.reserved import ALERTS
from auditrelay.store.sqlite.state_dir import prepare
from auditrelay.store.sqlite.store import open_store

HOUR = 3_600_000_000
BEGIN = 1_767_225_600_000_000
"""2026-01-01, in microseconds."""
SOURCES, SINKS = ("a", "b", "c", "d", "e"), ("elastic", "splunk")
PAGES, EVENTS = 12, 20
LOG = "7" * 32


def timed(name: str, work: Callable[[], Any]) -> Any:
    """Do *work*; print what it took."""
    before = time.process_time()
    result = work()
    print(f"{name:44} {time.process_time() - before:8.2f} s")
    return result


def hour(number: int, place: int, before: Head | None) -> dict[str, tuple[list[Body], Body]]:
    """Return by unit the facts of an hour, whose events are from *place* on, and its state."""
    start, end = BEGIN + number * HOUR, BEGIN + (number + 1) * HOUR
    digests = Random(number)  # no two are alike: they are most of what cannot be compressed
    own = []
    if before is not None:
        own = [facts.head(size=before.size, root=before.root, taken_by=SINKS)]
    units: dict[str, tuple[list[Body], Body]] = {
        "instance": (own, {"forgotten": None, "pruned": 0})
    }
    first = place
    for name in SOURCES:
        pages = [
            facts.accepted(
                via="poll",
                first=place + page * EVENTS,
                count=EVENTS,
                late=0,
                uids=digests.randbytes(32),
                raws=digests.randbytes(32),
                stored=digests.randbytes(32),
            )
            for page in range(PAGES)
        ]
        place += PAGES * EVENTS
        span = facts.covered(via="poll", start=start, end=end, before=place)
        uids = digests.randbytes(32)
        bodies = [*facts.merge(pages), facts.counted(span, events=PAGES * EVENTS, uids=uids)]
        state = {
            "accepted": (number + 1) * PAGES * EVENTS,
            "covered_until": end,
            "looked_again": {},
            "put_aside": 0,
            "started": BEGIN,
            "vanished": 0,
        }
        units[f"source {name}"] = bodies, state
    for name in SINKS:
        state = {
            "ahead": [],
            "dead": 0,
            "dropped": 0,
            "position": place,
            "replayed": 0,
            "since": dict.fromkeys(SOURCES, 1),
        }
        units[f"sink {name}"] = [facts.delivered(done=[(first, place - first)])], state
    return units


def year(folder: Path, hours: int, keys: Keys | None) -> None:
    """Write an export of so many *hours*, and the heads as a SIEM has them."""
    frontier, last = Frontier(), dict[str, tuple[int, int | None]]()
    heads = list[tuple[int, Head]]()
    with (folder / "journal.ndjson").open("wb") as file:
        for number in range(hours):
            at = BEGIN + (number + 1) * HOUR
            place = 1 + number * PAGES * EVENTS * len(SOURCES)
            units = hour(number, place, heads[-1][1] if heads else None)
            for unit, (bodies, state) in sorted(units.items()):
                seq, since = last.get(unit, (0, None))
                made = lines(
                    unit,
                    bodies,
                    state,
                    log=LOG,
                    n=frontier.size,
                    seq=seq + 1,
                    since=since,
                    at=at,
                )
                last[unit] = seq + len(made), at
                for line in made:
                    frontier.append(leaf(line))
                    file.write(line + b"\n")
            make = Head if keys is None else keys.head
            heads.append((at, make(LOG, frontier.size, frontier.root())))
    (folder / "heads.txt").write_text("".join(f"{head.word}\n" for _, head in heads))
    rows = "".join(
        f'{at // 1_000_000 + 60},{head.uid},"Ledger sealed: {head.word}"\n' for at, head in heads
    )
    (folder / "splunk.csv").write_text(f"_indextime,event_id,description\n{rows}")


async def seals(folder: Path, count: int) -> None:
    """Seal a store with so many sources and sinks *count* times."""
    prepare(folder)
    store = await open_store(
        folder,
        clock=Clock(),
        max_bytes=1 << 30,
        retention=timedelta(days=7),
        remember=timedelta(days=400),
    )
    try:
        for name in (*SOURCES, ALERTS):
            await store.start_source(name, datetime.now(UTC))
        for name in SINKS:
            await store.start_sink(name, [*SOURCES, ALERTS])
        await store.log.seal(head_event)
        before = time.process_time()
        for _ in range(count):
            await store.log.seal(head_event)
        took = time.process_time() - before
        print(f"{'a seal of a store with nothing new':44} {1000 * took / count:8.2f} ms")
    finally:
        await store.close()


def main() -> None:
    """Measure, and print."""
    hours = int(sys.argv[1]) if len(sys.argv) > 1 else 8760
    pin = Keys(bytes(32))
    gc.disable()  # as the auditor's program does
    with tempfile.TemporaryDirectory() as name:
        for keys in (None, pin):
            folder = Path(name) / ("signed" if keys else "plain")
            folder.mkdir()
            kind = "signed" if keys else "without a key"
            timed(f"write {hours} hours, {kind}", partial(year, folder, hours, keys))
            pins = [] if keys is None else [keys.public]
            report = timed(
                f"check {hours} heads, {kind}",
                partial(program.check, [folder], [folder / "splunk.csv"], pins, {}, []),
            )
            assert report["whole"], report["findings"][:3]
            assert report["heads"]["fit"] == hours
        journal = Path(name) / "plain" / "journal.ndjson"
        print(f"{'entries':44} {report['entries']:8}")
        size = journal.stat().st_size
        print(f"{'journal':44} {size / 1e6:8.1f} MB, {size / report['entries']:.0f} bytes an entry")
        packed = len(gzip.compress(journal.read_bytes()))
        print(f"{'journal, gzip':44} {packed / 1e6:8.1f} MB")
        print(json.dumps(report["heads"]))
        asyncio.run(seals(Path(name) / "state", 200))


if __name__ == "__main__":
    main()
