"""The service as an operator meets it: a real process, its signals, its answers and its log."""

import asyncio
import contextlib
import json
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from tests.support.daemon import (
    Daemon,
    command,
    configure,
    eventually,
    intakes,
    made,
    missing,
    sinks,
    sources,
)

from auditrelay.clock import Clock
from auditrelay.config import load
from auditrelay.sandbox import Sandbox, Trap, faults
from auditrelay.service import app

pytestmark = pytest.mark.process

METRICS = [
    "auditrelay_events_collected_total",
    "auditrelay_events_duplicate_total",
    "auditrelay_events_late_total",
    "auditrelay_events_delivered_total",
    "auditrelay_events_excluded_total",
    "auditrelay_sent_bytes_total",
    "auditrelay_events_unknown_total",
    "auditrelay_events_possible_duplicate_total",
    "auditrelay_dead_letters_total",
    "auditrelay_dead_letters",
    "auditrelay_source_lag_seconds",
    "auditrelay_source_last_event_timestamp_seconds",
    "auditrelay_source_up",
    "auditrelay_sink_up",
    "auditrelay_gap_seconds_total",
    "auditrelay_sink_backlog_events",
    "auditrelay_sink_oldest_undelivered_seconds",
    "auditrelay_spool_bytes",
    "auditrelay_spool_max_bytes",
    "auditrelay_request_duration_seconds",
    "auditrelay_requests_retried_total",
    "auditrelay_unforeseen_errors_total",
    "auditrelay_event_lateness_seconds",
    "auditrelay_end_to_end_seconds",
    "auditrelay_build_info",
]


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox() as sandbox:
        yield sandbox


