"""
What ``--json`` and ``/api/status`` print, byte for byte: other people's scripts read it.

Each file under golden/ is one output: keys, their order, values, what is null and what is left out.
After a deliberate change: ``UPDATE_GOLDEN=1 make test TEST="-k golden"``, and review the diff.
"""

import contextlib
import os
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.conftest import make_event
from tests.status.idle import client
from tests.support.clock import FakeClock
from tests.support.stages import (
    DAY,
    ENVIRON,
    HOUR,
    MINUTE,
    SETTINGS,
    STAGES,
    Stage,
    stage,
    staged,
)
from typer.testing import CliRunner

from auditrelay import __version__
from auditrelay.cli import cli
from auditrelay.config import load
from auditrelay.events.page import Page
from auditrelay.store import DeadLetter

GOLDEN = Path(__file__).with_name("golden")
NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)

MORE = """
[sources.labs]
type = "cencori"
mode = "files"
directory = "/srv/exports"
[sources.off]
type = "bland"
enabled = false
api_key = "in-the-file"
[sinks.archive]
type = "file"
path = "-"
[sources.acme-2]
"""


@pytest.fixture(autouse=True)
def unlogged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the log as it is."""
    monkeypatch.setattr("auditrelay.cli.options.setup", lambda *_: None)


def compare(name: str, text: str, folder: Path) -> None:
    """Compare *text* with the file *name*; how large the spool is depends on the compression."""
    text = text.replace(str(folder), "/srv/auditrelay").replace(f'"{__version__}"', '"1.0"')
    text = re.sub(r'("bytes": ?)\d+', r"\g<1>1", text)
    text = re.sub(r"is \d+% full", "is 99% full", text)
    path = GOLDEN / name
    if "UPDATE_GOLDEN" in os.environ:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")
    assert text == path.read_text("utf-8")


def printed(folder: Path, *words: str) -> str:
    """Return what a command prints about the state in *folder*, by the configuration there."""
    path, env = str(folder / "auditrelay.toml"), {"HOME": str(folder), **ENVIRON}
    ended = CliRunner().invoke(cli, ["-c", path, *words], env=env, obj=FakeClock(NOW))
    assert ended.exit_code == 0, ended.output
    return ended.stdout


@contextlib.asynccontextmanager
async def everything(folder: Path) -> AsyncIterator[Stage]:
    """An instance in which nearly everything is wrong that can be."""
    async with stage(folder, now=NOW) as staged:
        await troubled(staged)
        text = SETTINGS.format(folder=folder, room="2GiB")
        text = text.replace("[sources.acme-access]", MORE)
        text = text.replace("[sinks.elastic]", "[sinks.elastic-2]")
        path = folder / "auditrelay.toml"
        path.write_text(text)
        path.chmod(0o600)
        config = load(path, {"HOME": str(folder), **ENVIRON})
        yield replace(staged, config=config)


async def troubled(staged: Stage) -> None:
    """Bring *staged* into trouble: its sources, its sinks, its files."""
    store = staged.store
    for name in ("labs", "off"):
        await store.start_source(name, NOW - 9 * DAY)
    for name in ("acme-voice", "acme-access"):
        await staged.week(name, 3, NOW - HOUR)
    await staged.gap("acme-calls", NOW - 3 * DAY, NOW - 3 * DAY + 90 * timedelta(seconds=1))
    await staged.wait_since(NOW - 5 * HOUR)
    await staged.dead("splunk", 2)
    row = make_event(10**6, source="labs", native_id=None)
    message = "audit-log.csv, line 2: no time"
    await store.add(
        "labs", Page.of([]), bad=[DeadLetter(row, "bad_row", message, None, 1, NOW, NOW)]
    )
    await staged.source(
        "acme-voice",
        paused_since=staged.ago(20 * MINUTE),
        last_error="polling is paused: the disk is full",
        unknown_actions=12,
        silent=True,
    )
    await staged.source(
        "acme-calls",
        up=False,
        since=staged.ago(HOUR),
        last_error="kein Anschluß \N{SNOWMAN} <unter> dieser Nummer",
        error_code="connect",
    )
    await staged.source("labs", last_error="march.csv: no header", error_code="file_rejected")
    await staged.sink(
        "splunk",
        up=False,
        held=True,
        since=staged.ago(9 * HOUR),
        last_error="403 from https://splunk.example.com:8088",
        error_code="status_403",
        breaker_reason="status_403",
    )
    await staged.sink("datadog", last_delivered_at=staged.ago(HOUR))
    staged.loops_stuck = ["acme-voice"]


@contextlib.asynccontextmanager
async def opened(name: str, folder: Path) -> AsyncIterator[Stage]:
    if name == "everything":
        async with everything(folder) as instance:
            yield instance
    elif name == "not-started":
        async with stage(folder, now=NOW) as instance:
            for source in ("acme-voice", "acme-calls", "acme-access"):
                await instance.store.forget(source)
            for sink in ("splunk", "datadog", "elastic"):
                await instance.store.forget(sink)
            instance.throughput.clear()
            yield instance
    else:
        async with staged(name, folder, NOW) as instance:
            yield instance


@pytest.mark.parametrize("name", [*STAGES, "everything", "not-started"])
async def test_status_prints_what_is_golden(tmp_path: Path, name: str) -> None:
    async with opened(name, tmp_path) as instance:
        async with client(instance) as asking:
            answer = await asking.get("/api/status")
        compare(f"{name}.api.json", answer.text, tmp_path)
        compare(f"{name}.status.json", printed(tmp_path, "status", "--json"), tmp_path)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("coverage", ("coverage",)),
        ("coverage-of-one", ("coverage", "acme-calls", "--from", "4d", "--to", "2d")),
        ("coverage-of-none", ("coverage", "acme-2")),
        ("dead-letters", ("dead-letters", "list")),
        ("dead-letters-of-one", ("dead-letters", "list", "--sink", "splunk", "--id", "2")),
        ("dead-letters-of-none", ("dead-letters", "list", "--sink", "archive")),
    ],
)
async def test_other_commands_print_what_is_golden(
    tmp_path: Path, file: str, words: tuple[str, ...]
) -> None:
    async with everything(tmp_path):
        compare(f"{file}.json", printed(tmp_path, *words, "--json"), tmp_path)


async def test_a_dead_letter_prints_what_is_golden(tmp_path: Path) -> None:
    async with everything(tmp_path):
        for number in ("1", "3"):
            text = printed(tmp_path, "dead-letters", "show", number)
            compare(f"dead-letter-{number}.json", text, tmp_path)
