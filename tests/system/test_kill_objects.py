"""
The daemon is killed while it writes objects: every event is in one object, none is written twice.

At each write of its store that has to do with it, and at each moment of a PUT: before it is stored,
and after, when nothing has been answered yet. ``make interop`` does the same 200 times at random
points, against a storage that is not ours.
"""

import asyncio
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.daemon import Daemon, command, configure, eventually, made, sources
from tests.support.extent import extent
from tests.support.stores import explained
from tests.system.kill_at_write import KillAtWrite

from auditrelay.sandbox import Sandbox, faults
from auditrelay.sandbox.messages import Request

pytestmark = pytest.mark.process

EVENTS = 24


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(also=["object_storage"]) as sandbox:
        now = datetime.now(UTC)
        for vendor in (sandbox.cekura, sandbox.bland):
            vendor.fill(EVENTS // 2, now - timedelta(minutes=50), now - timedelta(minutes=1))
        yield sandbox


def configured(folder: Path, sandbox: Sandbox, **keys: Any) -> Path:
    sink = {**sandbox.bucket.settings(), "batch_events": 5, "concurrency": 2, **keys}
    return configure(folder, sources(sandbox, page_size=4), {"archive": sink})


def each_event_is_in_one_object(sandbox: Sandbox, folder: Path) -> None:
    bucket = sandbox.bucket
    assert not bucket.stored.lost(made(sandbox))
    assert Counter(bucket.stored.uids).most_common(1)[0][1] == 1
    assert set(bucket.notifications.values()) == {1}
    explained(folder / "state")


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize(
    ("method", "number"),
    [
        *(("seal_batches", number) for number in extent((1, 2, 5), range(1, 8))),
        *(("settle", number) for number in extent((1, 4), range(1, 8))),
    ],
)
async def test_every_event_is_in_one_object_at_whichever_write_it_is_killed(
    sandbox: Sandbox, tmp_path: Path, method: str, number: int, side: str
) -> None:
    config = configured(tmp_path, sandbox)
    kill = KillAtWrite(tmp_path / "journal", method, number, side)
    ended = await command(config, "run", "--once", fault=kill)
    assert ended.status == -signal.SIGKILL, "it was not killed"
    # What is cut from here on is cut otherwise.
    config = configured(tmp_path, sandbox, batch_events=7, concurrency=1)
    ended = await command(config, "run", "--once")
    assert ended.status == 0, ended.stderr
    each_event_is_in_one_object(sandbox, tmp_path)


@pytest.mark.parametrize("seed", range(extent(4, 40)))
async def test_every_event_is_in_one_object_at_whichever_moment_of_a_put_it_is_killed(
    sandbox: Sandbox, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    bucket = sandbox.bucket
    config = configured(tmp_path, sandbox, linger="0s")
    daemon = Daemon(config)
    for _ in range(3):
        puts, stored = rng.randrange(1, 4), rng.random() < 0.5
        arrived = _Arrived(puts)
        bucket.on_request = arrived.note
        # It is stored or not, and nothing is answered.
        bucket.faults.add(faults.hang(process=stored), method="PUT", nth=[puts, puts + 1])
        await daemon.start()
        await asyncio.wait(
            [asyncio.ensure_future(arrived.event.wait())], timeout=rng.choice([0.3, 3])
        )
        await asyncio.sleep(rng.random() * 0.02)
        assert await daemon.end(signal.SIGKILL) == -signal.SIGKILL
        bucket.faults.clear()
        for vendor in (sandbox.cekura, sandbox.bland):
            vendor.add(datetime.now(UTC))
    async with daemon:
        await eventually(lambda: not bucket.stored.lost(made(sandbox)), what="caught up")
        assert await daemon.end() == 0
    assert "Traceback" not in daemon.log
    each_event_is_in_one_object(sandbox, tmp_path)


class _Arrived:
    """Whether so many PUTs have arrived."""

    def __init__(self, puts: int) -> None:
        self.event = asyncio.Event()
        self._left = puts

    def note(self, request: Request) -> None:
        self._left -= request.method == "PUT"
        if self._left <= 0:
            self.event.set()
