"""Resweeps: what came late is found, and no poll suffers."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import timedelta

import pytest
from structlog.testing import capture_logs
from tests.support.collecting import DAY, HOUR, NOON, SECOND, World
from tests.support.daemon import eventually

from auditrelay.errors import PeerBug, Refused
from auditrelay.sources import Page
from auditrelay.window import Interval

MINUTE = timedelta(minutes=1)


async def is_there(world: World, name: str) -> bool:
    return name in await world.names()


async def test_what_appears_late_is_found_by_a_resweep_and_marked(world: World) -> None:
    collector = world.collector(resweep=["1h"])
    await collector.poll()
    world.clock.set(NOON + 20 * SECOND * 60)
    late_at = NOON + 60 * SECOND
    on_time = world.vendor.add(NOON + 90 * SECOND)
    await collector.poll()
    late = world.vendor.add(late_at, seen_from=world.clock.now() + SECOND)
    world.clock.advance(15 * 60 * SECOND)
    await collector.poll()
    assert await world.names() == [on_time], "the overlap is too short for it"
    world.clock.advance(HOUR)
    world.vendor.background.clear()
    with capture_logs() as logs:
        await collector.poll()
    assert world.vendor.background == [False, True], "the poll, and the resweep behind it"
    found = await world.spooled()
    assert [event.native_id for event in found] == [on_time, late]
    lateness = (world.clock.now() - late_at) // SECOND
    assert [event.late_by_s for event in found] == [None, lateness]
    assert world.counted("events_late_total") == 1
    assert world.counted("event_lateness_seconds_count") == 1
    (line,) = [line for line in logs if line["event"] == "late_events_found"]
    assert line["count"] == 1
    # and never again
    world.clock.advance(2 * HOUR)
    await collector.poll()
    assert len(await world.spooled()) == 2


async def test_a_resweep_does_not_read_declared_gaps(world: World) -> None:
    collector = world.collector(
        initial_lookback="10d", catch_up_limit="5h", overlap="1s", resweep=["1h"]
    )
    world.vendor.add(NOON - 2 * DAY)
    kept = world.vendor.add(NOON - 4 * HOUR)
    await collector.poll()
    world.clock.advance(3 * HOUR)
    await collector.poll()
    assert any(window.start < NOON - 4 * HOUR for window in world.vendor.asked)
    assert all(window.start >= NOON - 5 * HOUR - SECOND for window in world.vendor.asked)
    names = await world.names()
    assert names == ["None", kept], "the notice of the gap, and what was not given up"
    notice = (await world.spooled())[0]
    assert notice.native_action == "auditrelay.gap_declared"
    assert world.counted("gap_seconds_total") == pytest.approx((10 * 24 - 5) * 3600)


async def test_a_resweep_that_hangs_does_not_block_the_polls(world: World) -> None:
    collector = world.collector(resweep=["1h"], overlap="1s")
    await collector.poll()
    world.clock.advance(2 * HOUR)
    resweeping, let_go = asyncio.Event(), asyncio.Event()
    real = world.vendor.walk_records

    async def walk(window: Interval) -> AsyncGenerator[Page]:
        if window.start < NOON - 2 * MINUTE:  # a resweep: polls are past that
            resweeping.set()
            await let_go.wait()
        async for page in real(window):
            yield page

    world.vendor.walk_instead = walk
    tasks = [
        asyncio.ensure_future(collector.keep_polling()),
        asyncio.ensure_future(collector.resweeper.keep_resweeping()),
    ]
    try:
        async with asyncio.timeout(10):
            collector.polls.due.set()
            await resweeping.wait()
            for _ in range(3):
                fresh = world.vendor.add(world.clock.now())
                world.clock.advance(5 * MINUTE)
                collector.polls.due.set()
                await eventually(lambda name=fresh: is_there(world, name))  # type: ignore[misc]  # a default
            late = world.vendor.add(NOON - HOUR)
            let_go.set()
            await eventually(lambda: is_there(world, late))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def test_a_failed_resweep_is_retried_and_no_poll_suffers(world: World) -> None:
    collector = world.collector(resweep=["1h"])
    await collector.poll()
    world.clock.advance(2 * HOUR)
    late = world.vendor.add(NOON - HOUR)
    await collector._poll()
    world.vendor.errors = {world.vendor.pages + 1: Refused("401: no", status=401)}
    with pytest.raises(Refused):
        await collector.resweeper.run()
    assert collector.condition.up, "only polls decide the health of the source"
    assert late not in await world.names()
    await collector.resweeper.run()
    assert late in await world.names()


async def test_a_bug_at_one_record_is_raised_once_all_behind_it_was_swept(world: World) -> None:
    collector = world.collector(resweep=["1h"], overlap="1s")
    await collector.poll()
    bad = world.clock.now() + MINUTE * 10
    world.clock.advance(2 * HOUR)
    await collector._poll()
    late = [world.vendor.add(bad + number * MINUTE, world.clock.now()) for number in (-5, 5)]
    real = world.vendor.walk_records

    async def walk(window: Interval) -> AsyncGenerator[Page]:
        if window.start <= bad < window.end:
            raise PeerBug("a bug", peer="calls", crossing="read")
        async for page in real(window):
            yield page

    world.vendor.walk_instead = walk
    with pytest.raises(PeerBug):
        await collector.resweeper.run()
    assert {*await world.names()} == {*late}
    assert {reason for _, reason in await world.covered()} == {None}, "no gap: it was read once"
    with pytest.raises(PeerBug):
        await collector.resweeper.run()
    world.vendor.walk_instead = None
    await collector.resweeper.run()
