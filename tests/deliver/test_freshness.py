"""How soon events arrive: by source, of the last hour, and without what is meant to come late."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest import mock

import msgspec
import pytest
from tests.support.delivering import NOON, Intake, World
from tests.support.states import state_in

from auditrelay.deliver import outcomes
from auditrelay.deliver.freshness import Freshness
from auditrelay.errors import StoreFull
from auditrelay.events.page import Page
from auditrelay.sinks import Limits
from auditrelay.window import micros

SECOND = 1_000_000
AT = datetime(2026, 1, 10, 12, tzinfo=UTC)


def test_half_and_99_of_a_hundred_events_are_not_older_than_is_shown() -> None:
    dice = random.Random(8)
    ages = [dice.uniform(20, 95) for _ in range(5000)]
    fresh = Freshness()
    for start in range(0, 5000, 250):
        fresh.add("voice", sorted(round(each * SECOND) for each in ages[start : start + 250]), AT)
    [found] = fresh.measured()
    assert (found.source, found.events, found.at) == ("voice", 5000, AT.isoformat())
    ages.sort()
    for shown, true in ((found.p50, ages[2499]), (found.p99, ages[4949])):
        assert 0.95 * true <= shown <= 1.05 * true


@pytest.mark.parametrize("age", [-5 * SECOND, 0, 1, 10**18])
def test_an_age_of_any_size_is_counted(age: int) -> None:
    fresh = Freshness()
    fresh.add("voice", [age, age], AT)
    assert [each.events for each in fresh.measured()] == [2]


def test_what_is_more_than_an_hour_old_is_forgotten_and_a_quiet_source_is_not() -> None:
    fresh = Freshness()
    fresh.add("voice", [900 * SECOND] * 9, AT)
    fresh.add("calls", [30 * SECOND], AT)
    later = AT + timedelta(hours=1)
    fresh.add("voice", [30 * SECOND], later)
    calls, voice = fresh.measured()
    assert (voice.events, calls.events) == (1, 1)
    assert 27 <= voice.p99 <= 33
    assert (voice.at, calls.at) == (later.isoformat(), AT.isoformat())


def test_memory_is_bounded_whatever_arrives() -> None:
    dice = random.Random(8)
    fresh = Freshness()
    for minute in range(600):
        ages = sorted(round(10 ** dice.uniform(0, 18)) for _ in range(50))
        fresh.add("voice", ages, AT + timedelta(minutes=minute))
    [slots] = fresh._of.values()
    assert len(slots) <= 6
    assert all(len(counts) <= 200 for _, counts in slots)


async def test_it_is_of_live_events_and_the_store_has_it_at_the_end(world: World) -> None:
    late = [
        msgspec.structs.replace(world.event(number), at=micros(NOON) - 10**12, **{mark: True})
        for number, mark in enumerate(("backfill", "replayed", "notice"))
    ]
    await world.store.add("voice", Page.of(late))
    now = micros(world.clock.now())
    live = [
        msgspec.structs.replace(world.event(3 + number), at=now - 40 * SECOND)
        for number in range(5)
    ]
    await world.store.add("voice", Page.of(live))
    await world.run(intake := Intake())
    assert len(intake.taken) == 8
    with state_in(world.state).view() as view:
        [sink] = view.sinks()
    [found] = sink.condition.freshness
    assert (found.source, found.events) == ("voice", 5)
    assert 35 <= found.p50 < 100_000


@pytest.mark.parametrize(("seconds", "saved"), [(0.0, 4), (1e9, 2)])
async def test_it_is_saved_with_a_batch_now_and_then_and_at_the_end(
    world: World, monkeypatch: pytest.MonkeyPatch, seconds: float, saved: int
) -> None:
    monkeypatch.setattr(outcomes, "SAVE_SECONDS", seconds)
    await world.spool(3)
    with mock.patch.object(world.store, "save_condition", wraps=world.store.save_condition) as save:
        await world.run(Intake(limits=Limits(1, 10**9)))
    # Once since the sink is up; at the end there is news if it was not saved with the last batch.
    assert save.await_count == saved


async def test_a_full_disk_holds_up_nothing_for_it(world: World) -> None:
    await world.spool(1)
    save = world.store.save_condition

    async def full(*args: Any) -> None:
        if args[2].freshness:
            raise StoreFull("no room")
        await save(*args)

    with mock.patch.object(world.store, "save_condition", full):
        await world.run(intake := Intake())
    assert intake.taken == ["0"]


async def test_a_restart_keeps_what_was_measured(world: World) -> None:
    await world.spool(1)
    await world.run(Intake())
    [state] = await world.store.sinks()
    restarted = world.deliverer(Intake())
    restarted.restore(state.condition)
    restarted.measure()
    assert restarted.condition.freshness == state.condition.freshness != ()
