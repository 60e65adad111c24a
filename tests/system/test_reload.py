"""SIGHUP: the configuration is read again, and only changed sources and sinks are restarted."""

import json
import signal
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
    made,
    missing,
    sinks,
    sources,
)

from auditrelay.sandbox import Sandbox, faults

pytestmark = pytest.mark.process


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox() as sandbox:
        now = datetime.now(UTC)
        for vendor in (sandbox.cekura, sandbox.bland):
            vendor.fill(10, now - timedelta(minutes=50), now - timedelta(minutes=1))
        yield sandbox


async def reload(daemon: Daemon, event: str = "reloaded") -> dict[str, Any]:
    before = len(daemon.logged(event))
    daemon.process.send_signal(signal.SIGHUP)
    await eventually(lambda: len(daemon.logged(event)) > before, what=f"{event}: {daemon.log}")
    return daemon.logged(event)[-1]


async def orphans(config: Path) -> set[str]:
    shown = json.loads((await command(config, "status", "--json")).stdout)
    return {row["name"] for row in (*shown["sources"], *shown["sinks"]) if row.get("orphaned")}


async def test_added_sources_and_sinks_start_and_removed_ones_drain(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    all_sources, all_sinks = sources(sandbox), sinks(sandbox)
    bland = {"bland": all_sources["bland"]}
    two = {name: all_sinks[name] for name in ("splunk", "elastic")}
    config = configure(tmp_path, bland, two)
    async with Daemon(config) as daemon:
        await eventually(lambda: sandbox.splunk.stored.total == 10)

        configure(tmp_path, all_sources, two)
        assert (await reload(daemon))["added"] == ["cekura"]
        await eventually(lambda: sandbox.splunk.stored.total == 20)
        await eventually(lambda: sandbox.elastic.stored.total == 20)

        sandbox.splunk.faults.add(faults.empty(503), times=None)
        late = [vendor.add(datetime.now(UTC)) for vendor in (sandbox.bland, sandbox.cekura)]
        await eventually(lambda: sandbox.elastic.stored.total == 22)
        configure(tmp_path, all_sources, {"elastic": two["elastic"]})
        assert (await reload(daemon))["removed"] == ["splunk"]
        after = sandbox.bland.add(datetime.now(UTC))
        await eventually(lambda: sandbox.elastic.stored.total == 23)
        sandbox.splunk.faults.clear()
        await eventually(lambda: daemon.logged("sink_drained", sink="splunk"))
        assert not sandbox.splunk.stored.lost(late), "its backlog was delivered"
        assert sandbox.splunk.stored.lost([after]), "and no later event"

        configure(tmp_path, bland, two)
        line = await reload(daemon)
        assert (line["added"], line["removed"]) == (["splunk"], ["cekura"])
        requests = sandbox.cekura.requests
        newest = sandbox.bland.add(datetime.now(UTC))
        await eventually(lambda: not sandbox.splunk.stored.lost([newest]))
        assert sandbox.cekura.requests == requests, "it is no longer polled"
        assert sandbox.splunk.stored.repeated() == {}
        assert await daemon.end() == 0


async def test_a_reload_interrupts_nothing_unchanged_and_restarts_what_has_changed(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    tables, targets = sources(sandbox), sinks(sandbox)
    config = configure(tmp_path, tables, targets)
    async with Daemon(config) as daemon:
        await eventually(lambda: not missing(sandbox))
        # A request in flight during the reload is not cancelled by it.
        sandbox.bland.faults.add(faults.delay(1.5))
        requests = sandbox.bland.requests
        await eventually(lambda: sandbox.bland.requests > requests)
        targets["datadog"]["tags"] = ["team:blue"]
        configure(tmp_path, tables, targets)
        line = await reload(daemon)
        assert (line["added"], line["removed"], line["changed"]) == ([], [], ["datadog"])
        for vendor in (sandbox.bland, sandbox.cekura):
            vendor.add(datetime.now(UTC))
        await eventually(lambda: not missing(sandbox))
        assert "team:blue" in str(sandbox.datadog.stored.documents[-1])
        assert not daemon.logged("poll_failed")
        for stored in (sandbox.splunk.stored, sandbox.datadog.stored, sandbox.elastic.stored):
            assert stored.repeated() == {}
            assert stored.total == len(made(sandbox))
        assert await daemon.end() == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("poll_interval", "poll_intervall"),
        ("state_dir", "state_dir cannot change while the service runs"),
        ("listen", "status cannot change while the service runs"),
        ("no sink", "sinks: none is enabled"),
        ("not TOML", "line"),
    ],
)
async def test_a_bad_configuration_changes_nothing_and_says_why(
    sandbox: Sandbox, tmp_path: Path, change: str, message: str
) -> None:
    tables, targets = sources(sandbox), sinks(sandbox)
    config = configure(tmp_path, tables, targets)
    async with Daemon(config) as daemon:
        await eventually(lambda: not missing(sandbox))
        good = config.read_text()
        match change:
            case "poll_interval":
                bad = good.replace("poll_interval", "poll_intervall", 1)
            case "state_dir":
                bad = good.replace('/state"', '/elsewhere"')
            case "listen":
                bad = good.replace("127.0.0.1:0", "127.0.0.1:1")
            case "no sink":
                bad = good[: good.index("[sinks")]
            case _:
                bad = good + "\n[[[\n"
        config.write_text(bad)
        line = await reload(daemon, "reload_refused")
        assert any(message in problem for problem in line["problems"]), line
        assert line["level"] == "error"
        sandbox.bland.add(datetime.now(UTC))
        await eventually(lambda: not missing(sandbox))
        config.write_text(good)
        assert (await reload(daemon))["changed"] == []
        assert await daemon.end() == 0


