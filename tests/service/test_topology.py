"""The running sources and sinks: what a reload adds, removes and changes, or refuses."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest
from structlog.testing import capture_logs
from tests.conftest import make_event
from tests.descriptions.acme import PARTS, text, write
from tests.support.clock import NOON, FakeClock
from tests.support.daemon import eventually
from tests.support.stores import opened

from auditrelay.clock import Clock
from auditrelay.config import load
from auditrelay.config.model import Config
from auditrelay.errors import ConfigError, Fenced, Refused, RelayError, StoreFull
from auditrelay.events.page import Page
from auditrelay.service.heap import Heap
from auditrelay.service.topology import Topology, TopologyDiff, new_scheduler
from auditrelay.sinks import file
from auditrelay.store.leases import KEEPER, sole
from auditrelay.telemetry.metrics import Metrics

Configure = Callable[..., Config]


async def test_what_is_due_is_set_in_the_loops_own_thread() -> None:
    scheduler = new_scheduler()
    threads: list[int] = []
    scheduler.add_job(lambda: threads.append(threading.get_ident()))
    scheduler.start()
    await eventually(lambda: threads)
    scheduler.shutdown(wait=False)
    assert threads == [threading.get_ident()]


def source(key: str = "key-one", **more: str) -> dict[str, str]:
    # nothing listens there: a poll fails at once, and is repeated later
    return {"type": "bland", "api_key": key, "base_url": "https://127.0.0.1:9", **more}


@pytest.fixture
def configure(tmp_path: Path) -> Configure:
    """Load a configuration with *sources* by name, and file sinks called *sinks*."""

    def make(
        sources: dict[str, dict[str, str]], sinks: tuple[str, ...] = ("out",), top: str = ""
    ) -> Config:
        lines = [top or f'state_dir = "{tmp_path / "state"}"']
        for name, table in sources.items():
            lines += [f"[sources.{name}]", *(f'{key} = "{each}"' for key, each in table.items())]
        for name in sinks:
            lines += [f"[sinks.{name}]", 'type = "file"', f'path = "{tmp_path / name}.jsonl"']
        path = tmp_path / "c.toml"
        path.touch(mode=0o600)
        path.write_text("\n".join(lines).replace('"false"', "false"))
        return load(path, {"HOME": str(tmp_path)})

    return make


@asynccontextmanager
async def running(config: Config, clock: Clock | None = None) -> AsyncIterator[Topology]:
    """Run the topology of *config* for the length of a ``with`` block."""
    config.state_dir.mkdir(mode=0o700)
    store = await opened(config.state_dir)
    topology = Topology(
        config,
        store,
        Metrics(sources=config.sources, sinks=config.sinks),
        clock=clock or FakeClock(),
    )
    await topology.register()
    async with asyncio.TaskGroup() as tasks:
        topology.begin(tasks, new_scheduler())
        try:
            yield topology
        finally:
            await topology.end()
    await topology.close()
    await store.close()


async def test_a_reload_returns_what_was_added_removed_and_changed(configure: Configure) -> None:
    async with running(
        configure({"same": source(), "gone": source(), "other": source()})
    ) as topology:
        same, other = topology.collectors["same"], topology.collectors["other"]
        out = topology.deliverers["out"]
        changed = configure(
            {"same": source(), "other": source("key-two"), "new": source()}, ("out", "more")
        )
        assert await topology.change(changed) == TopologyDiff(["new", "more"], ["gone"], ["other"])
        assert set(topology.collectors) == {"same", "other", "new"}
        assert set(topology.deliverers) == {"out", "more"}
        assert topology.collectors["same"] is same, "what has not changed goes on"
        assert topology.deliverers["out"] is out
        assert topology.collectors["other"] is not other
        assert topology.config is changed


async def test_disabling_is_removing_and_enabling_is_adding(configure: Configure) -> None:
    on = configure({"one": source(), "two": source()})
    off = configure({"one": source(), "two": source(enabled="false")})
    async with running(on) as topology:
        assert await topology.change(off) == TopologyDiff([], ["two"], [])
        assert await topology.change(off) == TopologyDiff([], [], [])
        assert await topology.change(on) == TopologyDiff(["two"], [], [])


async def test_a_removed_sink_delivers_its_backlog_and_is_closed(configure: Configure) -> None:
    async with running(configure({"one": source()}, ("out", "gone"))) as topology:
        with capture_logs() as logs:
            await topology.change(configure({"one": source()}))
            drained = {"event": "sink_drained", "sink": "gone", "log_level": "info"}
            await eventually(lambda: drained in logs)
        assert set(topology.sinks) == {"out"}


async def test_free_memory_is_returned_after_the_last_delivery(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sink that was down delivers for long after the last event has come."""
    used: list[None] = []
    monkeypatch.setattr(Heap, "used", lambda _: used.append(None))
    async with running(configure({"one": source()})) as topology:
        await topology._store.start_source("one", NOON)
        for number in range(2):
            await topology._store.add("one", Page.of([make_event(number, source="one")]))
            topology.announce()
            await eventually(lambda: len(used) == number + 1)  # noqa: B023  # now


