"""The database is restarted, killed, or away for long: nothing is taken or repeated."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
from tests.support.daemon import eventually
from tests.support.extent import ALL, extent
from tests.support.fleet import BOUND, Fleet, Leased, add, fill
from tests.support.postgres import Server
from tests.support.wire import Wire

from auditrelay.sandbox import Sandbox

pytestmark = pytest.mark.process


def _kill(server: Server) -> None:
    server.kill()
    server.start()


RESTARTS: dict[str, Callable[[Server], None]] = {
    "smart": lambda server: server.restart("smart"),
    "fast": lambda server: server.restart("fast"),
    "immediate": lambda server: server.restart("immediate"),
    "killed": _kill,
}


@pytest.mark.parametrize("how", ["fast", "immediate", "killed"])
async def test_a_restart_of_the_database_takes_and_repeats_nothing(
    own_fleet: Fleet, own_server: Server, sandbox: Sandbox, how: str
) -> None:
    fill(sandbox)
    await own_fleet.start("a")
    await own_fleet.start("b")
    await own_fleet.delivered()
    await own_fleet.batches_under_way()
    await asyncio.to_thread(RESTARTS[how], own_server)
    add(sandbox)
    await own_fleet.delivered()
    own_fleet.check_not_robbed()
    await own_fleet.check(bound=0)


@pytest.mark.skipif(not ALL, reason="20 seconds; what differs is in the test below")
async def test_the_database_waits_for_its_clients_to_go_and_goes_at_last(
    own_fleet: Fleet, own_server: Server, sandbox: Sandbox
) -> None:
    """``smart`` lets those go on that are connected; a replica that reconnects is refused."""
    fill(sandbox)
    a, b = await own_fleet.start("a", "b")
    await own_fleet.delivered()
    own_fleet.leave()
    stopping = asyncio.create_task(asyncio.to_thread(own_server.restart, "smart"))
    await asyncio.sleep(own_fleet.life)
    add(sandbox)
    await own_fleet.delivered()
    assert not stopping.done()
    assert await a.end() == 0
    assert await b.end() == 0
    await stopping
    own_fleet.check_result(bound=0)


@pytest.mark.parametrize("how", extent(("stopped",), ("stopped", "silent")))
async def test_a_replica_stops_in_time_though_the_database_is_away(
    own_fleet: Fleet, own_server: Server, sandbox: Sandbox, how: str
) -> None:
    fill(sandbox)
    with Wire(own_server.address()) as wire:
        (a,) = await own_fleet.start("a", through=wire)
        await own_fleet.delivered()
        if how == "stopped":
            await asyncio.to_thread(own_server.stop, "fast")
        else:
            wire.drop()
        add(sandbox)
        await asyncio.sleep(1)
        assert await a.end(within=29) == 0, "Kubernetes kills it after 30 seconds"
    if how == "stopped":
        await asyncio.to_thread(own_server.start)
    await own_fleet.start("b")
    await own_fleet.held("b")
    await own_fleet.check(bound=BOUND)


def _is_balanced(leases: Mapping[str, Leased]) -> bool:
    """Return whether nothing is to be moved: each replica has as many of each kind, or one more."""
    for kind in ("source", "sink"):
        of_kind = [each.name for unit, each in leases.items() if unit.startswith(f"{kind} ")]
        counts = [of_kind.count(name) for name in ("a", "b", "c")]
        if sum(counts) != len(of_kind) or max(counts) - min(counts) > 1:
            return False
    return True


async def test_no_replica_is_robbed_after_the_database_was_away_for_long(
    own_fleet: Fleet, own_server: Server, sandbox: Sandbox
) -> None:
    """Every life has ended by the clock of the database; but none was seen standing still."""
    fill(sandbox)
    daemons = await own_fleet.start("a", "b", "c")
    await own_fleet.delivered()
    await eventually(lambda: _is_balanced(own_fleet.leases()), what="nothing is to be moved")
    before = own_fleet.leases()
    await asyncio.to_thread(own_server.stop, "fast")
    add(sandbox)
    sent = {sink: double.requests for sink, double in sandbox.siems.items()}
    await asyncio.sleep(3 * own_fleet.life)
    assert {sink: double.requests for sink, double in sandbox.siems.items()} == sent
    await asyncio.to_thread(own_server.start)
    await own_fleet.delivered()
    assert own_fleet.leases() == before
    assert all(len(daemon.logged("store_unreachable")) >= 1 for daemon in daemons)
    assert all(daemon.logged("store_reached") for daemon in daemons)
    await own_fleet.check(bound=0)