async def test_orphans_are_shown_and_deleted_by_forget(sandbox: Sandbox, tmp_path: Path) -> None:
    tables, targets = sources(sandbox), sinks(sandbox)
    config = configure(tmp_path, tables, targets)
    assert (await command(config, "run", "--once")).status == 0
    configure(tmp_path, {"bland": tables["bland"]}, {"elastic": targets["elastic"]})
    async with Daemon(config) as daemon:
        assert daemon.logged("source_orphaned", source="cekura")
        assert await orphans(config) == {"cekura", "splunk", "datadog"}
        kept = await command(config, "forget", "bland")
        assert kept.status == 2
        assert "still in the configuration" in kept.stderr
        unknown = await command(config, "forget", "unknown")
        assert unknown.status == 2
        for name in ("cekura", "splunk", "datadog"):
            ended = await command(config, "forget", name)
            assert ended.status == 0, (name, ended.stderr, daemon.log[-3000:])
        assert await orphans(config) == set()
        sandbox.bland.add(datetime.now(UTC))
        await eventually(lambda: not sandbox.elastic.stored.lost(made(sandbox)))
        assert await daemon.end() == 0


async def test_a_backlog_is_deleted_only_with_yes(sandbox: Sandbox, tmp_path: Path) -> None:
    tables, targets = sources(sandbox), sinks(sandbox)
    sandbox.splunk.faults.add(faults.empty(403), times=None)
    config = configure(tmp_path, tables, targets)
    assert (await command(config, "run", "--once")).status == 1
    configure(tmp_path, tables, {"elastic": targets["elastic"]})
    refused = await command(config, "forget", "splunk")
    assert refused.status == 2
    assert "21 events" in refused.stderr
    assert "--yes" in refused.stderr
    assert (await command(config, "forget", "splunk", "--yes")).status == 0
    assert await orphans(config) == {"datadog"}


async def test_the_backlog_of_a_removed_source_is_still_delivered(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    tables, targets = sources(sandbox), sinks(sandbox)
    sandbox.splunk.faults.add(faults.empty(503), times=None)
    config = configure(tmp_path, tables, targets)
    async with Daemon(config) as daemon:
        await eventually(lambda: sandbox.elastic.stored.total == 20)
        configure(tmp_path, {"bland": tables["bland"]}, targets)
        assert (await reload(daemon))["removed"] == ["cekura"]
        assert await daemon.end() == 0
    assert (await command(config, "forget", "cekura")).status == 2, "its backlog would be lost"
    sandbox.splunk.faults.clear()
    assert (await command(config, "run", "--once")).status == 0
    assert not missing(sandbox), "also after a restart"
    assert (await command(config, "forget", "cekura")).status == 0
