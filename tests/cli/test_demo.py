"""``auditrelay demo --kill-every``: what it does to the daemon, and when it is content."""

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from auditrelay.cli import demo as demo_module
from auditrelay.cli.demo import crashes as crashing
from auditrelay.cli.demo.child import Daemon
from auditrelay.cli.demo.crashes import Crashes, print_reckoning
from auditrelay.cli.demo.view import View
from auditrelay.errors import ConfigError, RelayError
from auditrelay.sandbox import Sandbox

SECOND = timedelta(seconds=1)


class FakeDaemon:
    """Counts kills and starts, and sends an event to *sandbox* with each start."""

    name = ""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.daemons = [self]
        self.ended = False
        self.did: list[str] = []
        self.journal = (True, "")

    async def kill(self) -> None:
        self.did.append("kill")

    async def begin(self) -> None:
        self.did.append("begin")
        for siem in self.sandbox.siems.values():
            siem.stored.add({}, f"u{len(self.did)}", None)

    async def started(self) -> None:
        self.did.append("started")

    async def run(self, *arguments: str) -> tuple[bool, str]:
        assert arguments == ("coverage", "--check")
        return self.journal


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def daemon(sandbox: Sandbox) -> FakeDaemon:
    return FakeDaemon(sandbox)


@pytest.fixture
def crashes(sandbox: Sandbox, daemon: FakeDaemon) -> Crashes:
    every = timedelta(milliseconds=20)
    return Crashes(daemon, sandbox, View(sandbox), every)  # type: ignore[arg-type]  # a stand-in


async def test_it_kills_and_starts_until_all_is_over_and_leaves_the_daemon_running(
    crashes: Crashes, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crashing, "_LOOK", 0.001)
    async with crashes:
        await asyncio.sleep(0.2)  # what passes between kills is what is tested
    assert crashes.kills >= 3
    assert daemon.did == ["kill", "begin"] * crashes.kills + ["started"]


async def test_a_daemon_that_ends_by_itself_is_an_error(
    crashes: Crashes, daemon: FakeDaemon
) -> None:
    daemon.ended = True
    with pytest.raises(RelayError, match="ended by itself"):
        async with crashes:
            await asyncio.sleep(0.05)  # as above


def lose_nothing(sandbox: Sandbox, daemon: FakeDaemon) -> None: ...


def repeat_visibly(sandbox: Sandbox, daemon: FakeDaemon) -> None:
    for uid in ("u1", "u2"):
        sandbox.elastic.stored.add({}, uid, "the same record")


def repeat_invisibly(sandbox: Sandbox, daemon: FakeDaemon) -> None:
    for _ in range(2):
        sandbox.splunk.stored.add({}, "u1", "the same record")


def break_the_journal(sandbox: Sandbox, daemon: FakeDaemon) -> None:
    daemon.journal = (False, "BAD  ledger: source acme")


@pytest.mark.parametrize(
    ("happen", "lost", "good", "words"),
    [
        (lose_nothing, 0, True, "2 kills, 1 events, 0 lost"),
        (lose_nothing, 1, False, "2 kills, 1 events, 1 lost"),
        (repeat_visibly, 0, False, "elastic: 1 repeated"),
        (repeat_invisibly, 0, True, "splunk: 1 repeated, which it cannot recognise"),
        (break_the_journal, 0, False, "BAD  ledger"),
    ],
)
async def test_it_is_content_if_nothing_is_lost_or_visibly_repeated(
    crashes: Crashes,
    sandbox: Sandbox,
    daemon: FakeDaemon,
    capsys: pytest.CaptureFixture[str],
    happen: Any,
    lost: int,
    good: bool,  # a column of the table
    words: str,
) -> None:
    sandbox.bland.add(datetime.now(UTC))
    crashes.kills, crashes.recoveries = 2, [1.5]
    happen(sandbox, daemon)
    assert await print_reckoning(crashes, lost) is good
    printed = capsys.readouterr().out
    assert words in printed
    assert "1.5 s at least, median 1.5 s, 1.5 s at most, over 1 restarts; 1 were" in printed


