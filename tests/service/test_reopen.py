"""``coverage --reopen``: a declared gap is taken back, asked for again, and reported as filled."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.service.serving import not_sealed, silent
from tests.support.collecting import DAY, HOUR, NOON, World, covered_from, open_world
from tests.support.stores import explained

from auditrelay.collect.collector import Collector
from auditrelay.errors import ConfigError, Refused, WalkBroken
from auditrelay.service.commands import Commands
from auditrelay.service.desk import Reopen, Reopened
from auditrelay.store.sqlite.store import open_view
from auditrelay.window import Interval

MINUTE = timedelta(minutes=1)
YEAR = timedelta(days=365)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as world:
        yield world


async def reopen(
    world: World, collector: Collector, start: datetime, end: datetime, *, yes: bool = True
) -> Reopened:
    topology: Any = SimpleNamespace(
        collectors={"calls": collector}, leased_store=lambda unit: world.store
    )
    commands = Commands(topology, world.store, clock=world.clock, seal=not_sealed)
    result = await commands.do(Reopen(source="calls", start=start, end=end, yes=yes), silent)
    assert isinstance(result, Reopened)
    return result


def facts(world: World) -> list[tuple[str, str | None]]:
    """Return which facts there are, each with its reason; they must explain the state."""
    explained(world.folder)
    with open_view(world.folder) as view:
        known = view.coverage("calls")
    assert known is not None
    return [(each.body["fact"], each.body.get("reason")) for each in known.facts]


async def test_a_gap_is_read_by_the_next_poll_and_reported_as_filled(world: World) -> None:
    name = world.vendor.add(NOON - 5 * HOUR)
    collector = world.collector(initial_lookback="1d", catch_up_limit="2h")
    await collector.poll()
    assert name not in await world.names()
    result = await reopen(world, collector, NOON - 6 * HOUR, NOON - 4 * HOUR)
    assert [(gap.end - gap.start, gap.reason) for gap in result.gaps] == [
        (2 * HOUR, "catch_up_limit")
    ]
    assert ("reopened", "catch_up_limit") in facts(world)
    assert collector.polls.due.is_set()
    await collector.poll()
    assert name in await world.names()
    events = [event.native_action for event in await world.spooled()]
    assert events.count("auditrelay.gap_filled") == 1
    assert ("filled", "reopened") in facts(world)
    gaps = [span for span, gap in await world.covered() if gap]
    assert sum((gap.length for gap in gaps), timedelta(0)) == 20 * HOUR
    before = len(world.vendor.asked)
    await collector.poll()
    assert len(world.vendor.asked) == before, "it is read once"


async def test_a_gap_of_the_future_is_taken_back_and_reading_goes_on(world: World) -> None:
    collector = world.collector(retention="400d")
    await collector.poll()
    await collector.new_reader().writer.declare(Interval(NOON - MINUTE, NOON + YEAR), "retention")
    world.clock.advance(HOUR)
    name = world.vendor.add(NOON + HOUR / 2)
    collector = world.collector(retention="400d")
    with pytest.raises(Refused, match="has been read already"):
        await collector.poll()
    await reopen(world, collector, NOON - DAY, NOON + 2 * YEAR)
    assert {("reopened", "retention"), ("retracted", "retention")} <= set(facts(world))
    await collector.poll()
    assert name in await world.names()
    assert [gap for _, gap in await world.covered() if gap] == []
    assert covered_from(await world.covered()).end == NOON + HOUR - MINUTE
    world.clock.advance(DAY)
    await collector.poll()
    assert covered_from(await world.covered()).end == NOON + HOUR + DAY - MINUTE
    facts(world)


async def test_a_gap_that_is_declared_again_where_one_was_taken_back_is_whole(
    world: World,
) -> None:
    collector = world.collector()
    await collector.poll()
    writer = collector.new_reader().writer
    for _ in range(3):
        await writer.declare(Interval(NOON, NOON + YEAR), "retention")
        await reopen(world, collector, NOON + HOUR, NOON + 2 * YEAR)
        facts(world)
    assert [span.length for span, gap in await world.covered() if gap] == [HOUR]


async def test_what_the_vendor_keeps_no_more_is_declared_again(world: World) -> None:
    collector = world.collector(initial_lookback="10d", retention="7d")
    await collector.poll()
    result = await reopen(world, collector, NOON - 8 * DAY, NOON - 7 * DAY)
    assert result.expired == NOON - 7 * DAY
    await collector.poll()
    gaps = [entry for entry in await world.covered() if entry[1]]
    assert {gap for _, gap in gaps} == {"retention"}
    assert covered_from(gaps).length == 3 * DAY
    events = [event.native_action for event in await world.spooled()]
    assert events.count("auditrelay.gap_declared") == 2
    facts(world)


async def test_what_cannot_be_read_is_declared_again_and_the_rest_is_read(world: World) -> None:
    collector = world.collector(initial_lookback="1d", catch_up_limit="2h")
    await collector.poll()
    name = world.vendor.add(NOON - 5 * HOUR)
    bad = NOON - 6 * HOUR

    async def walk(window: Interval) -> Any:
        if window.start <= bad < window.end:
            raise WalkBroken("it has a bad record", reason="bad")
        async for page in world.vendor.walk_records(window):
            yield page

    world.vendor.walk_instead = walk
    await reopen(world, collector, NOON - 7 * HOUR, NOON - 4 * HOUR)
    await collector.poll()
    assert name in await world.names()
    declared = [span for span, gap in await world.covered() if gap == "unreadable"]
    assert sum((each.length for each in declared), timedelta(0)) <= timedelta(seconds=1)
    assert [gap for _, gap in await world.covered() if gap == "reopened"] == []
    facts(world)


@pytest.mark.parametrize(
    ("start", "end", "yes", "message"),
    [
        (-6, -4, False, r"takes back the gap .*06:00:00Z \.\. .*08:00:00Z \(catch_up_limit\) of "),
        (-6, -4, False, "Pass --yes to confirm"),
        (-1, 0, True, "calls has no declared gap between .*; see: auditrelay coverage calls"),
        (-1, -2, True, "--to must be later than --from"),
    ],
)
async def test_what_is_refused_changes_nothing(
    world: World, start: int, end: int, message: str, *, yes: bool
) -> None:
    collector = world.collector(initial_lookback="1d", catch_up_limit="2h")
    await collector.poll()
    before = await world.store.ledger("calls")
    with pytest.raises(ConfigError, match=message):
        await reopen(world, collector, NOON + start * HOUR, NOON + end * HOUR, yes=yes)
    assert await world.store.ledger("calls") == before


async def test_a_gap_is_taken_back_once(world: World) -> None:
    collector = world.collector(initial_lookback="1d", catch_up_limit="2h")
    await collector.poll()
    await reopen(world, collector, NOON - 6 * HOUR, NOON - 4 * HOUR)
    with pytest.raises(ConfigError, match="no declared gap"):
        await reopen(world, collector, NOON - 6 * HOUR, NOON - 4 * HOUR)
