"""One clock for all: the real one, and that nothing else asks for the time or waits."""

import asyncio
import re
from datetime import UTC, timedelta
from pathlib import Path

from tests.support.clock import NOON, FakeClock

import auditrelay
from auditrelay.clock import Clock

ROOT = Path(auditrelay.__file__).parent

ASKS = re.compile(r"\btime\.(time|monotonic|perf_counter|sleep)|datetime\.now|asyncio\.sleep\(")

BY_ITSELF = {
    "cli/demo/__init__.py": "plays in front of people, for some seconds of theirs",
    "cli/demo/crashes.py": "likewise",
    "cli/demo/view.py": "likewise",
    "cli/description/replay.py": "a clock that stands still lets the loop turn",
    "clock.py": "it is the clock",
    "http/peer.py": "measures requests for a histogram",
    "http/transport.py": "lets the loop turn once",
    "sinks/file.py": "the deadline of a select()",
    "store/postgres/pipeline.py": "the deadline of a poll()",
    "store/sql/page_reader.py": "lets the loop turn once",
    "collect/walk.py": "lets the loop turn between two slices of a page",
    "telemetry/logs.py": "the time of a log line, with or without an instance",
    "telemetry/throttle.py": "a log line a minute, with or without an instance",
}
"""The modules that ask the machine, and why."""


async def test_the_clock_shows_the_time_in_utc_and_waits() -> None:
    clock = Clock()
    now, began = clock.now(), clock.monotonic()
    assert now.tzinfo is UTC
    await clock.sleep(0.01)
    assert clock.now() > now
    assert clock.monotonic() - began >= 0.009


def test_nothing_else_asks_the_machine_for_the_time() -> None:
    """The sandbox is no part of it: a double is passed the function that it asks."""
    asking = {
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*.py")
        if path.relative_to(ROOT).parts[0] != "sandbox" and ASKS.search(path.read_text("utf-8"))
    }
    assert asking == set(BY_ITSELF)


async def test_on_a_fake_clock_those_who_sleep_wake_in_the_order_of_their_deadlines() -> None:
    clock, woken = FakeClock(), []

    async def sleep(*waits: float) -> None:
        for seconds in waits:
            await clock.sleep(seconds)
            woken.append((clock.now() - NOON).total_seconds())

    await asyncio.gather(sleep(10), sleep(3, 3, 3), sleep(7))
    assert woken == [3, 6, 7, 9, 10]
    assert clock.waits == [10, 3, 7, 3, 3]
    clock.set(NOON)
    before = clock.monotonic()
    clock.advance(timedelta(minutes=1))
    assert (clock.now() - NOON, clock.monotonic() - before) == (timedelta(minutes=1), 60)
