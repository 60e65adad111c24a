"""
The database fails over to a standby that lacks the last commits, which were acknowledged.

What is lost is read and delivered again; nothing is passed over, counted as delivered, or proved.
"""

import asyncio
import itertools
import random
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from tests.replicas.launch import blind
from tests.support.daemon import command, eventually
from tests.support.extent import ALL, extent
from tests.support.fleet import Fleet, add, fill
from tests.support.postgres import Server

from auditrelay.sandbox import Sandbox, faults

pytestmark = pytest.mark.process

MUCH = 10_000
"""A bound for repeats where a whole tail may be repeated."""


def _committed(fleet: Fleet) -> int:
    return int(fleet.rows("select coalesce(sum(writes), 0) from writer")[0][0])


async def _commits(fleet: Fleet, more: int) -> None:
    """Wait until the replicas have committed so many writes more."""
    wanted = _committed(fleet) + more
    await eventually(lambda: _committed(fleet) >= wanted, what=f"{more} commits")


async def _frozen_between_writes(fleet: Fleet) -> None:
    """
    Let *a* stand still while nothing of it is under way in the database.

    Of a write whose connection breaks it would ask what became of it, and see the count then.
    """
    under_way = (
        "select 1 from pg_stat_activity where application_name like 'auditrelay %%' "
        "and state <> 'idle'"
    )
    while True:
        fleet.freeze("a")
        await asyncio.sleep(0.05)  # what it has sent is done
        if not fleet.rows(under_way):
            return
        fleet.thaw("a")
        await asyncio.sleep(0.01)


SEEN = {"by a pulse": None, "by a write": blind}


@pytest.mark.parametrize(
    ("lost", "seen"),
    extent(
        ((1, "by a pulse"), (6, "by a write")),
        tuple(itertools.product(range(1, 16), SEEN)),
    ),
)
async def test_what_was_lost_is_read_and_delivered_again(
    own_fleet: Fleet, own_server: Server, sandbox: Sandbox, lost: int, seen: str
) -> None:
    """The tail begins somewhere in a walk of several pages, or in its deliveries."""
    # What is passed over is not read again by chance, as windows hardly overlap.
    tables = own_fleet.settings(overlap="1s")
    await own_fleet.start("a", tables=tables, fault=SEEN[seen])
    for vendor in (sandbox.cekura, sandbox.bland):
        vendor.faults.add(faults.delay(0.4), times=None)
    add(sandbox, 40)
    await _commits(own_fleet, 1)
    image = await asyncio.to_thread(own_server.image)
    await _commits(own_fleet, lost)
    if seen == "by a write":
        await _frozen_between_writes(own_fleet)
    await own_fleet.fail_over(own_server, image)
    own_fleet.thaw("a")
    add(sandbox)
    await own_fleet.delivered()
    daemon = own_fleet.daemons["a"]
    assert daemon.logged("replica_fenced", reason="rolled_back")
    await own_fleet.check(bound=MUCH)


async def test_no_more_is_repeated_than_was_lost(
    own_fleet: Fleet, own_server: Server, sandbox: Sandbox
) -> None:
    fill(sandbox)
    await own_fleet.start("a")
    await own_fleet.delivered()
    await own_fleet.idle()
    image = await asyncio.to_thread(own_server.image)
    add(sandbox, 12)
    await own_fleet.delivered()
    await own_fleet.idle()
    await own_fleet.fail_over(own_server, image)
    await eventually(
        lambda: own_fleet.daemons["a"].logged("replica_fenced", reason="rolled_back"),
        what="it has noticed",
    )
    add(sandbox, 2)
    await own_fleet.check(bound=12)
    assert max(own_fleet.repeats().values()) > 0, "the tail was lost"


async def test_events_at_the_places_of_lost_ones_are_delivered(
    own_fleet: Fleet, own_server: Server, sandbox: Sandbox
) -> None:
    """
    One replica has read pages and waits for the answers of the sinks; another one reads the source.

    Then the pages are lost, and others take their places: the verdicts are not about these.
    """
    reading, delivering = own_fleet.apart()
    await own_fleet.start("a", **reading)
    await own_fleet.start("b", **delivering)
    image = await asyncio.to_thread(own_server.image)
    await own_fleet.batches_under_way(2.0)
    # What was read is not to be read again soon: others come to its places first.
    sandbox.cekura.faults.add(faults.delay(1.0), times=4)
    await own_fleet.fail_over(own_server, image)
    add(sandbox, 40)
    await own_fleet.check(bound=MUCH)


async def test_a_sink_that_has_read_beyond_the_end_goes_back(
    own_fleet: Fleet, own_server: Server, sandbox: Sandbox
) -> None:
    reading, delivering = own_fleet.apart()
    await own_fleet.start("a", **reading)
    await own_fleet.start("b", **delivering)
    add(sandbox)
    await own_fleet.delivered()
    await own_fleet.idle()
    image = await asyncio.to_thread(own_server.image)
    add(sandbox, 12)
    await own_fleet.delivered()
    await own_fleet.idle()
    await own_fleet.fail_over(own_server, image)
    new = {sandbox.bland.add(datetime.now(UTC))}
    await eventually(
        lambda: not sandbox.elastic.stored.lost(new), within=20, what="it is delivered"
    )
    await own_fleet.check(bound=MUCH)


