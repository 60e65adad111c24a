"""Cencori's dashboard against its double: a list that moves, and plans that hide."""

import json
from collections.abc import Callable
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import product
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.sources.cencori.dashboards import (
    DAY,
    HOUR,
    MICROSECOND,
    MINUTE,
    SECOND,
    SIZE,
    Connect,
    Walk,
    ids,
    lists,
    make_settings,
)
from tests.support.clock import FakeClock
from tests.support.extent import extent, some_of

from auditrelay.collect import walk as walks
from auditrelay.errors import Refused, RelayError, Retryable, WalkBroken
from auditrelay.events.normalize import Normalizer, vendor_named
from auditrelay.http import retry
from auditrelay.sandbox import faults
from auditrelay.sandbox.messages import Request, Response
from auditrelay.sandbox.server import Trap
from auditrelay.sandbox.vendors.cencori import Cencori
from auditrelay.sources import Page, cencori
from auditrelay.sources.cencori import dashboard
from auditrelay.telemetry.metrics import Metrics
from auditrelay.window import Interval

# --- settings


# --- rows


@pytest.mark.parametrize("odd", [b'"id":"\xff"', b'"id":"\xed\xa0\x80"', b'"x":"\xff","id":"1"'])
def test_the_time_of_a_row_is_read_whatever_bytes_are_beside_it(odd: bytes) -> None:
    text = b'{"created_at":"2026-01-01T00:00:00Z",' + odd + b"}"
    assert dashboard._row(text)[:2] == (text, 1_767_225_600_000_000)


# --- whole walks


@pytest.mark.parametrize("size", [1, 2, 3, 6, 7, 20, 100])
@pytest.mark.parametrize("count", [0, 1, 5, 6, 7, 12, 13, 58])
async def test_every_row_is_shown_once_however_many_there_are(
    *, vendor: Cencori, connect: Connect, walk: Walk, day: Interval, size: int, count: int
) -> None:
    made = vendor.fill(count, day.start, day.end)
    pages = await walk(connect(page_size=size))
    assert sorted(ids(pages)) == sorted(made)
    assert [page.last for page in pages] == [False] * (len(pages) - 1) + [True]
    assert all(page.records for page in pages[:-1])
    assert {(page.partial, page.gaps, page.total, page.shrunk) for page in pages} == {
        (None, (), None, False)
    }


async def test_rows_outside_the_window_are_not_shown(
    vendor: Cencori, connect: Connect, walk: Walk, day: Interval
) -> None:
    inside = [vendor.add(at) for at in (day.start, day.end - MICROSECOND)]
    for at in (day.start - MICROSECOND, day.end, day.end + HOUR):
        vendor.add(at)
    assert sorted(ids(await walk(connect()))) == sorted(inside)


async def test_a_poll_is_one_request_for_the_list_and_one_for_the_plan(
    vendor: Cencori, connect: Connect, walk: Walk, day: Interval
) -> None:
    vendor.fill(90, day.start, day.end)
    now = datetime.fromtimestamp(vendor.clock(), UTC)
    await walk(connect(page_size=100), Interval(now - 16 * MINUTE, now - MINUTE))
    assert [seen.query for seen in vendor.seen] == [
        {"time_range": "1h", "category": "member", "page": "1", "per_page": "1"},
        {"time_range": "1h", "page": "1", "per_page": "100"},
    ]


@pytest.mark.parametrize(
    ("age", "asked"),
    [
        (58 * MINUTE, "1h"),
        (HOUR, "24h"),
        (DAY - 2 * MINUTE, "24h"),
        (DAY, "7d"),
        (7 * DAY, "30d"),
        (30 * DAY, "90d"),
        (90 * DAY, "all"),
    ],
)
async def test_the_shortest_range_that_contains_the_window_is_requested(
    *, vendor: Cencori, connect: Connect, walk: Walk, age: timedelta, asked: str
) -> None:
    start = datetime.fromtimestamp(vendor.clock(), UTC) - age
    made = [vendor.add(start), vendor.add(start + SECOND)]
    pages = await walk(connect(), Interval(start, start + MINUTE))
    assert sorted(ids(pages)) == sorted(made)
    assert pages[-1].gaps == ()
    assert {query["time_range"] for query in lists(vendor)} == {asked}


