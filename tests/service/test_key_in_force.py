"""Replicas with different keys of the evidence never work side by side."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.service.rows import Rows
from tests.service.test_member import UNITS, Played
from tests.support.clock import FakeClock

from auditrelay.errors import (
    Fenced,
    LeaseLost,
    RelayError,
    RolledBack,
    StateError,
    StoreFull,
)
from auditrelay.store.leases import KEEPER
from auditrelay.store.replicas import LIFE, Card, Served


def card(name: str, key: str) -> Card:
    return Card(name=name, version="1", serves={unit: Served("") for unit in UNITS}, key=key)


class World:
    """Replicas that share *rows*; what a keeper begins with puts its key into force."""

    def __init__(self, clock: FakeClock, tasks: asyncio.TaskGroup) -> None:
        self.clock, self.tasks = clock, tasks
        self.rows = Rows(clock)

    async def add(self, name: str, key: str) -> Played:
        played = Played(self.rows, self.clock, self.tasks, card(name, key))
        await played.turn()
        return played

    async def pass_(self, seconds: float, *played: Played) -> None:
        for _ in range(int(seconds)):
            self.clock.advance(1)
            for each in played:
                await each.turn()


@pytest.fixture
async def world(clock: FakeClock) -> AsyncIterator[World]:
    async with asyncio.TaskGroup() as tasks:
        yield World(clock, tasks)


async def test_the_keeper_puts_the_key_into_force_before_anything_else_begins(
    world: World,
) -> None:
    """What waits has the tags of the former key: to read it would be to take it for changed."""
    a, b = await world.add("a", "new"), await world.add("b", "new")
    await world.pass_(20, a, b)
    assert a.running | b.running == {KEEPER}
    assert not a.member.joined.is_set()
    assert a.instance.registered == b.instance.registered == 0
    world.rows.key = "new"
    await world.pass_(2, a, b)
    assert a.running | b.running == set(UNITS)
    assert a.instance.registered == b.instance.registered == 1
    assert a.member.joined.is_set()


async def test_a_replica_with_another_key_than_those_that_live_takes_nothing_and_ends(
    world: World,
) -> None:
    world.rows.key = "old"
    a = await world.add("a", "old")
    assert a.running == set(UNITS)
    b = await world.add("b", "new")
    await world.pass_(LIFE, a, b)
    assert b.running == set()
    assert a.running == set(UNITS)
    with pytest.raises(StateError, match=r"the id new, and that of a is the one with the id old"):
        await world.pass_(5, a, b)


async def test_the_row_of_one_that_died_is_waited_for(world: World) -> None:
    world.rows.key = "old"
    a = await world.add("a", "old")
    a.frozen = True
    b = await world.add("b", "new")
    await world.pass_(2 * LIFE + 5, a, b)
    assert b.running == {KEEPER}
    world.rows.key = "new"
    await world.pass_(2, b)
    assert b.running == set(UNITS)


async def test_one_that_comes_back_with_the_former_key_ends(world: World) -> None:
    world.rows.key = "old"
    a = await world.add("a", "old")
    a.frozen = True
    b = await world.add("b", "new")
    await world.pass_(2 * LIFE + 5, b)
    world.rows.key = "new"
    await world.pass_(5, b)
    a.frozen = False
    with pytest.raises(StateError, match=r"the id old, and that of b is the one with the id new"):
        await world.pass_(2 * LIFE, a, b)
    assert a.running == set()
    assert b.running == set(UNITS)


async def test_a_replica_without_the_key_that_is_in_force_says_so(world: World) -> None:
    world.rows.key = "old"
    a, b = await world.add("a", "old"), await world.add("b", "")
    with pytest.raises(StateError, match=r"evidence\.key is not set, and that of a is the one"):
        await world.pass_(2 * LIFE, a, b)


@pytest.mark.parametrize("error", [Fenced("other writes"), RolledBack("lost"), StoreFull("full")])
async def test_until_it_has_registered_a_replica_has_the_keeper_alone(
    world: World, error: RelayError
) -> None:
    a = Played(world.rows, world.clock, world.tasks, card("a", ""))
    a.instance.unregistered = error
    await a.turn()
    assert a.running <= {KEEPER}
    assert not a.member.joined.is_set()
    me = a.id
    a.instance.unregistered = None
    await world.pass_(8, a)
    assert a.running == set(UNITS)
    assert (a.id != me) == isinstance(error, LeaseLost), "it has joined as another one"
