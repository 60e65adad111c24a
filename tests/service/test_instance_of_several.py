"""What one replica of several reports: also while the store is away, and of what others hold."""

import asyncio
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from msgspec import UNSET
from tests.service.viewing import LONGEST, World, viewed
from tests.support.situations import NOW, held, replica, situation
from tests.support.stores import MINUTE, NOON

from auditrelay.errors import StateError
from auditrelay.events.page import Page
from auditrelay.status.findings import PULSES, STUCK
from auditrelay.status.model import StoreStatus
from auditrelay.store import Proof
from auditrelay.store.conditions import SinkCondition, SourceCondition
from auditrelay.store.leases import KEEPER
from auditrelay.store.parts import sink_units
from auditrelay.store.replicas import Served, Situation
from auditrelay.telemetry.metrics import Metrics
from auditrelay.window import Interval, iso


@dataclass
class Peers:
    """The other replicas, and the store, as a test wants them."""

    seen: Situation | None = None
    is_member: bool = True
    units: set[str] = field(default_factory=set)
    away: bool = False
    offset: float = 0.0
    age: float = 0.5
    overdue: bool = False
    waited_until: float = float("-inf")

    def situation(self) -> Situation | None:
        return self.seen

    def has_joined(self) -> bool:
        return self.is_member

    def held(self) -> Collection[str]:
        return self.units

    def store(self) -> StoreStatus:
        return StoreStatus(
            up=not self.away, away_since=iso(NOW) if self.away else None, disagreements={}
        )

    def clock_offset(self) -> float:
        return self.offset

    def pulse_age(self) -> float:
        return self.age

    def is_overdue(self) -> bool:
        return self.overdue

    def away_until(self) -> float:
        return self.waited_until


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with viewed(tmp_path) as made:
        yield made


@pytest.fixture
def peers(world: World) -> Peers:
    """Make *world* one of several replicas: "b" holds its source and its sink."""
    made = Peers(
        situation(
            [replica("a"), replica("b"), replica("c", command=True), replica("d", expires_in=-1.0)],
            held("source calls", "b"),
            held("sink out", "b"),
            held(KEEPER, "a"),
        ),
        units={KEEPER},
    )
    world.metrics = world.view._metrics = Metrics(
        sources=["calls"], sinks=["out"], pairs=[("calls", "out")], shared=True
    )
    world.view.fleet = made
    return made


def elsewhere(world: World) -> None:
    """Let another replica run the source and the sink."""
    world.view._topology.collectors.clear()
    world.view._topology.deliverers.clear()
    world.view._topology.loops.clear()


async def test_the_gauges_are_those_of_what_another_replica_holds(
    world: World, peers: Peers
) -> None:
    elsewhere(world)
    await world.store.save_condition(
        "source", "calls", SourceCondition(up=True, last_event_at=iso(NOON))
    )
    await world.store.save_condition("sink", "out", SinkCondition(up=True))
    covered = Proof(covers=(Interval(NOON, NOON + 10 * MINUTE),))
    await world.store.add("calls", Page.of([]), proof=covered)
    world.clock.advance(15 * 60)
    assert await world.gauge('source_lag_seconds{source="calls"}') == 5 * 60
    assert await world.gauge('source_up{source="calls"}') == 1
    assert await world.gauge('sink_up{sink="out"}') == 1
    last = await world.gauge('source_last_event_timestamp_seconds{source="calls"}')
    assert last == NOON.timestamp()
    peers.seen = situation([replica("a")], held("source calls", "b"), held("sink out", None))
    assert await world.gauge('source_up{source="calls"}') == 0
    assert await world.gauge('sink_up{sink="out"}') == 0


async def test_a_sink_in_parts_is_up_if_all_of_it_is_held_and_well(
    world: World, peers: Peers
) -> None:
    world.view._topology.deliverers.clear()
    deliverers: dict[str, Any] = world.view._topology.deliverers
    deliverers["out 0/2"] = world.sink  # another part is elsewhere
    await world.store.save_condition("sink", "out", SinkCondition(up=True))
    serving = replica("b", serves={unit: Served("") for unit in sink_units("out", 2)})
    seen = [held("sink out", None), held("sink out 0/2", "b"), held("sink out 1/2", "b")]
    peers.seen, peers.units = situation([serving], *seen), {"sink out 0/2"}
    assert await world.gauge('sink_up{sink="out"}') == 1
    assert await world.gauge('unit_held{unit="sink out 0/2"}') == 1
    assert await world.gauge('unit_held{unit="sink out 1/2"}') == 0
    with pytest.raises(ValueError, match="unpack"):
        await world.gauge('unit_held{unit="sink out"}')
    (sink,) = (await world.view.status()).sinks
    assert (sink.up, sink.held_by) == (True, "b")
    peers.seen = situation([serving], *seen[:2], held("sink out 1/2", None))
    assert await world.gauge('sink_up{sink="out"}') == 0
    (sink,) = (await world.view.status()).sinks
    assert (sink.up, sink.held_by) == (False, "b")


