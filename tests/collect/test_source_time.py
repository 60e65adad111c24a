"""
Clocks that are wrong: our own, or that of a vendor, ahead or behind, from a start or in between.

Nothing is declared, covered or moved for good on the word of one of them, and once it is right
again everything is read, and nothing twice.
"""

import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.collecting import DAY, HOUR, NOON, SECOND, World, covered_from, open_world

from auditrelay.collect.collector import Collector
from auditrelay.confirmed_time import REPEATED
from auditrelay.errors import Refused, Retryable

MINUTE = timedelta(minutes=1)
YEARS = timedelta(days=730)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as world:
        world.vendor.date = true_time(world)
        yield world


def true_time(world: World) -> Callable[[], datetime]:
    began = world.clock.monotonic()
    return lambda: NOON + timedelta(seconds=world.clock.monotonic() - began)


def now_by(date: Callable[[], datetime] | None) -> datetime:
    assert date is not None
    return date()


def now(world: World) -> datetime:
    return now_by(world.vendor.date)


def restarted(world: World, ahead: timedelta = timedelta(0), **keys: Any) -> Collector:
    """Return the collector of a new process, whose clock is so much ahead."""
    world.clock.restart()
    world.clock.set(now(world) + ahead)
    return world.collector(**{"retention": "365d", "catch_up_limit": "30d", **keys})


async def expect(world: World, names: list[str]) -> None:
    """Fail unless exactly *names* were forwarded, each once, and no gap was declared."""
    assert sorted(await world.names()) == sorted(names)
    assert [gap for _, gap in await world.covered() if gap] == []


@pytest.mark.parametrize("ahead", [3 * MINUTE, HOUR, 20 * DAY, YEARS])
async def test_a_clock_that_is_ahead_at_the_start_declares_and_covers_nothing(
    world: World, ahead: timedelta
) -> None:
    names = [world.vendor.add(NOON - HOUR)]
    await restarted(world).poll()
    before = await world.covered()
    collector = restarted(world, ahead)
    with pytest.raises(Refused, match="ahead"):
        await collector.poll()
    assert await world.covered() == before
    world.clock.advance(4)
    names.append(world.vendor.add(now(world)))
    collector = restarted(world)
    world.clock.advance(HOUR)
    await collector.poll()
    await expect(world, names)
    assert covered_from(await world.covered()).end == now(world) - MINUTE


@pytest.mark.parametrize("ahead", [HOUR, YEARS])
async def test_a_source_that_first_starts_while_the_clock_is_ahead_starts_where_it_should(
    world: World, ahead: timedelta
) -> None:
    names = [world.vendor.add(NOON - HOUR)]
    with pytest.raises(Refused):
        await restarted(world, ahead).poll()
    await restarted(world).poll()
    await expect(world, names)


async def test_a_clock_that_is_set_right_after_the_first_poll_sets_the_start_right(
    world: World,
) -> None:
    names = [world.vendor.add(NOON - HOUR)]
    collector = restarted(world, YEARS)
    with pytest.raises(Refused):
        await collector.poll()
    world.clock.set(now(world))
    await collector.poll()
    await expect(world, names)


async def test_a_clock_that_is_stepped_ahead_and_back_while_running_costs_nothing(
    world: World,
) -> None:
    collector = restarted(world)
    names = []
    for jump in (YEARS, 3 * HOUR, 3 * MINUTE):
        await collector.poll()
        names.append(world.vendor.add(now(world)))
        world.clock.set(now(world) + jump)
        world.clock.advance(10 * MINUTE)
        with pytest.raises(Refused):
            await collector.poll()
        world.clock.set(now(world))
        world.clock.advance(10 * MINUTE)
    await collector.poll()
    await expect(world, names)


