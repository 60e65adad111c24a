"""The sources and sinks of one replica: a reload, and what is gained or lost meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC
from typing import Any
from uuid import uuid4

import pytest
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from tests.service.test_topology import Configure, configure, source
from tests.support.clock import FakeClock
from tests.support.stores import opened

from auditrelay.config.model import Config
from auditrelay.errors import ConfigError
from auditrelay.service.building import Builder
from auditrelay.service.gate import Gate
from auditrelay.service.keeper import Keeper
from auditrelay.service.membership import Loss
from auditrelay.service.store import Store
from auditrelay.service.topology import Topology, TopologyDiff
from auditrelay.service.workload import Workload
from auditrelay.store.leases import Lease
from auditrelay.telemetry.metrics import Metrics

__all__ = ["configure"]  # a fixture


def lease(unit: str) -> Lease:
    return Lease(unit, 1, uuid4())


def no_keeper(_: Store) -> Keeper:
    raise AssertionError


@asynccontextmanager
async def replica(config: Config, *units: str) -> AsyncIterator[tuple[Topology, Workload]]:
    """Run *units* of *config*, as gained, for the length of a ``with`` block."""
    config.state_dir.mkdir(mode=0o700)
    store = await opened(config.state_dir)
    metrics = Metrics(sources=config.sources, sinks=config.sinks)
    topology = Topology(config, store, metrics, clock=FakeClock(), leases=())
    work = Workload(topology, store, no_keeper)
    await topology.register()
    scheduler = AsyncIOScheduler(timezone=UTC)
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
    go, read = asyncio.Event(), topology._store.sources

    async def sources() -> Any:
        await go.wait()
        return await read()

    monkeypatch.setattr(topology._store, "sources", sources)
    return go


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
