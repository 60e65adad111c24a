"""A sink's ``exclude`` from end to end: what is left out is not missing for any command."""

import json
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.support.daemon import Daemon, command, configure, eventually, sinks, sources

from auditrelay.sandbox import Sandbox

pytestmark = pytest.mark.process

ACTIONS = ("auth.sso_login", "auth.logout", "pathway.updated")


def configured(sandbox: Sandbox, folder: Path, *exclude: str) -> Path:
    tables = {
        name: table for name, table in sinks(sandbox).items() if name in ("elastic", "splunk")
    }
    tables["elastic"]["exclude"] = list(exclude)
    return configure(folder, sources(sandbox, of=["bland"]), tables)


async def verified(config: Path) -> dict[str, dict[str, int]]:
    found = await command(config, "verify", "bland", "--from", "55m", "--at-sink", "--json")
    assert found.status == 0, found.stderr
    report = json.loads(found.stdout)
    assert report["missing"] == []
    statuses: dict[str, dict[str, int]] = report["sinks"]
    return statuses


async def arrived(config: Path, elastic: dict[str, int]) -> None:
    """Wait until all that there is has these statuses at elastic, and was delivered to splunk."""
    wanted = {"elastic": elastic, "splunk": {"delivered": sum(elastic.values())}}

    async def has_arrived() -> bool:
        return await verified(config) == wanted

    await eventually(has_arrived, what=str(wanted))


async def test_what_is_left_out_is_missing_for_no_command_and_a_reload_changes_what_that_is(
    tmp_path: Path,
) -> None:
    async with Sandbox() as sandbox:
        begin = datetime.now(UTC) - timedelta(minutes=50)
        for number in range(12):
            at = begin + timedelta(seconds=number)
            sandbox.bland.add(at, event_type=ACTIONS[number % 3])
        sandbox.elastic.fail_items(400, times=1)  # the newest, which comes first: of a pathway
        config = configured(sandbox, tmp_path, "auth.sso_login")
        async with Daemon(config) as daemon:
            await arrived(config, {"excluded": 4, "delivered": 7, "dead_letter": 1})

            configured(sandbox, tmp_path, "pathway.*")
            daemon.process.send_signal(signal.SIGHUP)
            await eventually(lambda: daemon.logged("reloaded"))
            for action in ACTIONS:
                sandbox.bland.add(datetime.now(UTC), event_type=action)
            await arrived(config, {"excluded": 5, "delivered": 9, "dead_letter": 1})
            replayed = await command(config, "dead-letters", "replay", "--all")
            assert replayed.status == 1
            assert "1 excluded" in replayed.stdout
            assert "elastic is not sent: pathway.*" in (await command(config, "status")).stdout
            assert await daemon.end() == 0

        assert (await command(config, "coverage", "--check")).status == 0
        export, siem = tmp_path / "export", tmp_path / "elastic.csv"
        made = await command(config, "evidence", "export", "--out", str(export), "--uids")
        assert made.status == 0
        stored = sandbox.elastic.stored
        uids = [each["auditrelay"]["uid"] for each in (*stored.documents, *stored.heads)]
        siem.write_text("".join(f"{uid}\n" for uid in uids))
        arguments = ("evidence", "check", str(export), "--siem", f"elastic={siem}", "--json")
        report = json.loads((await command(config, *arguments)).stdout)
        assert [each for each in report["findings"] if each["level"] == "bad"] == []
        said = [each["what"] for each in report["findings"] if each["code"] == "configuration"]
        for part in (
            "sinks.elastic.exclude None -> auth.sso_login",
            "sinks.elastic.exclude auth.sso_login -> pathway.*",
            'sink elastic: 4 events were not sent, as its exclude has "auth.sso_login"',
            'sink elastic: 1 events were not sent, as its exclude has "pathway.*"',
        ):
            assert [part in each for each in said].count(True) == 1, (part, said)
