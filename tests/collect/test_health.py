"""Health of a source: how polls and events change it, and what is logged and stored."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.support.collecting import HOUR, NOON, SECOND, World

from auditrelay.collect.collector import Collector
from auditrelay.config.model import Alerts, Config, Log, Spool, Status
from auditrelay.errors import Refused, RelayError, Retryable, StoreFull
from auditrelay.sources import Page
from auditrelay.status.report import report
from auditrelay.store.conditions import SourceCondition
from auditrelay.window import Interval


async def test_new_events_of_an_unknown_type_are_counted_once_and_shown(world: World) -> None:
    world.vendor.event_type = "auth.teleported"
    for minutes in (5, 6, 7, 8):
        world.vendor.add(NOON - minutes * 60 * SECOND)
    collector = world.collector()
    await collector.poll()
    world.clock.advance(60 * SECOND)
    await collector.poll()  # the overlap shows them again
    assert world.counted("events_duplicate_total") == 4
    assert world.counted("events_unknown_total") == 4
    assert collector.condition.unknown_actions == 4
    world.vendor.event_type = "auth.logout"
    world.vendor.add(NOON)
    world.clock.advance(60 * SECOND)
    await collector.poll()
    assert world.counted("events_collected_total") == 5
    assert world.counted("events_unknown_total") == 4
    [state] = await world.store.sources()
    config = Config(None, world.folder, Status(), Log(), Spool(), Alerts(), {}, {})
    [row] = report(config, [state], [], spool_bytes=0, now=world.clock.now()).sources
    assert row.unknown_actions == 4


async def test_a_source_that_refuses_is_held_with_one_error_until_it_answers(world: World) -> None:
    collector = world.collector()
    with capture_logs() as logs:
        for _ in range(3):
            world.vendor.errors = {world.vendor.pages + 1: Refused("401: no", status=401)}
            with pytest.raises(Refused):
                await collector.poll()
        (row,) = await world.store.sources()
        assert (row.condition.held, row.condition.last_error) == (True, "401: no")
        await collector.poll()
    events = [line["event"] for line in logs]
    assert events.count("source_held") == 1
    assert events.count("source_released") == 1
    (row,) = await world.store.sources()
    assert (row.condition.up, row.condition.held) == (True, False)
    assert row.condition.last_error is None


async def test_the_start_of_a_state_is_kept_through_failures_restarts_and_recovery(
    world: World,
) -> None:
    async def fail(collector: Collector, error: RelayError) -> tuple[object, object]:
        world.clock.advance(HOUR)
        world.vendor.errors = {world.vendor.pages + 1: error}
        with pytest.raises(RelayError):
            await collector.poll()
        (row,) = await world.store.sources()
        assert row.condition.last_poll_at == world.clock.now().isoformat()
        return row.condition.since, row.condition.error_code

    def hours(number: int) -> str:
        return (NOON + number * HOUR).isoformat()

    collector = world.collector()
    await collector.poll()
    assert collector.condition.since == NOON.isoformat()
    assert await fail(collector, Retryable("no", reason="connect")) == (hours(1), "connect")
    assert await fail(collector, Retryable("no", reason="tls")) == (hours(1), "tls")
    assert await fail(collector, Refused("401: no", status=401)) == (hours(3), "status_401")

    (row,) = await world.store.sources()
    collector = world.collector()
    collector.restore(row.condition)
    assert await fail(collector, Refused("clock")) == (hours(3), "refused")
    collector = world.collector()
    collector.restore(row.condition)
    await collector.poll()
    assert (collector.condition.since, collector.condition.error_code) == (hours(4), None)

    (row,) = await world.store.sources()
    world.clock.advance(HOUR)
    collector = world.collector()
    collector.restore(row.condition)
    await collector.poll()
    assert collector.condition.since == hours(5), "the state in between is unknown"


async def test_a_poll_that_is_cancelled_on_a_full_disk_ends(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A condition that cannot be written must not delay the stop."""
    collector = world.collector()
    pausing = asyncio.Event()

    async def full(*_: Any, **__: Any) -> Any:
        raise StoreFull("no room")

    async def full_later(*_: Any) -> None:
        monkeypatch.setattr(world.store, "save_condition", full)

    async def sleep(_: float) -> None:
        pausing.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(world.store, "add", full)
    monkeypatch.setattr(world.store, "save_condition", full_later)
    monkeypatch.setattr(world.clock, "sleep", sleep)
    polling = asyncio.ensure_future(collector.keep_polling())
    collector.polls.due.set()
    async with asyncio.timeout(5):
        await pausing.wait()
    polling.cancel()
    await asyncio.wait([polling], timeout=5)
    assert polling.cancelled()


