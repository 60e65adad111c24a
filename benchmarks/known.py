"""
Measure the cost of stored state: known uids, the ledger, and a year of polls.

    python benchmarks/known.py [--known 10000000] [--polls 105120]

The state of a source is filled with *known* uids over 400 days, as if that many events had been
forwarded, with a matching ledger. Then pages of 1,000 are added to the store as a poll
does (new ones at the end, new and known ones anywhere in the past), uids alone are looked up and
remembered, commands are run as an operator runs them, and a year of five-minute polls is entered
into an empty ledger.
"""

import argparse
import asyncio
import contextlib
import hashlib
import os
import platform
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

from auditrelay.clock import Clock
from auditrelay.events import AuditEvent
from auditrelay.events.normalize import Normalizer, vendor_named
from auditrelay.events.page import Page
from auditrelay.store import Proof
from auditrelay.store.keys import known_key, sortable, time_of
from auditrelay.store.sql import intake, known, ledger
from auditrelay.store.sql.store import SqlStore
from auditrelay.store.sql.uids import Uids
from auditrelay.store.sqlite import state_dir as files
from auditrelay.store.sqlite.store import open_store
from auditrelay.window import Interval, micros

PAGE = 1000
PAGES = 30
DAYS = 400
DIGEST = "00" * 32
START = datetime(2025, 1, 1, tzinfo=UTC)
Moments = Callable[[], list[datetime]]
CONFIG = """\
state_dir = "{folder}"
[sources.voice]
type = "cekura"
organization_id = "1"
api_key = "not-a-key"
[sinks.out]
type = "file"
path = "{folder}/out.ndjson"
"""


def fill(folder: Path, count_known: int) -> float:
    """Create a state with *count_known* uids; return the seconds it took."""
    files.prepare(folder)
    files.create(folder)
    a_day = count_known // DAYS
    uids = Uids()
    began = time.perf_counter()
    with contextlib.closing(files.connect(folder, write=True)) as db:
        db.execute("pragma synchronous = off")
        db.execute(
            "insert into source (id, name, started) values (1, 'voice', ?)", (micros(START),)
        )
        for day in range(DAYS):
            span = Interval(START + timedelta(days=day), START + timedelta(days=day + 1))
            first, step = micros(span.start), 86_400_000_000 // a_day
            db.execute("begin")
            for number in range(0, a_day, PAGE):
                count = min(PAGE, a_day - number)
                keys = [
                    sortable(first + step * place) + os.urandom(20)
                    for place in range(number, number + count)
                ]
                known.remember(
                    db, uids, 1, keys, digests=[DIGEST] * count, first=day * a_day + number
                )
            proof = Proof(covers=(span,))
            intake.enter(db, "voice", proof, now=micros(span.end), via="poll")
            db.execute("commit")
        db.execute("update meta set value = ? where name = 'next_position'", (count_known,))
        db.execute("pragma wal_checkpoint(truncate)").fetchall()
    return time.perf_counter() - began


def page(normalize: Normalizer, times: list[datetime], seed: int) -> list[AuditEvent]:
    """Return a page of new events, one at each of *times*."""
    rows = [
        b'{"id":"%b","timestamp":"%b","action":"update","object_type":"agent"}'
        % (hashlib.sha256(b"%d %d" % (seed, number)).hexdigest().encode(), at.isoformat().encode())
        for number, at in enumerate(times)
    ]
    events = list(normalize(rows, micros(datetime.now(UTC))))
    assert len({known_key(event) for event in events}) == len(times)
    return events


async def opened_in(folder: Path) -> tuple[float, list[str]]:
    """Return the seconds until the store is open, and what :func:`pages` does with it."""
    began = time.perf_counter()
    store = await open_store(
        folder,
        clock=Clock(),
        max_bytes=1 << 40,
        retention=timedelta(days=7),
        remember=timedelta(days=10_000),
    )
    opened = time.perf_counter() - began
    rows = await pages(store)
    await store.close()
    return opened, rows


async def pages(store: SqlStore) -> list[str]:
    """Return table rows of the time that a page takes."""
    normalize = Normalizer(
        vendor=vendor_named("cekura"),
        source="voice",
        api_host="",
        scope="1",
        redact="default",
        tags={},
    )
    generator = random.Random(1)  # repeatable, not secret
    end = START + timedelta(days=DAYS)
    second = timedelta(seconds=1)
    rows = []
    made: list[tuple[list[datetime], int]] = []
    kinds: tuple[tuple[str, Moments], ...] = (
        ("new, at the end", lambda: [end + second * n for n in range(PAGE)]),
        ("new, within one hour of the past", lambda: _an_hour(generator)),
        (
            "new, each at a different time",
            lambda: [START + timedelta(days=generator.uniform(0, DAYS)) for _ in range(PAGE)],
        ),
    )
    for title, times in kinds:
        batch = [(times(), generator.getrandbits(64)) for _ in range(PAGES)]
        rows.append(
            _row(title, [await _timed(store, page(normalize, *each), PAGE) for each in batch])
        )
        made += batch
    generator.shuffle(made)
    again = [await _timed(store, page(normalize, *each), 0) for each in made[:PAGES]]
    rows.append(_row("all known", again))
    return rows


def _an_hour(generator: random.Random) -> list[datetime]:
    start = START + timedelta(days=generator.uniform(0, DAYS - 1))
    return [start + timedelta(seconds=3.6 * number) for number in range(PAGE)]


