"""
Sinks in parts: replicas deliver to one sink at a time, and the number of parts changes under load.

Besides what is true of every fleet: units of a sink in different numbers of parts are never held at
a time, and a change that is made in good order repeats nothing.
"""

import asyncio
import signal
from pathlib import Path
from typing import Any, Literal, get_args

import pytest
from tests.replicas.launch import AtWrite, Place
from tests.support.daemon import command, eventually
from tests.support.extent import extent
from tests.support.fleet import BOUND, Fleet, add

from auditrelay.sandbox import Sandbox, faults

pytestmark = pytest.mark.process


async def flow(sandbox: Sandbox, stop: asyncio.Event) -> None:
    """Record events until *stop* is set."""
    while not stop.is_set():
        add(sandbox, 4)
        await asyncio.sleep(0.1)


How = Literal["reload", "restart", "kill"]


async def change(fleet: Fleet, name: str, parts: int, how: How) -> None:
    """Let the replica *name* have a configuration with so many parts."""
    daemon = fleet.daemons[name]
    before = len(daemon.logged("reloaded"))
    if how == "restart":
        assert await daemon.end() == 0
    elif how == "kill":
        await fleet.kill(name)
    fleet.config(name, tables=fleet.settings(parts=parts))
    if how != "reload":
        await daemon.start()
        return
    daemon.process.send_signal(signal.SIGHUP)
    await eventually(lambda: len(daemon.logged("reloaded")) > before, what=f"{name} reloads")


async def check_evidence(fleet: Fleet, name: str) -> None:
    """Fail unless the state is as its facts say."""
    ended = await command(fleet.daemons[name].config, "coverage", "--check")
    assert ended.status == 0, ended


async def test_each_replica_delivers_a_part_and_another_one_goes_on_with_it(
    fleet: Fleet, sandbox: Sandbox
) -> None:
    a, _ = await fleet.start("a", "b", tables=fleet.settings(parts=2))
    await fleet.parted("a", "b", parts=2)
    for _ in range(3):
        add(sandbox)
        await fleet.delivered()
    for sink in sandbox.siems:
        assert fleet.sent("a", sink)
        assert fleet.sent("b", sink)
    await fleet.idle()
    report: dict[str, Any] = {}

    async def all_held() -> bool:  # a source may be on its way from one replica to the other
        report.update((await a.get("/api/status")).json())
        return not report["unheld"]

    await eventually(all_held, what="status names a holder of each unit")
    assert [sink["held_by"] for sink in report["sinks"]] == ["a, b"] * len(sandbox.siems)
    assert all(sink["up"] for sink in report["sinks"])
    assert sum(sink["backlog_events"] for sink in report["sinks"]) == 0
    # A replica is killed while batches of both are under way.
    held = [
        intake.faults.add(faults.delay(5.0), method="POST", times=2)
        for intake in sandbox.siems.values()
    ]
    add(sandbox)
    await eventually(lambda: all(fault.applied for fault in held), what="batches are under way")
    assert fleet.repeats() == dict.fromkeys(sandbox.siems, 0)
    await fleet.kill("a")
    await fleet.parted("b", parts=2)
    add(sandbox)
    await fleet.check()
    await check_evidence(fleet, "b")


@pytest.mark.parametrize(
    ("number", "place"), [(1, "after"), *extent((), ((2, "within"), (4, "before")))]
)
async def test_the_other_replica_goes_on_with_the_part_of_one_that_is_killed_at_a_verdict(
    fleet: Fleet, sandbox: Sandbox, tmp_path: Path, number: int, place: Place
) -> None:
    journal = tmp_path / "journal"
    await fleet.start("a", "b", tables=fleet.settings(parts=2))
    fault = AtWrite(journal, "settle", number, place)
    await fleet.start("c", fault=fault, tables=fleet.settings(parts=2))
    assert await fleet.daemons["a"].end() == 0
    await fleet.parted("b", "c", parts=2)
    journal.touch()
    add(sandbox)
    assert await fleet.daemons["c"].process.wait() == -signal.SIGKILL, "it was not killed"
    add(sandbox)
    await fleet.check(bound=BOUND)
    await check_evidence(fleet, "b")


@pytest.mark.parametrize("how", extent(("reload",), get_args(How)))
async def test_the_number_of_parts_changes_under_load(
    fleet: Fleet, sandbox: Sandbox, how: How
) -> None:
    await fleet.start("a", "b")
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(flow(sandbox, stop))
        await change(fleet, "a", 2, how)
        await fleet.parted("a", parts=2)  # the largest number counts, and only it has that
        await change(fleet, "b", 2, how)
        await fleet.parted("a", "b", parts=2)
        await change(fleet, "a", 1, how)
        await fleet.parted("b", parts=2)
        await change(fleet, "b", 1, how)
        await fleet.parted("a", "b", parts=1)
        stop.set()
    await fleet.check()
    await check_evidence(fleet, "a")


async def test_who_stood_still_with_the_whole_sink_settles_nothing_once_others_have_its_parts(
    fleet: Fleet, sandbox: Sandbox
) -> None:
    await fleet.start("a")
    add(sandbox)
    await fleet.delivered()
    fleet.freeze("a")
    await fleet.start("b", tables=fleet.settings(parts=2))
    await fleet.parted("b", parts=2)
    add(sandbox)
    await fleet.delivered()
    fleet.thaw("a")
    add(sandbox)
    await fleet.check()


async def test_a_run_that_ends_delivers_all_parts(fleet: Fleet, sandbox: Sandbox) -> None:
    add(sandbox)
    config = fleet.config("a", tables=fleet.settings(parts=2))
    ended = await command(config, "run", "--once")
    assert ended.status == 0, ended
    fleet.check_result(bound=0, holders=False)
