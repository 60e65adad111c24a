"""
Known problems of other audit-log collectors, and the test that auditrelay does not have them.

Each line is a requirement of their users, and the test that proves it. Where no other test proved
exactly that, it is in this module; :func:`test_every_proof_that_is_named_exists` checks the table.

Late events, and events that were missed
  pages that are out of order lose nothing
      tests/promises/test_pains.py::test_pages_in_any_order_lose_nothing_wherever_the_walk_dies
  no event is lost at the edge of a window, nor read twice
      tests/promises/test_pains.py::test_events_on_the_edges_of_windows_are_read_once
  delivery is both soon and complete, without 1 % of loss or hours of waiting
      tests/promises/test_pains.py::test_delivery_is_both_soon_and_complete
  an event that an API shows later than its own time is found
      tests/collect/test_resweep.py::test_what_appears_late_is_found_by_a_resweep_and_marked
  how late the events of a source really are is measured
      tests/collect/test_reader.py::test_late_events_are_counted_wherever_they_are_found
  a second, validating pass finds missed events
      tests/simulation/test_coverage.py::test_forwarded_and_declared_together_are_the_whole_history
      tests/system/test_operations.py::test_verify_finds_what_is_missing_and_repairs_it
  overlapping reads repeat nothing
      tests/promises/test_pains.py::test_a_long_overlap_repeats_nothing
  an event is known regardless of how many came after it
      tests/promises/test_pains.py::test_an_event_is_known_however_many_came_after_it
  a large record is an event like any other
      tests/contract/sources/test_walk.py::test_a_record_of_ten_megabytes_is_a_record
      tests/deliver/test_batches.py::test_an_event_larger_than_a_batch_goes_alone

Windows that are stuck
  a burst does not block a source for days, nor is it read again and again
      tests/promises/test_pains.py::test_a_burst_is_got_over_and_read_once_with_its_own_times
  a span that cannot be read at all becomes a gap after a while, and can be filled later
      tests/simulation/test_coverage.py::\
test_a_span_that_cannot_be_read_is_declared_after_an_hour_and_holds_nothing_up
  an API that is broken as a whole is neither hammered nor abandoned
      tests/promises/test_pains.py::\
test_an_api_that_is_broken_as_a_whole_is_neither_hammered_nor_given_up
  pages that never end are an error with a name
      tests/contract/sources/test_trouble.py::test_the_same_page_over_and_over_breaks_the_walk
      tests/collect/test_walk.py::test_pages_that_cannot_be_a_whole_window_are_an_error_with_a_name
      tests/collect/test_walk.py::test_a_window_over_budget_is_broken_unless_it_cannot_be_cut
  a long catch-up that dies keeps what it has done
      tests/promises/test_pains.py::test_a_long_catch_up_that_dies_keeps_what_it_has_done

The checkpoint
  a restart resumes where the last run stopped, and reads the outage
      tests/promises/test_pains.py::test_a_restart_reads_the_time_of_the_outage
  events are never marked as read before they are stored
      tests/collect/test_collector.py::\
test_a_walk_that_dies_at_any_page_is_walked_again_and_nothing_is_read_twice
      tests/system/test_kill.py::test_nothing_is_lost_wherever_the_process_is_killed
  events count as delivered only once the sink acknowledges them
      tests/deliver/test_deliverer.py::test_events_that_the_sink_has_not_accepted_survive_a_crash
      tests/system/test_kill_operations.py::test_nothing_is_lost_wherever_a_command_is_killed
  how far back a first run reads is the operator's choice, and stays so if it fails
      tests/collect/test_collector.py::test_a_first_poll_reads_the_lookback_up_to_what_has_settled
      tests/collect/test_collector.py::test_a_source_down_on_its_first_day_still_gets_its_whole_lookback
  the state is never half written, and a damaged one is not mistaken for an empty one
      tests/store/sqlite/test_state_dir.py::test_a_creation_that_was_cut_off_is_started_again
      tests/store/sqlite/test_state_dir.py::test_a_damaged_file_is_refused_and_left_as_it_is
  a clock that is wrong loses nothing
      tests/collect/test_collector.py::test_a_clock_that_steps_loses_nothing

Gaps that could not be filled
  an outage of any length is caught up
      tests/collect/test_collector.py::\
test_an_outage_of_45_days_is_read_in_several_windows_of_30_days_at_most
  a gap is filled by a command, as often as needed, without repeating anything
      tests/system/test_operations.py::test_a_backfill_forwards_a_past_range_once
      tests/collect/test_backfill.py::test_one_that_was_broken_off_goes_on_where_it_stopped
  events are resent to a single SIEM after it lost its data
      tests/system/test_operations.py::test_a_backfill_into_one_sink_fills_that_sink_alone
  a limit never skips time in silence
      tests/promises/test_promises.py::test_no_silent_gap
      tests/collect/test_reader.py::\
test_what_the_vendor_does_not_keep_any_more_is_declared_and_not_asked_for

Hangs and silent failures
  a request that hangs ends
      tests/contract/sources/test_trouble.py::test_a_hang_ends_with_the_timeout
      tests/contract/sources/test_trouble.py::test_a_reply_that_trickles_ends_with_the_timeout
  a source that hangs or fails delays no other
      tests/promises/test_pains.py::test_a_source_that_hangs_delays_no_other
  a source that has failed for days is read again without a restart
      tests/promises/test_pains.py::test_a_source_that_failed_for_days_is_read_again_automatically
  a loop that is stuck is noticed and restarted
      tests/system/test_supervision.py::\
test_a_stuck_loop_stops_the_watchdog_pings_and_fails_the_health_check
      tests/system/test_supervision.py::\
test_polls_that_are_no_longer_scheduled_stop_the_watchdog_pings
  a source that has fallen silent is reported
      tests/collect/test_health.py::\
test_a_source_that_is_silent_for_too_long_is_reported_once_until_it_speaks
  a wait that a vendor asks for is respected
      tests/http/test_retry.py::test_retry_after_is_never_shortened
  a SIEM that is down for long loses nothing
      tests/http/test_retry.py::test_without_a_limit_it_never_gives_up_and_waits_stay_bounded
      tests/deliver/test_deliverer.py::test_a_403_holds_the_sink_and_drops_nothing

Success and failure of a SIEM
  a success in other words is neither sent again without end nor taken for a delivery
      tests/contract/sinks/test_refusals.py::\
test_a_success_in_other_words_is_one_send_and_then_done_or_held
      tests/deliver/test_unproven.py::\
test_the_first_success_that_proves_nothing_holds_the_sink_after_one_send
  what is never answered is sent ever less often, one event at a time
      tests/deliver/test_unanswered.py::\
test_a_sink_that_answers_its_check_alone_gets_one_event_an_hour_at_last
      tests/deliver/test_acknowledgement_poller.py::\
test_events_not_acknowledged_in_time_are_resent_and_counted
  what a gateway answers for a SIEM that has stored the batch is counted
      tests/contract/sinks/test_refusals.py::\
test_a_gateway_that_answers_for_a_batch_that_was_stored_is_counted
  what is too large for a proxy that only resets gets smaller until it passes
      tests/contract/sinks/test_refusals.py::\
test_what_a_proxy_does_not_let_through_gets_smaller_until_it_passes
  an event that is reset whenever it is sent does not stop the others
      tests/deliver/test_failing_alike.py::\
test_an_event_that_fails_alone_is_overtaken_and_not_lost

Events that a SIEM refuses
  no value of a record keeps an action out of a SIEM
      tests/contract/sinks/test_refusals.py::\
test_a_refused_event_arrives_reduced_and_stays_whole_among_the_dead_letters
      tests/system/test_kill.py::\
test_a_refused_event_and_its_reduced_copy_are_stored_together_wherever_it_is_killed
  thousands of refused events delay the others by less than a minute
      tests/deliver/test_many_refused.py::\
test_events_behind_thousands_of_refused_ones_come_through_in_less_than_a_minute
      tests/deliver/test_many_refused.py::\
test_good_events_among_as_many_refused_ones_come_through
  a wrong configuration holds a sink instead of filling the dead letters, for each index alone
      tests/deliver/test_circuit_breaker.py::\
test_what_is_refused_for_one_target_is_counted_whatever_others_accept
"""

