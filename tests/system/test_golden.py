"""
What commands print that change the state, with a running service and without one.

Times, digests and ids differ from run to run and are replaced; keys, their order, numbers, what is
null and what is left out do not. After a deliberate change: ``UPDATE_GOLDEN=1 make test
TEST="-k golden"``, and review the diff.
"""

import os
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.support.daemon import Daemon, command, configure, eventually, sinks, sources
from tests.support.stores import dead_letters

from auditrelay import __version__
from auditrelay.sandbox import Sandbox

pytestmark = pytest.mark.process

GOLDEN = Path(__file__).with_name("golden")
MINUTE = timedelta(minutes=1)
VARIES = (
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "<time>"),
    (r"\b[0-9a-f]{40}\b", "<uid>"),
    (r"\b[0-9a-f]{64}\b", "<digest>"),
    (r"(?<=\"native_id\": \")[^\"]+", "<id>"),
    (r"\S+\+00:00", "<time>"),
    (re.escape(__version__), "1.0"),
)


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox() as sandbox:
        yield sandbox


@pytest.mark.parametrize("service", [True, False], ids=["service", "alone"])
async def test_commands_print_what_is_golden(
    sandbox: Sandbox, tmp_path: Path, service: bool
) -> None:
    now = datetime.now(UTC)
    sandbox.bland.fill(6, now - 50 * MINUTE, now - 10 * MINUTE)
    sandbox.elastic.fail_items(400, times=3)
    bland = sources(sandbox)["bland"]
    # One after the other: which source has the dead letters must not depend on which is faster.
    for read in ({"bland": bland}, {"bland": bland, "gone": bland}):
        config = configure(tmp_path, read, sinks(sandbox))
        assert (await command(config, "run", "--once")).status == 0
    config = configure(tmp_path, {"bland": bland}, sinks(sandbox))
    letters = {each.id: each.letter.event.uid for each in dead_letters(tmp_path / "state")}
    lines = []

    async def run(*words: str) -> None:
        ended = await command(config, *words)
        lines.append(f"$ auditrelay {' '.join(words)}\n{ended.stdout}exit status {ended.status}\n")

    daemon = Daemon(config)
    if service:
        await daemon.start()
    since = ("--from", (now - 55 * MINUTE).isoformat())
    until = ("--to", (now - 5 * MINUTE).isoformat())
    await run("backfill", "bland", *since, *until, "--dry-run")
    await run("backfill", "bland", *since, *until)
    await run("verify", "bland", *since, *until, "--json")
    sandbox.bland.add(now - 30 * MINUTE)
    await run("verify", "bland", *since, *until, "--json")
    await run("verify", "bland", *since, *until, "--repair", "--at-sink", "--json")
    await run("dead-letters", "replay", "--id", "1", "--json")
    # Not the head of the command before.
    sandbox.elastic.fail_items(400, times=1, where=lambda _, uid: uid == letters[2])
    await run("dead-letters", "replay", "--id", "2", "--json")
    await run("dead-letters", "replay", "--id", "99", "--json")
    await run("dead-letters", "drop", "--id", "3", "--json")
    await run("dead-letters", "list", "--json")
    await run("forget", "gone", "--yes")
    await run("forget", "gone", "--yes")
    await run("backfill", "gone", *since)
    if service:
        await eventually(lambda: sandbox.splunk.stored.total >= 7)
        assert await daemon.end() == 0
    text = "".join(lines)
    for pattern, instead in VARIES:
        text = re.sub(pattern, instead, text)
    path = GOLDEN / f"{'service' if service else 'alone'}.txt"
    if "UPDATE_GOLDEN" in os.environ:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")
    assert text == path.read_text("utf-8")
