"""Everything at once: kills, freezes, partitions, restarts of the database, lost commits."""

import asyncio
import contextlib
import random
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from tests.support.extent import extent
from tests.support.fleet import BOUND, Fleet, fill
from tests.support.postgres import Server
from tests.support.wire import Wire

from auditrelay.sandbox import Sandbox

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.process

SECONDS = extent(15.0, 600.0)
NAMES = ("a", "b", "c")


async def _produce(sandbox: Sandbox) -> None:
    while True:
        for vendor in (sandbox.cekura, sandbox.bland):
            vendor.add(datetime.now(UTC))
        await asyncio.sleep(0.3)


@pytest.mark.parametrize("seed", [1])
async def test_nothing_is_lost_whatever_happens(
    own_fleet: Fleet, own_server: Server, sandbox: Sandbox, seed: int
) -> None:
    rng = random.Random(seed)
    fill(sandbox)
    fleet, tails = own_fleet, 0
    with contextlib.ExitStack() as stack:
        wires = {name: stack.enter_context(Wire(own_server.address())) for name in NAMES}
        for name in NAMES:
            await fleet.start(name, through=wires[name])
        producing = asyncio.create_task(_produce(sandbox))
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            name, wire = (name := rng.choice(NAMES)), wires[name]
            pause = rng.uniform(0.2, 2 * fleet.life)
            match rng.choice(("kill", "freeze", "partition", "slow", "restart", "lost tail")):
                case "kill":
                    await fleet.kill(name)
                    await asyncio.sleep(pause)
                    await fleet.daemons[name].start()
                case "freeze":
                    fleet.freeze(name)
                    await asyncio.sleep(pause)
                    fleet.thaw(name)
                case "partition":
                    fleet.killed += 1
                    wire.drop(to_server=rng.random() < 0.7, to_client=True)
                    await asyncio.sleep(pause)
                    wire.heal()
                case "slow":
                    wire.delay(0.1)
                    await asyncio.sleep(pause)
                    wire.heal()
                case "restart":
                    await asyncio.to_thread(own_server.restart, rng.choice(("fast", "immediate")))
                case "lost tail":
                    image: Path = await asyncio.to_thread(own_server.image)
                    before = _accepted(sandbox)
                    await asyncio.sleep(min(pause, 1.0))
                    await fleet.fail_over(own_server, image)
                    # What was accepted since, and what was under way at either end.
                    tails += _accepted(sandbox) - before + 2 * BOUND * len(NAMES)
        producing.cancel()
        await fleet.check(bound=fleet.killed * BOUND + tails, holders=not tails)


def _accepted(sandbox: Sandbox) -> int:
    return max(intake.stored.total for intake in sandbox.siems.values())
