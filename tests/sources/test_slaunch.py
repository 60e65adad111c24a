"""S-Launch against its double, with every switch for what its documentation leaves open."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import respx
from pydantic import ValidationError
from tests.support.clock import FakeClock
from tests.support.collecting import answering, refuse_to_give_up
from tests.support.peers import answered_by

from auditrelay.collect.parts import Budget, PartLength, in_parts
from auditrelay.collect.walk import walk as walk_of
from auditrelay.config import load
from auditrelay.errors import Refused, WalkBroken
from auditrelay.events.normalize import Normalizer, vendor_named
from auditrelay.events.page import Page as EventPage
from auditrelay.sandbox import faults
from auditrelay.sandbox.messages import Request, Response
from auditrelay.sandbox.vendors.slaunch import PATH, SLaunch
from auditrelay.sources import Page, _newest_first, slaunch
from auditrelay.telemetry.metrics import Metrics
from auditrelay.window import MAX_WINDOW, Interval

Walk = Callable[..., Awaitable[list[Page]]]
Connect = Callable[..., slaunch.Source]

BASE = "https://acme.s-launch.com"
HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)
MICROSECOND = timedelta(microseconds=1)


def settings(**changes: Any) -> slaunch.Settings:
    given = {"type": "slaunch", "api_key": "k", "tenant": "acme", **changes}
    given = {key: value for key, value in given.items() if value is not None}
    return slaunch.Settings.model_validate(given)


@pytest.fixture
async def vendor(clock: FakeClock) -> AsyncIterator[SLaunch]:
    async with SLaunch(clock=clock.seconds) as vendor:
        yield vendor
    assert vendor.failures == []
    assert {seen.method for seen in vendor.seen} <= {"GET"}


@pytest.fixture
async def connect(vendor: SLaunch, clock: FakeClock) -> AsyncIterator[Connect]:
    sources: list[slaunch.Source] = []

    def make(**changes: Any) -> slaunch.Source:
        keys = {
            "tenant": None,
            "base_url": vendor.url,
            "api_key": vendor.api_key,
            "page_size": 4,
            **changes,
        }
        sources.append(slaunch.build("shop", settings(**keys), Metrics(), clock))
        return sources[-1]

    yield make
    for source in sources:
        await source.close()


def ids(pages: list[Page]) -> list[str]:
    return [json.loads(record)["id"] for page in pages for record in page.records]


def body(*items: Any, more: bool = True, cursor: str | None = None) -> bytes:
    """Return a page with these *items*."""
    page = {"items": items, "next_page": more, "next_cursor": cursor, "limit": 4}
    return json.dumps({**page, "collection_total": 0}).encode()


def shape(vendor: SLaunch, **switches: Any) -> None:
    for name, value in switches.items():
        setattr(vendor.switches, name, value)


# --- settings


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"api_key": "two\nlines"}, "api_key"),
        ({"page_size": 251}, "page_size"),
        ({"page_size": 0}, "page_size"),
        ({"max_window": "31d"}, "max_window"),
        ({"overlap": "0s"}, "overlap"),
        ({"type": "bland"}, "type"),
        ({"tenant": "acme.s-launch.com"}, "not a tenant"),
        ({"tenant": "acme/x"}, "not a tenant"),
        ({"tenant": "evil.example#"}, "not a tenant"),
        ({"tenant": "-acme"}, "not a tenant"),
        ({"tenant": ""}, "not a tenant"),
        ({"tenant": "a" * 64}, "not a tenant"),
        ({"tenant": "acme\n"}, "not a tenant"),
        ({"tenant": 7}, "tenant"),
        ({"base_url": "https://acme.example"}, "either tenant or base_url"),
        ({"tenant": None}, "either tenant or base_url"),
        ({"tenant": None, "base_url": "http://acme.example"}, "plain http"),
        ({"id_path": []}, "id_path"),
        ({"time_path": []}, "time_path"),
        ({"id_path": ["meta..id"]}, "not a path"),
        ({"time_path": [""]}, "not a path"),
        ({"params": {"limit": "7"}}, "limit is set by auditrelay"),
        ({"params": {"cursor": "x"}}, "cursor is set by auditrelay"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words) as caught:
        settings(**change)
    assert len(caught.value.errors()) == 1


def test_a_tenant_is_the_first_part_of_its_host() -> None:
    assert settings(tenant="Acme-2").base_url == "https://acme-2.s-launch.com"
    assert settings(tenant="Acme-2").addresses == {"base_url": "https://acme-2.s-launch.com"}


def test_a_path_may_be_one_word_or_several_separated_by_commas() -> None:
    made = settings(id_path="_id.$oid", time_path="at, meta.created")
    assert made.record_paths == {"id_path": ["_id.$oid"], "time_path": ["at", "meta.created"]}


@pytest.mark.parametrize(
    ("named", "scope"),
    [
        ({"tenant": "acme"}, "acme"),
        ({"tenant": "ACME"}, "acme"),
        ({"tenant": None, "base_url": "https://Acme.s-launch.com:8443"}, "acme"),
        ({"tenant": None, "base_url": "https://gate.example/one"}, "gate.example/one"),
        ({"tenant": None, "base_url": "https://gate.example/two/"}, "gate.example/two"),
    ],
)
def test_the_scope_is_the_tenant_from_either_setting(named: dict[str, Any], scope: str) -> None:
    assert slaunch.build("shop", settings(**named), Metrics(), FakeClock()).scope == scope


def test_events_are_read_by_the_paths_of_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(
        '[sources.shop]\ntype = "slaunch"\ntenant = "acme"\napi_key = "literal-key-1"\n'
        'id_path = ["_id.$oid"]\ntime_path = ["meta.at"]\n[sinks.out]\ntype = "file"\npath = "-"\n'
    )
    config = load(file, {"HOME": str(tmp_path)})
    made = config.sources["shop"]
    assert isinstance(made, slaunch.Settings)
    source = slaunch.build("shop", made, Metrics(), FakeClock())
    record = b'{"_id":{"$oid":"a1"},"meta":{"at":"2026-03-01T01:00:00Z"},"id":"x","timestamp":"x"}'
    [event] = Normalizer.of("shop", made, vendor=vendor_named("slaunch"), scope=source.scope)(
        [record], 0
    )
    assert (event.native_id, event.time_raw) == ("a1", "2026-03-01T01:00:00Z")
    assert (event.api_host, event.org_id) == ("acme.s-launch.com", "acme")


# --- whole walks


@pytest.mark.parametrize("zone", ["Z", "+00:00", "none"])
@pytest.mark.parametrize("time_field", ["timestamp", "created"])
@pytest.mark.parametrize("id_field", ["id", "_id", "none"])
async def test_every_shape_of_records_is_walked(
    *,
    vendor: SLaunch,
    connect: Connect,
    walk: Walk,
    day: Interval,
    zone: Any,
    time_field: Any,
    id_field: Any,
) -> None:
    shape(vendor, zone=zone, time_field=time_field, id_field=id_field)
    vendor.fill(3, day.start - 3 * HOUR, day.start)
    made = vendor.fill(9, day.start, day.end)
    vendor.fill(3, day.end, day.end + HOUR)
    pages = await walk(connect())
    texts = {entry.id: entry.text for entry in vendor.history._entries}
    assert [record for page in pages for record in page.records] == [
        texts[known] for known in made[::-1]
    ]


async def test_only_records_in_the_window_are_shown(
    vendor: SLaunch, connect: Connect, walk: Walk, day: Interval
) -> None:
    vendor.add(day.start - MICROSECOND)
    inside = [vendor.add(at) for at in (day.start, day.start, day.end - MICROSECOND)]
    vendor.add(day.end)
    assert sorted(ids(await walk(connect()))) == sorted(inside)


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 11])
async def test_ties_on_a_bound_and_across_a_page_border_are_all_shown(
    vendor: SLaunch, connect: Connect, walk: Walk, day: Interval, count: int
) -> None:
    vendor.fill(6, day.start - HOUR, day.start)
    made = [vendor.add(day.start) for _ in range(count)]
    assert sorted(ids(await walk(connect()))) == made


async def test_equal_times_are_in_order(
    vendor: SLaunch, connect: Connect, walk: Walk, day: Interval
) -> None:
    vendor.fill(6, day.start - HOUR, day.start)
    made = [vendor.add(day.start + HOUR) for _ in range(3)]
    assert sorted(ids(await walk(connect()))) == made
    assert len(vendor.seen) == 1  # one old item is enough


async def test_every_request_asks_for_the_same_list(
    vendor: SLaunch, connect: Connect, walk: Walk, day: Interval
) -> None:
    vendor.fill(6, day.start, day.end)
    await walk(connect(params={"tag": "a b"}))
    assert [set(seen.query) - {"cursor"} for seen in vendor.seen] == [
        {"limit", "sort_by", "sort_order", "include_total", "tag"}
    ] * 2
    assert ["cursor" in seen.query for seen in vendor.seen] == [False, True]
    for seen in vendor.seen:
        assert seen.path == PATH
        assert seen.headers["x-api-key"] == vendor.api_key
        assert "authorization" not in seen.headers
        assert (seen.query["limit"], seen.query["tag"]) == ("4", "a b")
        assert (seen.query["sort_by"], seen.query["sort_order"]) == ("timestamp", "desc")
        assert seen.query["include_total"] == "false"


async def test_a_walk_ends_with_the_first_page_that_contains_an_older_record(
    vendor: SLaunch, connect: Connect, walk: Walk, day: Interval
) -> None:
    vendor.fill(100, day.start - 99 * HOUR, day.start)
    made = vendor.fill(6, day.start, day.end)
    pages = await walk(connect())
    assert (ids(pages), len(vendor.seen)) == (made[::-1], 2)


async def test_pages_newer_than_the_window_are_skipped(
    vendor: SLaunch, connect: Connect, walk: Walk, day: Interval
) -> None:
    made = vendor.fill(2, day.start, day.end)
    vendor.fill(400, day.end, day.end + HOUR)
    pages = await walk(connect())
    assert (ids(pages), len(pages), len(vendor.seen)) == (made[::-1], 1, 101)


async def test_a_window_without_records_is_proved_empty(
    vendor: SLaunch, connect: Connect, walk: Walk, day: Interval
) -> None:
    vendor.fill(6, day.end, day.end + HOUR)
    vendor.fill(6, day.start - HOUR, day.start)
    assert await walk(connect()) == [Page([], last=True)]


# --- bad cursors


@pytest.mark.parametrize(
    ("switch", "reason", "shown"),
    [
        ("null", "cursor_missing", 4),
        ("empty", "cursor_missing", 4),
        ("absent", "cursor_missing", 4),
        ("repeating", "cursor_repeats", 8),
    ],
)
async def test_a_next_page_without_a_usable_cursor_breaks_the_walk_after_its_records(
    *,
    vendor: SLaunch,
    connect: Connect,
    day: Interval,
    switch: Any,
    reason: str,
    shown: int,
) -> None:
    made = vendor.fill(9, day.start, day.end)
    vendor.switches.next_cursor = switch
    pages: list[Page] = []

    async def keep(source: slaunch.Source) -> None:
        async for page in source.walk(day):
            pages.append(page)  # noqa: PERF401  # what came before the error is what counts

    with pytest.raises(WalkBroken) as caught:
        await keep(connect())
    assert caught.value.reason == reason
    assert ids(pages) == made[::-1][:shown]
    assert not any(page.last for page in pages)


@pytest.mark.parametrize("switch", ["null", "repeating"])
async def test_past_the_end_of_the_window_no_cursor_is_needed(
    vendor: SLaunch, connect: Connect, walk: Walk, day: Interval, switch: Any
) -> None:
    vendor.fill(9, day.start - HOUR, day.start)
    made = vendor.fill(2, day.start, day.end)
    vendor.switches.next_cursor = switch
    assert ids(await walk(connect())) == made[::-1]


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("cursors", ["place", "count"])
async def test_an_expired_cursor_restarts_the_walk_once_and_no_record_is_shown_twice(
    *,
    vendor: SLaunch,
    connect: Connect,
    walk: Walk,
    day: Interval,
    status: Any,
    cursors: Any,
) -> None:
    shape(vendor, bad_cursor=status, cursors=cursors)
    made = vendor.fill(14, day.start, day.end)
    left = iter([None, None, vendor.expire_cursors])

    def age(request: Request) -> None:
        if "cursor" in request.query and (expire := next(left, None)):
            expire()

    vendor.on_request = age
    pages = await walk(connect())
    assert ids(pages) == made[::-1]
    assert vendor.answered == {200: 3 + 4, status: 1}


async def test_a_cursor_that_expires_twice_breaks_the_walk(
    vendor: SLaunch, connect: Connect, walk: Walk, day: Interval
) -> None:
    vendor.fill(14, day.start, day.end)

    def age(_request: Request) -> None:
        assert len(vendor.seen) < 9, "it begins again and again"
        vendor.expire_cursors()

    vendor.on_request = age
    with pytest.raises(WalkBroken) as caught:
        await walk(connect())
    assert caught.value.reason == "cursor_expired"
    assert len(vendor.seen) == 4


async def test_a_refused_first_page_is_not_an_expired_cursor(
    vendor: SLaunch, connect: Connect, walk: Walk
) -> None:
    vendor.switches.unknown = "refuse"
    with pytest.raises(Refused, match=r"query\.colour: Extra inputs are not permitted") as caught:
        await walk(connect(params={"colour": "red"}))
    assert (caught.value.status, len(vendor.seen)) == (422, 1)


async def test_pages_without_progress_break_the_walk(
    vendor: SLaunch, connect: Connect, walk: Walk, day: Interval
) -> None:
    """A server that ignores its cursors, and gives a new one each time."""
    vendor.fill(9, day.end, day.end + HOUR)

    def first_page(request: Request, response: Response) -> Response:
        page = json.loads(response.body)
        page.update(next_page=True, next_cursor=f"c{request.number}")
        response.body = json.dumps(page).encode()
        return response

    vendor.faults.add(faults.rewrite(first_page), nth=1)
    real = vendor.respond
    vendor.respond = lambda request: first_page(  # type: ignore[method-assign]  # for this test
        request, real(Request(**{**_fields(request), "query": _without_cursor(request)}))
    )
    with pytest.raises(WalkBroken) as caught:
        await walk(connect())
    assert caught.value.reason == "no_progress"
    assert len(vendor.seen) == 1 + _newest_first.MAX_IDLE


def _fields(request: Request) -> dict[str, Any]:
    return {name: getattr(request, name) for name in Request.__slots__}


def _without_cursor(request: Request) -> dict[str, str]:
    return {name: value for name, value in request.query.items() if name != "cursor"}


async def test_empty_pages_in_the_middle_are_not_the_end_and_not_progress(
    vendor: SLaunch, connect: Connect, walk: Walk, day: Interval
) -> None:
    for number in range(_newest_first.MAX_IDLE - 1):
        vendor.faults.add(faults.answer(200, body(cursor=f"c{number}")))
    item = {"id": "a", "timestamp": day.start.isoformat()}
    vendor.faults.add(faults.answer(200, body(item, more=False)))
    assert ids(await walk(connect())) == ["a"]
    for number in range(_newest_first.MAX_IDLE):
        vendor.faults.add(faults.answer(200, body(cursor=f"c{number}")))
    with pytest.raises(WalkBroken) as caught:
        await walk(connect())
    assert caught.value.reason == "no_progress"


# --- order


async def test_one_old_item_out_of_order_does_not_end_the_walk(
    vendor: SLaunch, connect: Connect, walk: Walk, day: Interval
) -> None:
    vendor.switches.order = "as stored"
    vendor.fill(4, day.start - HOUR, day.start)
    early = vendor.fill(6, day.start, day.start + HOUR)
    vendor.add(day.start - HOUR)
    late = vendor.fill(3, day.end - HOUR, day.end)
    before = vendor.add(day.end - 2 * HOUR)
    made = [*early, *late, before]
    assert sorted(ids(await walk(connect()))) == sorted(made)


async def test_an_unordered_walk_ends_only_with_a_whole_page_of_older_records(
    vendor: SLaunch, connect: Connect, walk: Walk, day: Interval
) -> None:
    vendor.switches.order = "as stored"
    vendor.fill(40, day.start - HOUR, day.start)
    vendor.add(day.start + HOUR)
    vendor.fill(3, day.start - HOUR, day.start)
    vendor.add(day.start + 3 * HOUR)
    vendor.add(day.start + 2 * HOUR)
    # As listed: two inside, the second one newer than the first; three old ones and one inside;
    # then old ones alone.
    assert len(ids(await walk(connect()))) == 3
    assert [seen.status for seen in vendor.seen] == [200, 200, 200]


# --- records whose time cannot be read


async def test_records_without_a_readable_time_are_shown_with_every_window(
    vendor: SLaunch, connect: Connect, walk: Walk, day: Interval
) -> None:
    vendor.fill(2, day.start - HOUR, day.start)
    made = [
        vendor.add(day.start + HOUR, timestamp=None),
        vendor.add(day.start + HOUR, timestamp="yesterday"),
        vendor.add(day.start + HOUR, timestamp=7),
        vendor.add(day.start + 2 * HOUR),
    ]
    odd = vendor.add(day.end + HOUR / 2, timestamp={"at": "noon"})
    vendor.fill(5, day.end, day.end + HOUR / 4)
    assert sorted(ids(await walk(connect()))) == sorted([*made, odd])


async def test_records_that_are_not_objects_are_shown(
    vendor: SLaunch, connect: Connect, walk: Walk
) -> None:
    vendor.faults.add(faults.answer(200, body("text", None, [], 7, more=False)))
    assert (await walk(connect()))[0].records == [b'"text"', b"null", b"[]", b"7"]


@pytest.mark.parametrize(
    "time", [7, "1970-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", -(10**9)]
)
async def test_a_record_whose_time_is_far_off_does_not_end_a_walk(
    vendor: SLaunch, connect: Connect, walk: Walk, day: Interval, time: object
) -> None:
    vendor.fill(3, day.start, day.start + HOUR)
    vendor.add(day.start + 2 * HOUR, timestamp=time)
    vendor.fill(3, day.start + 3 * HOUR, day.start + 4 * HOUR)
    assert len(set(ids(await walk(connect())))) == 7


@pytest.mark.parametrize("text", [b"{", b"[]", b"7", b'{"timestamp":7}', b'{"timestamp":[]}'])
async def test_any_record_may_lack_a_time(connect: Connect, text: bytes) -> None:
    assert connect()._at(text) is None
    assert connect(time_path=["timestamp"])._at(text) is None


async def test_a_history_with_times_in_another_field_holds_the_source_with_a_hint(
    vendor: SLaunch, connect: Connect, walk: Walk, day: Interval
) -> None:
    vendor.fill(_newest_first.MAX_UNTIMED + 8, day.start - HOUR, day.end)
    with pytest.raises(Refused, match=r"under at or meta\.when: set time_path"):
        await walk(connect(time_path=["at", "meta.when"]))
    assert len(vendor.seen) == -(-_newest_first.MAX_UNTIMED // 4)


async def test_a_few_records_without_a_time_do_not_hold_the_source(
    vendor: SLaunch, connect: Connect, walk: Walk, day: Interval, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_newest_first, "MAX_UNTIMED", 3)
    for number in range(24):
        odd: dict[str, Any] = {} if number % 3 else {"timestamp": "soon"}
        vendor.add(day.start + number * HOUR, **odd)
    assert len(ids(await walk(connect()))) == 24


async def test_a_short_list_without_times_is_read_to_its_end(
    vendor: SLaunch, connect: Connect, walk: Walk, day: Interval
) -> None:
    made = vendor.fill(9, day.start - HOUR, day.end)
    assert ids(await walk(connect(time_path=["at"]))) == made[::-1]


async def test_the_time_may_be_in_a_nested_object(
    vendor: SLaunch, connect: Connect, walk: Walk, day: Interval
) -> None:
    vendor.add(day.start - HOUR, timestamp=None, meta={"at": "2026-02-28T23:00:00Z"})
    made = vendor.add(day.start + HOUR, timestamp=None, meta={"at": "2026-03-01T01:00:00Z"})
    assert ids(await walk(connect(time_path=["timestamp", "meta.at"]))) == [made]


# --- rows that are added and deleted


@pytest.mark.parametrize("cursors", ["place", "count"])
async def test_no_row_is_lost_to_rows_that_arrive_during_a_walk(
    vendor: SLaunch, connect: Connect, walk: Walk, day: Interval, cursors: Any
) -> None:
    vendor.switches.cursors = cursors
    made = vendor.fill(14, day.start, day.end)
    vendor.before_page[2] = lambda: vendor.fill(4, day.end, day.end + SECOND)
    vendor.before_page[3] = lambda: vendor.add(day.end + SECOND)
    assert ids(await walk(connect())) == made[::-1]


async def test_no_other_row_is_lost_to_rows_deleted_during_a_walk(
    vendor: SLaunch, connect: Connect, walk: Walk, day: Interval
) -> None:
    made = vendor.fill(14, day.start, day.end)
    gone = [*made[5:9], made[13]]  # of pages to come, and of one that was shown
    vendor.before_page[2] = lambda: list(map(vendor.history.remove, gone))
    assert ids(await walk(connect())) == [known for known in made[::-1] if known not in made[5:9]]


async def test_a_list_that_is_emptied_during_a_walk_ends(
    vendor: SLaunch, connect: Connect, walk: Walk, day: Interval
) -> None:
    made = vendor.fill(9, day.start, day.end)
    vendor.before_page[2] = lambda: list(map(vendor.history.remove, made))
    pages = await walk(connect())
    assert [(len(page.records), page.last) for page in pages] == [(4, False), (0, True)]


# --- long histories


def normalizer(source: slaunch.Source) -> Callable[[list[bytes]], EventPage]:
    normalize = Normalizer(
        vendor=vendor_named("slaunch"),
        source="shop",
        api_host="h",
        scope=source.scope,
        redact="default",
        tags={},
        id_path=["id", "_id"],
    )
    return lambda records: normalize(records, 0)


async def read_in_parts(source: slaunch.Source, window: Interval, budget: Budget) -> list[str]:
    """Walk *window* in parts of at most *budget* events; return the ids as they came."""
    found: list[str] = []

    async def read(part: Interval, budget: Budget | None, *, finely: bool) -> int:
        shown = 0
        async for events, _, _ in walk_of(source, part, normalizer(source), budget=budget):
            found.extend(event.native_id or "" for event in events)
            shown += len(events)
        return shown

    length = PartLength(budget.uncounted, budget, first=MAX_WINDOW)
    await in_parts("shop", window, length, read, answers=answering, give_up=refuse_to_give_up)
    return found


async def test_a_long_history_that_breaks_one_walk_is_not_read_from_the_top_for_every_part(
    vendor: SLaunch, connect: Connect, day: Interval
) -> None:
    made = vendor.fill(2000, day.start, day.end)
    found = await read_in_parts(connect(page_size=10), day, Budget(200, 200))
    assert set(found) == set(made)
    # 200 pages, and 21 of the walk that broke; then the newest part first, each where the one
    # before it ended.
    assert len(vendor.seen) < 1.4 * 200


async def remembering(source: slaunch.Source, walk: Walk, vendor: SLaunch) -> None:
    """Let *source* walk everything, and clear the requests."""
    await walk(source)
    vendor.seen.clear()


async def test_an_older_window_begins_at_the_deepest_page_before_it(
    vendor: SLaunch, connect: Connect, walk: Walk, day: Interval
) -> None:
    made = vendor.fill(48, day.start, day.end)
    source = connect()
    await remembering(source, walk, vendor)
    early = Interval(day.start, day.start + 4 * HOUR)
    assert ids(await walk(source, early)) == made[:8][::-1]
    assert ["cursor" in seen.query for seen in vendor.seen] == [True] * 3


async def test_a_remembered_cursor_that_has_moved_into_the_window_is_not_used(
    vendor: SLaunch, connect: Connect, walk: Walk, day: Interval
) -> None:
    """Rows are deleted above a cursor that is only a count: it now leads further down."""
    vendor.switches.cursors = "count"
    made = vendor.fill(48, day.start, day.end)
    source = connect()
    await remembering(source, walk, vendor)
    for known in made[20:30]:
        vendor.history.remove(known)
    early = Interval(day.start, day.start + 6 * HOUR)
    assert ids(await walk(source, early)) == made[:12][::-1]
    assert ["cursor" in seen.query for seen in vendor.seen][:3] == [True, False, True]


async def test_a_remembered_cursor_that_has_expired_costs_a_walk_from_the_top(
    vendor: SLaunch, connect: Connect, walk: Walk, day: Interval
) -> None:
    made = vendor.fill(48, day.start, day.end)
    source = connect()
    await remembering(source, walk, vendor)
    vendor.expire_cursors()
    early = Interval(day.start, day.start + 4 * HOUR)
    assert ids(await walk(source, early)) == made[:8][::-1]
    assert ["cursor" in seen.query for seen in vendor.seen][:3] == [True, False, True]
    assert vendor.answered[400] == 1


async def test_no_cursors_of_an_unordered_list_are_remembered(
    vendor: SLaunch, connect: Connect, walk: Walk, day: Interval
) -> None:
    vendor.switches.order = "as stored"
    made = vendor.fill(40, day.start, day.end)
    made.append(vendor.add(day.start + HOUR))
    source = connect()
    await remembering(source, walk, vendor)
    early = Interval(day.start, day.start + 6 * HOUR)
    assert set(ids(await walk(source, early))) == {*made[:10], made[-1]}
    assert "cursor" not in vendor.seen[0].query


async def test_a_walk_from_the_top_discards_the_remembered_cursors(
    vendor: SLaunch, connect: Connect, walk: Walk, day: Interval
) -> None:
    vendor.fill(48, day.start, day.end)
    source = connect()
    await walk(source)
    assert len(source._cursors) == 11
    await walk(source, Interval(day.end - 3 * HOUR, day.end))
    assert len(source._cursors) == 1


async def test_the_number_of_remembered_cursors_is_bounded(
    vendor: SLaunch, connect: Connect, walk: Walk, day: Interval, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_newest_first, "MAX_PLACES", 8)
    made = vendor.fill(200, day.start, day.end)
    source = connect()
    await remembering(source, walk, vendor)
    assert 4 <= len(source._cursors) <= 8
    early = Interval(day.start, day.start + 3 * HOUR)
    assert ids(await walk(source, early)) == made[:25][::-1]
    assert len(vendor.seen) < 20


# --- refusals


async def refusal(walk: Walk, source: slaunch.Source) -> Refused:
    with pytest.raises(Refused) as caught:
        await walk(source)
    return caught.value


async def test_a_wrong_key_is_refused(vendor: SLaunch, connect: Connect, walk: Walk) -> None:
    error = await refusal(walk, connect(api_key="wrong-key-secret"))
    assert error.status == 401
    assert "Could not validate credentials; check the key, and whether it has expired" in str(error)
    assert "secret" not in str(error)


async def test_an_expired_key_is_refused(
    vendor: SLaunch, connect: Connect, walk: Walk, clock: FakeClock
) -> None:
    vendor.key_expires = clock.seconds()
    error = await refusal(walk, connect())
    assert error.status == 401
    assert "API key has expired; check the key" in str(error)


async def test_a_key_without_the_scope_is_refused_with_its_name(
    vendor: SLaunch, connect: Connect, walk: Walk
) -> None:
    vendor.scopes = {"audit:write", "assets:read"}
    error = await refusal(walk, connect())
    assert error.status == 403
    assert "the key lacks the scope audit:read" in str(error)


async def test_reading_needs_no_other_scope(
    vendor: SLaunch, connect: Connect, walk: Walk, day: Interval
) -> None:
    vendor.scopes = {"audit:read"}
    made = vendor.fill(9, day.start, day.end)
    assert ids(await walk(connect())) == made[::-1]


async def test_a_wrong_address_is_refused_with_a_hint(
    vendor: SLaunch, connect: Connect, walk: Walk
) -> None:
    error = await refusal(walk, connect(base_url=f"{vendor.url}/elsewhere"))
    assert error.status == 404
    assert "Not Found; check tenant or base_url" in str(error)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b'{"detail":"No."}', ": No."),
        (b'{"detail":[{"loc":["query","limit"],"msg":"Too many"}]}', ": query.limit: Too many"),
        (b'{"detail":[{"msg":"Too many"}]}', ": Too many"),
        (b'{"detail":[{"loc":[]}]}', ""),
        (b'{"detail":[]}', ""),
        (b'{"detail":{"a":1}}', ""),
        (b"[]", ""),
        (
            b"<html>",
            "; its body is a web page, so a proxy or firewall in between may have sent it",
        ),
    ],
)
async def test_a_refusal_has_the_vendors_message_if_there_is_one(
    vendor: SLaunch, connect: Connect, walk: Walk, text: bytes, words: str
) -> None:
    vendor.faults.add(faults.answer(422, text))
    error = await refusal(walk, connect())
    assert str(error) == f"422 from GET {vendor.url}{PATH}{words}"


# --- transient failures


@pytest.mark.parametrize(
    "action",
    [
        faults.answer(500, b'{"code":"oops","message":"another form"}'),
        faults.answer(200, b'{"items":[],"next_cursor":null}'),
        faults.answer(200, b'{"items":null,"next_page":false}'),
        faults.answer(200, b'{"items":[],"next_page":"no"}'),
        faults.answer(200, b"{}"),
    ],
)
async def test_a_page_of_another_form_is_requested_again(
    vendor: SLaunch, connect: Connect, walk: Walk, day: Interval, action: faults.Action
) -> None:
    made = vendor.fill(9, day.start, day.end)
    vendor.faults.add(action, nth=2)
    assert ids(await walk(connect())) == made[::-1]
    assert ["cursor" in seen.query for seen in vendor.seen] == [False, True, True, True]


# --- the adapter alone


@pytest.mark.respx(base_url=BASE)
async def test_the_tenants_address_and_the_bare_key_are_used(
    respx_mock: respx.MockRouter, walk: Walk
) -> None:
    page: dict[str, Any] = {"items": [], "next_cursor": None, "next_page": False, "limit": 250}
    route = respx_mock.get(PATH).mock(httpx.Response(200, json=page))
    source = slaunch.build("shop", settings(), Metrics(), FakeClock())
    answered_by(respx_mock, source)
    assert await walk(source) == [Page([], last=True)]
    assert route.calls.last.request.headers["x-api-key"] == "k"
    assert route.calls.last.request.url.params["limit"] == "250"