async def test_an_old_window_is_reached_without_turning_every_page(
    vendor: Cencori, connect: Connect, walk: Walk, day: Interval
) -> None:
    vendor.fill(5_000, day.start + HOUR, day.end)
    made = vendor.fill(10, day.start, day.start + HOUR)
    pages = await walk(connect(page_size=100), Interval(day.start, day.start + HOUR))
    assert sorted(ids(pages)) == sorted(made)
    assert len(lists(vendor)) < 15


async def test_a_long_list_costs_few_more_requests_than_it_has_pages(
    vendor: Cencori, connect: Connect, walk: Walk, day: Interval
) -> None:
    made = vendor.fill(10_000, day.start, day.end)
    assert sorted(ids(await walk(connect(page_size=100)))) == sorted(made)
    assert len(lists(vendor)) < 120


async def test_a_range_that_becomes_too_short_during_a_walk_is_made_longer(
    vendor: Cencori, connect: Connect, walk: Walk, clock: FakeClock
) -> None:
    now = clock.now()
    window = Interval(now - 58 * MINUTE, now - MINUTE)
    made = vendor.fill(10, window.start, window.end)

    def an_hour_passes() -> None:
        clock.advance(3600)

    vendor.before_page = {2: an_hour_passes}
    pages = await walk(connect(), window)
    assert sorted(ids(pages)) == sorted(made)
    assert pages[-1].gaps == ()
    assert [query["time_range"] for query in lists(vendor)][-1] == "24h"


# --- a list that moves


async def collected(source: dashboard.Source, window: Interval) -> set[str]:
    """Walk as the collector does, which may walk a window several times, or not at all."""
    normalize = Normalizer(
        vendor=vendor_named("cencori"), source="s", api_host="h", scope="o", redact="off", tags={}
    )
    found: set[str] = set()
    complete = False
    async with aclosing(walks.walk(source, window, lambda texts: normalize(texts, 1))) as pages:
        async for events, _, outcome in pages:
            found.update(str(event.native_id) for event in events)
            complete = outcome is not None
    assert complete
    return found


async def test_no_row_is_lost_to_new_rows_on_top(
    vendor: Cencori, connect: Connect, walk: Walk, day: Interval
) -> None:
    made = vendor.fill(20, day.start, day.end)
    for page in range(2, 12):
        vendor.before_page[page] = lambda: vendor.fill(3, day.end, day.end + HOUR)
    assert sorted(ids(await walk(connect()))) == sorted(made)


