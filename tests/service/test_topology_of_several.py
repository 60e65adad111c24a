"""The sources and sinks of one replica: a reload, and what is gained or lost meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from tests.service.test_topology import Configure, configure, source
from tests.support.clock import FakeClock
from tests.support.stores import opened

from auditrelay.config import load
from auditrelay.config.model import Config
from auditrelay.errors import ConfigError
from auditrelay.service.building import Builder
from auditrelay.service.gate import Gate
from auditrelay.service.keeper import Keeper
from auditrelay.service.membership import Loss
from auditrelay.service.store import Store
from auditrelay.service.topology import Topology, TopologyDiff, new_scheduler
from auditrelay.service.workload import Workload
from auditrelay.store.conditions import SinkCondition
from auditrelay.store.leases import Lease
from auditrelay.store.parts import sink_units
from auditrelay.telemetry.metrics import Metrics

__all__ = ["configure"]  # a fixture


def lease(unit: str) -> Lease:
    return Lease(unit, 1, uuid4())


def no_keeper(_: Store) -> Keeper:
    raise AssertionError


@asynccontextmanager
async def replica(
    config: Config, *units: str, registers: bool = True
) -> AsyncIterator[tuple[Topology, Workload]]:
    """Run *units* of *config*, as gained, for the length of a ``with`` block."""
    config.state_dir.mkdir(mode=0o700)
    store = await opened(config.state_dir)
    metrics = Metrics(sources=config.sources, sinks=config.sinks)
    topology = Topology(config, store, metrics, clock=FakeClock(), leases=())
    work = Workload(topology, store, no_keeper)
    if registers:
        await topology.register()
    scheduler = new_scheduler()
    scheduler.start()
    async with asyncio.TaskGroup() as tasks:
        work.begin(tasks, scheduler)
        for unit in units:
            await work.gain(lease(unit))
        yield topology, work
        await topology.end()
    await topology.close()
    await store.close()
    scheduler.shutdown(wait=False)


async def turns(number: int = 50) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def blocked(topology: Topology, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Let a unit that begins wait for the store until the event is set."""
    go, read = asyncio.Event(), topology._store.condition

    async def condition(*of: Any) -> Any:
        await go.wait()
        return await read(*of)

    monkeypatch.setattr(topology._store, "condition", condition)
    return go


async def test_the_first_seal_is_not_due_before_the_sinks_are_registered(
    configure: Configure,
) -> None:
    async with replica(configure({"one": source()}), registers=False) as (topology, work):
        assert not work.has_read()
        await work.register()
        assert work.has_read()
        assert [sink.name for sink in await topology._store.sinks()] == ["out"]