import asyncio
import random
import re
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from tests.support.clock import FakeClock
from tests.support.collecting import (
    DAY,
    HOUR,
    NOON,
    SECOND,
    Vendor,
    World,
    covered_from,
    open_world,
)
from tests.support.daemon import eventually
from tests.support.stores import opened

from auditrelay.errors import Refused, RelayError, Retryable, WalkBroken
from auditrelay.sources import Page
from auditrelay.store.sqlite.state_dir import prepare
from auditrelay.telemetry.metrics import Metrics
from auditrelay.window import Interval

MINUTE = timedelta(minutes=1)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as world:
        yield world


pytestmark = pytest.mark.usefixtures("waits")


async def is_there(world: World, name: str) -> bool:
    return name in await world.names()


def test_every_proof_that_is_named_exists() -> None:
    root = Path(__file__).parents[2]
    named = re.findall(r"(tests/\S+\.py)::(\w+)", str(__doc__).replace("\\\n", ""))
    assert len(named) >= 35
    for path, name in named:
        text = (root / path).read_text()
        assert re.search(rf"^(async )?def {name}\(", text, re.MULTILINE), f"{path}::{name}"
    here = {name for path, name in named if path.endswith("test_pains.py")}
    proofs = re.findall(r"^async def (test_\w+)\(", Path(__file__).read_text(), re.MULTILINE)
    assert here == set(proofs), "every proof of this module stands in the table"