@pytest.mark.parametrize("gone", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("when", [2, 3, 5])
async def test_no_row_is_lost_when_rows_above_are_deleted(
    *, vendor: Cencori, connect: Connect, day: Interval, gone: int, when: int
) -> None:
    newer = vendor.fill(10, day.end, day.end + HOUR)
    made = vendor.fill(20, day.start, day.end)

    def delete() -> None:
        for one in newer[:gone]:
            vendor.history.remove(one)

    vendor.before_page = {when: delete}
    assert await collected(connect(), day) == set(made)
    assert vendor.before_page == {}


@pytest.mark.parametrize("seed", range(8))
async def test_no_tie_at_a_page_border_is_lost_when_rows_above_are_deleted(
    clock: FakeClock, day: Interval, seed: int
) -> None:
    """The next page then begins in the middle of them, in another order."""
    async with Cencori(clock=clock.seconds, seed=seed) as vendor:
        vendor.switches.ties = "swapping"
        made = [vendor.add(day.start + n * HOUR) for n in range(3)]
        made += [vendor.add(day.start + 6 * HOUR) for _ in range(3)]
        newer = vendor.fill(5, day.start + 7 * HOUR, day.end)

        def delete() -> None:
            for one in newer[-2:]:
                vendor.history.remove(one)

        vendor.before_page = {2: delete}
        keys = {"base_url": vendor.url, "cookie": vendor.cookie}
        source = cencori.build("labs", make_settings(**keys), Metrics(), clock)
        assert isinstance(source, dashboard.Source)
        source._size = SIZE
        try:
            assert set(made) <= await collected(source, day)
        finally:
            await source.close()
        assert (vendor.failures, vendor.before_page) == ([], {})


async def test_a_list_that_shrinks_below_the_page_is_not_an_outage(
    vendor: Cencori, connect: Connect, walk: Walk, day: Interval, waits: list[float]
) -> None:
    made = vendor.fill(12, day.start, day.end)

    def delete() -> None:
        for one in made[4:]:
            vendor.history.remove(one)

    vendor.before_page = {2: delete}
    assert set(made[:4]) <= set(ids(await walk(connect())))
    assert waits == []
    assert vendor.answered[500] == 1


@pytest.mark.parametrize(
    ("size", "tied"), some_of(list(product([1, 2, 3, 4, 7], [2, 4, 5, 6, 7, 9, 25])), 3)
)
async def test_ties_may_be_in_any_order(
    *, vendor: Cencori, connect: Connect, walk: Walk, day: Interval, size: int, tied: int
) -> None:
    vendor.switches.ties = "swapping"
    at = day.start + 12 * HOUR
    made = [vendor.add(at - 3 * SECOND), vendor.add(at - SECOND)]
    made += [vendor.add(at) for _ in range(tied)]
    made += [vendor.add(at + SECOND), vendor.add(at + 2 * SECOND), vendor.add(at + HOUR)]
    for _ in range(3):
        assert sorted(ids(await walk(connect(page_size=size)))) == sorted(made)


@pytest.mark.parametrize("seed", range(4))
async def test_consecutive_groups_of_ties_are_counted_separately(
    clock: FakeClock, day: Interval, seed: int
) -> None:
    async with Cencori(clock=clock.seconds, seed=seed) as vendor:
        vendor.switches.ties = "swapping"
        made = [vendor.add(day.start + n * HOUR) for n in range(4) for _ in range(9)]
        keys = {"base_url": vendor.url, "cookie": vendor.cookie}
        source = cencori.build("labs", make_settings(**keys), Metrics(), clock)
        assert isinstance(source, dashboard.Source)
        source._size = 4
        try:
            assert await collected(source, day) == set(made)
        finally:
            await source.close()


@pytest.mark.parametrize("size", [1, 2, 6, 13])
async def test_a_whole_list_of_ties_is_shown(
    vendor: Cencori, connect: Connect, walk: Walk, day: Interval, size: int
) -> None:
    vendor.switches.ties = "swapping"
    made = [vendor.add(day.start) for _ in range(13)]
    assert sorted(ids(await walk(connect(page_size=size)))) == sorted(made)


async def test_ties_that_move_are_counted_again(
    vendor: Cencori, connect: Connect, walk: Walk, day: Interval
) -> None:
    vendor.switches.ties = "swapping"
    newer = vendor.fill(3, day.end, day.end + HOUR)
    at = day.start + HOUR
    made = [vendor.add(at) for _ in range(13)]

    def move() -> None:
        vendor.history.remove(newer[0])
        vendor.add(day.end + 2 * HOUR)
        vendor.add(day.end + 2 * HOUR)

    vendor.before_page = {4: move}
    assert sorted(ids(await walk(connect()))) == sorted(made)


async def test_a_tied_row_that_is_deleted_does_not_stand_for_one_that_was_not_seen(
    vendor: Cencori, connect: Connect, walk: Walk, day: Interval
) -> None:
    """Five rows of one time on pages of three, which swap places; one goes during the walk."""
    vendor.switches.ties = "swapping"
    stay = [vendor.add(day.start) for _ in range(3)]
    going = [vendor.add(day.start) for _ in range(2)]
    vendor.before_page = {3: lambda: vendor.history.remove(going.pop())}
    source = connect()
    source._size = 3
    assert set(stay) <= set(ids(await walk(source)))


async def test_a_deletion_and_an_arrival_at_once_hide_no_tied_row(
    vendor: Cencori, connect: Connect, walk: Walk, day: Interval
) -> None:
    """The total stays, and rows move: the keys are as many as the rows, and not the same."""
    vendor.switches.ties = "swapping"
    stay = [vendor.add(day.start) for _ in range(2)]
    newer = vendor.add(day.start + 6 * MINUTE)

    def move() -> None:
        vendor.history.remove(newer)
        vendor.add(day.start)

    vendor.before_page = {3: move}
    source = connect()
    source._size = 2
    assert set(stay) <= set(ids(await walk(source)))


@settings(
    max_examples=extent(30, 60),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
async def test_no_row_that_was_there_all_along_is_lost_however_the_list_moves(
    data: st.DataObject,
) -> None:
    start = datetime(2026, 3, 1, tzinfo=UTC)
    window = Interval(start, start + HOUR)
    clock = FakeClock(window.end + 2 * MINUTE)
    async with Cencori(clock=clock.seconds) as vendor:
        vendor.switches.ties = "swapping"
        # Few different times, so that many rows share one, also on the bounds.
        seconds = st.integers(-3, 10).map(lambda n: start + n * 6 * MINUTE)
        stay = [vendor.add(at) for at in data.draw(st.lists(seconds, max_size=25), "stay")]
        going = [vendor.add(at) for at in data.draw(st.lists(seconds, max_size=8), "going")]
        moves = st.lists(st.tuples(st.integers(2, 14), st.one_of(st.none(), seconds)), max_size=10)
        steps: dict[int, list[datetime | None]] = {}
        for page, at in data.draw(moves, "moves"):
            steps.setdefault(page, []).append(at)

        def move(page: int) -> None:
            for at in steps[page]:
                if at is not None:
                    vendor.add(at)
                elif going:
                    vendor.history.remove(going.pop())

        vendor.before_page = {page: partial(move, page) for page in steps}
        keys = {"base_url": vendor.url, "cookie": vendor.cookie}
        source = cencori.build("labs", make_settings(**keys), Metrics(), clock)
        assert isinstance(source, dashboard.Source)
        source._size = data.draw(st.integers(1, 9), "size")
        try:
            found = await collected(source, window)
        except WalkBroken:
            return  # nothing is claimed then
        finally:
            await source.close()
        there = {
            one
            for one in stay
            if window.start
            <= datetime.fromisoformat(_entry(vendor, one)["created_at"])
            < window.end
        }
        assert there <= found
        assert vendor.failures == []


def _entry(vendor: Cencori, one: str) -> dict[str, Any]:
    entry = vendor.history.find(one, vendor.clock())
    assert entry is not None
    return entry.record


# --- invalid answers


def rewritten(change: Callable[[dict[str, Any]], None]) -> faults.Action:
    def apply(_request: Request, response: Response) -> Response:
        answer = json.loads(response.body)
        change(answer)
        return Response(200, json.dumps(answer).encode(), response.headers)

    return faults.rewrite(apply)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda answer: answer["pagination"].update(page=7), "repeated_page"),
        (lambda answer: answer["pagination"].update(per_page=0), "repeated_page"),
        (lambda answer: answer["logs"].clear(), "no_progress"),
        (lambda answer: answer["logs"].reverse(), "not_in_order"),
    ],
)
async def test_an_invalid_list_breaks_the_walk(
    *, vendor: Cencori, connect: Connect, walk: Walk, day: Interval, change: Any, reason: str
) -> None:
    vendor.fill(20, day.start, day.end)
    vendor.faults.add(rewritten(change), nth=3)
    with pytest.raises(WalkBroken) as caught:
        await walk(connect())
    assert caught.value.reason == reason


