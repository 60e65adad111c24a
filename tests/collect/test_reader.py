"""Reading a window: what each read mode marks, proves, counts and records."""

from collections.abc import AsyncGenerator
from datetime import timedelta
from hashlib import sha256
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.support.collecting import DAY, HOUR, NOON, SECOND, Vendor, World, refuse_to_give_up
from tests.support.logged import logged
from tests.support.stores import backlog

from auditrelay.collect.collector import Collector
from auditrelay.collect.reader import MARGIN, ReadMode, rows_in
from auditrelay.errors import WalkBroken
from auditrelay.events import AuditEvent
from auditrelay.events.normalize import IdentifiedPage
from auditrelay.sources import Page
from auditrelay.store.keys import known_key
from auditrelay.store.sqlite.store import open_view
from auditrelay.window import Interval, holes

MINUTE = timedelta(minutes=1)


class Partly:
    """A vendor that reports for every window what it leaves out."""

    def __init__(self, vendor: Vendor, *, partial: str | None, gaps: tuple[Any, ...] = ()) -> None:
        self.vendor, self.partial, self.gaps = vendor, partial, gaps
        self.scope = ""

    async def walk(
        self, window: Interval, *, background: bool = False, finely: bool = False
    ) -> AsyncGenerator[Page]:
        async for page in self.vendor.walk(window):
            # It counts on the last page only; on earlier pages it is ignored.
            yield Page(page.records, page.last, page.total, partial=self.partial, gaps=self.gaps)

    async def close(self) -> None: ...


def with_source(collector: Collector, source: Partly) -> Collector:
    for reader in (collector, collector._reader, collector.resweeper.reader):
        reader.source = source
    return collector


async def is_there(world: World, name: str) -> bool:
    return name in await world.names()


def notices(events: list[AuditEvent]) -> list[tuple[str, str]]:
    """Return action and message of the gap notices among *events*."""
    return [
        (event.native_action, event.message or "")
        for event in events
        if event.native_action.startswith("auditrelay.")
    ]


# --- partial pages and gaps


async def test_a_window_that_the_vendor_shows_in_part_is_a_gap_and_its_events_are_forwarded(
    world: World,
) -> None:
    made = [world.vendor.add(NOON - HOUR + number * SECOND) for number in range(7)]
    collector = with_source(world.collector(), Partly(world.vendor, partial="plan_limit"))
    await collector.poll()
    assert {gap for _, gap in await world.covered()} == {"plan_limit"}
    names = await world.names()
    assert sorted(name for name in names if name != "None") == made
    assert [what for what, _ in notices(await world.spooled())] == ["auditrelay.gap_declared"]
    assert collector.checkpoint.at == NOON - 60 * SECOND, "it does not block the checkpoint"
    assert world.counted("gap_seconds_total") == pytest.approx(7200 - 60)


async def test_a_span_that_the_vendor_leaves_out_is_a_gap_and_the_rest_is_covered(
    world: World,
) -> None:
    out = Interval(NOON - 90 * MINUTE, NOON - 80 * MINUTE)
    source = Partly(world.vendor, partial=None, gaps=((out, "truncated"),))
    await with_source(world.collector(overlap="1s"), source).poll()
    assert await world.covered() == [
        (Interval(NOON - 2 * HOUR, out.start), None),
        (out, "truncated"),
        (Interval(out.end, NOON - MINUTE), None),
    ]
    assert world.counted("gap_seconds_total") == pytest.approx(600)


async def test_what_was_shown_in_part_is_covered_once_it_is_shown_whole(world: World) -> None:
    source = Partly(world.vendor, partial="plan_limit")
    collector = with_source(world.collector(overlap="30m"), source)
    await collector.poll()
    source.partial = None
    world.clock.advance(10 * MINUTE)
    with capture_logs() as logs:
        await collector.poll()
    ledger = await world.covered()
    assert ledger[0] == (Interval(NOON - 2 * HOUR, NOON - 31 * MINUTE), "plan_limit")
    assert all(gap is None for _, gap in ledger[1:])
    (line,) = [line for line in logs if line["event"] == "gap_filled"]
    assert line["start"] == (NOON - 31 * MINUTE).isoformat()
    assert line["end"] == (NOON - MINUTE).isoformat()


# --- gaps that are filled, and gaps that go on