# --- late events, and events that were missed


@pytest.mark.parametrize("page", [*range(1, 6), None])
@pytest.mark.parametrize("order", ["newest first", "shuffled"])
async def test_pages_in_any_order_lose_nothing_wherever_the_walk_dies(
    world: World, order: str, page: int | None
) -> None:
    made = [world.vendor.add(NOON - 90 * MINUTE + number * MINUTE) for number in range(14)]
    luck = random.Random(2)  # repeatable, not secret
    real = world.vendor.walk_records

    async def walk(window: Interval) -> AsyncGenerator[Page]:
        found = [record async for each in real(window) for record in each.records]
        if order == "shuffled":
            luck.shuffle(found)
        else:
            found.reverse()
        for first in range(0, max(1, len(found)), 3):
            if first // 3 + 1 == page and len(world.vendor.asked) == 1:
                raise Retryable("it hangs up", reason="connect")
            yield Page(found[first : first + 3], last=first + 3 >= len(found), total=len(found))

    world.vendor.walk_instead = walk
    if page is not None:
        with pytest.raises(Retryable):
            await world.collector(overlap="1s").poll()
        assert len(await world.names()) == 3 * (page - 1)
    await world.collector(overlap="1s").poll()
    assert Counter(await world.names()) == Counter(made)


async def test_events_on_the_edges_of_windows_are_read_once(world: World) -> None:
    collector = world.collector(settle="0s", overlap="1s", resweep=[])
    edges = []
    for _ in range(60):
        await collector.poll()
        edge = collector.checkpoint.at
        for offset in (-2, -1, 0, 1):  # microseconds round the end of what was just read
            at = edge + timedelta(microseconds=offset)
            edges += [world.vendor.add(at, seen_from=NOON), world.vendor.add(at, seen_from=NOON)]
        world.clock.advance(5 * MINUTE + timedelta(microseconds=333))
    await collector.poll()
    assert Counter(await world.names()) == Counter(edges)


@pytest.mark.slow
async def test_delivery_is_both_soon_and_complete(world: World) -> None:
    """Ninety-nine events are shown at once, one in a hundred an hour late or six hours late."""
    collector = world.collector(settle="0s", overlap="5m", resweep=["1h", "8h"])
    made: dict[str, tuple[datetime, timedelta]] = {}
    seen: dict[str, datetime] = {}
    for poll in range(200):
        for number in range(3):
            at = world.clock.now() - number * SECOND
            late = timedelta(0)
            if (3 * poll + number) % 100 == 99:
                late = HOUR - MINUTE if poll % 2 else 6 * HOUR
            made[world.vendor.add(at, seen_from=at + late)] = (at, late)
        world.clock.advance(5 * MINUTE)
        await collector.poll()
        for name in await world.names():
            seen.setdefault(name, world.clock.now())
    for _ in range(3):
        world.clock.advance(8 * HOUR)
        await collector.poll()
    for name, (at, late) in made.items():
        if not late:
            assert seen[name] - at <= 5 * MINUTE + 3 * SECOND, "soon"
    assert Counter(await world.names()) == Counter(made.keys()), "complete, and each once"
    marked = {e.native_id for e in await world.spooled() if e.late_by_s is not None}
    assert marked == {name for name, (_, late) in made.items() if late}


