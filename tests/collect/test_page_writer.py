"""Storing pages: a full store makes them wait; the health goes with what a read proves."""

import asyncio
import contextlib
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.support.collecting import HOUR, NOON, SECOND, World
from tests.support.stores import counted

from auditrelay.errors import StoreFull
from auditrelay.store import Proof
from auditrelay.window import Interval


async def test_no_room_pauses_the_poll_until_there_is_some(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [world.vendor.add(NOON - HOUR + number * SECOND) for number in range(9)]
    add, refusals = world.store.add, iter(range(12))

    async def full(*args: Any, **kwargs: Any) -> Any:
        if next(refusals, None) is not None:
            raise StoreFull("no room")
        return await add(*args, **kwargs)

    monkeypatch.setattr(world.store, "add", full)
    with capture_logs() as logs:
        await world.collector().poll()
    assert await world.names() == made
    assert len(world.clock.waits) == 12
    events = [line["event"] for line in logs]
    assert (events.count("polling_paused"), events.count("polling_resumed")) == (1, 1)


async def test_a_run_that_has_to_end_fails_when_no_room_is_made(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: Any, **__: Any) -> Any:
        raise StoreFull("no room")

    monkeypatch.setattr(world.store, "add", full)
    monkeypatch.setattr(world.store, "save_condition", full)
    with pytest.raises(StoreFull):
        await world.collector(patience=5 * SECOND).poll()
    assert len(world.clock.waits) == 5


async def test_only_a_page_that_proves_something_takes_the_health_with_it(world: World) -> None:
    collector = world.collector()
    await collector.poll()
    writer = collector.new_reader().writer
    records = [b'{"id":"x","event_type":"auth.logout","created_at":"2026-01-10T11:00:00+00:00"}']
    with counted(world.store) as calls:
        await writer.add(writer.normalize(records), "poll")
        (state,) = await world.store.sources()
        assert state.condition.last_event_at is None, "a page is not proof of anything"
        hour = Interval(NOON - 5 * HOUR, NOON - 4 * HOUR)
        await writer.add([], "poll", Proof(covers=(hour,)))
    assert calls == {"write add": 2, "read sources": 1}
    (state,) = await world.store.sources()
    assert state.condition == collector.condition
    assert state.condition.last_event_at == "2026-01-10T11:00:00+00:00"


async def test_a_page_that_had_to_wait_takes_the_health_of_when_it_is_written(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector = world.collector()
    await collector.poll()
    add = world.store.add
    reasons = iter(["no room", None])

    async def full_once(*args: Any, **kwargs: Any) -> Any:
        if next(reasons) is None:
            return await add(*args, **kwargs)
        collector.condition.silent = True  # what a poll finds beside it
        raise StoreFull("no room")

    monkeypatch.setattr(world.store, "add", full_once)
    part = Interval(NOON - 5 * HOUR, NOON - 4 * HOUR)
    await collector.new_reader().writer.add([], "backfill", Proof(covers=(part,)))
    (state,) = await world.store.sources()
    assert state.condition.silent


async def test_a_full_spool_makes_alerts_due_once_and_not_every_second(world: World) -> None:
    collector = world.collector(patience=60 * SECOND)
    for number in range(3):
        world.vendor.add(NOON - HOUR + number * SECOND)
    world.store.resize(max_bytes=1, retention=7 * 24 * HOUR, remember=400 * 24 * HOUR)
    with contextlib.suppress(StoreFull):
        await collector.poll()
    world.clock.waits.clear()
    world.vendor.add(world.clock.now())
    world.clock.advance(10 * 60 * SECOND)
    due: list[None] = []
    world.store.on_condition = lambda: due.append(None)
    with pytest.raises(StoreFull):
        await collector.poll()
    assert len(world.clock.waits) == 60
    assert len(due) <= 3


async def test_that_polling_is_paused_is_written_as_soon_as_the_disk_takes_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, refusals = world.store.save_condition, iter(range(3))

    async def full(*_: Any, **__: Any) -> Any:
        raise StoreFull("no room")

    async def full_for_a_while(*args: Any) -> None:
        if next(refusals, None) is not None:
            raise StoreFull("no room")
        await save(*args)

    monkeypatch.setattr(world.store, "add", full)
    monkeypatch.setattr(world.store, "save_condition", full_for_a_while)
    polling = asyncio.ensure_future(world.collector().poll())
    while len(world.clock.waits) < 6:  # noqa: ASYNC110  # it lasts a few rounds of the loop
        await asyncio.sleep(0)
    (state,) = await world.store.sources()
    assert state.condition.last_error == "polling is paused: no room"
    polling.cancel()
    await asyncio.wait([polling])
