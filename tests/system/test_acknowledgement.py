"""Indexer acknowledgement with a real process, its signals and its commands."""

import json
import signal
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.daemon import Daemon, command, configure, eventually, sinks, sources

from auditrelay.sandbox import Sandbox

pytestmark = pytest.mark.process


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox() as sandbox:
        now = datetime.now(UTC)
        sandbox.cekura.fill(500, now - timedelta(minutes=30), now - timedelta(minutes=1))
        sandbox.splunk.configure(use_ack=True)
        yield sandbox


def only_splunk(folder: Path, sandbox: Sandbox, **keys: Any) -> Path:
    config = sinks(sandbox)["splunk"] | {"ack": True, "batch_events": 50, **keys}
    return configure(folder, {"cekura": sources(sandbox)["cekura"]}, {"splunk": config})


async def backlog(config: Path) -> int:
    ended = await command(config, "status", "--json")
    found: int = json.loads(ended.stdout)["sinks"][0]["backlog_events"]
    return found


async def test_sigterm_ends_within_10_seconds_and_keeps_unacknowledged_events(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    config = only_splunk(tmp_path, sandbox)
    splunk = sandbox.splunk
    splunk.switches.acks = "lost"
    async with Daemon(config, speed=1) as daemon:
        await eventually(lambda: splunk.answered[200] > 12 and daemon.logged("ledger_sealed"))
        began = time.monotonic()
        assert await daemon.end() == 0
        assert time.monotonic() - began < 10
        (line,) = daemon.logged("acknowledgement_missed")
        # The head of the first seal may have been sent as well, or not yet.
        assert (line["events"] in {500, 501}, line["reason"]) == (True, "stop")
    assert await backlog(config) == 502, "with the head of the first seal, and of the stop"
    splunk.switches.acks = "prompt"
    assert (await command(config, "run", "--once")).status == 0
    assert await backlog(config) == 0
    assert splunk.stored.lost(sandbox.cekura.records.ids()) == []
    assert splunk.stored.repeated() == {}


async def test_events_lost_by_a_crash_of_splunk_are_sent_again_after_our_kill_9(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    config = only_splunk(tmp_path, sandbox)
    splunk = sandbox.splunk
    splunk.switches.ack_after = 1000
    async with Daemon(config) as daemon:
        await eventually(lambda: splunk.stored.total == 500)
        await daemon.end(signal.SIGKILL)
        splunk.crash()
        assert splunk.stored.total == 0
        splunk.switches.ack_after = 1
        await daemon.start()
        await eventually(lambda: splunk.stored.total == 500)

        async def delivered() -> bool:
            return await daemon.metric("auditrelay_events_delivered_total", sink="splunk") == 500

        await eventually(delivered)
        assert await daemon.metric("auditrelay_events_possible_duplicate_total") == 0
        assert await daemon.end() == 0
    assert splunk.stored.lost(sandbox.cekura.records.ids()) == []


async def test_check_finds_out_whether_the_token_acknowledges(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    config = only_splunk(tmp_path, sandbox)
    well = await command(config, "check")
    assert well.status == 0, well.stdout
    sandbox.splunk.configure(use_ack=False)
    ill = await command(config, "check")
    assert ill.status == 1
    assert "useACK" in " ".join(ill.stdout.split())
    assert sandbox.splunk.stored.total == 0
