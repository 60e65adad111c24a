"""Replicas whose configurations divide a sink otherwise: who delivers when, and who does not."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.service.test_member import Fleet, Played, _fleet, card
from tests.support.clock import FakeClock

from auditrelay.errors import ConfigError
from auditrelay.service.membership import FREE, MOVE_EVERY, SETTLED, Loss
from auditrelay.store.leases import KEEPER
from auditrelay.store.parts import sink_units
from auditrelay.store.replicas import LIFE, Served

WHOLE = ["source a", "sink x", KEEPER]
THREE = ["source a", *sink_units("x", 3), KEEPER]


@pytest.fixture
async def fleet(clock: FakeClock) -> AsyncIterator[Fleet]:
    async with _fleet(clock) as made:
        yield made


def parts(played: Played) -> list[str]:
    return sorted(unit for unit in played.running if unit.startswith("sink x"))


async def test_three_replicas_get_a_part_each(fleet: Fleet) -> None:
    replicas = [await fleet.add(card(THREE)) for _ in range(3)]
    await fleet.pass_(SETTLED + 3 * MOVE_EVERY)
    assert sorted(unit for each in replicas for unit in parts(each)) == sink_units("x", 3)
    assert [len(parts(each)) for each in replicas] == [1, 1, 1]


async def test_a_roll_out_of_more_parts_gives_them_in_order_and_back_again(fleet: Fleet) -> None:
    old = await fleet.add(card(WHOLE))
    other = await fleet.add(card(WHOLE))
    await fleet.pass_(3)
    assert [*parts(old), *parts(other)] == ["sink x"]
    new = await fleet.add(card(THREE))
    await fleet.pass_(3)
    assert parts(new) == sink_units("x", 3)
    assert (parts(old), parts(other)) == ([], [])
    lost = [why for each in (old, other) for unit, why in each.instance.lost if unit == "sink x"]
    assert lost == [Loss.MOVED], "its requests have landed first"
    for each in (old, other):
        each.member.serve({unit: Served("") for unit in THREE})
    await fleet.pass_(SETTLED + 3 * MOVE_EVERY)
    assert [len(parts(each)) for each in fleet.replicas] == [1, 1, 1]
    new.member.serve({unit: Served("") for unit in WHOLE})
    await fleet.pass_(3)
    assert (parts(new), len(parts(old) + parts(other))) == ([], 3), "the largest number counts"
    old.member.drain()
    other.member.serve({unit: Served("") for unit in WHOLE})
    await fleet.pass_(5)
    assert len(parts(new) + parts(other)) == 1


async def test_nothing_begins_while_the_old_holder_lets_its_requests_land(fleet: Fleet) -> None:
    old = await fleet.add(card(WHOLE))
    await fleet.pass_(2)
    old.instance.slow = asyncio.Event()
    new = await fleet.add(card(THREE))
    await fleet.pass_(6)
    assert parts(old) == ["sink x"]
    assert parts(new) == []
    old.instance.slow.set()
    await fleet.pass_(2)
    assert parts(new) == sink_units("x", 3)


async def test_a_frozen_holder_of_the_whole_is_fenced_by_who_takes_a_part(fleet: Fleet) -> None:
    old = await fleet.add(card(WHOLE))
    await fleet.pass_(2)
    lease = old.member.leases["sink x"]
    old.frozen = True
    new = await fleet.add(card(THREE))
    await fleet.pass_(LIFE - 3)
    assert parts(new) == []
    await fleet.pass_(6)
    assert parts(new) == sink_units("x", 3)
    assert fleet.rows.leases["sink x"].token != lease.token
    old.frozen = False
    await fleet.pass_(3)
    assert parts(old) == []


async def test_the_number_that_a_dead_replica_had_is_over_with_it(fleet: Fleet) -> None:
    new = await fleet.add(card(THREE))
    await fleet.pass_(2)
    old = await fleet.add(card(WHOLE))
    await fleet.pass_(2)
    assert parts(old) == []
    new.frozen = True
    await fleet.pass_(LIFE + 4)
    assert parts(old) == ["sink x"]
    new.frozen = False
    await fleet.pass_(5)
    assert (parts(new), parts(old)) == (sink_units("x", 3), [])


async def test_a_command_ends_what_it_has_begun_and_takes_nothing_away(fleet: Fleet) -> None:
    command = await fleet.add(card(["sink x"], command=True))
    await fleet.pass_(1)
    assert parts(command) == ["sink x"]
    new = await fleet.add(card(THREE))
    await fleet.pass_(5)
    assert (parts(command), parts(new)) == (["sink x"], [])
    command.member.drain()
    await fleet.pass_(3)
    assert parts(new) == sink_units("x", 3)


async def test_parts_that_cannot_begin_are_not_replaced_by_another_number(fleet: Fleet) -> None:
    """It would be given up at the next pulse, and taken again, for ever."""
    old = await fleet.add(card(WHOLE))
    await fleet.pass_(2)
    new = await fleet.add(card(THREE))
    new.instance.failing = ConfigError("it has a bug")
    await fleet.pass_(4 * FREE)
    assert [unit for unit, _ in old.instance.lost].count("sink x") == 1
    assert parts(old) == []
    assert set(new.member.resting) >= set(sink_units("x", 3))
