"""One replica: what it serves, and leaves to others, and what it says of itself."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.service.rows import FakeMembership, Rows
from tests.support.clock import FakeClock

from auditrelay.config import load
from auditrelay.config.model import Config
from auditrelay.deliver.throughput import Throughput
from auditrelay.errors import StateError, first_of
from auditrelay.service.ability import LOOK_EVERY
from auditrelay.service.disagreements import ROLL_OUT
from auditrelay.service.replica import Replica
from auditrelay.service.shared import served_by
from auditrelay.store.leases import KEEPER
from auditrelay.store.replicas import Card, Served
from auditrelay.telemetry.metrics import Metrics

SETTINGS = """
store = "postgresql://relay@localhost/none"
state_dir = "{folder}/state"
[sources.calls]
type = "bland"
api_key = "key-one"
settle = "5m"
[sources.files]
type = "cencori"
mode = "files"
directory = "{folder}/exports"
settle = "9h"
[sources.far]
type = "bland"
api_key = "key-two"
replicas = ["dc2-*", "home"]
[sinks.out]
type = "file"
path = "{folder}/out.jsonl"
[sinks.away]
type = "file"
path = "{folder}/away.jsonl"
replicas = ["dc2-*"]
sources = ["calls"]
"""


class Share:
    """A database in memory, for the replica called *name*."""

    def __init__(self, rows: Rows, name: str) -> None:
        self.membership: Any = FakeMembership(rows)
        self.offered: set[str] = set()
        self.left: list[str] = []
        self.desk = SimpleNamespace(offer=self._offer, leave=self.left.append)
        self.engine = SimpleNamespace(writer=SimpleNamespace(writes=0), away_until=0.0)
        self._name = name

    def _offer(self, _: object, __: object, held: set[str]) -> None:
        self.offered = set(held)

    def served(self, config: Config) -> dict[str, Served]:
        return dict(served_by(config, self._name))

    def elsewhere(self, config: Config) -> dict[str, Any]:
        return {
            name: config.sources_of(name)
            for name, settings in config.sinks.items()
            if not settings.may_be_served_by(self._name)
        }

    def card(self, serves: dict[str, Served], *, command: bool = False) -> Card:
        return Card(name=self._name, version="1", serves=serves, command=command)

    def joined(self, replica: object) -> None:
        """Take no note of it."""


class World:
    """The replica *name*, whose turns the test takes."""

    def __init__(self, folder: Path, name: str, clock: FakeClock, tasks: asyncio.TaskGroup) -> None:
        self.clock, self.rows, self.folder = clock, Rows(clock), folder
        self.share: Any = Share(self.rows, name)
        self.config = self.read()
        deliverers = {
            name: SimpleNamespace(
                name=name.partition(" ")[0],
                throughput=Throughput(clock.now()),
                wake=asyncio.Event(),
            )
            for name in ("out", "hec 0/2")
        }
        self.topology: Any = SimpleNamespace(
            config=self.config, deliverers=deliverers, announce=lambda: None
        )
        self.view: Any = SimpleNamespace(failing=None, stuck=lambda: ["calls"])
        self.gained: list[str] = []
        self.may_end = asyncio.Event()
        self.may_end.set()
        work: Any = SimpleNamespace(gain=self._gain, lose=self._lose, register=self._register)
        parts: tuple[Any, Any, Any, Any] = (self.share, self.topology, work, self.view)
        self.replica = Replica(*parts, Metrics(shared=True), clock=clock)
        self.replica.member.begin(tasks)

    def read(self, settings: str = SETTINGS) -> Config:
        path = self.folder / "c.toml"
        path.touch(mode=0o600)
        path.write_text(settings.format(folder=self.folder))
        return load(path, {"HOME": str(self.folder)})

    async def _register(self) -> None:
        """Register nothing."""

    async def _gain(self, lease: Any) -> None:
        self.gained.append(lease.unit)

    async def _lose(self, lease: Any, why: object) -> None:
        await self.may_end.wait()
        self.gained.remove(lease.unit)

    async def turns(self, number: int = 5) -> None:
        """Take so many turns, a second each; every third gives a sign of life."""
        for _ in range(number):
            self.clock.advance(1)
            await self.replica.member.turn()
            for _ in range(20):
                await asyncio.sleep(0)

    @property
    def served(self) -> set[str]:
        """What it serves, as the others see it."""
        (row,) = self.rows.replicas.values()
        return set(row.serves)

    @property
    def info(self) -> Any:
        (row,) = self.rows.replicas.values()
        return row.info


@pytest.fixture
async def world(tmp_path: Path, clock: FakeClock) -> AsyncIterator[World]:
    (tmp_path / "exports").mkdir()
    async with asyncio.TaskGroup() as tasks:
        yield World(tmp_path, "dc1-a", clock, tasks)


async def test_it_serves_what_names_it_and_says_which_sinks_it_leaves_to_others(
    world: World,
) -> None:
    await world.turns()
    assert world.served == {"source calls", "source files", "sink out", KEEPER}
    assert world.info["elsewhere"] == {"away": ("calls",)}
    other = served_by(world.config, "dc2-b")
    assert {"source far", "sink away"} <= other.keys()
    assert "source far" in served_by(world.config, "home")


async def test_a_source_whose_directory_goes_is_given_away_and_taken_when_it_is_back(
    world: World,
) -> None:
    await world.turns()
    assert "source files" in world.gained
    (world.folder / "exports").rmdir()
    with capture_logs() as logs:
        await _until(world, lambda: "source files" not in world.gained)
    await world.turns()
    assert [line["unit"] for line in logs if line["event"] == "unit_not_served"] == ["source files"]
    assert "source files" not in world.served
    assert "is not there" in world.info["unable"]["source files"]
    (world.folder / "exports").mkdir()
    await _until(world, lambda: "source files" in world.gained)


async def _until(world: World, is_so: Any) -> None:
    async with asyncio.timeout(20):
        while not is_so():
            world.clock.advance(LOOK_EVERY)
            await world.turns(1)
            await asyncio.sleep(0.01)


async def test_a_source_is_given_away_when_the_clock_is_off_by_more_than_settle_and_a_minute(
    world: World,
) -> None:
    await world.turns()
    world.rows.ahead = timedelta(minutes=6)
    await world.turns()
    assert "source calls" in world.gained
    world.rows.ahead = timedelta(minutes=6, seconds=1)
    with capture_logs() as logs:
        await world.turns()
    assert "source calls" not in world.gained
    assert {"source files", "sink out", KEEPER} <= set(world.gained)
    assert world.info["offset"] == 361.0
    assert [line["event"] for line in logs if line["event"] == "clock_differs"] == []  # said before
    world.rows.ahead = timedelta()
    await world.turns()
    assert "source calls" in world.gained


async def test_a_run_that_has_an_end_does_not_wait_for_ever_to_join(
    world: World, clock: FakeClock
) -> None:
    """The database answered when the state was opened, and has gone since."""
    world.rows.reachable = False
    began = clock.monotonic()
    with pytest.raises(ExceptionGroup) as raised:
        async with asyncio.timeout(30), world.replica.holding(["source calls"]):
            pytest.fail("nothing is held")
    error = first_of(raised.value)
    assert isinstance(error, StateError)
    assert str(error) == "the database with the state has not answered for 60 seconds"
    assert 60 <= clock.monotonic() - began < 90


async def test_another_clock_is_logged_once_when_that_begins(world: World) -> None:
    await world.turns()
    with capture_logs() as logs:
        for seconds in (30, 31, 32, 0, -31):
            world.rows.ahead = timedelta(seconds=seconds)
            await world.turns(2)
    found = [line["ahead_seconds"] for line in logs if line["event"] == "clock_differs"]
    assert found == [-31.0, 31.0]


async def test_what_it_says_of_itself(world: World) -> None:
    world.topology.deliverers["out"].throughput.add(world.clock.now(), 7)
    world.view.failing = "the disk is full", world.clock.now()
    await world.turns()
    assert world.info["stuck"] == ["calls"]
    assert sum(world.info["throughput"]["sink out"]) == 7
    assert world.info["failing"][0] == "the disk is full"


async def test_a_new_configuration_is_served_and_what_is_gone_is_given(world: World) -> None:
    await world.turns()
    text = SETTINGS.replace("[sources.calls]", "[sources.talks]").replace('"calls"', '"talks"')
    world.topology.config = config = world.read(text)
    world.replica.reload(config)
    await world.turns()
    assert "source talks" in world.gained
    assert "source calls" not in world.gained


async def test_what_commands_have_a_unit_do_ends_before_the_unit_does(world: World) -> None:
    await world.turns()
    assert world.share.offered == world.served
    world.may_end.clear()
    world.topology.config = config = world.read(SETTINGS.replace("calls", "talks"))
    world.replica.reload(config)
    await world.turns(2)
    assert "source calls" in world.replica.held()
    assert "source calls" not in world.share.offered
    assert world.share.left == ["source calls"]
    world.may_end.set()
    await world.turns()
    assert "source calls" not in world.replica.held()


async def test_each_pulse_wakes_the_parts_of_sinks(world: World) -> None:
    """What they wait for is what other replicas settle, of which nothing else tells."""
    whole, part = world.topology.deliverers.values()
    for _ in range(3):
        part.wake.clear()
        await world.turns(1)
        assert part.wake.is_set()
    assert not whole.wake.is_set()


async def test_replicas_that_disagree_are_logged_once(world: World) -> None:
    await world.turns()
    (mine,) = world.rows.replicas.values()
    other = FakeMembership(world.rows)
    serves = {**mine.serves, "source calls": Served("another")}
    await other.join(Card(name="b", version="1", serves=serves))
    with capture_logs() as logs:
        for _ in range(3):
            world.rows.expires[other.me] = world.rows.now() + 10**6
            world.clock.advance(ROLL_OUT)
            await world.replica.member.turn()
    found = [line["unit"] for line in logs if line["event"] == "replicas_disagree"]
    assert found == ["source calls"]
    assert set(world.replica.store().disagreements) == {"source calls"}


async def test_what_others_have_in_their_configuration_is_seen(world: World) -> None:
    assert world.replica.configured_at("calls") == []
    await world.turns()
    other = FakeMembership(world.rows)
    await other.join(Card(name="b", version="1", serves={"source theirs": Served("x")}))
    parts = {"sink divided 1/2": Served("x")}
    await FakeMembership(world.rows).join(Card(name="c", version="1", serves=parts))
    await world.turns(2)
    assert world.replica.configured_at("theirs") == ["b"]
    assert world.replica.configured_at("divided") == ["c"]
    assert world.replica.configured_at("away") == ["dc1-a"], "though it leaves it to others"
    (world.folder / "exports").rmdir()
    await _until(world, lambda: "source files" not in world.gained)
    assert world.replica.configured_at("files") == ["dc1-a"], "though it cannot serve it now"
    assert world.replica.configured_at("none") == []
    world.rows.expires[other.me] = world.rows.now() - 1
    await world.turns(1)
    assert world.replica.configured_at("theirs") == []


async def test_what_it_shows_of_the_store(world: World) -> None:
    await world.turns()
    assert world.replica.store().up
    assert set(world.replica.held()) == world.served
    assert world.replica.has_joined()
    world.rows.reachable = False
    await world.turns(2)
    status = world.replica.store()
    assert (status.up, status.away_since is None) == (False, False)
    assert world.replica.pulse_age() == 2
