"""What a command asks of the instance, and what is refused."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import make_event
from tests.service.serving import not_sealed, silent
from tests.support.clock import FakeClock
from tests.support.stores import NOON, opened

from auditrelay.config.model import Alerts, Config, Log, Spool, Status
from auditrelay.errors import ConfigError
from auditrelay.events.page import Page
from auditrelay.service import commands as module
from auditrelay.service.commands import Commands
from auditrelay.service.desk import (
    Backfill,
    Drop,
    Dropped,
    Forget,
    Forgotten,
    Replay,
    Replayed,
    Request,
    Verify,
)
from auditrelay.service.seal import head_event
from auditrelay.service.topology import Topology
from auditrelay.settings.reserved import ALERTS
from auditrelay.sources import cencori
from auditrelay.store import DeadLetter, Proof
from auditrelay.store.sql import evidence
from auditrelay.store.sql.store import SqlStore
from auditrelay.store.sqlite.store import open_view
from auditrelay.telemetry.metrics import Metrics
from auditrelay.window import Interval

HOUR = timedelta(hours=1)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
async def commands(tmp_path: Path) -> AsyncIterator[Commands]:
    """The commands of an instance without sources, whose state has the orphan "gone"."""
    config = Config(None, tmp_path, Status(), Log(), Spool(), Alerts(), {}, {})
    store = await opened(tmp_path)
    await store.start_source("gone", NOW)
    topology = Topology(config, store, Metrics(sources=[], sinks=[]), clock=FakeClock(NOW))
    await store.start_source(ALERTS, NOW)
    yield Commands(topology, store, clock=FakeClock(NOW), seal=lambda: store.log.seal(head_event))
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


async def test_what_another_replica_has_is_not_forgotten(commands: Commands) -> None:
    commands._configured_at = lambda name: ["b", "c"] if name == "gone" else []
    with pytest.raises(ConfigError, match="still in the configuration of b, c: remove it there"):
        await commands.do(Forget("gone", yes=True), silent)
    assert "gone" in {each.name for each in await commands._store.sources()}


async def test_what_an_orphan_has_is_sealed_before_it_is_forgotten(
    commands: Commands, tmp_path: Path
) -> None:
    store, page = commands._store, Page.of([make_event(1, source="gone")])
    assert isinstance(store, SqlStore)
    await store.add("gone", page, proof=Proof(covers=(Interval(NOON, NOON + HOUR),)))
    await commands.do(Forget("gone", yes=True), silent)
    with open_view(tmp_path) as view:
        lines = [json.loads(line) for _, line in view.read(evidence.entries)]
        waiting = view.read(lambda db: db.execute("select text from fact").fetchall())
    (of_source,) = [each for each in lines if each["unit"] == "source gone"]
    accepted, covered = of_source["facts"]
    assert (accepted["fact"], accepted["events"]) == ("accepted", 1)
    assert (covered["fact"], covered["events"]) == ("covered", 1), "counted while it was known"
    assert "forget" in str(waiting), "it comes with the next seal"


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
    commands = Commands(topology, store, clock=FakeClock(), seal=not_sealed)
    with pytest.raises(ConfigError) as caught:
        await commands.do(request_, silent)
    assert str(caught.value) == f"exports reads files and cannot be asked for a range: {instead}"
    await topology.close()
    await store.close()


@pytest.mark.parametrize(("do", "done"), [(Replay, Replayed), (Drop, Dropped)])
async def test_many_dead_letters_are_more_than_one_write(
    commands: Commands,
    monkeypatch: pytest.MonkeyPatch,
    do: type[Replay | Drop],
    done: type[Replayed | Dropped],
) -> None:
    store: Any = commands._store
    parts: list[int] = []
    monkeypatch.setattr(module, "LETTERS", 2)
    method = do.__name__.lower()
    one_write = getattr(store, method)

    async def noted(ids: list[int], *more: Any, **named: Any) -> Any:
        parts.append(len(ids))
        return await one_write(ids, *more, **named)

    monkeypatch.setattr(store, method, noted)
    bad = [DeadLetter(make_event(n), "bad_row", "no", None, 1, NOW, NOW) for n in range(5)]
    await store.start_source("voice", NOW)
    await store.add("voice", Page.of(()), bad=bad)
    assert await commands.do(do((1, 2, 3, 4, 5)), silent) == done((1, 2, 3, 4, 5))
    assert parts == [2, 2, 1]
