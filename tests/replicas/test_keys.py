"""The key of the evidence is replaced: with all replicas stopped, and not one after the other."""

import asyncio
from typing import Any

import pytest
from tests.support.daemon import eventually
from tests.support.fleet import Fleet, fill

from auditrelay.sandbox import Sandbox, faults

pytestmark = pytest.mark.process

OLD, NEW = "11" * 32, "22" * 32
REPLACED: dict[str, Any] = {"evidence": {"key": NEW, "key_before": OLD}}


async def test_a_key_is_replaced_with_all_replicas_stopped(fleet: Fleet, sandbox: Sandbox) -> None:
    fill(sandbox)
    for intake in sandbox.siems.values():  # so that what is tagged with the old key has to wait
        intake.faults.add(faults.answer(503), method="POST", times=None)
    old: dict[str, Any] = {"evidence": {"key": OLD}}
    a, b = [(await fleet.start(name, **old))[0] for name in "ab"]
    await eventually(
        lambda: fleet.rows("select sum(count) >= 24 from spool") == [(True,)], what="all waits"
    )

    # One that is replaced alone, as by a rolling update, ends, and the others go on.
    alone = fleet.daemon("c", **REPLACED)
    await alone.start()
    async with asyncio.timeout(30):
        assert await alone.process.wait() == 3
    assert "To replace it, stop all of them first" in alone.log
    assert fleet.units("c") == []

    assert list(await asyncio.gather(a.end(within=29), b.end(within=29))) == [0, 0]
    for intake in sandbox.siems.values():
        intake.faults.clear()
    for name in "de":
        await fleet.start(name, **REPLACED)
    await fleet.check(bound=0)
    broken = fleet.rows("select value from meta_text where name = 'broken'")
    assert broken == [], "what waited seemed to be changed"
