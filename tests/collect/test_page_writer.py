"""Storing pages: a full store makes them wait; the health goes with what a read proves."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.support.collecting import HOUR, NOON, SECOND, World
from tests.support.stores import counted

from auditrelay.collect.page_writer import PageWriter
from auditrelay.errors import StoreFull
from auditrelay.events.normalize import IdentifiedPage
from auditrelay.events.page import Page
from auditrelay.store import Added, LookedUp, Proof
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
        await add_new(writer, writer.identify(records), "poll")
        (state,) = await world.store.sources()
        assert state.condition.last_event_at is None, "a page is not proof of anything"
        hour = Interval(NOON - 5 * HOUR, NOON - 4 * HOUR)
        await writer.add(Page.of(()), "poll", Proof(covers=(hour,)))
    assert calls == {"read look_up": 1, "write add": 2, "read sources": 1}
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
    await collector.new_reader().writer.add(Page.of(()), "backfill", Proof(covers=(part,)))
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


RECORD = b'{"id":"%d","event_type":"auth.logout","created_at":"2026-01-10T11:00:00+00:00"}'


async def add_new(
    writer: PageWriter, shown: IdentifiedPage, via: str, proof: Proof | None = None
) -> Added:
    return await writer.add_new(shown, via, proof, changed=writer.compare())


async def new_writer(world: World) -> PageWriter:
    collector = world.collector()
    await collector.checkpoint.refresh()
    return collector.new_reader().writer


async def test_of_known_events_nothing_more_is_read_or_written(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = await new_writer(world)
    records = [RECORD % number for number in range(3)]
    assert (await add_new(writer, writer.identify(records), "poll")).new == (0, 1, 2)
    read: list[int] = []
    page = IdentifiedPage.page

    def note(shown: IdentifiedPage, rows: Sequence[int] | None = None) -> Page:
        found = page(shown, rows)
        read.append(len(found))
        return found

    monkeypatch.setattr(IdentifiedPage, "page", note)
    with counted(world.store) as calls:
        added = await add_new(writer, writer.identify(records), "poll")
    assert (added.new, added.known, read) == ((), 3, [])
    assert calls == {"read look_up": 1}
    shown = writer.identify([*records, RECORD % 9, RECORD % 9])
    await add_new(writer, shown, "poll")
    assert read == [1], "what is new is read once, though the page shows it twice"
    assert await world.names() == ["0", "1", "2", "9"]
    assert world.counted("events_collected_total") == 4
    assert world.counted("events_duplicate_total") == 3 + 3 + 1


async def test_the_proof_of_a_page_of_known_events_is_entered(world: World) -> None:
    writer = await new_writer(world)
    hour = Interval(NOON - 2 * HOUR, NOON - HOUR)
    for proof in (None, Proof(covers=(hour,))):
        await add_new(writer, writer.identify([RECORD % 1]), "poll", proof)
    assert await world.covered() == [(hour, None)]
    assert await world.names() == ["1"]


async def test_an_event_that_another_read_has_stored_meanwhile_is_not_stored_twice(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, other = await new_writer(world), await new_writer(world)
    look_up = world.store.look_up

    async def overtaken(*args: Any) -> LookedUp:
        found = await look_up(*args)
        monkeypatch.undo()
        await add_new(other, other.identify([RECORD % 1]), "backfill")
        return found

    monkeypatch.setattr(world.store, "look_up", overtaken)
    added = await add_new(writer, writer.identify([RECORD % 1]), "poll")
    assert (added.new, added.known) == ((), 1)
    assert await world.names() == ["1"]


async def test_an_event_without_a_time_is_known_though_its_time_is_that_of_the_read(
    world: World,
) -> None:
    writer = await new_writer(world)
    await add_new(writer, writer.identify([b'{"id":"1"}', RECORD % 2]), "poll")
    world.clock.advance(HOUR)
    with counted(world.store) as calls:
        await add_new(writer, writer.identify([b'{"id":"1"}', RECORD % 2]), "poll")
    assert calls == {"read look_up": 1}
    assert await world.names() == ["1", "2"]


async def test_values_that_were_redacted_are_counted_and_noted_in_the_spool(world: World) -> None:
    world.vendor.event_type = "token=hunter2x"
    for number in range(4):
        world.vendor.add(NOON - HOUR + number * SECOND)
    await world.collector().poll()
    await world.collector().poll()
    assert world.counted("values_redacted_total") == 4
    assert {event.redacted for event in await world.spooled()} == {("event_type",)}