async def test_a_gap_that_is_filled_is_an_event_in_every_sink(world: World) -> None:
    await world.store.start_sink("other", ["calls"])
    collector = world.collector(initial_lookback="10d", catch_up_limit="5h")
    await collector.poll()
    part = Interval(NOON - 38 * HOUR, NOON - 33 * HOUR)
    number = await world.store.begin_backfill("calls", part, [], NOON)
    lost = world.vendor.add(NOON - 36 * HOUR)
    mode = ReadMode("backfill", backfill=number.id)
    stats = await collector.new_reader().read(part, mode, refuse_to_give_up)
    assert (stats.new, stats.read) == (1, 1)
    for sink in ("sink", "other"):
        pages = await backlog(world.store, sink)
        events = [event for page in pages for event in page.events]
        assert [event.native_action for event in events] == [
            *["auditrelay.gap_declared"],
            *["auth.logout", "auditrelay.gap_filled"],
        ], sink
        assert events[1].native_id == lost
        assert events[1].backfill
        assert events[2].uid != events[0].uid
    assert [gap for _, gap in await world.covered()][:3] == [
        *("catch_up_limit", None, "catch_up_limit")
    ]


async def test_a_gap_that_goes_on_is_one_event_a_day(world: World) -> None:
    world.clock.set(NOON - 12 * HOUR)  # midnight
    collector = with_source(
        world.collector(initial_lookback="5m", overlap="1s", settle="0s"),
        Partly(world.vendor, partial="plan_limit"),
    )
    world.clock.advance(5 * MINUTE)
    for _ in range(3 * 24 * 4):
        await collector.poll()
        world.clock.advance(15 * MINUTE)
    days = {(NOON + timedelta(days=day)).date().isoformat() for day in (0, 1, 2)}
    found = notices(await world.spooled())
    assert len(found) == len(days), found
    gaps = [gap for gap in await world.covered() if gap[1] == "plan_limit"]
    assert len(gaps) == len(days)
    assert world.counted("gap_seconds_total") == pytest.approx(
        (gaps[-1][0].end - gaps[0][0].start).total_seconds()
    ), "and every second of it is counted"


async def test_what_the_vendor_does_not_keep_any_more_is_declared_and_not_asked_for(
    world: World,
) -> None:
    collector = world.collector(initial_lookback="10d", retention="7d")
    kept = world.vendor.add(NOON - 6 * DAY)
    await collector.poll()
    assert (await world.covered())[0] == (Interval(NOON - 10 * DAY, NOON - 7 * DAY), "retention")
    oldest = min(window.start for window in world.vendor.asked)
    assert oldest >= NOON - 7 * DAY - 10 * MINUTE, "no more than the overlap"
    assert await world.names() == ["None", kept]
    world.clock.advance(30 * DAY)  # an outage for longer than that
    await collector.poll()
    gaps = [span for span, gap in await world.covered() if gap == "retention"]
    assert gaps[-1].end == world.clock.now() - 7 * DAY
    assert not list(
        holes(
            Interval(NOON - 10 * DAY, world.clock.now() - MINUTE),
            [span for span, _ in await world.covered()],
        )
    )


# --- the pages in the log


async def test_at_debug_each_page_is_a_line(world: World) -> None:
    for number in range(4):
        world.vendor.add(NOON - HOUR + number * MINUTE)
    collector = world.collector(overlap="2h")
    await collector.poll()
    world.vendor.add(NOON - HOUR + 4 * MINUTE)
    world.clock.advance(MINUTE)
    with logged("debug") as lines:
        await collector.poll()
        pages = [line for line in lines() if line["event"] == "page_read"]
        (window,) = [line for line in lines() if line["event"] == "window_collected"]
    for page in pages:
        assert (page["level"], page["source"]) == ("debug", "calls")
        assert (page["start"], page["end"]) == (window["start"], window["end"])
    assert [(page["number"], page["records"], page["new"], page["total"]) for page in pages] == [
        (1, 3, 0, 5),
        (2, 2, 1, 5),
    ]
    assert [(page["oldest"], page["newest"]) for page in pages] == [
        ("2026-01-10T11:00:00+00:00", "2026-01-10T11:02:00+00:00"),
        ("2026-01-10T11:03:00+00:00", "2026-01-10T11:04:00+00:00"),
    ]


