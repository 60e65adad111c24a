"""What a running instance reports of itself: from its loops first, from the store where it must."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.conftest import make_event
from tests.service.viewing import LONGEST, World, viewed
from tests.support.stores import seal

from auditrelay.events.page import Page
from auditrelay.status.findings import STUCK
from auditrelay.store.conditions import SinkCondition, SourceCondition


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with viewed(tmp_path) as made:
        yield made


async def test_the_report_has_the_health_of_the_loops_and_not_what_was_saved(world: World) -> None:
    await world.store.save_condition("source", "calls", SourceCondition(last_error="of old"))
    await world.store.save_condition("sink", "out", SinkCondition(last_error="of old"))
    world.source.condition = SourceCondition(last_error="401 from Bland", held=True)
    world.sink.condition = SinkCondition(up=True, last_delivered_at="2026-01-01T11:00:00Z")
    world.view.restart_command = "systemctl restart auditrelay"
    report = await world.view.status()
    (source,), (sink,) = report.sources, report.sinks
    assert source.last_error == "401 from Bland"
    assert sink.last_error is None
    assert sink.delivered_per_minute is not None


async def test_the_metrics_are_those_of_this_moment(world: World) -> None:
    await world.store.add(
        "calls", Page.of([make_event(1, source="calls"), make_event(2, source="calls")])
    )
    assert await world.gauge('sink_backlog_events{sink="out"}') == 2
    assert await world.gauge("spool_bytes") == world.store.spool_bytes > 0
    assert await world.gauge("spool_max_bytes") == world.config.spool.max_bytes
    age = await world.gauge('sink_oldest_undelivered_seconds{sink="out"}')
    world.clock.advance(90)
    assert await world.gauge('sink_oldest_undelivered_seconds{sink="out"}') == age + 90
    assert world.source.measured == 5


async def test_the_metrics_of_the_evidence(world: World) -> None:
    names = ("entries", "head_timestamp_seconds", "untold_heads", "broken")

    async def gauges() -> list[float]:
        return [await world.gauge(f"evidence_{name}") for name in names]

    assert await gauges() == [0, 0, 0, 0]
    sealed = await seal(world.store)
    assert sealed.head.size > 0
    assert await gauges() == [sealed.head.size, sealed.at / 1_000_000, 1, 0]
    await world.store.log.continue_damaged()
    assert (await gauges())[3] == 1
    await world.store.log.restored("the disk died", by=1000)
    assert (await gauges())[3] == 0


async def test_a_sink_that_was_removed_has_no_metrics(world: World) -> None:
    await world.store.start_sink("removed", ["calls"])
    text = (await world.view.render_metrics(""))[0].decode()
    assert 'sink="removed"' not in text


async def test_a_poll_is_stuck_once_all_attempts_at_a_request_would_be_over(world: World) -> None:
    world.source.worked_at = world.clock.monotonic()
    world.clock.advance(STUCK.total_seconds() + LONGEST)
    assert world.view.stuck() == []
    world.clock.advance(1)
    assert world.view.stuck() == ["calls"]
    world.source.worked_at = world.clock.monotonic()
    assert world.view.stuck() == []


async def test_polls_are_stuck_if_none_begins_when_it_is_due(world: World) -> None:
    world.clock.advance(STUCK.total_seconds() + 60)
    assert world.view.stuck() == []
    world.clock.advance(1)
    assert world.view.stuck() == ["calls"]


async def test_a_batch_is_stuck_and_a_sink_without_work_is_not(world: World) -> None:
    limit = STUCK.total_seconds() + world.config.sinks["out"].timeout.total_seconds()
    world.sink.worked_at = world.clock.monotonic()
    world.clock.advance(limit)
    world.source.polls.rested_at = world.clock.monotonic()
    assert world.view.stuck() == []
    world.clock.advance(1)
    assert world.view.stuck() == ["out"]
    world.sink.worked_at = None
    assert world.view.stuck() == []


async def test_the_summary_names_every_problem(world: World) -> None:
    assert world.view.summary() == "All healthy: calls, out"
    world.source.condition = SourceCondition(held=True, last_error="401")
    world.sink.condition = SinkCondition(last_error="503")
    assert world.view.summary() == "calls is blocked, action required: 401; out: 503"
    world.source.condition, world.source.worked_once = SourceCondition(), False
    world.sink.condition = SinkCondition(up=True)
    assert world.view.summary() == "calls: no response yet"


async def test_it_is_ready_once_each_loop_has_succeeded_and_none_is_held(world: World) -> None:
    world.source.worked_once = False
    never = "calls has not succeeded since the start: "
    assert world.view.unready() == [("calls", "no_response", f"{never}no response yet")]
    world.source.condition = SourceCondition(last_error="it is busy", error_code="status_503")
    assert world.view.unready() == [("calls", "status_503", f"{never}it is busy")]
    world.source.worked_once = True
    # An error after the first success is no reason: another instance would have it, too.
    assert world.view.unready() == []
    world.sink.condition = SinkCondition(held=True, last_error="no", error_code="status_403")
    assert world.view.unready() == [
        ("out", "held, status_403", "out is blocked, action required: no")
    ]