@pytest.mark.parametrize("every", ["0s", "often", "3"])
def test_an_interval_that_is_none_is_an_error(every: str) -> None:
    with pytest.raises(ConfigError, match=r"^--kill-every: "):
        demo_module.demo(kill_every=every)


def test_a_vendor_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"^--vendor octa: there is no such vendor; did you mean"):
        demo_module.demo(vendor=["bland", "octa"])


def test_a_vendor_alone_fails_in_every_way() -> None:
    sandbox = Sandbox(only=["okta"])
    steps = list(demo_module._injections(sandbox, FakeDaemon(sandbox), View(sandbox)))  # type: ignore[arg-type]  # a stand-in
    asyncio.run(steps[0]())
    asyncio.run(steps[-1]())
    assert len(sandbox.okta.faults._script) == 8, "each of the five ways, some of several faults"


def test_a_state_directory_must_be_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("precious")
    for path, words in ((tmp_path, "is not empty"), (tmp_path / "other", "File exists")):
        with pytest.raises(ConfigError, match=rf"^--state-dir: .*{words}"):
            demo_module.demo(state_dir=path)
    assert (tmp_path / "other").read_text() == "precious"


@pytest.mark.process
async def test_the_real_daemon_survives_it_and_the_folder_is_left_empty(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "auditrelay", "demo"),
        *("--kill-every", "2s", "--duration", "6s", "--state-dir", str(tmp_path / "disk")),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(120):
        output = (await process.communicate())[0].decode()
    assert process.returncode == 0, output
    found = re.search(r"Crash test: (\d+) kills, ([\d,]+) events, 0 lost", output)
    assert found is not None, output
    assert int(found[1]) >= 1
    assert int(found[2].replace(",", "")) > 2000
    assert "the evidence is intact" in output
    assert list((tmp_path / "disk").iterdir()) == []


@pytest.mark.process
async def test_the_configuration_of_a_service_in_the_environment_is_not_that_of_the_demo(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the image, which sets two keys for the service."""
    real = tmp_path / "of the service"
    monkeypatch.setenv("AUDITRELAY_STATE_DIR", str(real))
    monkeypatch.setenv("AUDITRELAY_STATUS__LISTEN", "127.0.0.2:0")
    monkeypatch.setenv("AUDITRELAY_SINKS__SPLUNK__URL", "https://splunk.invalid:8088")
    lines: list[dict[str, Any]] = []
    daemon = Daemon(tmp_path, tmp_path / "state", sandbox, lines.append)
    try:
        async with asyncio.timeout(60):
            await daemon.start()
        good, checked = await daemon.run("check")
    finally:
        await daemon.stop()
    (status,) = (line["status"] for line in lines if line["event"] == "started")
    assert status.startswith("http://127.0.0.1:")
    assert good, checked
    assert "splunk.invalid" not in checked
    assert not real.exists()


@pytest.mark.process
async def test_described_vendors_are_shown_feed_by_feed_and_nothing_is_lost() -> None:
    """One whose records have parts, two feeds without ids, one with numbers as ids."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "auditrelay", "demo", "--duration", "2s"),
        *("--vendor", "google_workspace", "--vendor", "snyk", "--vendor", "zendesk"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(120):
        output = (await process.communicate())[0].decode()
    assert process.returncode == 0, output
    rows = re.findall(r"^│ ([\w.]+) +│ +([\d,]+) │ .*?│ +([\d,]+) │\n", output, re.MULTILINE)
    made = {name: int(count.replace(",", "")) for name, count, _ in rows}
    shown = ["google_workspace", "snyk.group", "snyk.org", "zendesk"]
    assert sorted(made.keys() - {"splunk", "datadog", "elastic"}) == shown
    assert all(made[name] >= 500 for name in shown), "2,000 past records in all"
    assert made["splunk"] == sum(made[name] for name in shown)
    assert "Nothing is lost." in output