async def test_a_page_without_events_has_no_times_in_its_line(world: World) -> None:
    with logged("debug") as lines:
        await world.collector().poll()
        (page,) = [line for line in lines() if line["event"] == "page_read"]
    assert (page["records"], page["oldest"], page["newest"]) == (0, None, None)


async def test_at_info_a_page_is_no_line(world: World) -> None:
    world.vendor.add(NOON - HOUR)
    with logged("info") as lines:
        await world.collector().poll()
        assert [line["event"] for line in lines()] == ["window_collected"]


# --- late


async def test_late_events_are_counted_wherever_they_are_found(world: World) -> None:
    collector = world.collector(resweep=["1h"])
    await collector.poll()
    world.vendor.add(NOON - 5 * MINUTE)  # found by the overlap of the next poll
    world.clock.advance(5 * MINUTE)
    await collector.poll()
    world.vendor.add(NOON - 40 * MINUTE)  # by the resweep
    world.clock.advance(90 * MINUTE)
    await collector.poll()
    (state,) = await world.store.sources()
    assert [(each.via, each.seconds, each.events) for each in state.lateness] == [
        ("poll", 1024, 1),  # 10 minutes old
        ("resweep 1h", 8192, 1),  # 135 minutes old
    ]
    assert sum(each.events for each in state.late) == 2
    assert world.counted("event_lateness_seconds_count") == 2
    assert world.counted("events_late_total") == 1, "only a resweep counts its events as late"
    with open_view(world.folder) as view:
        known = view.coverage("calls")
    assert known is not None
    assert known.lateness == state.lateness


async def test_events_in_time_that_was_not_read_before_are_not_late(world: World) -> None:
    for number in range(5):
        world.vendor.add(NOON - HOUR + number * MINUTE)
    await world.collector().poll()
    (state,) = await world.store.sources()
    assert state.lateness == ()
    assert world.counted("event_lateness_seconds_count") == 0


# --- deleted at the source


async def resweep_deleted(world: World, collector: Collector) -> int:
    with capture_logs() as logs:
        await collector.poll()
    return sum(line["count"] for line in logs if line["event"] == "events_deleted_at_source")


async def test_an_event_deleted_at_the_source_is_recorded_once_and_stays_forwarded(
    world: World,
) -> None:
    collector = world.collector(resweep=["1h", "6h"])
    for number in range(9):
        world.vendor.add(NOON + number * MINUTE)
    world.clock.advance(30 * MINUTE)
    await collector.poll()
    spooled = await world.names()
    gone = world.vendor.records.pop(4)
    world.clock.advance(HOUR + 30 * MINUTE)
    assert await resweep_deleted(world, collector) == 1
    world.clock.advance(8 * HOUR)
    assert await resweep_deleted(world, collector) == 0, "the next resweep does not report it again"
    with open_view(world.folder) as view:
        known = view.coverage("calls")
    assert known is not None
    assert known.deleted_at_source == 1
    (fact,) = [each.body for each in known.facts if each.body["fact"] == "vanished"]
    (event,) = [each for each in await world.spooled() if each.native_id == gone[0]]
    assert (fact["events"], fact["uids"]) == (1, sha256(known_key(event)).hexdigest())
    assert world.counted("events_deleted_at_source_total") == 1
    assert await world.names() == spooled


async def test_an_event_whose_time_was_edited_is_neither_new_nor_deleted(world: World) -> None:
    collector = world.collector(resweep=["1h"])
    for number in range(9):
        world.vendor.add(NOON + number * MINUTE)
    world.clock.advance(30 * MINUTE)
    await collector.poll()
    spooled = await world.names()
    edits = (timedelta(microseconds=52), 3 * SECOND, -2 * MINUTE)
    for number, edit in enumerate(edits):
        name, at, seen_from = world.vendor.records[number + 3]
        world.vendor.records[number + 3] = (name, at + edit, seen_from)
    world.clock.advance(HOUR + 30 * MINUTE)
    assert await resweep_deleted(world, collector) == 0
    assert await world.names() == [*spooled, "r5", "r4"], "a time that is only finer is no change"
    assert [event.notice for event in await world.spooled()][-3:] == [False, True, True]
    assert world.counted("events_late_total") == 0
    assert world.counted("events_duplicate_total") >= 9
    assert world.counted("events_deleted_at_source_total") == 0


