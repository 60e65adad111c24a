"""The files of each store of secrets (docs/secrets.md), rotated beside a running daemon."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.support.daemon import Daemon, command, configure, eventually, missing, sinks, sources
from tests.support.secret_stores import Layout, Projected, Renamed

from auditrelay.sandbox import Sandbox

pytestmark = pytest.mark.process

POD = {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}
"""What the kubelet sets in every container."""


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox() as sandbox:
        yield sandbox


@dataclass(frozen=True, slots=True)
class Store:
    """How one product lays its files out, and what it puts behind a secret."""

    layout: Callable[[Path, int], Layout]
    mode: int
    end: str


STORES = {
    # What the store has, byte for byte; a line end is there if it was put in.
    "a Secret of External Secrets": Store(Projected, 0o440, ""),
    "a Secret from a file with a line end": Store(Projected, 0o440, "\n"),
    "CSI with Azure or Google": Store(Projected, 0o644, ""),
    "CSI with AWS": Store(Renamed, 0o644, ""),
    # A template has a line end where its text has one.
    "Vault Agent": Store(Renamed, 0o400, "\n"),
}
TOKENS = [f"{number}{number * 7:07d}-0000-4000-8000-000000000000" for number in range(1, 4)]


@pytest.mark.parametrize("name", STORES)
async def test_a_secret_is_rotated_beside_the_running_daemon_and_no_event_is_lost(
    name: str, tmp_path: Path, sandbox: Sandbox
) -> None:
    store = STORES[name]
    folder = tmp_path / "secrets"
    layout = store.layout(folder, store.mode)

    def bring(number: int) -> None:
        key, token = f"the-key-number-{number}", TOKENS[number]
        layout.write({"cekura_api_key": key + store.end, "splunk_hec_token": token + store.end})

    def revoke(number: int) -> None:
        """From now on only the secrets of this number are right."""
        sandbox.cekura.rotate(f"the-key-number-{number}")
        sandbox.splunk.rotate(TOKENS[number])

    bring(0)
    revoke(0)
    source_tables, sink_tables = sources(sandbox, of=["cekura"]), sinks(sandbox)
    source_tables["cekura"]["api_key"] = f"${{file:{folder}/cekura_api_key}}"
    sink_tables = {
        "splunk": {**sink_tables["splunk"], "token": f"${{file:{folder}/splunk_hec_token}}"}
    }

    def lost() -> list[str]:
        return missing(sandbox).get("splunk", [])

    for minutes in range(5):
        sandbox.cekura.add(datetime.now(UTC) - timedelta(minutes=minutes))
    path = configure(tmp_path, source_tables, sink_tables)
    async with Daemon(path, environ=POD) as daemon:
        await eventually(lambda: not lost())
        assert not daemon.logged("configuration_warning")

        # As it should be: the new secret is there before the old one ends.
        bring(1)
        revoke(1)
        sandbox.cekura.add(datetime.now(UTC))
        await eventually(lambda: not lost())
        assert sandbox.cekura.answered[401] + sandbox.cekura.answered[403] == 1
        assert not daemon.logged("source_held")
        assert not daemon.logged("sink_held")

        # As it often is: the old one ends, and the store is minutes behind.
        revoke(2)
        sandbox.cekura.add(datetime.now(UTC))
        await eventually(lambda: daemon.logged("source_held"))
        bring(2)
        await eventually(lambda: not lost())
        await eventually(lambda: daemon.logged("source_released"))
        assert not daemon.logged("event_dead_lettered")
        assert sandbox.splunk.stored.repeated() == {}
        assert await daemon.end() == 0


async def test_a_new_secret_that_cannot_be_used_is_named_and_the_old_one_stays(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    folder = tmp_path / "secrets"
    layout = Renamed(folder, 0o400)
    layout.write({"key": sandbox.cekura.api_key})
    tables = sources(sandbox, of=["cekura"])
    tables["cekura"]["api_key"] = f"${{file:{folder}/key}}"
    async with Daemon(configure(tmp_path, tables, sinks(sandbox))) as daemon:
        await eventually(lambda: daemon.logged("window_collected"))
        sandbox.cekura.rotate("the-second-key")
        # What a template without a dash makes, and what the injector writes without a template.
        layout.write({"key": "\nthe-second-key\n"})
        await eventually(lambda: daemon.logged("secret_not_read"))
        said = daemon.logged("secret_not_read")[0]
        assert said["references"] == [f"${{file:{folder}/key}}"]
        assert "a line end" in said["reason"]
        assert "the-second-key" not in daemon.log
        sandbox.cekura.add(datetime.now(UTC))
        layout.write({"key": "the-second-key\n"})
        await eventually(lambda: not missing(sandbox))
        assert await daemon.end() == 0


async def test_a_secret_with_a_line_end_before_it_is_refused_at_the_start(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    layout = Renamed(tmp_path / "secrets", 0o400)
    layout.write({"key": "\nthe-key\n"})
    tables = sources(sandbox, of=["cekura"])
    tables["cekura"]["api_key"] = f"${{file:{tmp_path}/secrets/key}}"
    ended = await command(configure(tmp_path, tables, sinks(sandbox)), "check", "--offline")
    assert ended.status == 2
    assert "sources.cekura.api_key" in ended.stderr
    assert "a line end" in ended.stderr
    assert "the-key" not in ended.stderr