async def _timed(store: SqlStore, events: list[AuditEvent], new: int) -> float:
    began = time.perf_counter()
    added = await store.add("voice", Page.of(events))
    seconds = time.perf_counter() - began
    assert len(added.new) == new
    return seconds * 1000


def _row(title: str, milliseconds: list[float]) -> str:
    return f"| {title} | {statistics.median(milliseconds):.1f} | {max(milliseconds):.1f} |"


def uids_alone(folder: Path) -> list[str]:
    """Return table rows of the CPU an event that looking up and remembering uids takes."""
    uids, rows = Uids(), []
    generator = random.Random(2)  # repeatable, not secret
    end = micros(START + timedelta(days=DAYS + 1))
    with contextlib.closing(files.connect(folder, write=True)) as db:
        made = [
            [
                sortable(end + 1_000_000 * (number * PAGE + row)) + generator.randbytes(20)
                for row in range(PAGE)
            ]
            for number in range(PAGES + 1)
        ]
        moved = [[sortable(time_of(key) + 52) + key[8:] for key in keys] for keys in made]
        for title, batch, new in (
            ("new", made, PAGE),
            ("known", made, 0),
            ("known, each with another time", moved, 0),
        ):
            costs = []
            for keys in batch:
                began = time.thread_time()
                db.execute("begin")
                found = known.find_new(db, uids, 1, keys)
                if found:
                    known.remember(db, uids, 1, keys, digests=[DIGEST] * PAGE, first=1 << 40)
                db.execute("commit")
                costs.append((time.thread_time() - began) * 1e6 / PAGE)
                assert len(found) == new
            first, *others = costs
            rows.append(f"| {title} | {statistics.median(others):.2f} | {first:.2f} |")
    return rows


def command(folder: Path, *words: str, more: str = "") -> tuple[float, float]:
    """Run a command with *more* in its configuration; return its seconds and peak memory in MB."""
    config = folder / "config.toml"
    config.touch(mode=0o600)
    config.write_text(more + CONFIG.format(folder=folder))
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "auditrelay", "-c", str(config), *words], stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = status
    # No facts tell of what was filled in, and the check says so.
    if os.waitstatus_to_exitcode(status) not in (0, int("--check" in words)):
        sys.exit(f"{' '.join(words)} ended with status {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def polls(folder: Path, count: int) -> str:
    """Enter *count* five-minute polls, each with one event, and return a sentence with the cost."""
    files.create(folder)
    with contextlib.closing(files.connect(folder, write=True)) as db:
        db.execute("pragma synchronous = off")  # the cost of the disk is in the table above
        db.execute(
            "insert into source (id, name, started) values (1, 'voice', ?)", (micros(START),)
        )
        step, uids = timedelta(minutes=5), Uids()
        began = time.perf_counter()
        for number in range(count):
            at = START + number * step
            key = sortable(micros(at)) + os.urandom(20)
            db.execute("begin")
            known.remember(db, uids, 1, [key], digests=[DIGEST], first=number)
            # Each window starts an overlap before the checkpoint, as polls do.
            window = Interval(at - step, at + step)
            proof = Proof(covers=(window,))
            intake.enter(db, "voice", proof, now=micros(window.end), via="poll")
            db.execute("commit")
        seconds = time.perf_counter() - began
        spans = ledger.spans(db, 1)
        (facts,) = db.execute("select count(*) from fact").fetchone()
        (size,) = db.execute("select sum(pgsize) from dbstat where name = 'coverage'").fetchone()
    return (
        f"{count:,} polls: {seconds / count * 1e6:.0f} µs each, {len(spans):,} entries in the "
        f"ledger, {size / 1024:,.0f} KiB; {facts:,} facts that a seal would take."
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--known", type=int, default=10_000_000)
    parser.add_argument("--polls", type=int, default=365 * 24 * 12)
    options = parser.parse_args()
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}\n")
    folder = Path(tempfile.mkdtemp(prefix="auditrelay-bench-"))
    try:
        state = folder / "state"
        with ProcessPoolExecutor(1) as other:  # what it needs is not in the memory measured here
            filled = other.submit(fill, state, options.known).result()
        size = (state / files.DATABASE).stat().st_size
        print(
            f"{options.known:,} known uids: {size / 2**20:,.0f} MiB on disk "
            f"({size / options.known:.0f} bytes each), written in {filled:.0f} s."
        )
        print("\n| command | seconds | peak MB |\n| --- | --- | --- |")
        for words in (("status",), ("coverage",), ("coverage", "--check")):
            seconds, peak = command(state, *words)
            print(f"| {' '.join(words)} | {seconds:.1f} | {peak:.0f} |", flush=True)
        opened, rows = asyncio.run(opened_in(state))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"\nThe store is open after {opened * 1000:.0f} ms; peak memory {peak:.0f} MB.\n")
        print(f"| page of {PAGE:,} | ms, median of {PAGES} | ms, worst |\n| --- | --- | --- |")
        print("\n".join(rows), flush=True)
        print(f"\n| uids of {PAGE:,} events | CPU µs each, median | of the first page |")
        print("| --- | --- | --- |")
        print("\n".join(uids_alone(state)), flush=True)
        year = folder / "year"
        files.prepare(year)
        print(f"\n{polls(year, options.polls)}")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
