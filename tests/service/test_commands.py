"""What a command asks of the instance, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.service.serving import service, silent
from tests.support.clock import FakeClock

from auditrelay.config.model import Alerts, Config, Log, Spool, Status
from auditrelay.errors import ConfigError
from auditrelay.service.commands import Commands
from auditrelay.service.control_socket import ask
from auditrelay.service.topology import Topology
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
