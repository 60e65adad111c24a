"""Polling a source: each record is read once, whatever fails and wherever a walk breaks off."""

import asyncio
import contextlib
from datetime import timedelta
from hashlib import sha256
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.support.collecting import DAY, HOUR, NOON, SECOND, World, covered_from
from tests.support.stores import counted

from auditrelay.errors import Refused, RelayError, Retryable, WalkBroken
from auditrelay.store.keys import known_key
from auditrelay.window import Interval

MINUTE = 60 * SECOND

# --- windows


@pytest.mark.parametrize("resweep", [[], ["1h", "12h"]])
async def test_a_poll_that_finds_nothing_costs_one_write_and_one_look_at_the_ledger(
    world: World, resweep: list[str]
) -> None:
    collector = world.collector(resweep=resweep)
    await collector.poll()
    world.clock.advance(5 * MINUTE)
    await collector.poll()
    world.clock.advance(5 * MINUTE)
    with counted(world.store) as calls:
        await collector.poll()
    assert calls == {
        "read ledger": 1,
        "write add": 1,
    }
    assert collector.checkpoint.at == NOON + 9 * MINUTE
    (state,) = await world.store.sources()
    assert state.condition == collector.condition, "the write is of the health, too"
    assert state.condition.last_poll_at == world.clock.now().isoformat()


async def test_a_ledger_that_was_read_before_does_not_take_the_checkpoint_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector = world.collector()
    await collector.poll()
    reached = collector.checkpoint.at
    old = await world.store.ledger("calls")
    world.clock.advance(5 * MINUTE)
    await collector.poll()

    async def read_before(_: str) -> Any:
        return old

    monkeypatch.setattr(world.store, "ledger", read_before)
    await collector.checkpoint.refresh()  # as a backfill does, beside the polls
    assert collector.checkpoint.at == reached + 5 * MINUTE


async def test_a_poll_with_several_windows_looks_at_the_ledger_once(world: World) -> None:
    collector = world.collector(max_window="30m", overlap="1m")
    made = [world.vendor.add(NOON - number * MINUTE) for number in range(2, 110)]
    with counted(world.store) as calls:
        await collector.poll()
    assert sorted(await world.names()) == sorted(made)
    assert calls["read ledger"] == 1
    assert calls["write add"] == world.vendor.pages
    assert collector.checkpoint.at == covered_from(await world.covered()).end
    assert calls["write start_source"] == 1
    assert calls["write save_condition"] == 1, "events and success changed it after the first page"


async def test_a_first_poll_reads_the_lookback_up_to_what_has_settled(world: World) -> None:
    inside = world.vendor.add(NOON - 2 * HOUR)
    last = world.vendor.add(NOON - 61 * SECOND)
    world.vendor.add(NOON - 2 * HOUR - SECOND)
    world.vendor.add(NOON - 60 * SECOND)
    await world.collector().poll()
    assert await world.names() == [inside, last]
    assert await world.covered() == [(Interval(NOON - 2 * HOUR, NOON - 60 * SECOND), None)]


async def test_a_source_down_on_its_first_day_still_gets_its_whole_lookback(world: World) -> None:
    early = world.vendor.add(NOON - 2 * HOUR + SECOND)
    world.vendor.errors = {1: Retryable("down", reason="connect")}
    with pytest.raises(Retryable):
        await world.collector().poll()
    world.clock.advance(9 * HOUR)
    await world.collector().poll()
    assert await world.names() == [early]


async def test_an_outage_of_45_days_is_read_in_several_windows_of_30_days_at_most(
    world: World,
) -> None:
    await world.collector().poll()
    world.clock.advance(45 * DAY)
    made = [world.vendor.add(NOON + number * HOUR) for number in range(45 * 24)]
    world.vendor.asked.clear()
    await world.collector().poll()
    assert sorted(await world.names()) == sorted(made)
    assert len(world.vendor.asked) <= 8
    assert all(window.length <= 30 * DAY for window in world.vendor.asked)
    assert covered_from(await world.covered()) == Interval(
        NOON - 2 * HOUR, world.clock.now() - 60 * SECOND
    )


@pytest.mark.parametrize("step", [-5 * DAY, -30 * SECOND, 30 * SECOND])
async def test_a_clock_that_steps_loses_nothing(world: World, step: timedelta) -> None:
    collector = world.collector()
    made = []
    real = NOON
    for number in range(20):
        real += 300 * SECOND
        # for polls 5 to 9 the clock is wrong; the vendor's never is
        world.clock.set(real + (step if 5 <= number < 10 else timedelta(0)))
        made.append(world.vendor.add(real - 200 * SECOND, seen_from=NOON - 100 * DAY))
        with contextlib.suppress(Refused):  # it is held while the clock is far behind
            await collector.poll()
    assert sorted(await world.names()) == sorted(made)