async def test_a_long_overlap_repeats_nothing(world: World) -> None:
    collector = world.collector(overlap="2h", max_window="1d", initial_lookback="3h")
    made = []
    for _ in range(40):
        made.append(world.vendor.add(world.clock.now() - 2 * MINUTE))
        await collector.poll()
        world.clock.advance(5 * MINUTE)
    await collector.poll()
    assert await world.names() == made
    assert world.counted("events_duplicate_total") > 10 * len(made), "they were shown over and over"


async def test_an_event_is_known_however_many_came_after_it(tmp_path: Path) -> None:
    clock = FakeClock(NOON)
    first = Vendor(clock, size=1000)
    old = first.add(NOON - HOUR)
    for life in range(3):
        store = await opened(tmp_path)
        await store.start_sink("sink", ["calls"])
        world = World(first, clock, store, Metrics(sources=["calls"], sinks=["sink"]), tmp_path)
        collector = world.collector()
        for number in range(4000):
            first.add(clock.now() - 2 * MINUTE + number * timedelta(milliseconds=10))
        clock.advance(5 * MINUTE)
        await collector.poll()
        assert (await world.names()).count(old) == 1, life
        again = collector.new_reader().writer.identify(
            [b'{"id":"%b","event_type":"auth.logout","created_at":"%b"}'
             % (old.encode(), (NOON - HOUR).isoformat().encode())]
        )  # fmt: skip
        assert (await store.add("calls", again.page())).new == ()
        await store.close()


# --- windows that are stuck


async def test_a_burst_is_got_over_and_read_once_with_its_own_times(world: World) -> None:
    """More in a minute than a window may contain, on an API that fails as well."""
    collector = world.collector(overlap="1s")
    await collector.poll()
    world.vendor.too_many = 50
    at = {}
    for number in range(400):
        moment = NOON + MINUTE + number * timedelta(milliseconds=150)
        at[world.vendor.add(moment)] = moment
    asked = len(world.vendor.asked)
    for poll in range(4):
        world.clock.advance(5 * MINUTE)
        if poll < 2:
            world.vendor.errors = {
                world.vendor.pages + 40: Retryable("it hangs up", reason="connect")
            }
            with pytest.raises(Retryable):
                await collector.poll()
        else:
            await collector.poll()
    assert Counter(await world.names()) == Counter(at.keys())
    for event in await world.spooled():
        assert event.at == int(at[event.native_id or ""].timestamp() * 1e6)
        assert event.late_by_s is None
        assert not event.backfill
    assert collector.checkpoint.at == world.clock.now() - MINUTE
    # What was read of it before a failure is not asked for again.
    burst = [w for w in world.vendor.asked[asked:] if w.length < MINUTE]
    assert Counter(window.start for window in burst).most_common(1)[0][1] <= 4


async def test_an_api_that_is_broken_as_a_whole_is_neither_hammered_nor_given_up(
    world: World,
) -> None:
    collector = world.collector(initial_lookback="5m", settle="0s", overlap="1s")
    asked = 0

    async def walk(_: Interval) -> AsyncGenerator[Page]:
        nonlocal asked
        asked += 1
        if asked:  # ever
            raise WalkBroken("a page came a second time", reason="repeated_page")
        yield Page([], last=True)

    world.vendor.walk_instead = walk
    made = []
    for _ in range(24):
        made.append(world.vendor.add(world.clock.now() - MINUTE))
        before = asked
        with pytest.raises(WalkBroken):
            await collector.poll()
        assert asked - before < 20, "it is not cut, since nothing that is asked is answered"
        world.clock.advance(5 * MINUTE)
    world.vendor.walk_instead = None  # it is fixed
    await collector.poll()
    assert [gap for _, gap in await world.covered()] == [None], "nothing of the two hours"
    assert await world.names() == made