@pytest.mark.skipif(not ALL, reason="tests/store/sql/test_marks.py has what becomes of the letters")
async def test_the_replay_of_a_dead_letter_is_lost_and_made_again(
    own_fleet: Fleet, own_server: Server, sandbox: Sandbox
) -> None:
    letters = "select count(*) from dead_letter where dropped is null"
    sandbox.elastic.fail_items(400, times=2)
    fill(sandbox)
    (a,) = await own_fleet.start("a")
    await eventually(lambda: own_fleet.rows(letters) == [(2,)], what="two events are refused")
    await own_fleet.idle()
    image = await asyncio.to_thread(own_server.image)
    replay = ("dead-letters", "replay", "--all")
    assert (await command(a.config, *replay)).stdout == "2 delivered\n"
    assert own_fleet.rows(letters) == [(0,)]
    await own_fleet.fail_over(own_server, image)
    await eventually(
        lambda: a.logged("replica_fenced", reason="rolled_back"), what="it has noticed"
    )
    assert own_fleet.rows(letters) == [(2,)], "they are there again"
    again = await command(a.config, *replay)
    assert (again.status, again.stdout) == (0, "2 delivered\n"), again.stderr
    assert own_fleet.rows(letters) == [(0,)]
    add(sandbox)
    await own_fleet.delivered()
    assert await a.end() == 0
    assert "Traceback" not in a.log
    uids = Counter(sandbox.elastic.stored.uids)
    assert uids.most_common(1)[0][1] == 1


@pytest.mark.skipif(not ALL, reason="tests/store/sql/test_marks.py has what is written of windows")
async def test_a_backfill_and_polls_break_off_and_begin_again(
    own_fleet: Fleet, own_server: Server, sandbox: Sandbox
) -> None:
    """Their slices that were lost are not proved: they are read once more."""
    now = datetime.now(UTC)
    start, end = now - timedelta(days=9), now - timedelta(days=5)
    sandbox.bland.fill(400, start, end)
    # Each poll reads ten minutes again, and takes as long as its pages.
    (a,) = await own_fleet.start("a", tables=own_fleet.settings(overlap="10m"))
    sandbox.bland.faults.add(faults.delay(0.05), times=None)
    span = ("--from", start.isoformat(), "--to", end.isoformat(), "--concurrency", "1")
    backfill = asyncio.create_task(command(a.config, "backfill", "bland", *span, within=120))
    slices = "slice_backfilled"
    await eventually(lambda: len(a.logged(slices)) >= 5, what="the backfill is under way")
    image = await asyncio.to_thread(own_server.image)
    done = len(a.logged(slices))
    await eventually(lambda: len(a.logged(slices)) >= done + 10, what="slices that will be lost")
    add(sandbox)
    await own_fleet.fail_over(own_server, image)
    await eventually(
        lambda: a.logged("replica_fenced", reason="rolled_back"), what="it has noticed"
    )
    sandbox.bland.faults.clear()
    ended = await backfill
    assert ended.status == 0, ended.stderr
    again = Counter((line["start"], line["end"]) for line in a.logged(slices))
    assert again.most_common(1)[0][1] > 1, "what was lost was read again"
    await own_fleet.check(bound=MUCH)
    assert not sandbox.elastic.stored.lost(sandbox.bland.history.ids())


async def test_a_takeover_is_lost(own_fleet: Fleet, own_server: Server, sandbox: Sandbox) -> None:
    """Afterwards two replicas believe to hold the same, with the same epoch."""
    fill(sandbox)
    await own_fleet.start("a")
    await own_fleet.start("b")
    await own_fleet.delivered()
    image = await asyncio.to_thread(own_server.image)
    own_fleet.freeze("a")
    await own_fleet.held("b")
    own_fleet.thaw("a")
    add(sandbox)
    await own_fleet.delivered()
    await own_fleet.fail_over(own_server, image)
    add(sandbox)
    await own_fleet.check(bound=MUCH)


@pytest.mark.parametrize("seed", extent((1,), range(1, 9)))
async def test_the_database_fails_over_again_and_again(
    own_fleet: Fleet, own_server: Server, sandbox: Sandbox, seed: int
) -> None:
    """Two failovers one after the other, the second while a replica takes over."""
    rng = random.Random(seed)
    fill(sandbox)
    await own_fleet.start("a", "b")
    for turn in range(2):
        image = await asyncio.to_thread(own_server.image)
        add(sandbox)
        await asyncio.sleep(rng.uniform(0.1, 1.5))
        if turn:
            await own_fleet.kill(own_fleet.leases()["sink splunk"].name or "a")
            await asyncio.sleep(rng.uniform(0.0, 1.5 * own_fleet.life))
        await own_fleet.fail_over(own_server, image)
    add(sandbox)
    await own_fleet.check(bound=MUCH)
