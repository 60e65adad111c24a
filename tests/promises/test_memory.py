"""Memory and the event loop hold for the worst pages that a vendor may send."""

import asyncio
import gzip
import re
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.support.daemon import Daemon, configure, eventually, sinks, sources

from auditrelay.sandbox import Sandbox, faults
from auditrelay.sandbox.messages import Request, Response

pytestmark = [pytest.mark.process, pytest.mark.slow]

MOST_MB = 256

TINY = gzip.compress(
    b'{"data":[' + b",".join([b"{}"] * 1_000_000) + b'],"has_more":false,"next_cursor":null}'
)


def peak_mb(daemon: Daemon) -> int:
    """Return the most memory that the process had at any time."""
    text = Path(f"/proc/{daemon.process.pid}/status").read_text("ascii")
    found = re.search(r"VmHWM:\s+(\d+) kB", text)
    assert found is not None
    return int(found[1]) // 1024


async def test_200_refused_bombs_leave_nothing_behind(tmp_path: Path) -> None:
    async with Sandbox() as sandbox:
        now = datetime.now(UTC)
        sandbox.jitsudo.fill(20, now - timedelta(minutes=30), now)
        sandbox.jitsudo.faults.add(faults.gzip_bomb(40 * 2**20), times=200)
        tables = sources(sandbox, of=["jitsudo"])
        async with Daemon(configure(tmp_path, tables, sinks(sandbox)), speed=1000) as daemon:
            made = list(sandbox.jitsudo.history.ids())
            await eventually(lambda: not sandbox.splunk.stored.lost(made), within=120)
            assert sum(seen.fault for seen in sandbox.jitsudo.seen) == 200
            assert peak_mb(daemon) < MOST_MB


async def test_a_page_of_a_million_tiny_records_neither_fills_memory_nor_stops_the_loop(
    tmp_path: Path,
) -> None:
    def a_million(_: Request, response: Response) -> Response:
        return replace(response, body=TINY, headers={"Content-Encoding": "gzip"})

    async with Sandbox() as sandbox:
        sandbox.jitsudo.faults.add(faults.rewrite(a_million), times=None)
        tables = sources(sandbox, of=["jitsudo", "bland"])
        async with Daemon(configure(tmp_path, tables, sinks(sandbox))) as daemon:
            worst, over = 0.0, time.monotonic() + 15
            while time.monotonic() < over:
                asked = time.monotonic()
                assert (await daemon.get("/healthz")).status_code == 200
                worst = max(worst, time.monotonic() - asked)
                await asyncio.sleep(0.02)  # the loop of the process is what is looked at
            assert worst < 1
            assert peak_mb(daemon) < MOST_MB
            new = sandbox.bland.add(datetime.now(UTC))
            await eventually(lambda: not sandbox.splunk.stored.lost([new]), within=20)
