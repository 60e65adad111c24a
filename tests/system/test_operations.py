"""The commands backfill, verify, coverage and dead-letters, with a running service and without."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

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

from auditrelay.sandbox import Sandbox, faults
from auditrelay.store.sql import evidence
from auditrelay.store.sqlite.store import open_view

pytestmark = pytest.mark.process

DAY = timedelta(days=1)


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox() as sandbox:
        yield sandbox


def iso(at: datetime) -> str:
    return at.isoformat()


def only_bland(sandbox: Sandbox, **changes: Any) -> dict[str, Any]:
    tables = sources(sandbox, **changes)
    del tables["cekura"]
    return tables


@pytest.mark.parametrize("service", [True, False])
async def test_a_backfill_forwards_a_past_range_once(
    sandbox: Sandbox, tmp_path: Path, service: bool
) -> None:
    now = datetime.now(UTC)
    old = sandbox.bland.fill(300, now - 9 * DAY, now - 8 * DAY)
    sandbox.bland.fill(5, now - timedelta(minutes=30), now - timedelta(minutes=1))
    config = configure(tmp_path, only_bland(sandbox), sinks(sandbox))
    arguments = ("backfill", "bland", "--from", iso(now - 10 * DAY), "--to", iso(now - 7 * DAY))
    if service:
        async with Daemon(config) as daemon:
            await eventually(lambda: sandbox.elastic.stored.total == 5)
            counted = await command(config, *arguments, "--dry-run")
            assert "300 events" in counted.stdout
            assert "300 of them were never forwarded" in counted.stdout
            ended = await command(config, *arguments)
            assert ended.status == 0, ended.stderr
            await eventually(lambda: not any(missing(sandbox)))
            again = await command(config, *arguments)
            assert "300 events, 0 forwarded" in again.stdout
            assert await daemon.end() == 0
    else:
        assert (await command(config, "run", "--once")).status == 0
        assert (await command(config, *arguments)).status == 0
    assert not missing(sandbox)
    for name, stored in intakes(sandbox).items():
        assert stored.total == 305, name
    marked = [text for text in map(json.dumps, sandbox.elastic.stored.documents) if old[0] in text]
    assert '"backfill": true' in marked[0]
    shown = json.loads((await command(config, "coverage", "bland", "--json")).stdout)
    covered = [span for span in shown["spans"] if span["start"] < iso(now - 7 * DAY)]
    assert sum(span["events"] for span in covered) == 300
    assert {span["state"] for span in covered} == {"covered"}
    assert any(record["via"] == "backfill" for record in shown["journal"])
    assert shown["deleted_at_source"] == 0


async def test_an_interrupted_backfill_continues_where_it_stopped(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    sandbox.bland.fill(400, now - 9 * DAY, now - 5 * DAY)
    config = configure(tmp_path, only_bland(sandbox), sinks(sandbox))
    arguments = ("backfill", "bland", "--from", iso(now - 9 * DAY), "--to", iso(now - 5 * DAY))
    async with Daemon(config) as daemon:
        sandbox.bland.faults.add(faults.delay(0.05), times=None)
        process = await asyncio.create_subprocess_exec(
            *(
                sys.executable,
                "-m",
                "auditrelay",
                "-c",
                str(config),
                *arguments,
                "--concurrency",
                "1",
            ),
            stderr=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=daemon._environ,
        )
        await eventually(lambda: len(daemon.logged("slice_backfilled")) >= 10)
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
        assert process.returncode == 1
        assert b"resumes from there" in err
        assert b"Traceback" not in err
        sandbox.bland.faults.clear()
        before = len(daemon.logged("slice_backfilled"))
        assert before < 60
        ended = await command(config, *arguments)
        assert "resumed where an earlier run stopped" in ended.stdout
        after = len(daemon.logged("slice_backfilled"))
        assert after <= 66, "finished slices are not read again"
        assert daemon.process.returncode is None, "the service continues"
        await eventually(lambda: not any(missing(sandbox)))
    assert sandbox.elastic.stored.total == 400


async def test_a_backfill_into_one_sink_fills_that_sink_alone(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    sandbox.bland.fill(60, now - timedelta(minutes=50), now - timedelta(minutes=2))
    config = configure(tmp_path, only_bland(sandbox), sinks(sandbox))
    assert (await command(config, "run", "--once")).status == 0
    arguments = ("backfill", "bland", "--from", "2h", "--sink", "splunk")
    assert (await command(config, *arguments)).status == 0
    assert sandbox.splunk.stored.total == 120
    assert sandbox.datadog.stored.total == 60
    assert sandbox.elastic.stored.total == 60


async def test_verify_finds_what_is_missing_and_repairs_it(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    sandbox.bland.fill(40, now - timedelta(minutes=50), now - timedelta(minutes=10))
    config = configure(tmp_path, only_bland(sandbox), sinks(sandbox))
    assert (await command(config, "run", "--once")).status == 0
    arguments = ("verify", "bland", "--from", iso(now - timedelta(minutes=55)))
    whole = await command(config, *arguments, "--json")
    report = json.loads(whole.stdout)
    assert (whole.status, report["checked"], report["missing"]) == (0, 40, [])
    assert report["digest_at_source"] == report["digest_forwarded"]
    assert report["sinks"]["splunk"] == {"delivered": 40}

    lost = sandbox.bland.add(now - timedelta(minutes=30))
    found = await command(config, *arguments, "--json")
    assert found.status == 1
    (row,) = json.loads(found.stdout)["missing"]
    assert row["native_id"] == lost
    assert row["sinks"] == ["splunk", "datadog", "elastic"]
    assert row["gap"] is None
    assert (await command(config, *arguments, "--repair")).status == 0
    assert (await command(config, *arguments)).status == 0
    assert not missing(sandbox)
    assert sandbox.splunk.stored.total == 41


async def test_verify_at_sink_searches_in_elasticsearch(sandbox: Sandbox, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    sandbox.bland.fill(10, now - timedelta(minutes=50), now - timedelta(minutes=10))
    config = configure(tmp_path, only_bland(sandbox), sinks(sandbox))
    assert (await command(config, "run", "--once")).status == 0
    index = sandbox.elastic.indices["logs-auditrelay.bland-default"]
    _, gone, _ = index.documents.pop()
    index.ids.remove(gone)
    arguments = ("verify", "bland", "--from", "55m")
    assert (await command(config, *arguments)).status == 0
    found = await command(config, *arguments, "--at-sink", "--json")
    report = json.loads(found.stdout)
    assert found.status == 1
    assert [row["uid"] for row in report["missing"]] == [gone]
    assert report["missing"][0]["sinks"] == ["elastic"]
    printed = await command(config, *arguments, "--at-sink")
    assert "elastic: 9 delivered, 1 missing at the sink" in printed.stdout
    assert (await command(config, *arguments, "--at-sink", "--repair")).status == 0
    assert (await command(config, *arguments, "--at-sink")).status == 0
    assert sandbox.splunk.stored.total == 10, "no other sink got the events again"


async def test_an_edited_ledger_is_detected(sandbox: Sandbox, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    sandbox.bland.fill(10, now - timedelta(minutes=50), now - timedelta(minutes=10))
    config = configure(tmp_path, only_bland(sandbox), sinks(sandbox))
    assert (await command(config, "run", "--once")).status == 0
    intact = await codes(config)
    state = tmp_path / "state" / "state.db"
    for edit in (
        "drop trigger entry_is_not_updated; update entry set text = replace(text, 'poll', 'file')",
        "update coverage set events = events - 1",
        "update coverage set start = start - 3600000000",
        "delete from known where key = (select min(key) from known)",
    ):
        shutil.copytree(state.parent, tmp_path / "kept")
        with contextlib.closing(sqlite3.connect(state)) as db:
            db.executescript(edit)
        assert await codes(config) != intact, edit
        shutil.rmtree(state.parent)
        (tmp_path / "kept").rename(state.parent)
    assert await codes(config) == intact


async def codes(config: Path) -> list[str]:
    """Return the codes of what ``coverage --check`` finds."""
    checked = json.loads((await command(config, "coverage", "--check", "--json")).stdout)
    return [each["code"] for each in checked["findings"]]


@pytest.mark.parametrize("service", [True, False])
async def test_dead_letters_are_replayed_to_their_own_sink_or_dropped(
    sandbox: Sandbox, tmp_path: Path, service: bool
) -> None:
    now = datetime.now(UTC)
    sandbox.bland.fill(4, now - timedelta(minutes=50), now - timedelta(minutes=10))
    elastic = sandbox.elastic
    elastic.fail_items(400, times=2)
    config = configure(tmp_path, only_bland(sandbox), sinks(sandbox))
    assert (await command(config, "run", "--once")).status == 0
    listed = json.loads((await command(config, "dead-letters", "list", "--json")).stdout)
    assert [row["sink"] for row in listed] == ["elastic", "elastic"]
    daemon = Daemon(config)
    if service:
        await daemon.start()
    nothing = await command(config, "dead-letters", "replay")
    assert nothing.status == 2
    one = str(listed[0]["id"])
    replayed = await command(config, "dead-letters", "replay", "--id", one)
    assert (replayed.status, replayed.stdout) == (0, "1 delivered\n")
    again = await command(config, "dead-letters", "replay", "--id", one)
    assert (again.status, again.stdout) == (0, "no dead letter matches\n")
    assert elastic.stored.total == 3 + 2, "and a reduced copy of each refused one"
    assert sandbox.splunk.stored.total == 4
    dropped = await command(config, "dead-letters", "drop", "--all")
    assert dropped.stdout == "1 dropped\n"
    assert json.loads((await command(config, "dead-letters", "list", "--json")).stdout) == []
    checked = await command(config, "verify", "bland", "--from", "55m", "--json")
    statuses = json.loads(checked.stdout)["sinks"]["elastic"]
    assert statuses == {"delivered": 3, "dropped": 1}
    if service:
        assert await daemon.end() == 0


async def test_a_row_of_a_file_that_is_not_a_record_is_dead_lettered(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    exports = tmp_path / "exports"
    exports.mkdir()
    day = datetime.now(UTC).date().isoformat()
    header = (
        "Timestamp,Category,Action,Resource Type,Resource ID,Project ID,Actor,IP Address,"
        "Description,Metadata"
    )
    good = "2026-11-01T10:00:00.000Z,project,created,project,p1,-,dana@acme.example,-,Made,-"
    export = exports / f"audit-log-acme-7d-{day}.csv"
    export.write_bytes(f"{header}\nno,record\n{good}".encode())
    old = datetime.now(UTC).timestamp() - 3600
    os.utime(export, (old, old))
    table = {"type": "cencori", "mode": "files", "directory": str(exports)}
    config = configure(tmp_path, {"labs": table}, sinks(sandbox))
    ran = await command(config, "run", "--once")
    assert ran.status == 0, ran.stderr
    assert sandbox.elastic.stored.total == 1
    (row,) = json.loads((await command(config, "dead-letters", "list", "--json")).stdout)
    assert (row["sink"], row["source"], row["reason"]) == (None, "labs", "bad_row")
    assert row["message"].startswith(f"{export.name}, line 2: ")
    shown = json.loads((await command(config, "status", "--json")).stdout)
    assert shown["sources"][0]["dead_letters"] == 1
    assert any("labs" in finding["what"] for finding in shown["findings"])
    assert (await command(config, "run", "--once")).status == 0
    assert len(json.loads((await command(config, "dead-letters", "list", "--json")).stdout)) == 1
    replayed = await command(config, "dead-letters", "replay", "--all")
    assert (replayed.status, replayed.stdout) == (0, "1 forwarded\n")
    for stored in intakes(sandbox).values():
        assert stored.total == 2, "the row is forwarded unchanged, to every sink"
    assert export.exists()


async def test_an_event_in_a_gap_is_missing_with_that_reason_until_a_backfill(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    sandbox.bland.fill(3, now - timedelta(minutes=55), now - timedelta(minutes=40))
    config = configure(
        tmp_path,
        only_bland(sandbox, initial_lookback="1h", catch_up_limit="30m"),
        sinks(sandbox),
    )
    assert (await command(config, "run", "--once")).status == 0
    arguments = ("verify", "bland", "--from", iso(now - timedelta(minutes=58)))
    found = await command(config, *arguments, "--json")
    assert found.status == 1
    assert {row["gap"] for row in json.loads(found.stdout)["missing"]} == {"catch_up_limit"}
    assert "in a gap: catch_up_limit" in (await command(config, *arguments)).stdout
    until = ("--to", iso(now - timedelta(minutes=20)))
    assert (await command(config, "backfill", "bland", "--from", "2h", *until)).status == 0
    assert (await command(config, *arguments)).status == 0
    shown = (await command(config, "coverage", "bland")).stdout
    day = now.date().isoformat()
    assert sum(f"{day} backfill filled" in line for line in shown.splitlines()) == 1, shown
    assert not missing(sandbox)


async def test_a_backfill_first_shows_how_datadog_will_treat_old_events(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    config = configure(tmp_path, only_bland(sandbox), sinks(sandbox))
    ended = await command(config, "backfill", "bland", "--from", "3d")
    assert ended.status == 0
    first = next(line for line in ended.stderr.splitlines() if line.startswith("note: "))
    assert "datadog: " in first


@pytest.mark.parametrize("once", [True, False])
async def test_a_head_that_a_command_has_sealed_is_sent_by_the_next_run(
    sandbox: Sandbox, tmp_path: Path, once: bool
) -> None:
    now = datetime.now(UTC)
    sandbox.bland.fill(5, now - timedelta(minutes=30), now - timedelta(minutes=5))
    config = configure(tmp_path, only_bland(sandbox), sinks(sandbox))
    assert (await command(config, "run", "--once")).status == 0

    def waiting() -> dict[str, list[str]]:
        """Return by sink the heads that it lacks."""
        with open_view(tmp_path / "state") as view:
            words = [head.word for head in view.read(evidence.heads)]
        stored = {name: json.dumps(each.heads) for name, each in intakes(sandbox).items()}
        return {
            name: lacks
            for name, text in stored.items()
            if (lacks := [word for word in words if word not in text])
        }

    assert waiting() == {}
    ended = await command(config, "verify", "bland", "--from", iso(now - timedelta(hours=1)))
    assert ended.status == 0, ended.stderr
    left = waiting()
    assert left.keys() == intakes(sandbox).keys(), "the command has sealed, and sends no more"
    [word] = left["elastic"]
    if once:
        assert (await command(config, "run", "--once")).status == 0
    else:
        async with Daemon(config) as daemon:
            await eventually(lambda: all(word not in lacks for lacks in waiting().values()))
            assert await daemon.end() == 0
    assert all(word not in lacks for lacks in waiting().values())
