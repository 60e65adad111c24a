"""Backfills: slices, concurrency, resumption, resends into single sinks, dry runs."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Any

import pytest
from tests.support.collecting import DAY, HOUR, NOON, SECOND, World
from tests.support.stores import backlog

from auditrelay.collect.backfill import SLICES_PER_RANGE, Backfiller, BackfillProgress
from auditrelay.collect.collector import Collector
from auditrelay.collect.parts import MAX_UNREADABLE_SPANS
from auditrelay.errors import Retryable, WalkBroken
from auditrelay.events import AuditEvent
from auditrelay.sources import RETENTION, UNREADABLE, Page
from auditrelay.window import Interval

PAST = Interval(NOON - 20 * DAY, NOON - 10 * DAY)


@pytest.fixture
def sinks() -> tuple[str, ...]:
    return ("sink", "other")


class Filling:
    """One backfill, and the progress that it has reported."""

    def __init__(
        self,
        world: World,
        collector: Collector | None = None,
        *,
        span: Interval = PAST,
        sinks: tuple[str, ...] = (),
    ) -> None:
        self.reports: list[BackfillProgress] = []
        self.backfiller = Backfiller(
            collector or world.collector(),
            world.store,
            span=span,
            sinks=sinks,
            clock=world.clock,
            on_progress=self._on_progress,
        )

    async def _on_progress(self, progress: BackfillProgress) -> None:
        self.reports.append(progress)

    async def run(self, concurrency: int = 1, *, newest_first: bool = False) -> BackfillProgress:
        return await self.backfiller.run(concurrency=concurrency, newest_first=newest_first)


def spread(world: World, count: int, span: Interval = PAST) -> list[str]:
    """Add *count* events, spread evenly over *span*."""
    return [world.vendor.add(span.start + number * span.length / count) for number in range(count)]


async def read(world: World, sink: str = "sink") -> list[AuditEvent]:
    return [event for page in await backlog(world.store, sink) for event in page.events]


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("concurrency", [1, 3])
async def test_everything_of_the_range_is_forwarded_once_and_marked(
    world: World, concurrency: int, newest_first: bool
) -> None:
    made = spread(world, 100)
    world.vendor.add(PAST.end)
    filling = Filling(world)
    result = await filling.run(concurrency, newest_first=newest_first)
    assert sorted(await world.names()) == sorted(made), "and nothing from beyond its end"
    assert all(event.backfill for event in await world.spooled())
    assert (result.events, result.new, result.gaps) == (100, 100, 0)
    assert not result.resumed
    assert world.vendor.background == [True] * SLICES_PER_RANGE, "polls go first"
    assert len(await read(world, "other")) == 100
    assert min(span.start for span, gap in await world.covered() if gap is None) == PAST.start
    shares = [each.done_seconds / each.total_seconds for each in filling.reports]
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[-1] == pytest.approx(1)
    if concurrency == 1:
        starts = [window.start for window in world.vendor.asked]
        assert starts == sorted(starts, reverse=newest_first)


async def test_what_was_forwarded_before_is_counted_and_not_forwarded_again(world: World) -> None:
    spread(world, 30)
    await Filling(world).run()
    late = world.vendor.add(PAST.start + HOUR)
    result = await Filling(world).run()
    assert (result.events, result.new, result.resumed) == (31, 1, False)
    names = await world.names()
    assert len(names) == 31
    assert names[-1] == late


async def test_the_live_checkpoint_stays_where_it_is(world: World) -> None:
    collector = world.collector()
    await collector.poll()
    before = collector.checkpoint.at
    spread(world, 5)
    await Filling(world, collector).run()
    await collector.checkpoint.refresh()
    assert collector.checkpoint.at == before
    assert len(world.vendor.asked) == 1 + SLICES_PER_RANGE
    await collector.poll()
    assert len(world.vendor.asked) == 1 + SLICES_PER_RANGE, "nothing is due for a poll"


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_one_that_was_broken_off_goes_on_where_it_stopped(
    world: World, concurrency: int
) -> None:
    made = spread(world, 100)
    world.vendor.errors = {30: Retryable("it hangs up", reason="connect")}
    with pytest.raises(Retryable):
        await Filling(world).run(concurrency)
    asked = len(world.vendor.asked)
    assert 0 < asked < SLICES_PER_RANGE
    filling = Filling(world)
    result = await filling.run(concurrency)
    assert result.resumed
    assert (result.events, result.new) == (100, 100), "what the first run did counts, too"
    assert filling.reports[0].done_seconds > 0
    assert len(world.vendor.asked) <= SLICES_PER_RANGE + concurrency, (
        "what was done is not done again"
    )
    assert sorted(await world.names()) == sorted(made)


async def test_one_of_another_range_or_other_sinks_is_another(world: World) -> None:
    spread(world, 20)
    world.vendor.errors = {20: Retryable("it hangs up", reason="connect")}
    with pytest.raises(Retryable):
        await Filling(world).run()
    other = await Filling(world, span=Interval(PAST.end, PAST.end + DAY)).run()
    assert not other.resumed
    single = await Filling(world, sinks=("sink",)).run()
    assert not single.resumed
    wider = await Filling(world, span=Interval(PAST.start - DAY, PAST.end)).run()
    assert wider.resumed, "a range that overlaps it takes it up"


async def test_a_failure_stops_the_others_and_no_task_is_left(world: World) -> None:
    spread(world, 100)
    world.vendor.errors = {5: Retryable("it hangs up", reason="connect")}
    before = asyncio.all_tasks()
    with pytest.raises(Retryable):
        await Filling(world).run(8)
    assert asyncio.all_tasks() == before
    asked = len(world.vendor.asked)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(world.vendor.asked) == asked


async def test_no_more_slices_are_read_at_once_than_asked_for(world: World) -> None:
    spread(world, 100)
    at_once = most = 0
    real = world.vendor.walk_records

    async def walk(window: Interval) -> AsyncGenerator[Page]:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        try:
            async for page in real(window):
                await asyncio.sleep(0)
                yield page
        finally:
            at_once -= 1

    world.vendor.walk_instead = walk
    await Filling(world).run(4)
    assert most == 4


async def test_a_short_range_is_one_slice_and_a_long_one_keeps_to_max_window(world: World) -> None:
    await Filling(world, span=Interval(NOON - 10 * DAY, NOON - 10 * DAY + 30 * 60 * SECOND)).run()
    assert len(world.vendor.asked) == 1
    world.vendor.asked.clear()
    collector = world.collector(max_window="1d", overlap="1s")
    await Filling(world, collector, span=Interval(NOON - 100 * DAY, NOON - 10 * DAY)).run()
    assert max(window.length for window in world.vendor.asked) <= DAY


async def test_a_gap_that_can_be_read_by_now_is_filled(world: World) -> None:
    collector = world.collector(initial_lookback="10d", catch_up_limit="5h")
    await collector.poll()
    lost = world.vendor.add(NOON - 2 * DAY)
    result = await Filling(world, collector, span=Interval(NOON - 10 * DAY, NOON - 4 * HOUR)).run()
    assert result.new == 1
    assert [gap for _, gap in await world.covered() if gap] == []
    assert lost in await world.names()
    assert [event.native_action for event in await world.spooled()][-1] == "auditrelay.gap_filled"


async def test_what_the_vendor_does_not_keep_is_declared_and_not_asked_for(world: World) -> None:
    spread(world, 10)
    collector = world.collector(retention="15d")
    result = await Filling(world, collector).run()
    assert result.gaps == 1
    assert (await world.covered())[0] == (Interval(PAST.start, NOON - 15 * DAY), RETENTION)
    assert min(window.start for window in world.vendor.asked) >= NOON - 15 * DAY
    assert result.new == 5


async def test_what_cannot_be_read_is_declared_and_the_rest_is_filled(world: World) -> None:
    made = spread(world, 20)
    poison = PAST.start + 3 * DAY + HOUR
    for _ in range(9):
        world.vendor.add(poison)
    world.vendor.too_many = 7
    result = await Filling(world).run()
    assert result.gaps == 1
    (gap,) = [span for span, reason in await world.covered() if reason == UNREADABLE]
    assert gap.start <= poison < gap.end
    assert gap.length <= SECOND
    assert set(made) <= set(await world.names())


async def test_one_that_can_read_next_to_nothing_is_given_up(world: World) -> None:
    for number in range(MAX_UNREADABLE_SPANS + 5):
        for _ in range(9):
            world.vendor.add(PAST.start + number * 60 * SECOND)
    world.vendor.too_many = 7

    class Patient(list[Any]):
        def __len__(self) -> int:
            return 0  # halving asks more often than the double allows

    world.vendor.asked = Patient()
    with pytest.raises(WalkBroken):
        await Filling(world, span=Interval(PAST.start, PAST.start + HOUR)).run()
    gaps = [span for span, reason in await world.covered() if reason == UNREADABLE]
    assert len(gaps) == MAX_UNREADABLE_SPANS


# --- into some sinks alone


async def test_some_sinks_get_everything_again_and_the_others_nothing(world: World) -> None:
    made = spread(world, 40)
    await Filling(world).run()
    asked = len(world.vendor.asked)
    result = await Filling(world, sinks=("other",)).run()
    assert (result.events, result.new) == (40, 40)
    assert len(world.vendor.asked) == asked, "all of it is in the spool: the source is not asked"
    assert len(await read(world)) == 40
    again = await read(world, "other")
    assert sorted(event.native_id or "" for event in again) == sorted([*made, *made])
    assert all(event.backfill for event in again[40:])


async def test_what_the_spool_lacks_comes_from_the_source(world: World) -> None:
    made = spread(world, 40)
    await Filling(world).run()
    for sink in ("sink", "other"):
        await world.store.settle(sink, [(0, 40)])
    await world.store.prune(datetime.now(NOON.tzinfo) + 8 * DAY)
    asked = len(world.vendor.asked)
    result = await Filling(world, sinks=("other",)).run()
    assert result.events == 40
    assert len(world.vendor.asked) > asked
    again = await read(world, "other")
    assert sorted(event.native_id or "" for event in again) == sorted(made)
    assert len({event.uid for event in again}) == 40, "under the same uids"
    assert await read(world) == []


async def test_what_was_never_read_comes_from_the_source_and_is_not_claimed(world: World) -> None:
    spread(world, 10)
    result = await Filling(world, sinks=("other",)).run()
    assert result.events == 10
    assert await world.covered() == [], "the other sinks have not got it"
    assert await read(world) == []
    # And so the range is still open for all of them.
    assert (await Filling(world).run()).new == 10
    assert len(await read(world)) == 10


async def test_large_parts_are_resent_in_bounded_steps(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("auditrelay.collect.backfill.MAX_EVENTS_IN_MEMORY", 10)
    made = spread(world, 100, Interval(PAST.start, PAST.start + HOUR))
    await Filling(world).run()
    steps: list[int] = []
    resend = world.store.resend

    async def watched(source: str, sinks: Any, events: Any, proof: Any) -> None:
        steps.append(len(events))
        await resend(source, sinks, events, proof)

    monkeypatch.setattr(world.store, "resend", watched)
    await Filling(world, sinks=("other",)).run()
    assert max(steps) <= 10
    assert sorted(event.native_id or "" for event in (await read(world, "other"))[100:]) == sorted(
        made
    )


# --- only counting


async def test_a_dry_run_counts_and_changes_nothing(world: World) -> None:
    spread(world, 30)
    await Filling(world, span=Interval(PAST.start, PAST.start + 5 * DAY)).run()
    before = (await world.spooled(), await world.covered())
    counted = await Filling(world).backfiller.count(concurrency=2)
    assert set(world.vendor.background) == {True}, "polls go first"
    assert (counted.events, counted.new) == (30, 15)
    assert (await world.spooled(), await world.covered()) == before
    assert not (await Filling(world, span=Interval(PAST.end - DAY, PAST.end)).run()).resumed


@pytest.mark.parametrize("dry_run", [False, True])
async def test_pages_that_move_do_not_count_an_event_twice(world: World, dry_run: bool) -> None:
    """A window that shrinks while it is read is walked again; its events are still as many."""
    spread(world, 12, Interval(PAST.start, PAST.start + HOUR))
    real = world.vendor.walk_records
    shrunk = iter([True])

    async def walk(window: Interval) -> AsyncGenerator[Page]:
        moved = next(shrunk, False)
        async for page in real(window):
            yield Page(page.records, page.last, page.total, shrunk=moved and page.last)

    world.vendor.walk_instead = walk
    filling = Filling(world, span=Interval(PAST.start, PAST.start + HOUR))
    result = await (filling.backfiller.count(concurrency=1) if dry_run else filling.run())
    assert (result.events, result.new) == (12, 12)
