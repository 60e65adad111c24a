"""Every way in which a window is asked for, and where its walk may end."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from tests.sources.described.conftest import Connect, Serve
from tests.support.clock import FakeClock
from tests.support.scripted import Scripted, feed, ids, page, record, settings

from auditrelay.errors import Refused, WalkBroken
from auditrelay.sandbox import faults
from auditrelay.sandbox.messages import Request, Response, json_response
from auditrelay.sources import RETENTION, UNREADABLE
from auditrelay.window import Interval

HOUR = timedelta(hours=1)
NUMBER = {"kind": "number", "from": None, "to": "query:page", "until_empty": True}
OLDEST = {"start": "query:since", "end": None, "order": "oldest_first"}
NEWEST = {"start": "query:since", "end": None, "order": "newest_first"}
UNBOUNDED = {"start": None, "end": None, "order": "newest_first"}


class History(Scripted):
    """A list of records an hour apart, with numbered pages or cursors, in either order."""

    def __init__(self, clock: FakeClock, start: datetime, count: int) -> None:
        super().__init__(self._page, clock=clock.seconds)
        self.rows = [record(number, start + number * HOUR) for number in range(count)]
        self.newest_first = True
        self.expired: set[str] = set()

    def _page(self, request: Request) -> Response:
        rows = [row for row in self.rows if row["at"] >= request.query.get("since", "")]
        rows = rows[::-1] if self.newest_first else rows
        size = int(request.query["limit"])
        cursor = request.query.get("cursor", "0")
        if cursor in self.expired:
            return json_response(400, {"message": "unknown cursor"})
        offset = int(cursor)
        if "page" in request.query:
            offset = (int(request.query["page"]) - 1) * size
        after = offset + size
        return page(rows[offset:after], next=str(after) if after < len(rows) else None)


@pytest.fixture
async def history(clock: FakeClock, day: Interval) -> Any:
    """Two days of records, of which *day* is the second."""
    async with History(clock, day.start - 24 * HOUR, 49) as vendor:
        yield vendor


# --- one lower bound


async def test_oldest_first_ends_with_a_page_behind_the_window(
    history: History, connect: Connect, walk: Any, day: Interval
) -> None:
    history.newest_first = False
    window = Interval(day.start, day.start + 6 * HOUR)
    pages = await walk(connect(history, feed(time=OLDEST), page_size=4), window)
    assert ids(pages) == [f"e{number}" for number in range(24, 30)]
    assert [each.last for each in pages] == [False, False, True]
    assert len(history.asked) == 3
    assert all("to" not in query for query in history.queries)


async def test_one_record_behind_the_window_does_not_end_it(
    history: History, connect: Connect, walk: Any, day: Interval
) -> None:
    history.newest_first = False
    rows = history.rows
    rows[25], rows[40] = rows[40], rows[25]
    window = Interval(day.start, day.start + 6 * HOUR)
    pages = await walk(connect(history, feed(time=OLDEST), page_size=4), window)
    assert sorted(ids(pages)) == [f"e{number}" for number in (24, 26, 27, 28, 29)]


async def test_newest_first_begins_now_and_passes_over_what_is_newer(
    history: History, connect: Connect, walk: Any, day: Interval
) -> None:
    window = Interval(day.start, day.start + 6 * HOUR)
    pages = await walk(connect(history, feed(time=NEWEST), page_size=4), window)
    assert ids(pages) == [f"e{number}" for number in range(29, 23, -1)]
    assert pages[-1].last
    assert all(query["since"] == "2026-02-28T23:59:59.999Z" for query in history.queries)


async def test_without_an_order_all_that_is_newer_is_read(
    history: History, connect: Connect, walk: Any, day: Interval
) -> None:
    history.rows.reverse()
    window = Interval(day.start, day.start + 6 * HOUR)
    time = {"start": "query:since", "end": None}
    pages = await walk(connect(history, feed(time=time), page_size=4), window)
    assert sorted(ids(pages)) == [f"e{number}" for number in range(24, 30)]
    assert len(history.asked) == 7


async def test_a_window_of_the_recorded_time_shows_what_happened_elsewhere(
    serve: Serve, connect: Connect, walk: Any, day: Interval
) -> None:
    early, late = day.start - 9 * HOUR, day.end + HOUR
    vendor = await serve(
        page([record(1, early), record(2, day.start)], next="a"),
        page([record(3, early), record(4, late)], next="b"),
        page([record(5, late)], next="c"),
        page([record(6, late)]),
    )
    pages = await walk(connect(vendor, feed(time={**OLDEST, "axis": "recorded"})))
    assert ids(pages) == ["e1", "e2", "e3", "e4", "e5"], "a page of nothing but later ones ends it"


async def test_endless_pages_outside_of_the_window_break_the_walk(
    serve: Serve, connect: Connect, failing: Any, day: Interval, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("auditrelay.sources.described.sieve.MAX_PASSED", 20)
    vendor = await serve(
        lambda request: page([record(request.number, day.end)], next=f"c{request.number}")
    )
    time = {"start": "query:since", "end": None}
    _, error = await failing(connect(vendor, feed(time=time)))
    assert (type(error), error.reason) == (WalkBroken, "over_budget")
    assert len(vendor.asked) == 21


# --- no bound


@pytest.mark.parametrize("pages", [{}, NUMBER])
async def test_without_a_bound_a_walk_begins_at_the_top(
    history: History, connect: Connect, walk: Any, day: Interval, pages: dict[str, Any]
) -> None:
    window = Interval(day.start, day.start + 6 * HOUR)
    description = feed(time=UNBOUNDED, pages=pages)
    shown = await walk(connect(history, description, page_size=4), window)
    assert ids(shown) == [f"e{number}" for number in range(29, 23, -1)]
    assert all(set(query) <= {"limit", "cursor", "page"} for query in history.queries)


@pytest.mark.parametrize("pages", [{}, NUMBER])
async def test_a_deep_window_begins_at_a_page_that_was_seen(
    history: History, connect: Connect, walk: Any, day: Interval, pages: dict[str, Any]
) -> None:
    source = connect(history, feed(time=UNBOUNDED, pages=pages), page_size=4)
    await walk(source, Interval(day.start - 24 * HOUR, day.end))
    history.asked.clear()
    window = Interval(day.start - 20 * HOUR, day.start - 16 * HOUR)
    assert ids(await walk(source, window)) == ["e7", "e6", "e5", "e4"]
    assert len(history.asked) <= 3


async def test_a_page_that_was_seen_and_has_expired_costs_a_walk_from_the_top(
    history: History, connect: Connect, walk: Any, day: Interval
) -> None:
    source = connect(history, feed(time=UNBOUNDED), page_size=4)
    await walk(source, Interval(day.start - 24 * HOUR, day.end))
    history.expired = {"40"}
    history.asked.clear()
    window = Interval(day.start - 20 * HOUR, day.start - 16 * HOUR)
    history.on_request = lambda request: (
        history.expired.clear() if request.query.get("cursor") is None else None
    )
    assert ids(await walk(source, window)) == ["e7", "e6", "e5", "e4"]
    assert [query.get("cursor") for query in history.queries[:2]] == ["40", None]


async def test_a_cursor_that_is_refused_twice_breaks_the_walk(
    history: History, connect: Connect, failing: Any, day: Interval
) -> None:
    history.expired = {"8"}
    source = connect(history, feed(time=UNBOUNDED), page_size=4)
    _, error = await failing(source)
    assert error.reason == "cursor_expired"
    assert [query.get("cursor") for query in history.queries] == [None, "4", "8"] * 2


async def test_records_without_a_time_are_shown_and_hold_the_source_if_none_has_one(
    serve: Serve, connect: Connect, failing: Any
) -> None:
    vendor = await serve(
        lambda request: page(
            [{"id": f"e{request.number}-{number}"} for number in range(50)],
            next=f"c{request.number}",
        )
    )
    pages, error = await failing(connect(vendor, feed(time=UNBOUNDED)))
    assert isinstance(error, Refused)
    assert "250 consecutive records of Acme have no readable time at at" in str(error)
    assert len(ids(pages)) == 250


async def test_a_list_out_of_order_is_read_until_a_page_of_older_ones(
    history: History, connect: Connect, walk: Any, day: Interval
) -> None:
    rows = history.rows
    rows[47], rows[48] = rows[48], rows[47]
    rows[5], rows[43] = rows[43], rows[5]  # an old one near the top
    pages = await walk(connect(history, feed(time=UNBOUNDED), page_size=4), day)
    assert {f"e{number}" for number in range(24, 45)} <= {*ids(pages), "e43"}


# --- coarse bounds

DAYS = {"format": "date", "order": "newest_first"}


async def test_whole_days_are_asked_for_and_the_window_is_shown(
    history: History, connect: Connect, walk: Any, day: Interval
) -> None:
    window = Interval(day.start + 2 * HOUR, day.start + 4 * HOUR)
    pages = await walk(connect(history, feed(time=DAYS), page_size=4), window)
    assert ids(pages) == ["e27", "e26"]
    assert all(query["from"] == "2026-02-28" for query in history.queries)
    assert all(query["to"] == "2026-03-02" for query in history.queries)
    assert pages[-1].last
    assert len(history.asked) == 6, "it ends at the first record before the window"


async def test_whole_days_without_an_order_are_read_to_their_end(
    history: History, connect: Connect, walk: Any, day: Interval
) -> None:
    window = Interval(day.start + 2 * HOUR, day.start + 4 * HOUR)
    pages = await walk(connect(history, feed(time={"format": "date"}), page_size=4), window)
    assert sorted(ids(pages)) == ["e26", "e27"]
    assert len(history.asked) == 13


async def test_the_total_of_whole_days_is_not_that_of_the_window(
    serve: Serve, connect: Connect, walk: Any, day: Interval
) -> None:
    vendor = await serve(page([record(1, day.start - HOUR), record(2, day.start)], total=2))
    counted = {"kind": "offset", "from": None, "to": "query:offset", "total": "body:total"}
    pages = await walk(connect(vendor, feed(time={"format": "date"}, pages=counted)))
    assert [(len(each.records), each.total) for each in pages] == [(1, None)]


# --- the longest window, and formats


async def test_a_window_that_becomes_too_long_is_asked_for_in_two(
    serve: Serve, connect: Connect, walk: Any, day: Interval
) -> None:
    vendor = await serve(page([1]), page([2]))
    pages = await walk(connect(vendor, feed(time={"longest": "24h"})))
    assert (ids(pages), [each.last for each in pages]) == (["e1", "e2"], [False, True])
    first, second = vendor.queries
    assert first["from"] == "2026-02-28T23:59:59.999Z"
    assert first["to"] == "2026-03-01T12:00:00.000Z"
    assert second["from"] == "2026-03-01T11:59:59.999Z"
    assert second["to"] == "2026-03-02T00:00:00.000Z"


async def test_the_first_and_the_last_day_both_count(
    serve: Serve, connect: Connect, walk: Any, day: Interval
) -> None:
    vendor = await serve(page([]))
    window = Interval(day.start, day.start + timedelta(days=10))
    await walk(connect(vendor, feed(time={"format": "date", "longest": "10d"})), window)
    for query in vendor.queries:
        days = datetime.fromisoformat(query["to"]) - datetime.fromisoformat(query["from"])
        assert days + timedelta(days=1) <= timedelta(days=10)
    assert len(vendor.queries) == 2


@pytest.mark.parametrize(
    ("name", "start", "end"),
    [
        ("iso_s", "2026-02-28T23:59:59Z", "2026-03-02T00:00:00Z"),
        ("iso_us", "2026-02-28T23:59:59.999999Z", "2026-03-02T00:00:00.000000Z"),
        ("epoch_s", "1772323199", "1772409600"),
        ("epoch_ms", "1772323199999", "1772409600000"),
        ("%Y-%m-%d %H:%M", "2026-02-28 23:59", "2026-03-02 00:00"),
    ],
)
async def test_bounds_are_written_in_the_vendors_format(
    serve: Serve, connect: Connect, walk: Any, name: str, start: str, end: str
) -> None:
    vendor = await serve(page([]))
    await walk(connect(vendor, feed(time={"format": name})))
    assert (vendor.queries[0]["from"], vendor.queries[0]["to"]) == (start, end)


# --- what the vendor keeps


def keeping(clock: FakeClock, kept: timedelta) -> Any:
    """Return a vendor that refuses a start before what it keeps."""

    def answer(request: Request) -> Response:
        oldest = clock.now() - kept
        if datetime.fromisoformat(request.query["from"]) < oldest:
            return json_response(400, {"message": "the start lies too far back"})
        return page([1])

    return answer


@pytest.mark.parametrize("late", [0, 59, 3000, 40_000])
async def test_a_start_that_is_refused_at_the_edge_moves_later(
    serve: Serve, connect: Connect, walk: Any, clock: FakeClock, day: Interval, late: int
) -> None:
    kept = clock.now() - day.start - timedelta(seconds=late)
    vendor = await serve(keeping(clock, kept))
    pages = await walk(connect(vendor, retention=kept))
    (gap,) = pages[-1].gaps
    assert gap[1] == RETENTION
    assert gap[0].start == day.start
    assert timedelta(seconds=late) < gap[0].length <= timedelta(days=1)
    assert ids(pages) == ["e1"]


@pytest.mark.parametrize("retention", [None, timedelta(days=30)])
async def test_any_other_start_that_is_refused_holds_the_source(
    serve: Serve, connect: Connect, failing: Any, retention: timedelta | None
) -> None:
    vendor = await serve(json_response(400, {"message": "the start lies too far back"}))
    _, error = await failing(connect(vendor, retention=retention))
    assert isinstance(error, Refused)
    assert len(vendor.asked) == 1


def test_the_vendor_is_asked_for_less_than_it_keeps() -> None:
    kept = timedelta(days=30)
    assert settings(feed(), retention=kept).reach == kept - timedelta(minutes=1, milliseconds=1)
    days = settings(feed(time={"format": "date"}), retention=kept)
    assert days.reach == kept - timedelta(days=1, minutes=1)
    assert settings(feed()).reach is None
    assert settings(feed(), retention=timedelta(minutes=1)).reach == timedelta(seconds=30)


# --- reading finely


@pytest.mark.parametrize("kind", ["number", "offset"])
async def test_a_record_that_fails_alone_is_passed_over(
    serve: Serve, connect: Connect, day: Interval, kind: str
) -> None:
    def answer(request: Request) -> Response:
        size = int(request.query["limit"])
        start = int(request.query["place"]) - 1
        start = start * size if kind == "number" else start + 1
        if start <= 6 < start + size:
            return json_response(500, {})
        return page(range(12)[start : start + size], total=12)

    vendor = await serve(answer)
    counted = {"kind": kind, "from": None, "to": "query:place", "total": "body:total"}
    source = connect(vendor, feed(pages=counted), page_size=8)
    pages = [each async for each in source.walk(day, finely=True)]
    assert sorted(ids(pages), key=lambda each: int(each[1:])) == [
        f"e{number}" for number in range(12) if number != 6
    ]
    assert pages[-1].gaps == ((day, UNREADABLE),)
    assert all(not each.gaps for each in pages[:-1])


async def test_behind_a_cursor_pages_get_smaller_and_then_fail(
    serve: Serve, connect: Connect, failing: Any
) -> None:
    def answer(request: Request) -> Response:
        size, start = int(request.query["limit"]), int(request.query.get("cursor", "0"))
        if start <= 6 < start + size:
            return json_response(500, {})
        return page(range(12)[start : start + size], next=str(start + size))

    vendor = await serve(answer)
    pages, _ = await failing(connect(vendor, page_size=8), finely=True)
    assert ids(pages) == [f"e{number}" for number in range(6)]


async def test_what_is_behind_a_record_that_fails_in_a_list_without_a_bound_is_a_gap(
    history: History, connect: Connect, day: Interval
) -> None:
    bad = history.rows[30]["id"].encode()
    history.faults.add(faults.fails_at(bad, "500"), times=None)
    source = connect(history, feed(time=UNBOUNDED), page_size=4)
    pages = [each async for each in source.walk(day, finely=True)]
    assert ids(pages) == [f"e{number}" for number in range(47, 30, -1)]
    ((gap, reason),) = pages[-1].gaps
    assert (reason, gap.start) == (UNREADABLE, day.start)
    assert day.start + 7 * HOUR <= gap.end <= day.start + 7 * HOUR + timedelta(seconds=1)


async def test_an_address_keeps_its_size(
    serve: Serve, connect: Connect, walk: Any, day: Interval
) -> None:
    vendor = await serve(page([1], next="?limit=1&c=2"), page([2]))
    source = connect(vendor, feed(pages={"kind": "url", "to": None}))
    assert ids([each async for each in source.walk(day, finely=True)]) == ["e1", "e2"]
    assert [query["limit"] for query in vendor.queries] == ["1", "1"]


async def test_without_a_page_size_there_is_nothing_to_make_smaller(
    serve: Serve, connect: Connect, failing: Any
) -> None:
    vendor = await serve(json_response(500, {}))
    description = feed(pages={"size": None, "largest": None})
    await failing(connect(vendor, description), finely=True)
    assert len(vendor.asked) == 5


# --- what a source is


async def test_the_scope_is_what_the_operator_set(serve: Serve, connect: Connect) -> None:
    assert connect(await serve(page([])), account="a 7").scope == "a 7"
