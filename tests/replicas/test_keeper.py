"""The keeper is killed in the middle of what it does for all: the next one goes on with it."""

from pathlib import Path

import pytest
from tests.replicas.launch import AtWrite, Place
from tests.replicas.mishaps import KilledKeeper, SoonRetired
from tests.support.daemon import eventually
from tests.support.extent import ALL, extent
from tests.support.fleet import BOUND, Fleet, add, fill

from auditrelay.sandbox import Sandbox

pytestmark = pytest.mark.process


async def test_a_keeper_is_killed_when_it_has_asked_for_a_move(
    fleet: Fleet, sandbox: Sandbox, tmp_path: Path
) -> None:
    fill(sandbox)
    go = tmp_path / "go"
    go.touch()
    await fleet.start("a", fault=KilledKeeper(str(go)))
    await fleet.start("b")
    await fleet.daemons["a"].process.wait()
    await fleet.held("b")
    assert fleet.rows("select unit from lease where wanted_by is not null") == []
    add(sandbox)
    await fleet.check(bound=BOUND)


@pytest.mark.parametrize("place", extent(("within",), ("before", "within", "after")))
async def test_a_keeper_is_killed_when_it_ends_what_is_not_configured_any_more(
    fleet: Fleet, sandbox: Sandbox, tmp_path: Path, place: Place
) -> None:
    fill(sandbox)
    sources, sinks = fleet.settings()
    (first,) = await fleet.start("first", tables=(sources, sinks))
    await fleet.delivered()
    assert await first.end() == 0
    without = sources, {**sinks, "datadog": {**sinks["datadog"], "enabled": False}}
    journal = tmp_path / "journal"
    journal.touch()
    kill = SoonRetired(AtWrite(journal, "retire", 1, place))
    a = fleet.daemon("a", tables=without, fault=kill)
    await a.start()
    await a.process.wait()
    await fleet.start("b", tables=without, fault=SoonRetired())
    ends = "select ends is not null from sink where name = 'datadog'"
    await eventually(lambda: fleet.rows(ends) == [(True,)], what="the next keeper ends it")
    retired = fleet.rows(
        "select (select count(*) from fact where unit = 'sink datadog' and text like %s) + "
        "(select count(*) from entry where unit = 'sink datadog' and text like %s)",
        *['%"fact":"retired"%'] * 2,
    )
    assert retired == [(1,)], "once"
    for name in ("a", "b"):
        assert "Traceback" not in fleet.daemons[name].log


@pytest.mark.skipif(not ALL, reason="test_small_writes.py has what a part of a prune leaves")
async def test_a_keeper_is_killed_while_it_prunes(
    fleet: Fleet, sandbox: Sandbox, tmp_path: Path
) -> None:
    fill(sandbox)
    soon = {"spool": {"retention": "1s"}}
    (first,) = await fleet.start("first", **soon)
    await fleet.delivered()
    await fleet.idle()
    assert await first.end() == 0
    journal = tmp_path / "journal"
    journal.touch()
    a = fleet.daemon("a", fault=AtWrite(journal, "prune", 1, "within"), **soon)
    await a.start()
    await a.process.wait()
    events = (
        "select coalesce(sum(count), 0)::bigint from spool join source on source.id = source "
        "where name <> 'auditrelay'"
    )
    ((before,),) = fleet.rows(events)
    assert before >= 24, "nothing of it was done"
    fleet.killed += 1
    await fleet.start("b", **soon)
    await eventually(lambda: fleet.rows(events) == [(0,)], what="the next keeper prunes")
    add(sandbox)
    await fleet.check(bound=BOUND)