async def test_pages_that_become_smaller_are_still_turned(
    vendor: Cencori, connect: Connect, walk: Walk, day: Interval
) -> None:
    made = vendor.fill(20, day.start, day.end)
    whole = vendor.respond

    def smaller(request: Request) -> Response:
        query = dict(request.query)
        query["per_page"] = str(min(6, int(query["per_page"])))
        return whole(Request(**{**_fields(request), "query": query}))

    vendor.respond = smaller  # type: ignore[method-assign]  # the vendor changes its maximum
    assert sorted(ids(await walk(connect(page_size=10)))) == sorted(made)
    vendor.failures.clear()  # the double counts on the page size it was asked for


def _fields(request: Request) -> dict[str, Any]:
    return {name: getattr(request, name) for name in request.__slots__}


@pytest.mark.parametrize(
    ("row", "shown"),
    [
        ({"created_at": "soon"}, True),
        ({"created_at": None}, True),
        ({"created_at": 5}, True),
    ],
)
async def test_a_row_without_a_readable_time_is_forwarded(
    *, vendor: Cencori, connect: Connect, walk: Walk, day: Interval, row: Any, shown: bool
) -> None:
    made = vendor.fill(10, day.start, day.end)
    odd = vendor.add(day.start + 3 * HOUR, **row)
    assert set(ids(await walk(connect()))) == {*made, odd}


