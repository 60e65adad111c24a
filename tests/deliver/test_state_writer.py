"""A full disk delays what a sink has to store, and loses none of it."""

import asyncio
from typing import Any

import pytest
from tests.support.delivering import Intake, World

from auditrelay.errors import StoreFull
from auditrelay.sinks import Rejection, Verdict


async def test_a_verdict_that_cannot_be_stored_is_kept_until_the_disk_has_room(
    world: World, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    made = await world.spool(5)
    settle, refusals = world.store.settle, iter(range(4))

    async def full(*args: Any, **kwargs: Any) -> Any:
        if next(refusals, None) is not None:
            raise StoreFull("no room")
        return await settle(*args, **kwargs)

    monkeypatch.setattr(world.store, "settle", full)
    rejection = Rejection(0, "mapping", "odd", 400)
    intake = Intake(script=[Verdict(rejected=(rejection,))])
    await world.run(intake)
    assert intake.offered == [made], "it was sent twice"
    assert len(waits) == 4
    assert [name for name, *_ in world.dead()] == [made[0]]
    assert await world.backlog() == 0


async def test_a_verdict_that_waits_for_room_does_not_make_the_loop_look_stuck(
    world: World, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    await world.spool(5)
    settle, moved = world.store.settle, list[float]()

    async def full(*args: Any, **kwargs: Any) -> Any:
        assert deliverer.worked_at is not None
        moved.append(deliverer.worked_at)
        if len(moved) < 4:
            raise StoreFull("no room")
        return await settle(*args, **kwargs)

    monkeypatch.setattr(world.store, "settle", full)
    deliverer = world.deliverer(Intake())
    deliverer.finish()
    async with asyncio.timeout(90):
        await deliverer.keep_delivering()
    assert len(waits) == 3
    assert moved == sorted(set(moved)), "it shows progress while it waits"
    assert deliverer.worked_at is None
