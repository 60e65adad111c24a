"""
A replica is killed, or stands still, while it writes objects: every event is in one object.

What it had sealed is finished by the one that takes over, under the same key.
"""

import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.support.daemon import eventually, made, sources
from tests.support.extent import extent
from tests.support.fleet import Fleet, add

from auditrelay.sandbox import Sandbox, faults

pytestmark = pytest.mark.process

KILLS = extent(2, 10)


@pytest.fixture
async def archived() -> AsyncIterator[Sandbox]:
    async with Sandbox(also=["object_storage"]) as sandbox:
        yield sandbox


@pytest.fixture
async def archiving(
    archived: Sandbox, tmp_path: Path, database: str
) -> AsyncIterator[tuple[Fleet, dict[str, Any]]]:
    """Two replicas that have one bucket for a sink, and their options."""
    fleet = Fleet(archived, tmp_path, database)
    sink = {**archived.bucket.settings(), "batch_events": 5, "concurrency": 2, "linger": "0s"}
    options = {"tables": (sources(archived, page_size=4), {"archive": sink})}
    try:
        for name in "ab":
            await fleet.start(name, **options)
        yield fleet, options
    finally:
        await fleet.end()


def holder(fleet: Fleet) -> tuple[str, str]:
    """Return who holds the bucket, and the other one."""
    name = fleet.leases()["sink archive"].name
    assert name is not None
    return name, "b" if name == "a" else "a"


async def check(sandbox: Sandbox, fleet: Fleet) -> None:
    """Fail unless every event is in one object that was written once, by who held the bucket."""
    bucket = sandbox.bucket
    await eventually(lambda: not bucket.stored.lost(made(sandbox)), what="all is stored")
    for daemon in fleet.daemons.values():
        assert await daemon.end() == 0, daemon.log[-3000:]
        assert "Traceback" not in daemon.log
    assert Counter(bucket.stored.uids).most_common(1)[0][1] == 1
    assert set(bucket.notifications.values()) == {1}
    terms = fleet.history()["sink archive"]
    assert all(one.end <= two.start for one, two in itertools.pairwise(terms))


@pytest.mark.parametrize("seed", range(extent(1, 10)))
async def test_every_event_is_in_one_object_though_a_replica_is_killed_in_a_put(
    archived: Sandbox, archiving: tuple[Fleet, dict[str, Any]], seed: int
) -> None:
    rng, bucket, (fleet, options) = random.Random(seed), archived.bucket, archiving
    for _ in range(KILLS):
        # It is stored or not, and nothing is answered.
        fault = faults.hang(process=rng.random() < 0.5)
        hung = bucket.faults.add(fault, method="PUT", nth=rng.randrange(1, 4))
        add(archived)
        await eventually(partial(getattr, hung, "applied"), what="a PUT is under way")
        killed, other = holder(fleet)
        await fleet.kill(killed)
        bucket.faults.clear()
        await fleet.held(other)
        await fleet.start(killed, **options)
    await check(archived, fleet)
    assert len(fleet.history()["sink archive"]) > KILLS, "it was taken over each time"


async def test_a_replica_that_stood_still_in_a_put_writes_no_object_twice(
    archived: Sandbox, archiving: tuple[Fleet, dict[str, Any]]
) -> None:
    """When it goes on, another one has finished what it had sealed."""
    bucket, (fleet, _) = archived.bucket, archiving
    slow = bucket.faults.add(faults.delay(0.3), method="PUT", times=2)
    add(archived)
    await eventually(lambda: slow.applied, what="a PUT is under way")
    stopped, other = holder(fleet)
    fleet.freeze(stopped)
    await fleet.held(other)
    await eventually(lambda: not bucket.stored.lost(made(archived)), what="all is stored")
    fleet.thaw(stopped)
    noticed = fleet.daemons[stopped]
    await eventually(
        lambda: noticed.logged("unit_fenced") or noticed.logged("replica_fenced"),
        what="it has noticed",
    )
    add(archived)
    await check(archived, fleet)