async def test_an_answer_without_a_date_is_not_used(
    vendor: Cencori, connect: Connect, walk: Walk, waits: list[float]
) -> None:
    def dateless(_request: Request, response: Response) -> Response:
        del response.headers["Date"]
        return response

    vendor.faults.add(faults.rewrite(dateless), times=None)
    with pytest.raises(Retryable, match="no Date"):
        await walk(connect())
    assert len(waits) == retry.SOURCE_ATTEMPTS - 1


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (faults.html(200), Retryable),
        (faults.empty(), Retryable),
        (faults.answer(500, b'{"error":"Failed to fetch audit logs"}'), Retryable),
        (faults.truncated(honest_length=True), Retryable),
        (faults.reset(), Retryable),
        (faults.redirect("https://evil.example"), Refused),
        (faults.answer(400, b'{"error":"no"}'), Refused),
    ],
)
async def test_a_lasting_failure_is_raised_and_nothing_is_covered(
    *, vendor: Cencori, connect: Connect, walk: Walk, fault: faults.Action, error: type[RelayError]
) -> None:
    vendor.faults.add(fault, times=None)
    with pytest.raises(error):
        await walk(connect())


@pytest.mark.parametrize("nth", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "fault", [faults.answer(500), faults.reset(), faults.html(502), faults.too_many(retry_after=7)]
)
async def test_a_request_that_fails_once_is_repeated(
    *, vendor: Cencori, connect: Connect, walk: Walk, day: Interval, fault: Any, nth: int
) -> None:
    made = vendor.fill(12, day.start, day.end)
    vendor.faults.add(fault, nth=nth)
    assert sorted(ids(await walk(connect()))) == sorted(made)


async def test_the_cookie_does_not_follow_a_redirect(
    vendor: Cencori, connect: Connect, walk: Walk
) -> None:
    async with Trap() as trap:
        vendor.faults.add(faults.redirect(trap.url), times=None)
        with pytest.raises(Refused, match="redirect"):
            await walk(connect())
        assert trap.caught == []


# --- plans and refusals


async def test_a_plan_that_leaves_out_identities_makes_the_window_partial(
    vendor: Cencori, connect: Connect, walk: Walk, day: Interval
) -> None:
    source = connect()
    made = [vendor.add(day.start + HOUR, category="project") for _ in range(6)]
    hidden = vendor.add(day.start + HOUR, category="member")
    vendor.switches.plan = "pro"
    pages = await walk(source)
    assert sorted(ids(pages)) == sorted(made)
    assert pages[-1].partial == "plan_categories"
    assert pages[-1].gaps == ()
    vendor.switches.plan = "team"
    pages = await walk(source)
    assert sorted(ids(pages)) == sorted([*made, hidden])
    assert pages[-1].partial is None


