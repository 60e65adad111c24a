"""``coverage --reopen`` as a process: killed at its write, beside a running service, refused."""

import json
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.support.daemon import (
    Daemon,
    command,
    configure,
    eventually,
    intakes,
    missing,
    sinks,
    sources,
)
from tests.support.stores import explained
from tests.system.kill_at_write import KillAtWrite

from auditrelay.sandbox import Sandbox

pytestmark = pytest.mark.process

MINUTE = timedelta(minutes=1)
EVENTS = 8


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox() as sandbox:
        now = datetime.now(UTC)
        sandbox.bland.fill(EVENTS, now - 50 * MINUTE, now - 20 * MINUTE)
        yield sandbox


async def with_a_gap(sandbox: Sandbox, folder: Path) -> tuple[Path, tuple[str, ...]]:
    """Return a configuration whose state has a declared gap, and the command that takes it back."""
    tables = sources(sandbox, of=["bland"], initial_lookback="1h", catch_up_limit="10m")
    config = configure(folder, tables, sinks(sandbox))
    ended = await command(config, "run", "--once")
    assert ended.status == 0, ended.stderr
    assert {len(ids) for ids in missing(sandbox).values()} == {EVENTS}
    now = datetime.now(UTC)
    range_ = ("--from", (now - 2 * 60 * MINUTE).isoformat(), "--to", now.isoformat())
    return config, ("coverage", "bland", "--reopen", *range_)


def filled(sandbox: Sandbox) -> bool:
    """Return whether every intake has the event that the gap was filled."""
    return all(
        any("auditrelay.gap_filled" in json.dumps(each) for each in stored.documents)
        for stored in intakes(sandbox).values()
    )


@pytest.mark.parametrize(("side", "again"), [("before", 0), ("after", 2)])
async def test_a_gap_is_taken_back_as_a_whole_or_not_at_all_wherever_the_command_is_killed(
    sandbox: Sandbox, tmp_path: Path, side: str, again: int
) -> None:
    config, arguments = await with_a_gap(sandbox, tmp_path)
    kill = KillAtWrite(tmp_path / "journal", "add", 1, side)
    ended = await command(config, *arguments, "--yes", fault=kill)
    assert ended.status == -signal.SIGKILL, "it was not killed"
    ended = await command(config, *arguments, "--yes")
    assert ended.status == again, ended.stderr
    ended = await command(config, "run", "--once")
    assert ended.status == 0, ended.stderr
    assert missing(sandbox) == {}
    assert filled(sandbox)
    assert {stored.total for stored in intakes(sandbox).values()} == {EVENTS + 2}
    explained(config.with_name("state"))


async def test_beside_a_running_service_the_gap_is_read_at_once(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    config, arguments = await with_a_gap(sandbox, tmp_path)
    async with Daemon(config) as daemon:
        ended = await command(config, *arguments)
        assert ended.status == 2
        assert "This takes back the gap" in ended.stderr
        assert "Pass --yes to confirm" in ended.stderr
        ended = await command(config, *arguments, "--yes")
        assert ended.status == 0, ended.stderr
        assert "(catch_up_limit)" in ended.stdout
        await eventually(lambda: not missing(sandbox), what="the gap is read")
        await eventually(lambda: filled(sandbox), what="that is reported")
        assert daemon.logged("gap_reopened")
        assert await daemon.end() == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("coverage", "--reopen", "--from", "2h", "--to", "1h"),
        ("coverage", "bland", "--reopen", "--from", "2h"),
        ("coverage", "bland", "--reopen", "--from", "2h", "--to", "1h", "--check"),
        ("coverage", "bland", "--yes"),
        ("coverage", "bland", "--reopen", "--from", "1h", "--to", "2h", "--yes"),
        ("coverage", "other", "--reopen", "--from", "2h", "--to", "1h", "--yes"),
    ],
)
async def test_what_makes_no_sense_is_refused(
    sandbox: Sandbox, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    config = configure(tmp_path, sources(sandbox, of=["bland"]), sinks(sandbox))
    ended = await command(config, *arguments)
    assert ended.status == 2
    assert "Traceback" not in ended.stderr