async def test_the_gauges_of_the_replicas(world: World, peers: Peers) -> None:
    peers.offset, peers.age = -2.5, 0.25
    assert await world.gauge("replicas ") == 2
    assert await world.gauge("store_up") == 1
    assert await world.gauge("clock_offset_seconds") == -2.5
    assert await world.gauge("pulse_age_seconds") == 0.25
    assert await world.gauge(f'unit_held{{unit="{KEEPER}"}}') == 1
    assert await world.gauge('unit_held{unit="source calls"}') == 0
    peers.units = {"source calls"}
    assert await world.gauge('unit_held{unit="source calls"}') == 1
    assert await world.gauge(f'unit_held{{unit="{KEEPER}"}}') == 0
    peers.away = True
    assert await world.gauge("store_up") == 0


async def test_the_report_has_the_replicas_and_who_holds_what(world: World, peers: Peers) -> None:
    report = await world.view.status()
    assert [each.name for each in report.replicas or ()] == ["a", "b", "d"]
    assert [row.held_by for row in (*report.sources, *report.sinks)] == ["b", "b"]
    assert report.unheld == {}
    assert report.store is not None
    peers.seen = None  # before the first pulse
    report = await world.view.status()
    assert report.replicas == ()
    assert [row.held_by for row in report.sources] == [None]


async def test_while_the_store_is_away_what_was_there_before_is_shown(
    world: World, peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await world.view.status()

    async def away() -> None:
        raise StateError("it was asked")

    monkeypatch.setattr(world.store, "sources", away)
    peers.away = True
    report = await world.view.status()
    assert [row.started for row in report.sources] == [row.started for row in before.sources]
    assert report.findings[0].code == "store_away"
    await world.view.render_metrics("")


async def test_a_store_that_does_not_answer_in_time_does_not_delay_the_page(
    world: World, peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.view.status()

    async def hang() -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(world.store, "sources", hang)
    monkeypatch.setattr("auditrelay.service.instance_view.READ", 0.01)
    report = await world.view.status()
    assert [row.name for row in report.sources] == ["calls"]


async def test_who_waits_for_the_store_is_not_stuck(world: World, peers: Peers) -> None:
    world.source.worked_at = world.sink.worked_at = world.clock.monotonic()
    world.clock.advance(STUCK.total_seconds() + LONGEST + 1)
    assert set(world.view.stuck()) == {"calls", "out"}
    peers.waited_until = world.clock.monotonic()
    assert world.view.stuck() == []
    world.clock.advance(STUCK.total_seconds() + LONGEST + 1)
    assert set(world.view.stuck()) == {"calls", "out"}


async def test_no_poll_that_is_due_while_the_store_is_away_is_missed(
    world: World, peers: Peers
) -> None:
    world.clock.advance(STUCK.total_seconds() + 61)
    assert world.view.stuck() == ["calls"]
    peers.waited_until = world.clock.monotonic()
    assert world.view.stuck() == []


async def test_pulses_that_are_overdue_are_stuck(world: World, peers: Peers) -> None:
    peers.overdue = True
    assert world.view.stuck() == [PULSES]


async def test_it_is_ready_over_what_it_holds_and_only_if_the_store_answers(
    world: World, peers: Peers
) -> None:
    assert world.view.unready() == []
    world.source.worked_once = False
    assert [each.name for each in world.view.unready()] == ["calls"]
    elsewhere(world)
    assert world.view.unready() == []
    peers.is_member = False
    assert [each.name for each in world.view.unready()] == ["replica"]
    assert not world.view.joined()
    peers.away = True
    assert [each.name for each in world.view.unready()] == ["store"]


async def test_an_instance_alone_has_joined_and_has_no_replicas(world: World) -> None:
    assert world.view.joined()
    report = await world.view.status()
    left_out = (report.replicas, report.store, report.unheld, report.sources[0].held_by)
    assert left_out == (UNSET,) * 4
    assert "auditrelay_replicas" not in (await world.view.render_metrics(""))[0].decode()