@pytest.mark.parametrize("behind", [3 * HOUR, YEARS])
@pytest.mark.parametrize("witness", [True, False])
async def test_with_a_clock_that_is_behind_events_do_not_come_late(
    world: World, behind: timedelta, *, witness: bool
) -> None:
    first = restarted(world)
    await first.poll()
    collector = restarted(world, -behind)
    names = [world.vendor.add(now(world))]
    world.clock.advance(2 * MINUTE)
    if witness:
        world.clock.confirmed.hear("splunk", now(world), timedelta(0))
    await collector.poll()
    assert await world.names() == names
    end = covered_from(await world.covered()).end
    assert end == (now(world) - MINUTE if witness else NOON - MINUTE)
    assert world.clock.confirmed.differences()["calls"] == -behind
    lag = world.counted("source_lag_seconds")
    assert lag == (now(world) - end).total_seconds()
    await restarted(world).poll()
    await expect(world, names)
    assert covered_from(await world.covered()).end == now(world) - MINUTE


async def test_after_a_suspend_the_source_is_asked_what_time_it_is(world: World) -> None:
    collector = restarted(world)
    await collector.poll()
    names = [world.vendor.add(NOON + HOUR)]
    world.vendor.date = world.clock.now  # no time has passed for what counts seconds
    world.clock.set(NOON + 8 * HOUR)
    await collector.poll()
    await expect(world, names)
    assert covered_from(await world.covered()).end == NOON + 8 * HOUR - MINUTE


@pytest.mark.parametrize("ahead", [HOUR, YEARS])
async def test_one_reply_from_the_future_covers_nothing_of_it(
    world: World, ahead: timedelta
) -> None:
    collector = restarted(world)
    right = world.vendor.date
    world.vendor.date = lambda: now_by(right) + ahead
    await collector.poll()
    world.clock.advance(10 * MINUTE)
    await collector.poll()
    world.vendor.date = right
    names = [world.vendor.add(now(world))]
    world.clock.advance(10 * MINUTE)
    await collector.poll()
    await expect(world, names)
    assert covered_from(await world.covered()).end == now(world) - MINUTE


async def test_a_gap_is_declared_only_after_a_reply_has_said_what_time_it_is(world: World) -> None:
    await restarted(world).poll()
    world.clock.advance(40 * DAY)
    collector = restarted(world)
    pages = world.vendor.pages
    world.vendor.errors = {pages + 1: Retryable("down", reason="connect")}
    with pytest.raises(Retryable):
        await collector.poll()
    assert [gap for _, gap in await world.covered() if gap] == []
    await collector.poll()
    assert {gap for _, gap in await world.covered() if gap} == {"catch_up_limit"}


@pytest.mark.parametrize("ahead", [HOUR, YEARS])
async def test_where_no_reply_says_the_time_a_jump_covers_no_more_than_some_hours(
    world: World, ahead: timedelta
) -> None:
    world.vendor.date = None
    collector = world.collector(retention="365d")
    await collector.poll()
    await world.store.remember_time(world.clock.confirmed.mark)
    world.clock.restart()
    world.clock.confirmed.resume(NOON)  # as the store does when it is opened
    world.clock.set(NOON + ahead)
    for _ in range(4):
        await world.collector(retention="365d").poll()
        world.clock.advance(SECOND)
    assert [gap for _, gap in await world.covered() if gap] == []
    assert covered_from(await world.covered()).end <= NOON + HOUR + 4 * MINUTE


@pytest.mark.parametrize("off", [-YEARS, -HOUR, HOUR, YEARS])
async def test_one_wrong_date_and_none_after_it_stops_a_source_for_minutes_only(
    world: World, off: timedelta
) -> None:
    names = [world.vendor.add(NOON - HOUR)]
    collector = restarted(world)
    await collector.poll()
    true, world.vendor.date = world.vendor.date, None
    world.clock.confirmed.hear("calls", now_by(true) + off, timedelta(0))
    for _ in range(5):
        world.clock.advance(REPEATED / 4)
        names.append(world.vendor.add(world.clock.now() - MINUTE))
        with contextlib.suppress(Refused):
            await collector.poll()
    world.clock.advance(HOUR.total_seconds())
    await collector.poll()
    await expect(world, names)
    assert covered_from(await world.covered()).end == now_by(true) - MINUTE