async def test_a_source_that_is_silent_for_too_long_is_reported_once_until_it_speaks(
    world: World,
) -> None:
    world.vendor.add(NOON - HOUR)
    collector = world.collector(max_silence="90m")
    with capture_logs() as logs:
        silent = []
        for _ in range(4):
            await collector.poll()
            silent.append(collector.condition.silent)
            world.clock.advance(HOUR)
        assert silent == [False, True, True, True]
        assert [line["since"] for line in logs if line["event"] == "source_silent"] == [
            (NOON - HOUR).isoformat()
        ]
        world.vendor.add(world.clock.now())
        world.clock.advance(HOUR)
        await collector.poll()
        silent.append(collector.condition.silent)
        assert silent[-1] is False


async def test_odd_times_are_counted_warned_of_once_and_move_nothing(world: World) -> None:
    world.vendor.add(NOON - 5 * 60 * SECOND)

    async def odd(window: Interval) -> AsyncGenerator[Page]:
        far = b'{"id":"far","event_type":"auth.logout","created_at":"9999-01-01T00:00:00Z"}'
        none = b'{"id":"none","event_type":"auth.logout","created_at":"noon"}'
        async for page in world.vendor.walk_records(window):
            yield replace(page, records=[far, *page.records, none], total=None)

    world.vendor.walk_instead = odd
    collector = world.collector()
    with capture_logs() as logs:
        await collector.poll()
        world.clock.advance(HOUR)
        await collector.poll()
    assert sorted(await world.names()) == ["far", "none", "r0"]
    assert [line["events"] for line in logs if line["event"] == "time_unreadable"] == [2]
    assert collector.condition.odd_times == 2
    assert collector.condition.last_event_at == NOON.isoformat(), "when the last one was fetched"
    assert collector.checkpoint.at == world.clock.now() - 60 * SECOND


async def test_a_last_event_of_the_future_is_not_restored(world: World) -> None:
    collector = world.collector()
    collector.restore(SourceCondition(last_event_at="9999-01-01T00:00:00+00:00"))
    assert collector.condition.last_event_at is None
    collector.restore(SourceCondition(last_event_at=NOON.isoformat()))
    assert collector.condition.last_event_at == NOON.isoformat()


async def test_the_last_event_is_remembered_over_a_restart(world: World) -> None:
    world.vendor.add(NOON - HOUR)
    await world.collector().poll()
    (state,) = await world.store.sources()
    again = world.collector()
    again.restore(state.condition)
    await again.poll()
    (state,) = await world.store.sources()
    assert state.condition.last_event_at == (NOON - HOUR).isoformat()


async def test_what_was_saved_is_saved_again_only_when_it_differs(world: World) -> None:
    health = world.collector()._health
    with health.track():
        pass
    condition = health.unsaved()
    assert condition is not None
    assert condition.up
    assert health.unsaved() == condition, "it is not in the store yet"
    health.saved(condition)
    assert health.unsaved() is None
    with contextlib.suppress(Retryable), health.track():
        raise Retryable("503", reason="status_503")
    again = health.unsaved()
    assert again is not None
    assert again.error_code == "status_503"
    health.saved(None)
    assert health.unsaved() == again
