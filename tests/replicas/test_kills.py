"""
A replica is killed with SIGKILL around each durable write, and another one goes on.

Each time: nothing is lost; Elasticsearch stores each event once; Splunk and Datadog get again at
most what was in flight; and no two replicas send to one sink.
"""

import asyncio
import contextlib
import signal
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args

import pytest
from tests.replicas.launch import AfterTake, AtWrite, Place
from tests.support.daemon import eventually
from tests.support.extent import extent
from tests.support.fleet import BOUND, Fleet, add, fill
from tests.support.wire import Wire

from auditrelay.sandbox import Sandbox, faults

pytestmark = pytest.mark.process

PLACES: tuple[Place, ...] = get_args(Place)

AT_START = {
    "start_source": (1,),
    "start_sink": (2,),
    "prune": (1,),
    "begin": (1,),
    "save_condition": (1, 3),
    "add": (1, 2, 4),
    "settle": (1, 3, 8, 12),
    "seal": (1,),
}
"""The writes of a replica that starts alone, by the store's method, at which it is killed."""

LATER = {"add": (1, 2, 3, 5), "settle": (1, 2, 6)}
"""Those of one that has been at work for a while, beside another one."""


def _kills(writes: dict[str, tuple[int, ...]], first: int) -> list[tuple[str, int, Place]]:
    """Return where to kill; in ``make test`` each method twice at most, at other places in turn."""
    all_writes = [
        (method, number)
        for method, numbers in writes.items()
        for number in extent((numbers[0], numbers[-1]) if numbers[1:] else numbers, numbers)
    ]
    return [
        (method, number, place)
        for turn, (method, number) in enumerate(all_writes)
        for place in extent((PLACES[(turn + first) % 3],), PLACES)
    ]


@pytest.mark.parametrize(("method", "number", "place"), _kills(AT_START, 0))
async def test_another_replica_goes_on_wherever_one_is_killed_as_it_starts(
    fleet: Fleet, sandbox: Sandbox, tmp_path: Path, method: str, number: int, place: Place
) -> None:
    fill(sandbox)
    journal = tmp_path / "journal"
    journal.touch()
    first = fleet.daemon("a", fault=AtWrite(journal, method, number, place))
    with contextlib.suppress(AssertionError):  # it may be killed before it has started
        await first.start()
    await fleet.start("b")
    assert await first.process.wait() == -signal.SIGKILL, "it was not killed"
    await fleet.held("b")
    add(sandbox)
    await fleet.check(bound=BOUND)


@pytest.mark.parametrize(("method", "number", "place"), _kills(LATER, 1))
async def test_another_replica_goes_on_wherever_one_is_killed_at_work(
    fleet: Fleet, sandbox: Sandbox, tmp_path: Path, method: str, number: int, place: Place
) -> None:
    journal = tmp_path / "journal"
    await fleet.start("a", fault=AtWrite(journal, method, number, place))
    await fleet.start("b")
    journal.touch()
    add(sandbox)
    assert await fleet.daemons["a"].process.wait() == -signal.SIGKILL, "it was not killed"
    await fleet.held("b")
    add(sandbox)
    await fleet.check(bound=BOUND)


@pytest.mark.parametrize("after", extent((60,), (0, 60, 500, 2_000)))
async def test_what_was_sent_in_part_is_undone(
    fleet: Fleet, sandbox: Sandbox, wire: Wire, after: int
) -> None:
    await fleet.start("a", through=wire)
    await fleet.start("b")
    # The end of the page's transaction never gets there, and the process is killed at once.
    cut = wire.trip("hold", at=b"insert into spool", after=after)
    add(sandbox)
    await eventually(cut.is_set, what="the page is on its way")
    await fleet.kill("a")
    wire.reset()
    await fleet.held("b")
    await fleet.check()