async def test_nothing_is_spooled_for_a_removed_sink_once_its_backlog_ends(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(configure({"one": source()}, ("out", "gone"))) as topology:
        retired: list[bool] = []
        retire, finish = topology._store.retire, topology.deliverers["gone"].finish

        async def retiring(*args: Any) -> Any:
            orphans = await retire(*args)
            retired.append(True)
            return orphans

        def finishing() -> None:
            assert retired, "an event that comes now is in the backlog of no deliverer"
            finish()

        monkeypatch.setattr(topology._store, "retire", retiring)
        monkeypatch.setattr(topology.deliverers["gone"], "finish", finishing)
        await topology.change(configure({"one": source()}))
        await eventually(lambda: not topology._draining)


async def test_a_stop_while_a_sink_is_drained_does_not_say_that_it_is(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(_: object) -> Any:
        raise Refused("401", status=401)

    with capture_logs() as logs:
        # The real clock: on a fake one it would probe again and again without waiting.
        config = configure({"one": source()}, ("out", "gone"))
        async with running(config, Clock()) as topology:
            monkeypatch.setattr(topology.sinks["gone"], "send", refuse)
            await topology._store.start_source("one", NOON)
            await topology._store.add("one", Page.of([make_event(1, source="one")]))
            topology.announce()
            await eventually(lambda: topology.deliverers["gone"].condition.held)
            await topology.change(configure({"one": source()}))
    assert "sink_drained" not in [line["event"] for line in logs]


@pytest.mark.parametrize(
    ("top", "problems"),
    [
        ('state_dir = "/elsewhere"', ["state_dir"]),
        ('[status]\nlisten = "127.0.0.1:1"', ["state_dir", "status"]),
        (
            'store = "postgresql://relay@db1/audit"\nreplica = "other"',
            ["state_dir", "store", "replica"],
        ),
    ],
)
async def test_what_cannot_change_at_runtime_is_refused_and_nothing_has_changed(
    configure: Configure, top: str, problems: list[str]
) -> None:
    before = configure({"one": source()})
    async with running(before) as topology:
        loops = topology.loops
        with pytest.raises(ConfigError) as caught:
            await topology.change(configure({"two": source()}, top=top))
        assert list(caught.value.problems) == [
            f"{key} cannot change while the service runs: restart it" for key in problems
        ]
        assert (topology.config, topology.loops) == (before, loops)


async def test_other_ids_of_known_records_are_refused_and_other_actions_are_not(
    configure: Configure, tmp_path: Path
) -> None:
    crm = {"crm": {"type": "rest", "description": "acme.toml", "domain": "acme.example"}}
    crm["crm"]["token"] = "t-0123456789"
    write(tmp_path, text())
    async with running(configure(crm)) as topology:
        write(tmp_path, text(records=PARTS["records"].replace('"id"', '"uuid"')))
        with pytest.raises(ConfigError, match=r"^sources\.crm: by its description as it is now, "):
            await topology.change(configure(crm))
        write(tmp_path, text(actions=""))
        changes = await topology.change(configure(crm))
        assert changes == TopologyDiff(changed=["crm"])


async def test_a_part_that_cannot_be_built_changes_nothing(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = configure({"one": source()})
    async with running(before) as topology:
        loops = topology.loops

        closed: list[file.Sink] = []
        close = file.Sink.close

        async def watched(sink: file.Sink) -> None:
            closed.append(sink)
            await close(sink)

        def fail(*_: object) -> None:
            raise ConfigError("sources.two: it cannot be built")

        monkeypatch.setattr("auditrelay.service.building.make_source", fail)
        monkeypatch.setattr(file.Sink, "close", watched)
        with pytest.raises(ConfigError, match="cannot be built"):
            await topology.change(configure({"one": source(), "two": source()}, ("out", "more")))
        assert (topology.config, topology.loops) == (before, loops)
        assert set(topology.sinks) == {"out"}
        assert len(closed) == 1, "the sink that was built for nothing"


@pytest.mark.parametrize("error", [StoreFull("no room"), Fenced("not this replica any more")])
async def test_a_configuration_that_the_store_does_not_take_changes_nothing(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, error: RelayError
) -> None:
    async with running(configure({"one": source(), "gone": source()})) as topology:
        before = topology.config
        parts = {**topology.collectors, **topology.deliverers}
        changed = configure({"one": source("key-two"), "new": source()}, ("out", "more"))
        with monkeypatch.context() as broken:
            broken.setattr(topology._store, "start_sink", AsyncMock(side_effect=error))
            with pytest.raises(type(error)):
                await topology.change(changed)
        assert topology.config is before
        assert {**topology.collectors, **topology.deliverers} == parts
        assert await topology.change(changed) == TopologyDiff(["new", "more"], ["gone"], ["one"])


async def test_an_announcement_wakes_every_sink(configure: Configure) -> None:
    async with running(configure({"one": source()}, ("out", "more"))) as topology:
        for deliverer in topology.deliverers.values():
            deliverer.wake.clear()
        topology.announce()
        assert [each.wake.is_set() for each in topology.deliverers.values()] == [True, True]


async def test_each_source_and_sink_writes_under_its_own_lease(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("whole", "of source", "of sink"):
        (tmp_path / name).mkdir(mode=0o700)
    whole = await opened(tmp_path / "whole")
    of_source, of_sink = await opened(tmp_path / "of source"), await opened(tmp_path / "of sink")
    leased = {sole("source it"): of_source, sole("sink out"): of_sink, sole(KEEPER): whole}
    monkeypatch.setattr(whole, "under", leased.__getitem__)
    topology = Topology(
        configure({"it": source()}),
        whole,
        Metrics(sources=["it"], sinks=["out"]),
        clock=FakeClock(),
    )
    try:
        await topology.collectors["it"].for_range("").checkpoint.refresh()
        assert [state.name for state in await of_source.sources()] == ["it"]
        assert await whole.sources() == await of_sink.sources() == []
        await of_sink.start_source("it", NOON)
        await of_sink.start_sink("out", ["it"])
        topology.deliverers["out"].finish()
        await topology.deliverers["out"].keep_delivering()  # of the other it would be no sink
    finally:
        await topology.close()
        for store in (whole, of_source, of_sink):
            await store.close()