async def test_a_long_catch_up_that_dies_keeps_what_it_has_done(world: World) -> None:
    collector = world.collector(max_window="10d", overlap="1s")
    await collector.poll()
    world.clock.advance(45 * DAY)
    made = [world.vendor.add(NOON + number * HOUR) for number in range(45 * 24 - 1)]
    for attempt in range(4):
        world.vendor.errors = {world.vendor.pages + 100: Retryable("it dies", reason="connect")}
        before = collector.checkpoint.at
        collector = world.collector(max_window="10d", overlap="1s")  # as after a restart
        with pytest.raises(Retryable):
            await collector.poll()
        assert collector.checkpoint.at > before, attempt
        assert min(world.vendor.asked[-1].start, before) >= before - SECOND
    await collector.poll()
    assert Counter(await world.names()) == Counter(made)
    assert covered_from(await world.covered()).end == world.clock.now() - MINUTE


# --- the checkpoint


async def test_a_restart_reads_the_time_of_the_outage(tmp_path: Path) -> None:
    clock = FakeClock(NOON)
    vendor = Vendor(clock)
    prepare(tmp_path)
    made: list[str] = []
    checkpoint = None
    for _ in range(4):
        store = await opened(tmp_path)
        await store.start_sink("sink", ["calls"])
        world = World(vendor, clock, store, Metrics(sources=["calls"], sinks=["sink"]), tmp_path)
        collector = world.collector(overlap="10m")
        vendor.asked.clear()
        await collector.poll()
        if checkpoint is not None:
            assert vendor.asked[0].start == checkpoint - 10 * MINUTE
            assert all(one.end == other.start for one, other in pairwise(vendor.asked))
        checkpoint = collector.checkpoint.at
        assert await world.names() == made
        await store.close()
        made += [vendor.add(clock.now() + number * HOUR) for number in range(8)]
        clock.advance(9 * HOUR)


# --- hanging, and failing in silence


async def test_a_source_that_hangs_delays_no_other(world: World) -> None:
    hanging = asyncio.Event()

    class Hanging(Vendor):
        async def walk(
            self, window: Interval, *, background: bool = False, finely: bool = False
        ) -> AsyncGenerator[Page]:
            hanging.set()
            await asyncio.Event().wait()
            yield Page([], last=True)

    stuck = [
        World(Hanging(world.clock), world.clock, world.store, world.metrics, world.folder)
        for _ in range(60)
    ]
    collector = world.collector()
    crowd = [each.collector(f"stuck{number}") for number, each in enumerate(stuck)]
    tasks = [asyncio.ensure_future(each.keep_polling()) for each in (*crowd, collector)]
    try:
        async with asyncio.timeout(20):
            for each in crowd:
                each.polls.due.set()
            await hanging.wait()
            for _ in range(3):
                fresh = world.vendor.add(world.clock.now())
                world.clock.advance(5 * MINUTE)
                collector.polls.due.set()
                await eventually(lambda name=fresh: is_there(world, name))  # type: ignore[misc]  # a default
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


@pytest.mark.slow
async def test_a_source_that_failed_for_days_is_read_again_automatically(world: World) -> None:
    failures: list[RelayError] = [
        Retryable("down", reason="connect"),
        Refused("401: no", status=401),
    ]
    collector = world.collector()
    polling = asyncio.ensure_future(collector.keep_polling())
    real, failing = world.vendor.walk_records, True

    async def walk(window: Interval) -> AsyncGenerator[Page]:
        if failing and window.end > NOON:
            raise failures[len(made) % 2]
        async for page in real(window):
            yield page

    world.vendor.walk_instead = walk
    made: list[str] = []
    try:
        async with asyncio.timeout(20):
            for _ in range(3 * 24):
                made.append(world.vendor.add(world.clock.now()))
                world.clock.advance(HOUR)
                rested = collector.polls.rested_at
                collector.polls.due.set()
                await eventually(lambda before=rested: collector.polls.rested_at > before)  # type: ignore[misc]  # a default
            assert not collector.condition.up
            assert not polling.done(), "it goes on asking"
            failing = False
            collector.polls.due.set()
            await eventually(lambda: collector.condition.up)
    finally:
        polling.cancel()
        await asyncio.wait([polling])
    assert set(made[:-1]) <= set(await world.names())
