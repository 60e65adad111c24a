"""A standby that streams takes over: one that had everything, and one that did not."""

import asyncio
from collections.abc import Iterator

import pytest
from tests.support.daemon import eventually, missing
from tests.support.extent import ALL
from tests.support.fleet import Fleet, add, fill
from tests.support.postgres import Server
from tests.support.standby import Standby, require_standby, until
from tests.support.wire import Wire

from auditrelay.sandbox import Sandbox

pytestmark = pytest.mark.process

MUCH = 10_000
"""A bound for repeats where a whole tail may be repeated."""


@pytest.fixture
def standby(own_server: Server, own_fleet: Fleet) -> Iterator[Standby]:
    """A standby of the server of *own_fleet*, whose replicas know both."""
    made = Standby(own_server)
    own_fleet.address = made.both(own_fleet.address)
    yield made
    own_server.kill()  # or it would wait until a standby that is gone has the end of its log
    made.close()
    own_server.start()
    require_standby(own_server, "")


async def _fail_over(old: Server, new: Standby) -> None:
    await asyncio.to_thread(old.kill)
    await asyncio.to_thread(new.promote)


async def test_a_synchronous_standby_is_waited_for_and_takes_over_without_a_repeat(
    own_fleet: Fleet, own_server: Server, standby: Standby, sandbox: Sandbox
) -> None:
    await asyncio.to_thread(require_standby, own_server, "*")
    await asyncio.to_thread(until, own_server, "select sync_state from pg_stat_replication", "sync")
    fill(sandbox)
    daemons = await own_fleet.start("a", "b")
    await own_fleet.delivered()

    # While the standby is away commits wait for it, and so does everything.
    await asyncio.to_thread(standby.stop)
    add(sandbox)
    waits = "select count(*) > 0 from pg_stat_activity where wait_event = 'SyncRep'"
    await asyncio.to_thread(until, own_server, waits, value=True)
    await asyncio.sleep(2 * own_fleet.life)
    assert missing(sandbox)
    await asyncio.to_thread(standby.start)
    await own_fleet.delivered()

    await own_fleet.batches_under_way()
    await _fail_over(own_server, standby)
    add(sandbox)
    await own_fleet.delivered()
    for daemon in daemons:
        assert not daemon.logged("unit_fenced")
        assert not daemon.logged("replica_fenced")
    await own_fleet.check(bound=0)


async def test_what_a_standby_had_not_received_is_read_and_delivered_again(
    own_fleet: Fleet, own_server: Server, standby: Standby, sandbox: Sandbox
) -> None:
    fill(sandbox)
    (daemon,) = await own_fleet.start("a")
    await own_fleet.delivered()
    await own_fleet.idle()
    behind = "select replay_lsn >= pg_current_wal_lsn() from pg_stat_replication"
    await asyncio.to_thread(until, own_server, behind, value=True)
    await asyncio.to_thread(standby.stop)
    add(sandbox, 12)
    await own_fleet.delivered()
    await own_fleet.idle()
    await asyncio.to_thread(own_server.kill)
    await asyncio.to_thread(standby.start)
    await asyncio.to_thread(standby.promote)
    await eventually(
        lambda: daemon.logged("replica_fenced", reason="rolled_back"), what="it has noticed"
    )
    assert daemon.logged("store_failed_over")
    add(sandbox, 2)
    # The history of the leases has lost its end as well.
    await own_fleet.check(bound=12, holders=False)
    assert max(own_fleet.repeats().values()) > 0, "the tail was lost"


@pytest.mark.skipif(not ALL, reason="what differs is the count, which test_lost_tail.py sees")
async def test_a_replica_on_the_old_primary_is_fenced_when_it_meets_the_new_one(
    own_fleet: Fleet, own_server: Server, standby: Standby, sandbox: Sandbox
) -> None:
    """Two primaries, each with a replica that believes to be the only one: events are repeated."""
    address = own_server.address(own_fleet.address.rpartition("/")[2])
    fill(sandbox)
    with Wire(own_server.address()) as first, Wire(own_server.address()) as second:
        own_fleet.address = address
        await own_fleet.start("a", through=first)
        await own_fleet.start("b", through=second)
        await own_fleet.delivered()
        behind = "select replay_lsn >= pg_current_wal_lsn() from pg_stat_replication"
        await asyncio.to_thread(until, own_server, behind, value=True)
        await asyncio.to_thread(standby.promote)
        second.switch(standby.address())
        second.reset()
        own_fleet.address = standby.address(address.rpartition("/")[2])
        add(sandbox)
        await own_fleet.held("b")
        await own_fleet.idle()
        add(sandbox)
        await own_fleet.delivered()
        assert not own_fleet.daemons["a"].logged("replica_fenced"), "it works on, on the old one"
        first.switch(standby.address())
        first.reset()
        await eventually(
            lambda: own_fleet.daemons["a"].logged("replica_fenced"), what="it meets the new one"
        )
        add(sandbox)
        await own_fleet.check(bound=MUCH, holders=False)
