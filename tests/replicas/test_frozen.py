"""
A replica stands still for longer than it lives, and goes on: it writes nothing and sends nothing.

It is stopped in the middle of a walk, with batches under way, when there is nothing to do, and in
the middle of a transaction, with the lock that all writes need.
"""

import asyncio
import signal
import time
from pathlib import Path

import pytest
from tests.replicas.launch import AtWrite
from tests.replicas.mishaps import paused_guest
from tests.support.daemon import eventually
from tests.support.fleet import BOUND, CONCURRENCY, Fleet, add

from auditrelay.sandbox import Sandbox, faults

pytestmark = pytest.mark.process


async def _taken_over(fleet: Fleet) -> None:
    """Wait until *b* has taken everything, and *a* has stood still for three lives at least."""
    began = time.monotonic()
    await fleet.held("b")
    await asyncio.sleep(max(0.0, began + 3 * fleet.life - time.monotonic()))


async def _woken(fleet: Fleet, *, cut: int = 0) -> None:
    """
    Let *a* go on, and wait until it knows that it has lost what it held.

    At most so many requests to a sink as were *cut* before it stood still may still go out.
    """
    a = fleet.daemons["a"]

    def noticed() -> int:
        return len(a.logged("unit_fenced")) + len(a.logged("replica_fenced"))

    before = noticed()
    woken = time.time()
    fleet.thaw("a")
    add(fleet.sandbox)
    await eventually(lambda: noticed() > before, what="it has noticed")
    await fleet.delivered()
    for sink in fleet.sandbox.siems:
        terms = [term.start for term in fleet.history()[f"sink {sink}"] if term.name == "a"]
        assert terms
        again = next((start for start in terms if start > woken), float("inf"))
        sent = [at for at in fleet.sent("a", sink) if woken < at < again]
        what = f"{sink} was sent something by the replica that had stood still"
        assert len(sent) <= cut, what


@pytest.mark.parametrize("when", ["in a walk", "with batches under way", "idle"])
async def test_a_replica_that_stood_still_sends_and_writes_nothing(
    fleet: Fleet, sandbox: Sandbox, when: str
) -> None:
    await fleet.start("a")
    await fleet.start("b")
    under_way = []
    if when == "in a walk":
        double = sandbox.bland
        under_way = [double.faults.add(faults.delay(30.0), nth=2, path=None)]
    if when == "with batches under way":
        under_way = [
            intake.faults.add(faults.delay(1.0), method="POST", times=CONCURRENCY)
            for intake in sandbox.siems.values()
        ]
    if when != "idle":
        add(sandbox)
    await eventually(lambda: all(fault.applied for fault in under_way), what="it is under way")
    fleet.freeze("a")
    await _taken_over(fleet)
    cut = 0 if when == "idle" else CONCURRENCY  # in a walk, other sources' events are sent, too
    await _woken(fleet, cut=cut)
    await fleet.check(cut={"a": cut})


async def test_a_replica_whose_clock_stood_still_with_it_sends_little_and_writes_nothing(
    fleet: Fleet, sandbox: Sandbox
) -> None:
    """As a guest that was paused: by its own clock it may go on, until the database says no."""
    await fleet.start("a", fault=paused_guest)
    await fleet.start("b")
    under_way = [
        intake.faults.add(faults.delay(1.0), method="POST", times=CONCURRENCY)
        for intake in sandbox.siems.values()
    ]
    add(sandbox)
    await eventually(lambda: all(fault.applied for fault in under_way), what="it is under way")
    fleet.freeze("a")
    await _taken_over(fleet)
    cut = 2 * CONCURRENCY  # what was half sent, and what was cut into batches already
    await _woken(fleet, cut=cut)
    await fleet.check(bound=2 * BOUND, cut={"a": cut})


@pytest.mark.parametrize("method", ["add", "settle"])
async def test_a_replica_that_stands_still_with_the_lock_of_all_writes_is_ended(
    fleet: Fleet, sandbox: Sandbox, tmp_path: Path, method: str
) -> None:
    journal = tmp_path / "journal"
    await fleet.start("a", fault=AtWrite(journal, method, 2, "within", signal.SIGSTOP))
    await fleet.start("b")
    journal.touch()
    add(sandbox)
    await eventually(lambda: fleet.daemons["a"].logged("hit"), what="it stands still")
    fleet.killed += 1
    began = time.monotonic()
    await fleet.held("b")
    await fleet.delivered()
    assert time.monotonic() - began < 15
    # It delivered when it was stopped: a request that was half written then is ended afterwards.
    await _woken(fleet, cut=CONCURRENCY)
    await fleet.check(cut={"a": CONCURRENCY})
