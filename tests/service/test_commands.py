"""What a command asks of the instance, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.service.serving import service, silent
from tests.support.clock import FakeClock
from tests.support.stores import opened

from auditrelay.config.model import Alerts, Config, Log, Spool, Status
from auditrelay.errors import ConfigError
from auditrelay.service.commands import Commands
from auditrelay.service.control_socket import ask
from auditrelay.service.topology import Topology
from auditrelay.sources import cencori
from auditrelay.store.sqlite.store import SqliteStore
from auditrelay.telemetry.metrics import Metrics


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (
            {"do": "teleport"},
            "does not support teleport: it and the command are of different versions",
        ),
        ({}, "does not support None"),
        ({"do": ["backfill"]}, "does not support "),
        (
            {"do": "backfill", "source": "it"},
            "the request for backfill lacks start, end, sinks, dry_run, ",
        ),
        (
            {"do": "verify", "source": "it", "start": "x", "end": None},
            "verify lacks repair, at_sink: the ",
        ),
        ({"do": "replay"}, "the request for replay lacks ids: the "),
        ({"do": "forget", "name": "it"}, "the request for forget lacks yes: the "),
    ],
)
async def test_a_command_of_another_version_gets_an_error_that_says_so(
    tmp_path: Path, sent: dict[str, Any], message: str
) -> None:
    clock = FakeClock()
    config = Config(None, tmp_path, Status(), Log(), Spool(), Alerts(), {}, {})
    store = await SqliteStore.open(
        tmp_path,
        clock=clock,
        max_bytes=1 << 30,
        retention=config.spool.retention,
        remember=config.spool.remember,
    )
    topology = Topology(config, store, Metrics(sources=[], sinks=[]), clock=clock)
    try:
        async with service(tmp_path, Commands(topology, store, clock=clock).do) as serving:
            with pytest.raises(ConfigError) as caught:
                await ask(tmp_path, json.loads(json.dumps(sent)), silent)
            assert message in str(caught.value)
            assert not serving.done()
    finally:
        await store.close()


@pytest.mark.parametrize(
    ("sent", "instead"),
    [
        (
            {"do": "backfill", "sinks": [], "dry_run": False, "newest_first": False}
            | {"concurrency": 1},
            "put an export of it into its directory, and it is read at once",
        ),
        ({"do": "verify", "repair": False, "at_sink": False}, "there is nothing to compare with"),
    ],
)
async def test_a_source_that_reads_files_cannot_be_asked_for_a_range(
    tmp_path: Path, sent: dict[str, Any], instead: str
) -> None:
    settings = cencori.Settings.model_validate(
        {"type": "cencori", "mode": "files", "directory": tmp_path}
    )
    config = Config(None, tmp_path, Status(), Log(), Spool(), Alerts(), {"exports": settings}, {})
    store = await opened(tmp_path)
    topology = Topology(config, store, Metrics(sources=["exports"]), clock=FakeClock())
    commands = Commands(topology, store, clock=FakeClock())
    request = {**sent, "source": "exports", "start": "2025-12-31T00:00:00Z", "end": None}
    with pytest.raises(ConfigError) as caught:
        await commands.do(request, silent)
    assert str(caught.value) == f"exports reads files and cannot be asked for a range: {instead}"
    await topology.close()
    await store.close()
