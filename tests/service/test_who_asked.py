"""Who asked for what an operator does stands in the evidence: the user at the control socket."""

import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.conftest import make_event
from tests.service.serving import not_sealed, service, silent
from tests.support.collecting import HOUR, NOON, World, open_world
from tests.support.stores import backlog, explained

from auditrelay.collect.collector import Collector
from auditrelay.events.page import Page
from auditrelay.service.commands import Commands
from auditrelay.service.control_socket import ControlSocket
from auditrelay.service.desk import (
    Backfill,
    Drop,
    Forget,
    OnProgress,
    Recorded,
    Reopen,
    Replay,
    Request,
    Restored,
    Result,
    Verify,
)
from auditrelay.store import DeadLetter, Proof, RejectedEvent
from auditrelay.store.sqlite.store import open_view

BY = 4711
SPAN = {"start": NOON - 6 * HOUR, "end": NOON - 4 * HOUR}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as world:
        yield world


def commands_of(world: World, collector: Collector) -> Commands:
    """Return the commands of an instance with one source, one sink, and the orphan ``gone``."""

    async def stopped(_: str) -> None: ...

    class Sink:
        """A sink that has lost everything that it took."""

        def backfill_notice(self, *_: object) -> None: ...

        async def find_stored(self, _: object) -> frozenset[str]:
            return frozenset()

    sink = Sink()
    topology: Any = SimpleNamespace(
        collectors={"calls": collector},
        leased_store=lambda _: world.store,
        sink_to_ask=lambda _: sink,
        deliverers={},
        remove_orphan=stopped,
        config=SimpleNamespace(
            sources={"calls": None},
            sinks={"sink": SimpleNamespace(enabled=True, exclude=[])},
            sources_of=lambda _: ["calls"],
            spool=SimpleNamespace(remember=timedelta(days=400)),
        ),
    )
    return Commands(topology, world.store, clock=world.clock, seal=not_sealed)


def backfill(*sinks: str) -> Backfill:
    how = {"dry_run": False, "newest_first": False, "concurrency": 1}
    return Backfill(source="calls", sinks=sinks, **SPAN, **how)  # type: ignore[arg-type]  # as given


async def deliver(world: World, *, refuse: bool = False) -> None:
    """Let the sink take what waits, or refuse it."""
    now = world.clock.now()
    for page in await backlog(world.store, "sink"):
        places = [page.first + number for number in range(len(page.events))]
        dead = [
            RejectedEvent(place, "invalid", "no", 400, 1, now, now) for place in places if refuse
        ]
        await world.store.settle("sink", [(places[0], places[-1] + 1)], dead)


async def letters(world: World) -> tuple[int, ...]:
    now = world.clock.now()
    bad = [
        DeadLetter(make_event(number, source="calls"), "bad_row", "no", None, 1, now, now)
        for number in (900, 901)
    ]
    await world.store.add("calls", Page.of([]), bad=bad)
    with open_view(world.folder) as view:
        return tuple(each.id for each in view.dead_letters())


async def orphaned(world: World) -> None:
    await world.store.start_source("gone", NOON)
    await world.store.add("gone", Page.of([make_event(1, source="gone")]), proof=Proof())


async def nothing(_: World) -> None: ...


def facts(world: World) -> list[dict[str, Any]]:
    explained(world.folder)
    with open_view(world.folder) as view:
        found = view.read(lambda db: db.execute("select text from fact order by id"))
    return [json.loads(text) for (text,) in found]


@pytest.mark.parametrize(
    ("name", "request_", "prepare"),
    [
        ("reopened", Reopen(source="calls", yes=True, **SPAN), nothing),
        ("backfill", backfill(), nothing),
        ("refilled", backfill("sink"), nothing),
        (
            "refilled",
            Verify(source="calls", repair=True, at_sink=True, start=NOON - HOUR, end=NOON),
            nothing,
        ),
        (
            "operator",
            Verify(source="calls", repair=True, at_sink=False, **SPAN),  # type: ignore[arg-type]  # as given
            nothing,
        ),
        ("dropped", Drop((1, 2)), letters),
        ("operator", Forget("gone", yes=True), orphaned),
        ("restored", Restored("the disk died"), nothing),
    ],
    ids=[
        "reopen",
        "backfill",
        "to one sink",
        "repair for a sink",
        "repair",
        "drop",
        "forget",
        "restored",
    ],
)
async def test_the_fact_says_who_asked(
    world: World,
    name: str,
    request_: Request,
    prepare: Callable[[World], Awaitable[object]],
) -> None:
    for hours in (5, 1 / 2):
        world.vendor.add(NOON - hours * HOUR)
    collector = world.collector(initial_lookback="1d", catch_up_limit="2h")
    await collector.poll()
    await deliver(world)
    await prepare(world)
    await commands_of(world, collector).do(request_, silent, BY)
    found = [fact["by"] for fact in facts(world) if fact["fact"] == name]
    assert found
    assert set(found) == {BY}


async def test_a_replay_for_a_sink_says_who_asked(world: World) -> None:
    world.vendor.add(NOON - HOUR / 2)
    collector = world.collector(initial_lookback="1h")
    await collector.poll()
    await deliver(world, refuse=True)
    with open_view(world.folder) as view:
        ids = tuple(each.id for each in view.dead_letters())
    await commands_of(world, collector).do(Replay(ids), silent, BY)
    assert [fact["by"] for fact in facts(world) if fact["fact"] == "replayed"] == [BY]


async def test_the_service_asks_the_system_who_is_at_the_other_end(tmp_path: Path) -> None:
    asked: list[int | None] = []

    async def note(_: Request, __: OnProgress, by: int | None) -> Result:
        asked.append(by)
        return Recorded()

    async with service(tmp_path, note):
        assert await ControlSocket(tmp_path).ask(Restored("why"), silent) == Recorded()
    assert asked == [os.getuid()]