# --- walks that die


@pytest.mark.parametrize("page", range(1, 6))
@pytest.mark.parametrize(
    "error",
    [
        Retryable("it hangs up", reason="connect"),
        Refused("401", status=401),
    ],
)
async def test_a_walk_that_dies_at_any_page_is_walked_again_and_nothing_is_read_twice(
    world: World, page: int, error: RelayError
) -> None:
    made = [world.vendor.add(NOON - HOUR + number * SECOND) for number in range(13)]
    world.vendor.errors = {page: error}
    with pytest.raises(type(error)):
        await world.collector().poll()
    assert await world.names() == made[: 3 * (page - 1)], "what was read until then is kept"
    assert await world.covered() == [], "time that was not read to its end is claimed"
    await world.collector().poll()
    assert await world.names() == made
    assert len(await world.covered()) == 1


@pytest.mark.parametrize("page", range(1, 6))
async def test_a_walk_that_is_cancelled_at_any_page_is_walked_again(
    world: World, page: int
) -> None:
    made = [world.vendor.add(NOON - HOUR + number * SECOND) for number in range(13)]
    polling = asyncio.ensure_future(world.collector().poll())

    def cancel() -> None:
        if world.vendor.pages == page:
            polling.cancel()

    world.vendor.before_page = cancel
    with pytest.raises(asyncio.CancelledError):
        await polling
    world.vendor.before_page = lambda: None
    await world.collector().poll()
    assert await world.names() == made


async def test_a_window_that_cannot_be_walked_is_halved_until_it_can(world: World) -> None:
    made = [world.vendor.add(NOON - HOUR + number * SECOND) for number in range(40)]
    world.vendor.too_many = 7
    with capture_logs() as logs:
        await world.collector().poll()
    assert sorted(await world.names()) == sorted(made)
    ledger = await world.covered()
    assert covered_from(ledger) == Interval(NOON - 2 * HOUR, NOON - 60 * SECOND)
    events = [line["event"] for line in logs]
    assert events.count("window_collected") == 1
    assert events.count("window_halved") > 2
    (line,) = [line for line in logs if line["event"] == "window_collected"]
    assert line["new"] == 40


async def test_a_window_that_cannot_be_walked_however_small_is_not_claimed(world: World) -> None:
    for _ in range(9):
        world.vendor.add(NOON - HOUR)
    world.vendor.too_many = 7
    collector = world.collector()
    with pytest.raises(WalkBroken):
        await collector.poll()
    before, after = [span for span, _ in await world.covered()]
    assert NOON - HOUR - SECOND <= before.end <= NOON - HOUR < after.start <= NOON - HOUR + SECOND
    assert after.end == NOON - 60 * SECOND, "what lies behind it is read at once"
    assert collector.checkpoint.at == before.end
    assert not collector.condition.up
    assert world.counted("source_up") == 0


# --- gaps


async def test_a_gap_is_declared_once(world: World) -> None:
    for _ in range(3):
        await world.collector(initial_lookback="10d", catch_up_limit="5h").poll()
    assert len(await world.spooled()) == 1


async def test_the_ledger_counts_what_it_covers(world: World) -> None:
    for number in range(7):
        world.vendor.add(NOON - HOUR + number * SECOND)
    await world.collector().poll()
    (span,) = await world.store.ledger("calls")
    assert span.events == 7
    keys = [known_key(event) for event in await world.spooled()]
    counted = await world.store.count_forwarded("calls", span.interval)
    assert counted == (7, sha256(b"".join(sorted(keys))).hexdigest())


async def test_a_clock_that_was_set_back_holds_the_source_until_it_is_fixed(world: World) -> None:
    collector = world.collector()
    await collector.poll()
    asked = len(world.vendor.asked)
    world.clock.set(world.clock.now() - DAY)
    with pytest.raises(Refused, match="fix the system clock"):
        await collector.poll()
    assert collector.condition.held
    assert len(world.vendor.asked) == asked + 1, "only what time it is"
    world.clock.advance(DAY + HOUR)
    name = world.vendor.add(world.clock.now() - HOUR / 2)
    await collector.poll()
    assert await world.names() == [name]


async def test_polls_run_even_if_the_scheduler_never_sets_them_due(world: World) -> None:
    collector = world.collector(poll_interval="1s")
    collector.settings.__dict__["poll_interval"] = timedelta(milliseconds=20)
    polling = asyncio.ensure_future(collector.keep_polling())
    async with asyncio.timeout(10):
        while len(world.vendor.asked) < 1:
            await asyncio.sleep(0.005)
            world.clock.advance(HOUR)
    polling.cancel()
