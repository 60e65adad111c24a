"""Replicas whose configurations or versions differ, and two that share a name or a directory."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from tests.support.daemon import command, eventually
from tests.support.fleet import BOUND, Fleet, add, fill
from tests.support.shared_state import raw

from auditrelay.sandbox import Sandbox

pytestmark = pytest.mark.process


async def test_what_a_new_replica_adds_is_served_while_old_ones_restart(
    fleet: Fleet, sandbox: Sandbox
) -> None:
    """A rolling update brings a source and a sink; an old replica starts again in between."""
    sources, sinks = fleet.settings()
    old = sources, {name: sink for name, sink in sinks.items() if name != "datadog"}
    more, _ = fleet.settings(of=["cekura", "bland", "jitsudo"])
    fill(sandbox)
    daemons = {}
    for name in "abc":
        (daemons[name],) = await fleet.start(name, tables=old)
    assert await daemons["c"].end() == 0
    now = datetime.now(UTC)
    sandbox.jitsudo.fill(12, now - timedelta(minutes=40), now - timedelta(minutes=1))
    (new,) = await fleet.start("d", tables=(more, sinks))
    assert await daemons["b"].end() == 0
    await daemons["b"].start()  # which knows neither the source nor the sink
    add(sandbox)
    assert await daemons["a"].end() == 0
    wanted = set(sandbox.jitsudo.records.ids())
    await eventually(
        lambda: not sandbox.datadog.stored.lost(wanted), what="the new sink has the new source"
    )
    assert new.logged("unit_taken", unit="source jitsudo")
    for daemon in fleet.daemons.values():
        if daemon.process.returncode is None:
            assert await daemon.end() == 0
        assert "Traceback" not in daemon.log
    fleet.check_holders()


async def test_a_state_that_is_too_new_ends_the_replicas(fleet: Fleet, sandbox: Sandbox) -> None:
    fill(sandbox)
    a, b = await fleet.start("a", "b")
    await fleet.delivered()
    with raw(fleet.address) as connection:
        # A newer version has added what this one does not need.
        connection.execute(
            b"alter table auditrelay.source add column novelty text not null default 'none'; "
            b"create table auditrelay.novelty (id bigint primary key); "
            b"update auditrelay.meta set value = 2 where name = 'schema'"
        )
    add(sandbox)
    await fleet.delivered()
    assert a.process.returncode is None
    assert b.process.returncode is None
    with raw(fleet.address) as connection:
        connection.execute(b"update auditrelay.meta set value = 2 where name = 'writable_from'")
    for daemon in (a, b):
        async with asyncio.timeout(20):
            assert await daemon.process.wait() == 3
        assert "the schema auditrelay was written by a newer auditrelay" in daemon.log
        assert "Traceback" not in daemon.log
    assert all(leased.holder is None for leased in fleet.leases().values())
    ended = await command(a.config, "run")
    assert ended.status == 3
    fleet.check_result(bound=BOUND)


async def test_two_replicas_make_the_tables_at_once(sandbox: Sandbox, fleet: Fleet) -> None:
    with raw(fleet.address) as connection:
        connection.execute(b"drop schema auditrelay cascade")
    fill(sandbox)
    daemons = [fleet.daemon(name) for name in "abc"]
    await asyncio.gather(*(daemon.start() for daemon in daemons))
    await fleet.delivered()
    for daemon in daemons:
        assert await daemon.end() == 0, daemon.log[-3000:]
    assert set(fleet.repeats().values()) == {0}


async def test_replicas_may_have_one_name_and_not_one_state_directory(
    fleet: Fleet, sandbox: Sandbox
) -> None:
    fill(sandbox)
    await fleet.start("a")
    ended = await command(fleet.daemons["a"].config, "run")
    assert ended.status == 3
    assert "stop that instance first, or give this one its own state_dir" in ended.stderr
    await fleet.start("b", replica="a")
    ids = fleet.rows("select count(distinct id), count(distinct name) from replica")
    assert ids == [(2, 1)]
    await fleet.delivered()
    for daemon in fleet.daemons.values():
        assert await daemon.end() == 0, daemon.log[-3000:]
    assert set(fleet.repeats().values()) == {0}
