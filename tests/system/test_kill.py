"""
The daemon is killed with SIGKILL before and after every durable write, and started again.

What is asked: nothing is lost; Elasticsearch, which knows an event by its uid, keeps each once;
Splunk and Datadog, which cannot, get again at most what was in flight.
"""

import asyncio
import json
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.daemon import Daemon, configure, eventually, intakes, missing, sinks, sources

from auditrelay.sandbox import Sandbox, faults
from auditrelay.store.sqlite.view import StateView

pytestmark = pytest.mark.process

BATCH = 5
CONCURRENCY = 2
EVENTS = 24

WRITES = {
    "prune": (2,),
    "start_sink": (2,),
    "retire_sinks": (1,),
    "start_source": (1, 3),
    "add": (1, 2, 3, 4, 6, 8),
    "resweep_done": (1, 2),
    "save_condition": (1, 4),
    "settle": (2, 5, 9, 12, 15),
}
"""What a short run writes, and which of these writes it shall not survive."""


class Nursery:
    """Starts children that die on order, see dying.py."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("dying.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    async def run(
        self,
        config: Path,
        words: Sequence[str] = ("run", "--once"),
        *,
        name: str = "",
        number: int = 0,
        side: str = "",
    ) -> tuple[int, Path]:
        """Run a command that dies at a write, or at none; return its status and its log."""
        log = config.with_name("log")
        order = {
            "config": str(config),
            "words": list(words),
            "log": str(log),
            "journal": str(config.with_name("journal")),
            "name": name,
            "number": number,
            "side": side,
        }

        def exchange() -> int:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            return int(self._process.stdout.readline())

        return await asyncio.to_thread(exchange), log

    def close(self) -> None:
        """End it; its children have ended."""
        self._process.communicate()


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox() as sandbox:
        now = datetime.now(UTC)
        for vendor in (sandbox.cekura, sandbox.bland):
            vendor.fill(EVENTS // 2, now - timedelta(minutes=50), now - timedelta(minutes=1))
        yield sandbox


def configured(folder: Path, sandbox: Sandbox, *, second_look: bool) -> Path:
    """
    Configure a run with a declared gap, several pages and several batches.

    A second look would find again what a crash has lost, so it must not be there to help.
    """
    return configure(
        folder,
        sources(
            sandbox,
            page_size=4,
            initial_lookback="2h",
            catch_up_limit="1h",
            resweep=["10m"] if second_look else [],
        ),
        sinks(sandbox, batch_events=BATCH, concurrency=CONCURRENCY, linger="0s"),
    )


def untold(state: Path, documents: list[Any]) -> list[str]:
    """Return the starts of those gaps in the ledgers that no event among *documents* tells of."""
    told = [text for text in map(json.dumps, documents) if "catch_up_limit" in text]
    with StateView(state) as view:
        starts = [
            span.interval.start.isoformat()[:19]
            for source in view.sources()
            for span in source.ledger
            if span.gap
        ]
    assert len(starts) >= 2
    return [start for start in starts if not any(start in text for text in told)]


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize(
    ("name", "number"),
    [(name, number) for name, numbers in WRITES.items() for number in numbers],
)
async def test_nothing_is_lost_wherever_the_process_is_killed(
    nursery: Nursery, sandbox: Sandbox, tmp_path: Path, name: str, number: int, side: str
) -> None:
    config = configured(tmp_path, sandbox, second_look=name == "resweep_done")
    status, _ = await nursery.run(config, name=name, number=number, side=side)
    assert status == -signal.SIGKILL, "it was to be killed and was not"
    status, log = await nursery.run(config)
    assert status == 0, log.read_text()
    assert missing(sandbox) == {}
    in_flight = BATCH * CONCURRENCY
    for intake, stored in intakes(sandbox).items():
        extra = sum(stored.by_native_id.values()) - len(stored.by_native_id)
        assert extra <= (0 if intake == "elastic" else in_flight), intake
        assert untold(tmp_path / "state", stored.documents) == [], intake
    assert Counter(sandbox.elastic.stored.uids).most_common(1)[0][1] == 1


async def test_the_kills_fall_on_every_kind_of_write_that_a_run_makes(
    nursery: Nursery, sandbox: Sandbox, tmp_path: Path
) -> None:
    config = configured(tmp_path, sandbox, second_look=True)
    status, log = await nursery.run(config)
    assert status == 0, log.read_text()
    written = Counter(config.with_name("journal").read_text().split())
    assert written.keys() == WRITES.keys()


@pytest.mark.parametrize("seed", [1])
async def test_nothing_is_lost_when_the_service_is_killed_at_random_times_under_load(
    tmp_path: Path, seed: int
) -> None:
    luck = random.Random(seed)
    async with Sandbox(seed=seed) as sandbox:
        config = configure(
            tmp_path,
            sources(sandbox, of=sandbox.vendors, page_size=20, overlap="5s", resweep=["5s"]),
            sinks(sandbox, batch_events=BATCH, concurrency=CONCURRENCY),
        )
        for double in (sandbox.splunk, sandbox.datadog, sandbox.elastic):
            double.faults.add(faults.delay(0.02), method="POST", times=None, chance=0.5)
        now = datetime.now(UTC)
        for vendor in sandbox.vendors.values():
            vendor.fill(40, now - timedelta(minutes=50), now)
        making = asyncio.create_task(_make(sandbox, luck))
        daemon = Daemon(config)
        kills = 2
        for _ in range(kills):
            await daemon.start()
            await asyncio.wait([making], timeout=luck.uniform(0.02, 0.8))
            assert await daemon.end(signal.SIGKILL) == -signal.SIGKILL
        making.cancel()
        async with daemon:
            await eventually(lambda: not missing(sandbox), what="caught up")
            assert await daemon.end() == 0
        assert "Traceback" not in daemon.log
        for intake, stored in intakes(sandbox).items():
            extra = sum(stored.by_native_id.values()) - len(stored.by_native_id)
            assert extra <= (0 if intake == "elastic" else kills * BATCH * CONCURRENCY), intake


async def _make(sandbox: Sandbox, luck: random.Random) -> None:
    """Let every vendor record things, some of which can be seen only later."""
    while True:
        for vendor in sandbox.vendors.values():
            now = datetime.now(UTC)
            late = luck.random() < 0.05
            vendor.add(now, visible_from=now + timedelta(seconds=2) if late else None)
        await asyncio.sleep(0.1)
