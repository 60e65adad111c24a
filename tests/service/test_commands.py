"""What a command asks of the instance, and what is refused."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.service.serving import silent
from tests.support.clock import FakeClock
from tests.support.stores import opened

from auditrelay.config.model import Alerts, Config, Log, Spool, Status
from auditrelay.errors import ConfigError
from auditrelay.service.commands import Commands
from auditrelay.service.desk import Backfill, Forget, Forgotten, Request, Verify
from auditrelay.service.topology import Topology
from auditrelay.sources import cencori
from auditrelay.telemetry.metrics import Metrics

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
async def commands(tmp_path: Path) -> AsyncIterator[Commands]:
    """The commands of an instance without sources, whose state has the orphan "gone"."""
    config = Config(None, tmp_path, Status(), Log(), Spool(), Alerts(), {}, {})
    store = await opened(tmp_path)
    await store.start_source("gone", NOW)
    topology = Topology(config, store, Metrics(sources=[], sinks=[]), clock=FakeClock(NOW))
    yield Commands(topology, store, clock=FakeClock(NOW))
    await store.close()


def backfill(source: str) -> Backfill:
    start = NOW - timedelta(days=1)
    return Backfill(
        source=source,
        start=start,
        end=None,
        sinks=(),
        dry_run=False,
        newest_first=False,
        concurrency=1,
    )


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (backfill("voice"), "there is no enabled source 'voice'; enabled are: none"),
        (
            Verify(source="voice", start=NOW, end=None, repair=False, at_sink=False),
            "there is no enabled source 'voice'",
        ),
        (Forget("voice", yes=True), "the state has no source or sink 'voice'; orphaned are: gone"),
    ],
    ids=["backfill", "verify", "forget"],
)
async def test_what_this_configuration_does_not_have_is_refused(
    commands: Commands, request_: Request, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        await commands.do(request_, silent)


async def test_an_orphan_is_forgotten_once(commands: Commands) -> None:
    assert await commands.do(Forget("gone", yes=False), silent) == Forgotten("gone")
    with pytest.raises(ConfigError, match="orphaned are: none"):
        await commands.do(Forget("gone", yes=False), silent)


@pytest.mark.parametrize(
    ("request_", "instead"),
    [
        (backfill("exports"), "put an export of it into its directory, and it is read at once"),
        (
            Verify(source="exports", start=NOW, end=None, repair=False, at_sink=False),
            "there is nothing to compare with",
        ),
    ],
    ids=["backfill", "verify"],
)
async def test_a_source_that_reads_files_cannot_be_asked_for_a_range(
    tmp_path: Path, request_: Request, instead: str
) -> None:
    settings = cencori.Settings.model_validate(
        {"type": "cencori", "mode": "files", "directory": tmp_path}
    )
    config = Config(None, tmp_path, Status(), Log(), Spool(), Alerts(), {"exports": settings}, {})
    store = await opened(tmp_path)
    topology = Topology(config, store, Metrics(sources=["exports"]), clock=FakeClock())
    commands = Commands(topology, store, clock=FakeClock())
    with pytest.raises(ConfigError) as caught:
        await commands.do(request_, silent)
    assert str(caught.value) == f"exports reads files and cannot be asked for a range: {instead}"
    await topology.close()
    await store.close()
