"""
The daemon is killed with SIGKILL before and after every durable write, and started again.

Each time: no event is lost; Elasticsearch, which recognises an event by its uid, stores each once;
Splunk and Datadog, which cannot deduplicate, get again at most what was in flight.
"""

import asyncio
import json
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.daemon import (
    Daemon,
    Ended,
    command,
    configure,
    eventually,
    intakes,
    made,
    missing,
    sinks,
    sources,
)
from tests.support.extent import extent
from tests.support.stores import explained
from tests.system.kill_at_write import KillAtWrite

from auditrelay.sandbox import Sandbox, faults
from auditrelay.sandbox.stored import Stored
from auditrelay.store.sql import evidence
from auditrelay.store.sqlite.store import open_view

pytestmark = pytest.mark.process

BATCH = 5
CONCURRENCY = 2
SIDES = ("after", "before")
EVENTS = 24

WRITES = {
    "prune": (2,),
    "remember_time": (1,),
    "start_sink": (2,),
    "retire": (1,),
    "start_source": (1, 3),
    "add": (1, 2, 3, 4, 6, 8),
    "resweep_done": (1, 2),
    "save_condition": (1, 4),
    "settle": (2, 5, 9, 12, 15),
    "begin": (1,),
    "seal": (1,),
    "end": (1,),
}
"""
The writes of a short run, by the store's method, and at which of them it is killed.

After that of ``seal`` is between the commit of a head and the tip.
"""


async def catch_up(config: Path, *, method: str = "", number: int = 0, side: str = "") -> Ended:
    """Run ``run --once``, killed at a write or at none."""
    kill = KillAtWrite(config.with_name("journal"), method, number, side)
    return await command(config, "run", "--once", fault=kill)


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox() as sandbox:
        now = datetime.now(UTC)
        for vendor in (sandbox.cekura, sandbox.bland):
            vendor.fill(EVENTS // 2, now - timedelta(minutes=50), now - timedelta(minutes=1))
        yield sandbox


def configured(folder: Path, sandbox: Sandbox, *, resweep: bool) -> Path:
    """
    Configure a run with a declared gap, several pages and several batches.

    A resweep would find what a crash has lost, so there is none unless the test is about it.
    """
    return configure(
        folder,
        sources(
            sandbox,
            page_size=4,
            initial_lookback="2h",
            catch_up_limit="1h",
            resweep=["10m"] if resweep else [],
        ),
        sinks(sandbox, batch_events=BATCH, concurrency=CONCURRENCY, linger="0s"),
    )


def undelivered_heads(state: Path, stored: Stored) -> list[str]:
    """Return the heads of *state* whose events are not *stored*."""
    with open_view(state) as view:
        words = [head.word for head in view.read(evidence.heads)]
    assert words
    return [word for word in words if word not in json.dumps(stored.heads)]


def unreported_gaps(state: Path, documents: list[Any]) -> list[str]:
    """Return the starts of those gaps in the ledgers that no event in *documents* reports."""
    reported = [text for text in map(json.dumps, documents) if "catch_up_limit" in text]
    with open_view(state) as view:
        starts = [
            span.interval.start.isoformat()[:19]
            for source in view.sources()
            for span in source.ledger
            if span.gap
        ]
    assert len(starts) >= 2
    return [start for start in starts if not any(start in text for text in reported)]


@pytest.mark.parametrize(
    ("method", "number", "side"),
    [
        (*write, side)
        for place, write in enumerate(
            (method, number) for method, numbers in WRITES.items() for number in numbers
        )
        # What is on the disk after a write is also there before the next one.
        for side in extent(SIDES[place % 2 :][:1], SIDES)
    ],
)
async def test_nothing_is_lost_wherever_the_process_is_killed(
    sandbox: Sandbox, tmp_path: Path, method: str, number: int, side: str
) -> None:
    config = configured(tmp_path, sandbox, resweep=method == "resweep_done")
    ended = await catch_up(config, method=method, number=number, side=side)
    assert ended.status == -signal.SIGKILL, "it was not killed"
    ended = await catch_up(config)
    assert ended.status == 0, ended.stderr
    assert missing(sandbox) == {}
    in_flight = BATCH * CONCURRENCY
    for intake, stored in intakes(sandbox).items():
        extra = sum(stored.by_native_id.values()) - len(stored.by_native_id)
        assert extra <= (0 if intake == "elastic" else in_flight), intake
        assert unreported_gaps(tmp_path / "state", stored.documents) == [], intake
        assert undelivered_heads(tmp_path / "state", stored) == [], intake
    assert Counter(sandbox.elastic.stored.uids).most_common(1)[0][1] == 1
    explained(tmp_path / "state", sealed=True)  # and no kill makes a branch


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("number", [1, 2, 3, 5])
async def test_a_refused_event_and_its_reduced_copy_are_stored_together_wherever_it_is_killed(
    sandbox: Sandbox, tmp_path: Path, number: int, side: str
) -> None:
    sandbox.elastic.fail_items(400, kind="document_parsing_exception", times=1)
    config = configured(tmp_path, sandbox, resweep=False)
    ended = await catch_up(config, method="settle", number=number, side=side)
    assert ended.status == -signal.SIGKILL, "it was not killed"
    ended = await catch_up(config)
    assert ended.status == 0, ended.stderr
    with open_view(tmp_path / "state") as view:
        dead = [each.letter.event.uid for each in view.dead_letters()]
    texts = list(map(json.dumps, sandbox.elastic.stored.documents))
    copies = [text for text in texts if "auditrelay.reduced" in text]
    # Killed before its verdict was stored, the event was sent again, and accepted.
    assert len(dead) == len(copies) <= 1
    assert all(uid in copy for uid, copy in zip(dead, copies, strict=True))
    assert not set(sandbox.elastic.stored.by_uid).intersection(dead)
    assert len(sandbox.elastic.stored.lost(made(sandbox))) <= len(dead), "or it was a notice"
    stored = Counter(sandbox.elastic.stored.uids)
    assert stored.most_common(1)[0][1] == 1


async def test_the_kills_fall_on_every_kind_of_write_that_a_run_makes(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    config = configured(tmp_path, sandbox, resweep=True)
    ended = await catch_up(config)
    assert ended.status == 0, ended.stderr
    written = Counter(config.with_name("journal").read_text().split())
    assert written.keys() == WRITES.keys()


@pytest.mark.parametrize("seed", [1])
async def test_nothing_is_lost_when_the_service_is_killed_at_random_times_under_load(
    tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
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
        producing = asyncio.create_task(_produce(sandbox, rng))
        daemon = Daemon(config)
        kills = 2
        for _ in range(kills):
            await daemon.start()
            await asyncio.wait([producing], timeout=rng.uniform(0.02, 0.8))
            assert await daemon.end(signal.SIGKILL) == -signal.SIGKILL
        producing.cancel()
        async with daemon:
            await eventually(lambda: not missing(sandbox), what="caught up")
            assert await daemon.end() == 0
        assert "Traceback" not in daemon.log
        for intake, stored in intakes(sandbox).items():
            extra = sum(stored.by_native_id.values()) - len(stored.by_native_id)
            assert extra <= (0 if intake == "elastic" else kills * BATCH * CONCURRENCY), intake


async def _produce(sandbox: Sandbox, rng: random.Random) -> None:
    """Let every vendor record events, some of which become visible only later."""
    while True:
        for vendor in sandbox.vendors.values():
            now = datetime.now(UTC)
            late = rng.random() < 0.05
            vendor.add(now, visible_from=now + timedelta(seconds=2) if late else None)
        await asyncio.sleep(0.1)
