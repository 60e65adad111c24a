"""Every source shows the whole of its window, whatever changes between the pages."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from itertools import product
from typing import Any

import pytest
from tests.contract.sources.conftest import Rig

from auditrelay.events.forms import FORMS
from auditrelay.http.rate import RateLimiter
from auditrelay.sandbox import faults, vendors
from auditrelay.sources import available
from auditrelay.window import micros

MILLISECOND = timedelta(milliseconds=1)
HOUR = timedelta(hours=1)


def test_every_source_has_a_double_to_be_tested_against() -> None:
    assert list(vendors.available()) == available()


# --- pages


@pytest.mark.parametrize("pages", [0, 1, 2])
@pytest.mark.parametrize("more", [-1, 0, 1])
async def test_every_record_is_shown_once_and_only_the_last_page_is_the_last(
    rig: Rig, pages: int, more: int
) -> None:
    count = max(0, pages * rig.page + more)
    rig.fill(count)
    shown = await rig.pages()
    assert sorted(record for page in shown for record in page.records) == sorted(rig.made())
    assert [page.last for page in shown] == [False] * (len(shown) - 1) + [True]
    assert not any(page.shrunk for page in shown)
    assert {page.total for page in shown} == {count if rig.double.REPORTS_TOTAL else None}
    assert all(page.records for page in shown) or len(shown) == 1, "an empty page was yielded"
    assert len(rig.double.seen) >= max(1, -(-count // rig.page))


async def test_a_source_can_be_walked_again_and_again(rig: Rig) -> None:
    rig.fill(9)
    source = rig.build()
    for _ in range(3):
        assert await rig.shown(source) == rig.made()


@pytest.mark.parametrize("background", [False, True])
async def test_each_request_of_a_walk_in_the_background_gives_way(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, *, background: bool
) -> None:
    taken: list[bool] = []

    async def acquire(_: RateLimiter, *, background: bool) -> None:
        taken.append(background)

    monkeypatch.setattr(RateLimiter, "acquire", acquire)
    rig.fill(3 * rig.page)
    async for _ in rig.build(requests_per_minute=60).walk(rig.window, background=background):
        pass
    assert taken == [background] * len(rig.double.seen)
    assert len(taken) >= 3


@pytest.mark.parametrize("cap", [1, 3])
async def test_pages_may_be_smaller_than_requested(rig: Rig, cap: int) -> None:
    rig.double.switches.page_size_cap = max(cap, rig.double.MIN_PAGE_SIZE)
    rig.fill(7)
    assert await rig.shown() == rig.made()


async def test_only_records_near_the_window_are_shown(rig: Rig) -> None:
    inside = [rig.window.start, rig.window.start + HOUR, rig.window.end - MILLISECOND]
    outside = [rig.window.start - HOUR, rig.window.end + HOUR]
    for at in (*inside, *outside):
        for _ in range(rig.page):
            rig.double.add(at)
    found = {record for page in await rig.pages() for record in page.records}
    made = set(rig.made())
    assert len(made) == len(inside) * rig.page
    assert made <= found
    assert len(found) == len(made), "records an hour outside are not of this window"


async def test_no_tie_is_lost_at_a_page_border(rig: Rig) -> None:
    """Equal times on both sides of every page border."""
    for _ in range(3 * rig.page - 1):
        rig.double.add(rig.window.start + HOUR)
    assert await rig.shown() == rig.made()


# --- rows that are added and deleted


async def test_a_late_row_is_shown_by_the_next_walk(rig: Rig) -> None:
    rig.fill(6)
    now = rig.double.clock()
    at = rig.window.start + HOUR
    rig.double.add(at, visible_from=datetime.fromtimestamp(now + 60, UTC))
    source = rig.build()
    assert len(await rig.shown(source)) == 6
    rig.double.clock = lambda: now + 60
    assert await rig.shown(source) == rig.made()
    assert len(rig.made()) == 7


@pytest.mark.parametrize("page", [1, 2, 3])
@pytest.mark.parametrize("place", [0.01, 0.5, 0.99])
async def test_no_row_is_lost_to_rows_added_during_a_walk(
    rig: Rig, page: int, place: float
) -> None:
    rig.fill(3 * rig.page)
    before = rig.made()

    def add() -> None:
        for number in range(3):
            rig.double.add(rig.window.start + rig.window.length * place + number * MILLISECOND)

    rig.double.before_page[page] = add
    assert set(before) <= set(await rig.shown())
    assert not rig.double.before_page, "the page was never requested"


async def test_added_rows_do_not_count_as_shrinking(rig: Rig) -> None:
    rig.fill(2 * rig.page)
    before = rig.made()
    rig.double.before_page[2] = lambda: rig.double.add(rig.window.end - timedelta(seconds=1))
    pages = await rig.pages()
    assert set(before) <= {record for page in pages for record in page.records}
    assert pages[-1].total == (len(rig.made()) if rig.double.REPORTS_TOTAL else None)
    assert not any(page.shrunk for page in pages)
    assert not rig.double.before_page, "the page was never requested"


@pytest.mark.parametrize("page", [2, 3])
@pytest.mark.parametrize("gone", [slice(0, 1), slice(5, 7), slice(-2, None), slice(None)])
async def test_no_other_row_is_lost_to_rows_deleted_during_a_walk(
    rig: Rig, page: int, gone: slice
) -> None:
    rig.fill(3 * rig.page)
    ids = list(rig.double.history.ids())
    rig.double.before_page[page] = lambda: list(map(rig.double.history.remove, ids[gone]))
    shown = set(await rig.shown())
    assert shown >= set(rig.made())
    assert not rig.double.before_page, "the page was never requested"


# --- content of a record


SPELLINGS: dict[str, Callable[[datetime], str]] = {
    "no fraction": lambda at: f"{at:%Y-%m-%dT%H:%M:%S}Z",
    "one digit": lambda at: f"{at:%Y-%m-%dT%H:%M:%S}.5Z",
    "milliseconds": lambda at: f"{at:%Y-%m-%dT%H:%M:%S}.990Z",
    "microseconds": lambda at: f"{at:%Y-%m-%dT%H:%M:%S}.990052+00:00",
    "nanoseconds": lambda at: f"{at:%Y-%m-%dT%H:%M:%S}.990052123Z",
    "another zone": lambda at: at.astimezone(timezone(timedelta(hours=5, minutes=30))).isoformat(),
    "west": lambda at: at.astimezone(timezone(-timedelta(hours=8))).isoformat(),
}


async def test_times_are_parsed_in_every_spelling(rig: Rig) -> None:
    """All of them in one list: texts that would sort wrongly."""
    start = rig.window.start + HOUR
    wanted = set()
    for number, spell in enumerate(SPELLINGS.values()):
        at = start + number * timedelta(seconds=1)
        text = spell(at)
        fields: dict[str, Any] = {rig.time_field: text}
        rig.double.add(at, **fields)
        whole = text.replace("052123", "052")
        wanted.add(micros(datetime.fromisoformat(whole)))
    events = await rig.events()
    assert {event.at for event in events} == wanted
    assert {event.time_quality for event in events} == {"source"}


ODD: tuple[Any, ...] = (None, "never_seen", "", 7, -1.5, True, [], {}, [None], {"a": {"b": 1}})


async def test_no_value_of_a_field_costs_a_record(rig: Rig) -> None:
    """Undocumented values, nulls, and other types than documented."""
    rig.double.add(rig.window.start)
    (sample,) = map(json.loads, rig.made())
    at = rig.window.start + HOUR
    fields = [name for name in sample if name not in (rig.id_field, rig.time_field)]
    assert fields
    for (name, value), number in zip(product(fields, ODD), range(1000), strict=False):
        rig.double.add(at + number * MILLISECOND, **{name: value})
    events = await rig.events(rig.build(page_size=50))
    assert len(events) == len(rig.made()) == 1 + len(fields) * len(ODD)
    texts = {json.dumps(json.loads(bytes(event.raw)), sort_keys=True) for event in events}
    assert texts == {json.dumps(json.loads(text), sort_keys=True) for text in rig.made()}
    for event in events:
        for form in FORMS.values():
            assert form(event)


@pytest.mark.parametrize("time", [None, "", "soon", 7, 1e300, [], {}, "2026-13-45T99:00:00Z"])
async def test_a_record_without_a_readable_time_is_forwarded_and_marked(
    rig: Rig, time: Any
) -> None:
    rig.double.add(rig.window.start + HOUR, **{rig.time_field: time})
    rig.double.add(rig.window.start + HOUR)
    events = await rig.events()
    assert sorted(event.time_quality for event in events) == ["fetched", "source"]


async def test_undocumented_fields_are_kept(rig: Rig) -> None:
    rig.double.add(rig.window.start, hologram={"depth": [1, 2]})
    (event,) = await rig.events()
    assert json.loads(bytes(event.raw))["hologram"] == {"depth": [1, 2]}
    assert b"hologram" in bytes(event.unmapped)


async def test_a_record_of_ten_megabytes_is_a_record(rig: Rig) -> None:
    rig.fill(3)
    rig.double.add(rig.window.end - HOUR, note="x" * 10_000_000)
    assert await rig.shown() == rig.made()


@pytest.mark.parametrize("odd", [rb'"\ud83d"', b"NaN", b"-Infinity", b"1" * 5000])
async def test_one_odd_value_costs_neither_its_page_nor_the_uid_of_an_event(
    rig: Rig, odd: bytes
) -> None:
    rig.fill(9)
    source = rig.build()
    plain = {event.uid for event in await rig.events(source)}
    rig.double.add(rig.window.start + HOUR, odd="MARK")

    def change(_request: Any, response: Any) -> Any:
        response.body = response.body.replace(b'"MARK"', odd)
        return response

    rig.double.faults.add(faults.rewrite(change), times=None)
    marked = {event.uid for event in await rig.events(source)}
    assert plain < marked
    assert len(marked) == 10
    assert any(odd in record for page in await rig.pages(source) for record in page.records)
    assert {event.uid for event in await rig.events(source)} == marked
