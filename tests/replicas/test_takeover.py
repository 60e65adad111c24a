"""How long a unit waits for another holder when its replica has ended: the times of the product."""

import signal
import time
from pathlib import Path

import pytest
from tests.support.extent import extent
from tests.support.fleet import Fleet, fill

from auditrelay.sandbox import Sandbox
from auditrelay.store.replicas import LIFE

pytestmark = pytest.mark.process

WORST = 15.0
"""Seconds after ``kill -9`` until another replica works, at most."""

CLEAN = 2.0
"""The same after SIGTERM."""


@pytest.mark.parametrize(("number", "most"), [(signal.SIGKILL, WORST), (signal.SIGTERM, CLEAN)])
async def test_another_replica_takes_over_in_time(
    sandbox: Sandbox, tmp_path: Path, database: str, number: signal.Signals, most: float
) -> None:
    fill(sandbox)
    fleet = Fleet(sandbox, tmp_path, database, life=LIFE)
    names = ["a", "b"]
    try:
        await fleet.start(*names)
        await fleet.delivered()
        for _ in range(extent(2, 20)):
            # The one with more ends, and is a new replica of another name afterwards.
            first, second = sorted(names, key=lambda name: -len(fleet.units(name)))
            seconds = []
            began = time.monotonic()
            await fleet.kill(first, number)
            await fleet.held(second, within=most + 5)
            seconds.append(time.monotonic() - began)
            assert seconds[-1] <= most, seconds
            names = [second, f"{first}x"]
            await fleet.start(names[1])
        await fleet.check()
    finally:
        await fleet.end()