async def test_an_event_that_comes_during_a_resweep_is_not_taken_for_deleted(world: World) -> None:
    """A poll forwards an event behind the page that the resweep has reached."""
    collector = world.collector(resweep=["1h"])
    await collector.poll()
    for number in range(8):
        world.vendor.add(NOON + number * MINUTE)
    world.clock.advance(30 * MINUTE)
    await collector.poll()
    world.clock.advance(90 * MINUTE)
    window = Interval(NOON - HOUR, NOON + 20 * MINUTE)
    # A poll finds an event of the first page after the resweep has passed that page.
    early = NOON - 30 * MINUTE

    async def poll_finds_it() -> None:
        world.vendor.add(early)
        shown = collector.new_reader().writer.identify(
            [b'{"id":"r8","event_type":"auth.logout","created_at":"%b"}'
             % early.isoformat().encode()]
        )  # fmt: skip
        await world.store.add("calls", shown.page(), via="poll")

    pages = 0
    real = world.vendor.walk_records

    async def walk(asked: Interval) -> AsyncGenerator[Page]:
        nonlocal pages
        async for page in real(asked):
            pages += 1
            if pages == 2:
                await poll_finds_it()
            yield Page(page.records, page.last, None)

    world.vendor.walk_instead = walk
    mode = ReadMode("resweep 1h", resweep=True)
    stats = await collector.new_reader().read(window, mode, refuse_to_give_up)
    assert pages >= 3
    assert stats.deleted == 0


async def test_events_close_to_a_bound_are_not_taken_for_deleted(world: World) -> None:
    """Vendors round their bounds: an event on one may be shown or not."""
    collector = world.collector(resweep=[])
    for offset in (timedelta(0), MARGIN / 2):
        world.vendor.add(NOON - HOUR + offset)
        world.vendor.add(NOON - 30 * MINUTE - offset - timedelta(microseconds=1))
    inside = world.vendor.add(NOON - 45 * MINUTE)
    await collector.poll()
    world.vendor.records.clear()
    mode = ReadMode("resweep 1h", resweep=True)
    window = Interval(NOON - HOUR, NOON - 30 * MINUTE)
    assert (await collector.new_reader().read(window, mode, refuse_to_give_up)).deleted == 1
    short = Interval(NOON - HOUR, NOON - HOUR + 2 * MARGIN)
    assert (await collector.new_reader().read(short, mode, refuse_to_give_up)).deleted == 0
    assert inside


async def test_a_partial_walk_takes_no_event_for_deleted(world: World) -> None:
    collector = world.collector(resweep=[])
    for number in range(5):
        world.vendor.add(NOON - HOUR + number * MINUTE)
    await collector.poll()
    world.vendor.records.clear()
    with_source(collector, Partly(world.vendor, partial="plan_limit"))
    reader = collector.new_reader()
    reader.source = collector.source
    mode = ReadMode("resweep 1h", resweep=True)
    stats = await reader.read(Interval(NOON - HOUR, NOON), mode, refuse_to_give_up)
    assert (stats.pages, stats.deleted) == (1, 0)


# --- what belongs to a window


def shown_at(at: str) -> IdentifiedPage:
    record = b'{"id":"1","event_type":"auth.logout","created_at":"%b"}' % at.encode()
    return World.normalizer("calls").identify([record], 0)


def test_an_event_belongs_to_the_window_that_its_time_is_in() -> None:
    at, page = NOON, shown_at(NOON.isoformat())
    assert rows_in(page, Interval(at, at + SECOND)) == [0]
    assert rows_in(page, Interval(at - SECOND, at)) == [], "the end is not part of it"
    assert rows_in(page, Interval(at + SECOND, at + 2 * SECOND)) == []


def test_an_event_without_a_time_of_its_own_belongs_to_whatever_showed_it() -> None:
    assert rows_in(shown_at("noon"), Interval(NOON, NOON + SECOND)) == [0]


async def test_what_cannot_be_read_however_fine_names_the_part(world: World) -> None:
    collector = world.collector()
    await collector.checkpoint.refresh()
    for _ in range(9):
        world.vendor.add(NOON - HOUR)
    world.vendor.too_many = 7
    with pytest.raises(WalkBroken) as caught:
        await collector.new_reader().read(
            Interval(NOON - 2 * HOUR, NOON), ReadMode("poll"), refuse_to_give_up
        )
    assert caught.value.window.start <= NOON - HOUR < caught.value.window.end
    assert caught.value.window.length <= SECOND