@pytest.mark.parametrize("then", ["killed", "cut off"])
async def test_what_was_committed_without_an_answer_is_not_done_twice(
    fleet: Fleet, sandbox: Sandbox, wire: Wire, then: str
) -> None:
    await fleet.start("a", through=wire)
    await fleet.start("b")

    def committed() -> int:
        return int(fleet.rows("select sum(writes) from writer")[0][0])

    before = committed()
    mute = wire.trip("mute", at=b"select fence(")
    add(sandbox)
    await eventually(mute.is_set, what="a write is on its way")
    await eventually(lambda: committed() > before, what="it is committed")
    if then == "killed":
        await fleet.kill("a")
        wire.reset()
        await fleet.held("b")
    else:
        wire.heal()  # which resets what has lost something
    await fleet.check(bound=0 if then == "cut off" else BOUND)
    events = "select sum(count) from spool join source on source.id = source where name <> %s"
    assert fleet.rows(events, "auditrelay") == [(24,)]


@pytest.mark.parametrize("action", ["on the wire", "after the answer"])
async def test_a_replica_is_killed_while_batches_are_under_way(
    fleet: Fleet, sandbox: Sandbox, action: str
) -> None:
    await fleet.start("a")
    await fleet.start("b")
    held = [
        intake.faults.add(
            faults.delay(5.0) if action == "on the wire" else faults.hang(process=True),
            method="POST",
            times=2,
        )
        for intake in sandbox.siems.values()
    ]
    add(sandbox)
    await eventually(lambda: all(fault.applied for fault in held), what="batches are under way")
    await fleet.kill("a")
    await fleet.held("b")
    await fleet.check()


async def test_a_replica_is_killed_when_it_has_just_taken_something(
    fleet: Fleet, sandbox: Sandbox
) -> None:
    fill(sandbox)
    first = fleet.daemon("a", fault=AfterTake("sink elastic"))
    with contextlib.suppress(AssertionError):
        await first.start()
    await fleet.start("b")
    assert await first.process.wait() == -signal.SIGKILL, "it was not killed"
    await fleet.held("b")
    await fleet.check(bound=0)


async def test_all_replicas_are_killed_and_started_again(fleet: Fleet, sandbox: Sandbox) -> None:
    fill(sandbox)
    daemons = await fleet.start("a", "b", "c")
    await fleet.delivered()
    for name in ("a", "b", "c"):
        await fleet.kill(name)
    add(sandbox)
    for daemon in daemons:
        await daemon.start()
    # Each proves by the lock of its state directory that its former life has ended.
    await fleet.held("a", "b", "c", within=fleet.life)
    await fleet.check()


async def test_a_replica_goes_on_with_the_backfill_of_another(
    fleet: Fleet, sandbox: Sandbox
) -> None:
    now = datetime.now(UTC)
    sandbox.bland.fill(400, now - timedelta(days=9), now - timedelta(days=5))
    await fleet.start("a")
    await fleet.start("b")
    sandbox.bland.faults.add(faults.delay(0.05), times=None)
    arguments = [
        *("backfill", "bland", "--from", (now - timedelta(days=9)).isoformat()),
        *("--to", (now - timedelta(days=5)).isoformat(), "--concurrency", "1"),
    ]
    command = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "auditrelay", "-c", str(fleet.daemons["b"].config), *arguments),
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )

    def holder() -> str:
        return fleet.leases()["source bland"].name or ""

    def backfilled() -> int:
        return sum(len(daemon.logged("slice_backfilled")) for daemon in fleet.daemons.values())

    await eventually(lambda: backfilled() >= 5, what="the backfill is under way")
    await fleet.kill(holder())
    await eventually(lambda: backfilled() >= 10, what="another one goes on with it")
    sandbox.bland.faults.clear()
    out, err = await command.communicate()
    assert command.returncode == 0, err
    assert b"goes on at replica" in out + err
    assert backfilled() <= 66, "finished slices are not read again"
    await fleet.check()
    assert sandbox.elastic.stored.total == 400