async def test_a_sink_that_a_reload_removes_runs_until_it_is_given_away(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    announce: list[Callable[[], None]] = []
    build = Builder.collector

    def collector(*args: Any, **parts: Any) -> Any:
        announce.append(parts["announce"])
        return build(*args, **parts)

    monkeypatch.setattr(Builder, "collector", collector)
    units = "source one", "sink out", "sink gone"
    async with replica(configure({"one": source()}, ("out", "gone")), *units) as (topology, work):
        diff = await work.change(configure({"one": source()}))
        assert diff == TopologyDiff([], ["gone"], [])
        assert set(topology.deliverers) == {"out", "gone"}
        topology.deliverers["out"].wake.clear()
        announce[0]()
        assert topology.deliverers["out"].wake.is_set()
        await work.lose(lease("sink gone"), Loss.MOVED)
        assert set(topology.deliverers) == {"out"}


async def test_what_was_removed_while_its_lease_was_taken_does_not_begin(
    configure: Configure,
) -> None:
    two = {"one": source(), "two": source(enabled="false")}
    async with replica(configure(two)) as (topology, work):
        for unit in ("source two", "source three", "sink other"):
            with pytest.raises(ConfigError, match="not in the configuration any more"):
                await work.gain(lease(unit))
        assert not topology.loops


async def test_a_source_that_is_lost_before_it_polls_ends(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with replica(configure({"one": source()})) as (topology, work):
        blocked(topology, monkeypatch)
        gaining = asyncio.create_task(work.gain(lease("source one")))
        await turns()
        gaining.cancel()
        await asyncio.wait([gaining])
        await work.lose(lease("source one"), Loss.FENCED)
        assert not topology.loops


async def test_what_is_gained_during_a_reload_has_one_configuration_or_the_other(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with replica(configure({"one": source()})) as (topology, work):
        go = blocked(topology, monkeypatch)
        gaining = asyncio.create_task(work.gain(lease("source one")))
        await turns()
        new = configure({"one": source("key-two")})
        changing = asyncio.create_task(work.change(new))
        await turns()
        assert topology.config is not new
        go.set()
        await gaining
        assert (await changing).changed == ["one"]
        assert topology.collectors["one"].settings is new.sources["one"]


async def test_who_is_alone_waits_for_all_inside_and_others_for_it() -> None:
    gate, seen, go = Gate(), list[str](), asyncio.Event()

    async def pass_through(name: str) -> None:
        async with gate.passing():
            seen.append(f"{name} in")
            await go.wait()

    async def be_alone() -> None:
        async with gate.alone():
            seen.append("alone in")
            await turns(5)
            seen.append("alone out")

    async with asyncio.TaskGroup() as tasks:
        for each in (pass_through("a"), pass_through("b"), be_alone(), pass_through("c")):
            tasks.create_task(each)
            await turns(3)
        assert seen == ["a in", "b in"]
        go.set()
    assert seen == ["a in", "b in", "alone in", "alone out", "c in"]


PARTS = """state_dir = "{folder}/state"
store = "postgresql://relay@localhost/x"
[sources.one]
type = "bland"
api_key = "key-one"
base_url = "https://127.0.0.1:9"
[sinks.hec]
type = "splunk_hec"
url = "https://127.0.0.1:9"
token = "a-token"
concurrency = 5
parts = {parts}
batch_events = {batch}
"""


def in_parts(folder: Path, parts: int, batch: int = 10) -> Config:
    path = folder / "parts.toml"
    path.touch(mode=0o600)
    path.write_text(PARTS.format(folder=folder, parts=parts, batch=batch))
    return load(path, {"HOME": str(folder)})


async def test_each_part_of_a_sink_has_its_share_of_the_requests(tmp_path: Path) -> None:
    units = sink_units("hec", 3)
    async with replica(in_parts(tmp_path, 3), *units) as (topology, work):
        assert list(topology.deliverers) == ["hec 0/3", "hec 1/3", "hec 2/3"]
        deliverers = list(topology.deliverers.values())
        assert {each.name for each in deliverers} == {"hec"}
        assert [each.settings.concurrency for each in deliverers] == [2, 2, 1]
        await work.lose(lease(units[0]), Loss.MOVED)
        await work.lose(lease(units[1]), Loss.FENCED)
        assert list(topology.deliverers) == ["hec 2/3"]


async def test_a_reload_changes_the_parts_that_are_held_and_their_number_by_giving_them(
    tmp_path: Path,
) -> None:
    async with replica(in_parts(tmp_path, 3), *sink_units("hec", 3)[:2]) as (topology, work):
        before = dict(topology.deliverers)
        diff = await work.change(in_parts(tmp_path, 3, batch=20))
        assert diff == TopologyDiff([], [], ["hec"])
        assert [each.settings.batch_events for each in topology.deliverers.values()] == [20, 20]
        assert list(topology.deliverers) == list(before)
        before = dict(topology.deliverers)
        await work.change(in_parts(tmp_path, 2, batch=20))
        assert topology.deliverers == before, "they go on until they are given away"
        for unit in sink_units("hec", 3)[:2]:
            with pytest.raises(ConfigError, match="not in the configuration any more"):
                await work.gain(lease(unit))
            await work.lose(lease(unit), Loss.MOVED)
        await work.gain(lease("sink hec 1/2"))
        assert [each.settings.concurrency for each in topology.deliverers.values()] == [2]


async def test_what_is_gained_reads_nothing_of_all_the_others(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three hundred sources that are taken over would read three hundred times three hundred."""

    async def refuse() -> Any:
        raise AssertionError

    async with replica(configure({"one": source()})) as (topology, work):
        monkeypatch.setattr(topology._store, "sources", refuse)
        monkeypatch.setattr(topology._store, "sinks", refuse)
        await work.gain(lease("source one"))
        await work.gain(lease("sink out"))


async def test_a_part_goes_on_with_the_health_that_its_sink_had(tmp_path: Path) -> None:
    since = "2026-01-10T12:00:00+00:00"
    async with replica(in_parts(tmp_path, 2)) as (topology, work):
        await topology._store.save_condition("sink", "hec", SinkCondition(since=since))
        await work.gain(lease("sink hec 0/2"))
        assert topology.deliverers["hec 0/2"].condition.since == since
