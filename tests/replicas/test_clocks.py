"""Clocks of replicas that are wrong or stand still, and a clock of the database that jumps."""

import asyncio

import pytest
from tests.replicas.mishaps import ClockOff
from tests.support.extent import extent
from tests.support.fleet import Fleet, add, fill

from auditrelay.sandbox import Sandbox

pytestmark = pytest.mark.process

MINUTES = 10 * 60.0


@pytest.mark.parametrize(
    ("far", "jump"), extent(((-MINUTES, "1 hour"),), ((-MINUTES, "1 hour"), (MINUTES, "-1 hour")))
)
async def test_clocks_that_differ_or_jump_move_nothing_and_one_far_off_reads_nothing(
    fleet: Fleet, sandbox: Sandbox, far: float, jump: str
) -> None:
    fill(sandbox)
    await fleet.start("a")
    await fleet.start("b", fault=ClockOff(far / 30))
    (c,) = await fleet.start("c", fault=ClockOff(far))
    await fleet.delivered()
    assert c.logged("clock_differs")
    assert {line["unit"] for line in c.logged("unit_not_served")} == {
        f"source {name}" for name in fleet.settings()[0]
    }

    # As if the clock of the database had jumped: the lives of all have ended, or last an hour.
    fleet.rows(f"update replica set expires = expires - interval '{jump}'")
    add(sandbox)
    await fleet.delivered()
    await asyncio.sleep(2 * fleet.life)
    for daemon in fleet.daemons.values():
        assert not daemon.logged("unit_fenced")
        assert not daemon.logged("replica_fenced")

    await fleet.kill("a")
    await fleet.held("b", "c")
    add(sandbox)
    await fleet.delivered()
    held = [unit for unit, terms in fleet.history().items() for term in terms if term.name == "c"]
    assert held
    assert not [unit for unit in held if unit.startswith("source ")]
    await fleet.check()
