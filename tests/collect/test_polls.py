"""When a source is polled: whenever that is due, and if the scheduler is silent all the same."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.support.collecting import HOUR, World
from tests.support.daemon import eventually

from auditrelay.collect.collector import Collector
from auditrelay.errors import Retryable, StateError


@asynccontextmanager
async def polling(collector: Collector) -> AsyncIterator["asyncio.Task[None]"]:
    task = asyncio.ensure_future(collector.keep_polling())
    yield task
    task.cancel()
    await asyncio.wait([task])


async def test_a_poll_that_failed_is_made_again_when_the_next_one_is_due(world: World) -> None:
    world.vendor.errors = {1: Retryable("down", reason="connect")}
    collector = world.collector()
    async with polling(collector):
        for polls, worked in ((1, False), (2, True)):
            rested = collector.polls.rested_at
            world.clock.advance(HOUR)
            collector.polls.due.set()
            await eventually(lambda: collector.polls.rested_at > rested)  # noqa: B023  # now
            assert (len(world.vendor.asked), collector.worked_once) == (polls, worked)
            assert collector.worked_at is None


async def test_a_source_is_polled_even_if_the_scheduler_says_nothing(world: World) -> None:
    collector = world.collector(poll_interval="1s")
    collector.polls._interval /= 100
    async with polling(collector):
        await eventually(lambda: len(world.vendor.asked) == 1)


async def test_a_state_that_cannot_be_used_ends_the_loop(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_: str) -> None:
        raise StateError("the state cannot be used")

    monkeypatch.setattr(world.store, "ledger", broken)
    collector = world.collector()
    collector.polls.due.set()
    with pytest.raises(StateError):
        async with asyncio.timeout(5):
            await collector.keep_polling()