def fill(sandbox: Sandbox, count: int = 20) -> None:
    now = datetime.now(UTC)
    for vendor in (sandbox.cekura, sandbox.bland):
        vendor.fill(count // 2, now - timedelta(minutes=50), now - timedelta(minutes=1))


# --- stopping


async def test_sigterm_ends_an_idle_service_with_0(tmp_path: Path, sandbox: Sandbox) -> None:
    fill(sandbox)
    async with Daemon(configure(tmp_path, sources(sandbox), sinks(sandbox))) as daemon:
        await eventually(lambda: not missing(sandbox))
        assert await daemon.end(signal.SIGTERM, within=10) == 0
        assert daemon.lines[-1]["event"] == "stopped"
        assert not [line for line in daemon.lines if line["level"] not in ("debug", "info")]


@pytest.mark.parametrize("hanging", ["splunk", "cekura"])
async def test_sigterm_ends_within_10_seconds_while_a_peer_never_answers(
    tmp_path: Path, sandbox: Sandbox, hanging: str
) -> None:
    fill(sandbox)
    double = getattr(sandbox, hanging)
    method = "POST" if hanging == "splunk" else "GET"
    double.faults.add(faults.hang(), method=method, times=None)
    config = configure(tmp_path, sources(sandbox), sinks(sandbox))
    async with Daemon(config, speed=1) as daemon:
        await eventually(lambda: any(seen.method == method for seen in double.seen))
        began = time.monotonic()
        assert await daemon.end(signal.SIGTERM, within=20) == 0
        assert time.monotonic() - began < 10
        assert daemon.logged("stopped")
        assert "Traceback" not in daemon.log


async def test_requests_in_flight_at_sigterm_are_drained_and_not_sent_again(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    fill(sandbox)
    sandbox.splunk.faults.add(faults.delay(1), method="POST", path="*/event", times=None)
    config = configure(tmp_path, sources(sandbox), sinks(sandbox, linger="0s"))
    daemon = Daemon(config)
    async with daemon:
        splunk = sandbox.splunk
        await eventually(lambda: any(seen.body_bytes for seen in splunk.seen))
        assert await daemon.end(signal.SIGTERM) == 0
    sandbox.splunk.faults.clear()
    ended = await command(config, "run", "--once")
    assert ended.status == 0, ended.stderr
    assert missing(sandbox) == {}
    assert sandbox.splunk.stored.repeated() == {}


async def test_a_second_sigterm_ends_it_at_once(tmp_path: Path, sandbox: Sandbox) -> None:
    fill(sandbox)
    sandbox.splunk.faults.add(faults.hang(), method="POST", times=None)
    async with Daemon(configure(tmp_path, sources(sandbox), sinks(sandbox))) as daemon:
        await eventually(lambda: any(seen.body_bytes for seen in sandbox.splunk.seen))
        daemon.process.send_signal(signal.SIGTERM)
        await eventually(lambda: daemon.logged("stopping"))
        began = time.monotonic()
        assert await daemon.end(signal.SIGTERM) == -signal.SIGTERM
        assert time.monotonic() - began < 2


# --- while the service runs


async def test_a_second_instance_ends_with_3_and_names_the_process_that_has_locked_the_state(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    config = configure(tmp_path, sources(sandbox), sinks(sandbox))
    async with Daemon(config) as daemon:
        for arguments in (["run"], ["run", "--once"]):
            ended = await command(config, *arguments)
            assert ended.status == 3
            assert f"process {daemon.process.pid} " in ended.stderr
            assert str(tmp_path / "state") in ended.stderr
            assert "Traceback" not in ended.stderr
        await daemon.get("/healthz")


async def test_the_other_commands_work_while_the_service_runs_and_without_it(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    fill(sandbox)
    recorded = set(sandbox.cekura.records.ids())
    sandbox.elastic.fail_items(400, kind="document_parsing_exception", reason="a field is odd")
    config = configure(tmp_path, sources(sandbox), sinks(sandbox))

    async def run_commands(*, heads: int) -> None:
        state, table, checked, letters, sampled = await asyncio.gather(
            command(config, "status", "--json"),
            command(config, "status"),
            command(config, "check"),
            command(config, "dead-letters", "list", "--json"),
            command(config, "sample", "cekura", "--as", "raw", "--count", "1"),
        )
        report = json.loads(state.stdout)
        assert {row["name"]: row["up"] for row in report["sources"]} == {
            "cekura": True,
            "bland": True,
        }
        assert {row["name"]: row["backlog_events"] for row in report["sinks"]} == {
            "splunk": heads,
            "datadog": heads,
            "elastic": heads,
        }
        for ended in (table, checked):
            assert ended.status == 0, ended
            assert "splunk" in ended.stdout
        (letter,) = json.loads(letters.stdout)
        assert (letter["sink"], letter["status"]) == ("elastic", 400)
        assert "a field is odd" in letter["message"]
        assert str(json.loads(sampled.stdout)["id"]) in recorded
        shown = await command(config, "dead-letters", "show", str(letter["id"]))
        assert json.loads(shown.stdout)["uid"] == letter["uid"]

    async def settled() -> bool:
        """Return whether it is stored, too, that the sinks have everything."""
        rows = (await daemon.get("/api/status")).json()["sinks"]
        return not any(row["backlog_events"] for row in rows)

    async with Daemon(config) as daemon:
        await eventually(lambda: daemon.logged("event_dead_lettered"))
        await eventually(lambda: not sandbox.splunk.stored.lost(made(sandbox)))
        await eventually(lambda: not sandbox.datadog.stored.lost(made(sandbox)))
        await eventually(lambda: all(each.heads for each in intakes(sandbox).values()))
        await eventually(settled)
        await run_commands(heads=0)
        assert await daemon.end() == 0
    await run_commands(heads=1)  # that of the stop waits for the next start


async def test_the_status_port_shows_the_same_as_the_status_command(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    config = configure(tmp_path, sources(sandbox), sinks(sandbox))
    async with Daemon(config) as daemon:
        port = (await daemon.get("/api/status")).json()
        printed = json.loads((await command(config, "status", "--json")).stdout)
        page = await daemon.get("/")
    assert port.keys() == printed.keys()
    assert {"version", "sources", "sinks", "spool"} < port.keys()
    for kind in ("sources", "sinks"):
        assert [row.keys() for row in port[kind]] == [row.keys() for row in printed[kind]]
        assert [row["name"] for row in port[kind]] == [row["name"] for row in printed[kind]]
    assert page.status_code == 200
    for name in ("cekura", "bland", "splunk", "datadog", "elastic"):
        assert name in page.text


async def test_it_is_ready_once_every_source_and_sink_has_worked_and_names_the_others(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    await sandbox.splunk.stop()
    async with Daemon(configure(tmp_path, sources(sandbox), sinks(sandbox))) as daemon:
        assert (await daemon.get("/healthz")).status_code == 200
        unready = await daemon.get("/readyz")
        assert unready.status_code == 503

        async def reasons() -> list[str]:
            found: list[str] = (await daemon.get("/readyz")).json()["reasons"]
            return found

        async def only_splunk() -> bool:
            return [reason.partition(" ")[0] for reason in await reasons()] == ["splunk"]

        await eventually(only_splunk)
        assert "splunk has not succeeded since the start" in (await reasons())[0]
        await sandbox.splunk.start()

        async def ready() -> bool:
            return (await daemon.get("/readyz")).status_code == 200

        await eventually(ready, what="probed again although the vendors record nothing")
        assert await daemon.metric("auditrelay_sink_up", sink="splunk") == 1


async def test_every_metric_is_there_before_its_first_event(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    for double in (sandbox.cekura, sandbox.bland, sandbox.splunk, sandbox.datadog, sandbox.elastic):
        double.faults.add(faults.hang(), times=None)
    async with Daemon(configure(tmp_path, sources(sandbox), sinks(sandbox))) as daemon:
        text = (await daemon.get("/metrics")).text
        assert await daemon.metric("auditrelay_spool_max_bytes") == 2 << 30
        async with httpx.AsyncClient(trust_env=False, verify=False) as client:
            accept = {"Accept": "application/openmetrics-text;version=1.0.0"}
            strict = await client.get(f"{daemon.address}/metrics", headers=accept)
    assert strict.headers["content-type"].startswith("application/openmetrics-text")
    assert strict.text.endswith("# EOF\n")
    declared = set(re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE))
    assert [name for name in METRICS if name not in declared] == []
    for series in (
        'auditrelay_events_delivered_total{sink="splunk",source="cekura"} 0.0',
        'auditrelay_source_up{source="bland"} 0.0',
        'auditrelay_dead_letters{sink="elastic"} 0.0',
    ):
        assert series in text


# --- run --once


async def test_a_catch_up_without_errors_ends_with_0_and_a_second_one_sends_nothing(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    fill(sandbox)
    config = configure(tmp_path, sources(sandbox), sinks(sandbox))
    for _ in range(2):
        ended = await command(config, "run", "--once")
        assert ended.status == 0, ended.stderr
        assert missing(sandbox) == {}
        assert [line["source"] for line in ended.lines if line["event"] == "window_collected"]
    for name, stored in intakes(sandbox).items():
        assert stored.total == len(made(sandbox)), name


async def test_a_catch_up_ends_with_1_when_a_sink_is_down_and_the_others_get_everything(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    fill(sandbox)
    config = configure(tmp_path, sources(sandbox), sinks(sandbox))
    await sandbox.splunk.stop()
    ended = await command(config, "run", "--once", within=40)
    assert ended.status == 1
    assert "auditrelay: splunk: " in ended.stderr
    assert "Traceback" not in ended.stderr
    assert missing(sandbox).keys() == {"splunk"}
    await sandbox.splunk.start()
    assert (await command(config, "run", "--once")).status == 0
    assert missing(sandbox) == {}


async def test_a_catch_up_ends_although_the_spool_is_full_for_a_sink_that_is_down(
    tmp_path: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(sandbox, 160)
    tables = sources(sandbox, page_size=20)
    path = configure(tmp_path, tables, sinks(sandbox), spool={"max_bytes": "8KB"})
    await sandbox.splunk.stop()
    monkeypatch.setattr(app, "ROOM_PATIENCE", timedelta(seconds=2))
    async with app.App.open(load(path, {}), Clock(), attempts=2) as instance, asyncio.timeout(90):
        failures = await instance.once()
    assert sorted(failure.partition(":")[0] for failure in failures) == [
        "bland",
        "cekura",
        "splunk",
    ]
    await sandbox.splunk.start()
    assert (await command(path, "run", "--once")).status == 0
    assert missing(sandbox) == {}


async def test_a_catch_up_ends_with_1_when_a_source_refuses_and_the_other_is_read(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    fill(sandbox)
    tables = sources(sandbox)
    tables["bland"]["api_key"] = "a key that was never valid"
    ended = await command(configure(tmp_path, tables, sinks(sandbox)), "run", "--once")
    assert ended.status == 1
    assert "auditrelay: bland: 401" in ended.stderr
    assert "never valid" not in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not sandbox.splunk.stored.lost(sandbox.cekura.records.ids())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"polling_interval": "1s"}, "sources.cekura.polling_interval"),
        ({"overlap": "31d"}, "sources.cekura"),
        ({"api_key": "${env:NOT_THERE_AT_ALL}"}, "NOT_THERE_AT_ALL"),
        ({"base_url": "http://audit.example.com"}, "https"),
    ],
)
async def test_a_bad_configuration_ends_with_2_and_says_what_to_fix(
    tmp_path: Path, sandbox: Sandbox, change: dict[str, str], message: str
) -> None:
    tables = sources(sandbox)
    tables["cekura"] |= change
    ended = await command(configure(tmp_path, tables, sinks(sandbox)), "run", "--once")
    assert ended.status == 2
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "state").exists()


async def test_a_port_that_is_taken_ends_with_2(tmp_path: Path, sandbox: Sandbox) -> None:
    config = configure(
        tmp_path,
        sources(sandbox),
        sinks(sandbox),
        status={"listen": f"127.0.0.1:{sandbox.splunk.port}"},
    )
    ended = await command(config, "run")
    assert ended.status == 2
    assert f"127.0.0.1:{sandbox.splunk.port}" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("damage", ["empty", "text", "torn"])
async def test_a_damaged_state_ends_with_3_and_is_left_as_it_is(
    tmp_path: Path, sandbox: Sandbox, damage: str
) -> None:
    fill(sandbox)
    config = configure(tmp_path, sources(sandbox), sinks(sandbox))
    state = tmp_path / "state" / "state.db"
    if damage == "torn":
        assert (await command(config, "run", "--once")).status == 0
        whole = state.read_bytes()
        state.write_bytes(whole[:4096] + b"\xff" * 8192 + whole[12288:])
    else:
        state.parent.mkdir(mode=0o700)
        state.write_bytes(b"" if damage == "empty" else b"this is a letter, not a database" * 99)
    before = state.read_bytes()
    ended = await command(config, "run", "--once")
    assert ended.status == 3, ended
    assert "state.db" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert state.read_bytes() == before


# --- credentials


async def test_a_key_that_is_rotated_in_its_file_is_used_without_a_restart(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    old, new = tmp_path / "cekura.key", tmp_path / "splunk.token"
    old.write_text(sandbox.cekura.api_key + "\n")
    new.write_text(sandbox.splunk.token + "\n")
    source_tables, sink_tables = sources(sandbox), sinks(sandbox)
    source_tables["cekura"]["api_key"] = f"${{file:{old}}}"
    sink_tables["splunk"]["token"] = f"${{file:{new}}}"
    fill(sandbox)
    async with Daemon(configure(tmp_path, source_tables, sink_tables)) as daemon:
        await eventually(lambda: not missing(sandbox))
        old.write_text("the-second-key\n")
        new.write_text("22222222-0000-4000-8000-000000000002\n")
        sandbox.cekura.rotate("the-second-key")
        sandbox.splunk.rotate("22222222-0000-4000-8000-000000000002")
        sandbox.cekura.add(datetime.now(UTC))
        await eventually(lambda: not missing(sandbox))
        assert not daemon.logged("sink_held")
        assert not daemon.logged("source_held")
        assert sandbox.cekura.answered[401] + sandbox.cekura.answered[403] == 1
        assert await daemon.end() == 0


async def test_a_sink_that_answers_403_is_held_once_and_nothing_is_dropped(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    token = tmp_path / "token"
    token.write_text(sandbox.splunk.token)
    tables = sinks(sandbox)
    tables["splunk"]["token"] = f"${{file:{token}}}"
    sandbox.splunk.rotate("33333333-0000-4000-8000-000000000003")
    fill(sandbox)
    async with Daemon(configure(tmp_path, sources(sandbox), tables)) as daemon:
        await eventually(lambda: missing(sandbox).keys() == {"splunk"})
        await eventually(lambda: daemon.logged("sink_held", sink="splunk"))
        assert "splunk is blocked, action required" in (await daemon.get("/readyz")).text

        async def everything_waits() -> bool:
            rows = (await daemon.get("/api/status")).json()["sinks"]
            (row,) = [row for row in rows if row["name"] == "splunk"]
            assert (row["held"], row["dead_letters"]) == (True, 0)
            return bool(row["backlog_events"] == 21)

        await eventually(everything_waits, what="20 events and the head of the first seal")
        sandbox.cekura.add(datetime.now(UTC))
        await eventually(lambda: not sandbox.elastic.stored.lost(made(sandbox)))
        token.write_text("33333333-0000-4000-8000-000000000003")
        await eventually(lambda: not missing(sandbox), what="released")
        assert len(daemon.logged("sink_held")) == 1
        assert len(daemon.logged("sink_released")) == 1
        assert not daemon.logged("event_dead_lettered")
        assert sandbox.splunk.stored.repeated() == {}
        assert await daemon.end() == 0


async def test_a_source_that_refuses_is_held_until_its_key_is_fixed(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    key = tmp_path / "key"
    key.write_text("not-the-key")
    tables = sources(sandbox)
    tables["bland"]["api_key"] = f"${{file:{key}}}"
    fill(sandbox)
    async with Daemon(configure(tmp_path, tables, sinks(sandbox))) as daemon:
        await eventually(lambda: sandbox.bland.answered[401] >= 3)
        key.write_text(sandbox.bland.api_key)
        await eventually(lambda: not missing(sandbox))
        assert len(daemon.logged("source_held", source="bland")) == 1
        assert len(daemon.logged("source_released", source="bland")) == 1
        assert await daemon.end() == 0


async def test_a_sink_that_redirects_is_held_and_the_target_gets_nothing(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    fill(sandbox)
    async with Trap() as trap:
        for double in (sandbox.splunk, sandbox.cekura):
            double.faults.add(faults.redirect(trap.url, 307), times=None)
        async with Daemon(configure(tmp_path, sources(sandbox), sinks(sandbox))) as daemon:
            await eventually(lambda: daemon.logged("sink_held", sink="splunk"))
            await eventually(lambda: daemon.logged("source_held", source="cekura"))
            await eventually(lambda: not sandbox.elastic.stored.lost(sandbox.bland.records.ids()))
            sandbox.splunk.faults.clear()
            sandbox.cekura.faults.clear()
            await eventually(lambda: not missing(sandbox))
            assert await daemon.end() == 0
        assert trap.caught == []


# --- the disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 5 MB, if the test may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def enlarge(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)


async def test_a_full_disk_pauses_polling_and_delivery_continues(
    tmp_path: Path, sandbox: Sandbox, disk: Path
) -> None:
    now, rng = datetime.now(UTC), random.Random(5)
    for number in range(1500):
        noise = rng.randbytes(2000).hex()  # hardly compressible
        sandbox.bland.add(now - timedelta(seconds=3000 - number), metadata={"note": noise})
    await sandbox.splunk.stop()  # so that no event may be pruned
    tables = sources(sandbox, page_size=20)
    del tables["cekura"]
    config = configure(tmp_path, tables, sinks(sandbox), state_dir=str(disk / "state"))
    async with Daemon(config) as daemon:
        await eventually(lambda: daemon.logged("polling_paused"))
        assert (await daemon.get("/healthz")).status_code == 200
        spooled = await daemon.metric("auditrelay_events_collected_total", source="bland")
        assert 0 < spooled < 1500
        await eventually(lambda: sandbox.elastic.stored.total == spooled)

        async def is_shown() -> bool:
            row = json.loads((await command(config, "status", "--json")).stdout)["sources"][0]
            return "polling is paused" in (row["last_error"] or "")

        await eventually(is_shown)
        enlarge(disk)
        await sandbox.splunk.start()
        await eventually(lambda: not missing(sandbox), what="resumed")
        assert daemon.logged("polling_resumed")
        assert "Traceback" not in daemon.log
        assert await daemon.end() == 0
    for name, stored in intakes(sandbox).items():
        assert stored.total == len(made(sandbox)), name


async def test_sigterm_ends_it_while_the_disk_is_full(
    tmp_path: Path, sandbox: Sandbox, disk: Path
) -> None:
    fill(sandbox)
    config = configure(tmp_path, sources(sandbox), sinks(sandbox), state_dir=str(disk / "state"))
    async with Daemon(config, speed=1) as daemon:
        await eventually(lambda: not missing(sandbox))
        with contextlib.suppress(OSError):
            (disk / "hog").write_bytes(bytes(5 << 20))
        for _ in range(400):
            sandbox.bland.add(datetime.now(UTC), metadata={"note": random.randbytes(2000).hex()})
        await eventually(lambda: daemon.logged("polling_paused"))
        assert await daemon.end(within=12) == 0
        assert "Traceback" not in daemon.log
    (disk / "hog").unlink()
    assert (await command(config, "run", "--once")).status == 0
    assert missing(sandbox) == {}


@pytest.mark.parametrize("descriptors", [64, 1024])
async def test_idle_clients_of_the_status_port_stop_no_event(
    tmp_path: Path, sandbox: Sandbox, descriptors: int
) -> None:
    limited = ("sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh")
    config = configure(tmp_path, sources(sandbox), sinks(sandbox))
    async with Daemon(config, program=(*limited, sys.executable, "-m", "auditrelay")) as daemon:
        await eventually(lambda: not missing(sandbox))
        before, url = len(daemon.log), httpx.URL(daemon.address)
        clients = [await asyncio.open_connection(url.host, url.port) for _ in range(1100)]
        for _, writer in clients:
            writer.write(b"GET / HTTP/1.1\r\nHost: ")
        sandbox.bland.add(datetime.now(UTC))
        await eventually(lambda: not missing(sandbox), within=10)
        assert (await daemon.get("/healthz")).status_code == 200
        assert len(daemon.log) - before < 10_000
        for _, writer in clients:
            writer.close()