async def test_time_that_the_plan_does_not_show_is_a_gap_and_the_rest_is_read(
    vendor: Cencori, connect: Connect, walk: Walk
) -> None:
    vendor.switches.plan = "pro"
    now = datetime.fromtimestamp(vendor.clock(), UTC)
    window = Interval(now - 9 * DAY, now - MINUTE)
    old = vendor.add(now - 8 * DAY, category="project")
    made = [vendor.add(now - 6 * DAY + n * HOUR, category="project") for n in range(9)]
    pages = await walk(connect(), window)
    assert sorted(ids(pages)) == sorted(made)
    assert old not in ids(pages)
    assert pages[-1].gaps == ((Interval(window.start, now - 7 * DAY + MINUTE), "plan_range"),)
    assert [query["time_range"] for query in lists(vendor)][:2] == ["30d", "7d"]


async def test_a_window_that_the_plan_does_not_show_at_all_is_one_gap(
    vendor: Cencori, connect: Connect, walk: Walk
) -> None:
    vendor.switches.plan = "team"
    now = datetime.fromtimestamp(vendor.clock(), UTC)
    vendor.fill(50, now - DAY, now)
    window = Interval(now - 100 * DAY, now - 95 * DAY)
    pages = await walk(connect(), window)
    assert pages == [Page([], last=True, gaps=((window, "plan_range"),))]
    assert len(lists(vendor)) == 2


async def test_the_end_of_a_shortened_range_moves_on_while_it_is_read(
    vendor: Cencori, connect: Connect, walk: Walk, clock: FakeClock
) -> None:
    vendor.switches.plan = "pro"
    now = clock.now()
    window = Interval(now - 8 * DAY, now - MINUTE)
    vendor.fill(20, now - DAY, now)

    def an_hour_passes() -> None:
        clock.advance(3600)

    vendor.before_page = {2: an_hour_passes}
    [(gap, _)] = (await walk(connect(), window))[-1].gaps
    assert gap == Interval(window.start, now + HOUR - 7 * DAY + MINUTE)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"role": None}, "403 .*Forbidden; the user of the cookie is not a member of acme-labs"),
        ({"role": "member"}, "403 .*Insufficient permissions; .* must be an owner or admin"),
        ({"plan": "free"}, "403 .*; the organisation's plan has no audit log: it needs .* pro"),
    ],
)
async def test_the_three_refusals_have_different_hints(
    *, vendor: Cencori, connect: Connect, walk: Walk, change: dict[str, Any], words: str
) -> None:
    for name, value in change.items():
        setattr(vendor.switches, name, value)
    with pytest.raises(Refused, match=words) as caught:
        await walk(connect())
    assert caught.value.status == 403


async def test_other_refusals_have_a_hint_what_to_do(
    vendor: Cencori, connect: Connect, walk: Walk, waits: list[float]
) -> None:
    with pytest.raises(Refused, match=r"404 .*Organization not found; check organization_slug"):
        await walk(connect(organization_slug="acme-lab"))
    source = connect()
    vendor.end_session()
    with pytest.raises(Refused, match=r"401 .*sign in to the dashboard as an owner or admin") as it:
        await walk(source)
    assert "base64" not in str(it.value)
    vendor.switches.misconfigured = True
    with pytest.raises(Retryable, match=r"503 .*Server misconfiguration"):
        await walk(source)


# --- sessions


# --- scope


def test_rows_belong_to_the_configured_organisation_unless_they_name_theirs() -> None:
    assert cencori.build("labs", make_settings(), Metrics(), FakeClock()).scope == "acme-labs"
