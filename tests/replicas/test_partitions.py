"""The wire between a replica and the database is cut, one way, frozen, or slow."""

import asyncio
import time
from collections.abc import Iterator

import pytest
from tests.replicas.launch import SHORT
from tests.support.daemon import eventually
from tests.support.extent import ALL, extent
from tests.support.fleet import BOUND, Fleet, add, fill
from tests.support.postgres import Server
from tests.support.wire import Wire

from auditrelay.sandbox import Sandbox, faults
from auditrelay.store.replicas import LIFE

pytestmark = pytest.mark.process


@pytest.fixture
def wires(postgres: Server) -> Iterator[tuple[Wire, Wire]]:
    """A wire to the database for each of two replicas."""
    with Wire(postgres.address()) as first, Wire(postgres.address()) as second:
        yield first, second


WAYS = {
    "nothing gets through": {},
    "no answer gets through": {"to_server": False},
    "nothing gets to the database": {"to_client": False},
}


@pytest.mark.parametrize("way", WAYS)
async def test_another_replica_takes_over_from_one_that_cannot_reach_the_database(
    fleet: Fleet, sandbox: Sandbox, wire: Wire, way: str
) -> None:
    # What is left of it once it stops by its own clock is enough for a request of a busy machine.
    fleet.life = 2 * SHORT
    fill(sandbox)
    await fleet.start("a", through=wire)
    await fleet.start("b")
    await fleet.delivered()
    # It has read what it sends again and again: only its own clock tells it to stop.
    refusals = [
        intake.faults.add(
            faults.answer(503),
            method="POST",
            times=None,
            when=lambda request: request.headers["user-agent"].endswith(" a"),
        )
        for intake in sandbox.siems.values()
    ]
    add(sandbox)
    await eventually(lambda: all(fault.applied for fault in refusals), what="it is refused")
    wire.drop(**WAYS[way])
    cut = time.time()
    fleet.killed += 1
    await fleet.held("b")
    taken = time.time()
    await fleet.delivered()
    # It has stopped by its own clock before another one could take over.
    for sink in sandbox.siems:
        assert [at for at in fleet.sent("a", sink) if at > taken] == []
    assert any(fleet.sent("b", sink) for sink in sandbox.siems)
    assert taken - cut >= fleet.life * 0.7
    for intake in sandbox.siems.values():
        intake.faults.clear()
    wire.heal()
    await eventually(
        lambda: (
            fleet.daemons["a"].logged("unit_fenced") or fleet.daemons["a"].logged("replica_fenced")
        ),
        what="it has noticed",
    )
    add(sandbox)
    await fleet.check()


async def test_no_replica_is_robbed_when_none_could_reach_the_database(
    fleet: Fleet, sandbox: Sandbox, wires: tuple[Wire, Wire]
) -> None:
    fleet.life = 2 * SHORT  # half of it is enough for a busy machine to heal the other wire
    fill(sandbox)
    for name, wire in zip("ab", wires, strict=True):
        await fleet.start(name, through=wire)
    await fleet.delivered()
    for wire in wires:
        wire.hold()
    add(sandbox)
    await asyncio.sleep(3 * fleet.life)
    first, second = wires
    second.heal()  # that of the one which holds less: it sees that the other one has expired
    await asyncio.sleep(fleet.life / 2)
    first.heal()
    await fleet.delivered()
    fleet.check_not_robbed()
    await fleet.check(bound=0)


@pytest.mark.skipif(not ALL, reason="30 seconds; test_connection.py has a shorter deadline")
async def test_a_half_open_connection_is_given_up(
    fleet: Fleet, sandbox: Sandbox, wire: Wire
) -> None:
    """Something between keeps acknowledging bytes for a dead server; new connections work."""
    fill(sandbox)
    await fleet.start("a", through=wire)
    await fleet.delivered()
    mute = wire.trip("mute", at=b"select fence(")
    add(sandbox)
    await eventually(mute.is_set, what="one connection is half open")
    await fleet.delivered(within=60)  # a deadline of 30 seconds, of which no setting tells
    await fleet.check(bound=0)


@pytest.mark.parametrize("seconds", extent((0.2,), (0.2, 0.5, 2.0, 5.0)))
async def test_a_slow_database_costs_time_alone(
    fleet: Fleet, sandbox: Sandbox, wires: tuple[Wire, Wire], seconds: float
) -> None:
    if seconds > 0.2:
        fleet.life = LIFE
    fill(sandbox)
    for name, wire in zip("ab", wires, strict=True):
        await fleet.start(name, through=wire)
    await fleet.delivered()
    for wire in wires:
        wire.delay(seconds)
    add(sandbox, 8)
    await fleet.delivered(within=60 + 100 * seconds)
    for wire in wires:
        wire.heal()
    add(sandbox)
    await fleet.check(bound=0 if seconds <= 2.0 else 10 * BOUND)
    for daemon in fleet.daemons.values():
        robbed = daemon.logged("unit_fenced")
        assert robbed == [] or seconds > 2.0, "moved by the keeper, perhaps, but not taken"
