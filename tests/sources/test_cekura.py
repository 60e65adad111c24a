"""Cekura against its double, with every switch for what its documentation leaves open."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from datetime import timedelta
from typing import Any

import httpx
import pytest
import respx
from pydantic import ValidationError
from tests.support.clock import FakeClock
from tests.support.peers import answered_by

from auditrelay.errors import Refused, WalkBroken
from auditrelay.sandbox import faults
from auditrelay.sandbox.server import Trap
from auditrelay.sandbox.vendors.cekura import PATH, Cekura
from auditrelay.settings.secrets import Resolved, Secret
from auditrelay.sources import Page, cekura
from auditrelay.telemetry.metrics import Metrics
from auditrelay.window import Interval

Walk = Callable[..., Awaitable[list[Page]]]
Connect = Callable[..., cekura.Source]

BASE = "https://api.cekura.ai"


def settings(**changes: Any) -> cekura.Settings:
    keys = {"type": "cekura", "organization_id": "42", "api_key": "k", **changes}
    return cekura.Settings.model_validate(keys)


@pytest.fixture
async def vendor(clock: FakeClock) -> AsyncIterator[Cekura]:
    async with Cekura(clock=clock.seconds) as vendor:
        yield vendor


@pytest.fixture
async def connect(vendor: Cekura, clock: FakeClock) -> AsyncIterator[Connect]:
    sources: list[cekura.Source] = []

    def make(**changes: Any) -> cekura.Source:
        keys = {"base_url": vendor.url, "api_key": vendor.api_key, "page_size": 4, **changes}
        sources.append(cekura.build("voice", settings(**keys), Metrics(), clock))
        return sources[-1]

    yield make
    for source in sources:
        await source.close()


def ids(pages: list[Page]) -> list[str]:
    return [str(json.loads(record)["id"]) for page in pages for record in page.records]


def asked(vendor: Cekura) -> list[str]:
    return [seen.query["page"] for seen in vendor.seen]


# --- settings


def test_an_organisations_id_may_be_a_number() -> None:
    assert settings(organization_id=42).organization_id == "42"


@pytest.mark.parametrize(
    "change",
    [
        {"organization_id": ""},
        {"organization_id": "a b"},
        {"organization_id": True},
        {"api_key": ""},
        {"page_size": 1001},
        {"max_window": "31d"},
        {"settle": "-1s"},
        {"type": "bland"},
        {"base_url": "http://api.cekura.ai"},
    ],
)
def test_a_setting_that_cannot_work_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(change))):
        settings(**change)


def test_the_scope_is_the_organisation(connect: Connect) -> None:
    assert connect().scope == "42"


# --- whole walks


@pytest.mark.parametrize("inclusive", [True, False])
async def test_a_window_of_thirty_days_is_whole_without_a_longer_request(
    *, vendor: Cekura, connect: Connect, walk: Walk, day: Interval, inclusive: bool
) -> None:
    vendor.switches.lower_inclusive = vendor.switches.upper_inclusive = inclusive
    window = Interval(day.end - timedelta(days=30), day.end)
    middle = window.start + window.length / 2
    tick = timedelta(microseconds=1)
    times = (window.start, middle - tick, middle, middle + tick, window.end - tick)
    made = {vendor.add(at) for at in times}
    pages = await walk(connect(), window)
    assert set(ids(pages)) == made
    assert [page.last for page in pages] == [False] * (len(pages) - 1) + [True]
    assert {page.total for page in pages} == {None}
    assert {seen.status for seen in vendor.seen} == {200}


async def test_every_page_is_requested_with_the_whole_window(
    vendor: Cekura, connect: Connect, walk: Walk, day: Interval
) -> None:
    vendor.fill(9, day.start, day.end)
    await walk(connect(project_id=7))
    for number, seen in enumerate(vendor.seen, 1):
        assert seen.path == PATH
        assert seen.query == {
            "organization_id": "42",
            "project_id": "7",
            "start_time": "2026-02-28T23:59:59.999Z",
            "end_time": "2026-03-02T00:00:00.000Z",
            "page": str(number),
            "page_size": "4",
        }


@pytest.mark.parametrize("base", ["http://internal.example", "trap"])
async def test_the_key_never_follows_next_to_another_host(
    vendor: Cekura, connect: Connect, walk: Walk, day: Interval, base: str
) -> None:
    async with Trap() as trap:
        vendor.switches.next_base = trap.url if base == "trap" else base
        made = vendor.fill(9, day.start, day.end)
        assert sorted(ids(await walk(connect()))) == sorted(made)
        assert not trap.caught


# --- rows that are deleted


async def test_a_page_that_was_deleted_ends_the_walk_as_shrunk(
    vendor: Cekura, connect: Connect, walk: Walk, day: Interval
) -> None:
    made = vendor.fill(5, day.start, day.end)
    vendor.before_page[2] = lambda: vendor.history.remove(made[0])
    pages = await walk(connect())
    assert [(page.last, page.shrunk) for page in pages] == [(False, False), (True, True)]


@pytest.mark.parametrize("past_end", ["404", "empty"])
async def test_rows_deleted_during_a_walk_are_noticed(
    vendor: Cekura, connect: Connect, walk: Walk, day: Interval, past_end: Any
) -> None:
    vendor.switches.past_end = past_end
    made = vendor.fill(13, day.start, day.end)
    vendor.before_page[2] = lambda: vendor.history.remove(made[-1])
    pages = await walk(connect())
    assert [page.shrunk for page in pages] == [False, True, True]
    assert len(set(ids(pages))) == 12  # the twelfth slipped to the page before


async def test_an_invalid_first_page_is_not_an_end(
    vendor: Cekura, connect: Connect, walk: Walk
) -> None:
    vendor.faults.add(faults.answer(404, b'{"detail":"Invalid page."}'))
    with pytest.raises(Refused, match=r"404 .*: Invalid page\.; nothing exists"):
        await walk(connect())


async def test_another_404_for_a_later_page_is_not_an_end(
    vendor: Cekura, connect: Connect, walk: Walk, day: Interval
) -> None:
    vendor.fill(9, day.start, day.end)
    vendor.faults.add(faults.answer(404, b'{"detail":"Not found."}'), nth=2)
    with pytest.raises(Refused, match="Not found"):
        await walk(connect())


@pytest.mark.parametrize(
    "body",
    [b'{"count":9,"next":"x","results":[]}', b'{"count":9,"results":[]}'],
)
async def test_an_empty_page_with_more_to_come_breaks_the_walk(
    vendor: Cekura, connect: Connect, walk: Walk, body: bytes
) -> None:
    vendor.faults.add(faults.answer(200, body), times=None)
    with pytest.raises(WalkBroken) as caught:
        await walk(connect())
    assert caught.value.reason == "no_progress"


async def test_without_next_and_count_an_empty_page_is_the_end(
    vendor: Cekura, connect: Connect, walk: Walk
) -> None:
    for body in (b'{"results":[{"id":1}]}', b'{"results":[]}'):
        vendor.faults.add(faults.answer(200, body))
    pages = await walk(connect())
    assert [(len(page.records), page.last, page.total) for page in pages] == [
        (1, False, None),
        (0, True, None),
    ]


# --- refusals


async def refusal(walk: Walk, source: cekura.Source) -> Refused:
    with pytest.raises(Refused) as caught:
        await walk(source)
    return caught.value


async def test_a_wrong_key_is_refused(vendor: Cekura, connect: Connect, walk: Walk) -> None:
    error = await refusal(walk, connect(api_key="wrong-key-secret"))
    assert error.status == 401
    assert "Invalid API key" in str(error)
    assert "check the key" in str(error)
    assert "secret" not in str(error)
    assert len(vendor.seen) == 1


async def test_a_projects_key_is_refused_with_a_hint_which_key_is_needed(
    vendor: Cekura, connect: Connect, walk: Walk
) -> None:
    vendor.switches.key_scope = "project"
    error = await refusal(walk, connect())
    assert error.status == 403
    assert "permission to perform" in str(error)
    assert "organisation-level key" in str(error)
    assert "admin" in str(error)


async def test_a_bad_request_holds_the_source_with_the_vendors_message(
    vendor: Cekura, connect: Connect, walk: Walk, day: Interval
) -> None:
    vendor.switches.max_window_days = 7
    with pytest.raises(Refused) as caught:
        await walk(connect(), Interval(day.start - timedelta(days=8), day.start))
    assert caught.value.status == 400
    assert "start_time: The time range cannot exceed 7 days." in str(caught.value)
    assert "organization_id=" not in str(caught.value)


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"detail":7}', b'{"a":[{"b":1}]}'])
async def test_a_refusal_without_a_message_is_still_reported(
    vendor: Cekura, connect: Connect, walk: Walk, body: bytes
) -> None:
    vendor.faults.add(faults.answer(403, body))
    error = await refusal(walk, connect())
    assert str(error).startswith(f"403 from GET {vendor.url}{PATH}; the key must be")


async def test_a_rotated_key_is_used_without_a_restart(
    vendor: Cekura, connect: Connect, walk: Walk, day: Interval, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", vendor.api_key)
    made = vendor.fill(9, day.start, day.end)
    source = connect(api_key=Secret(Resolved("${env:KEY}")))

    def rotate() -> None:
        vendor.rotate("another-key")
        monkeypatch.setenv("KEY", "another-key")

    async with aclosing(source.walk(day)) as pages:
        shown = [await anext(pages)]
        rotate()
        shown += [page async for page in pages]
    assert sorted(ids(shown)) == sorted(made)
    assert vendor.answered[401] == 1


# --- transient failures


@pytest.mark.parametrize("retry_after", ["seconds", "date", "absent"])
async def test_a_throttled_walk_waits_as_long_as_the_vendor_asks(
    *,
    vendor: Cekura,
    connect: Connect,
    walk: Walk,
    day: Interval,
    waits: list[float],
    retry_after: Any,
) -> None:
    """The double sends no Date, so the date form counts from our clock."""
    made = vendor.fill(17, day.start, day.end)
    vendor.switches.rate, vendor.switches.retry_after = 2, retry_after
    assert sorted(ids(await walk(connect()))) == sorted(made)
    assert waits == [60] * 2, "five pages, two a minute"


@pytest.mark.parametrize(
    "action",
    [
        faults.answer(200, b'{"results":{}}'),
        faults.answer(200, b'{"count":"many","next":null,"results":[]}'),
        faults.answer(200, b'{"count":1,"next":7,"results":[]}'),
    ],
)
async def test_a_page_of_another_form_is_requested_again(
    vendor: Cekura, connect: Connect, walk: Walk, day: Interval, action: faults.Action
) -> None:
    made = vendor.fill(9, day.start, day.end)
    vendor.faults.add(action, nth=2)
    assert sorted(ids(await walk(connect()))) == sorted(made)
    assert asked(vendor) == ["1", "2", "2", "3"]


async def test_the_configured_rate_limit_is_kept(
    vendor: Cekura, connect: Connect, walk: Walk, day: Interval, waits: list[float]
) -> None:
    vendor.fill(9, day.start, day.end)
    await walk(connect(requests_per_minute=1))
    assert len(waits) == 2


# --- the adapter alone


@pytest.mark.respx(base_url=BASE)
async def test_the_vendors_address_and_header_are_the_defaults(
    respx_mock: respx.MockRouter, walk: Walk
) -> None:
    route = respx_mock.get(PATH).mock(
        httpx.Response(200, json={"count": 0, "next": None, "previous": None, "results": []})
    )
    source = cekura.build("voice", settings(), Metrics(), FakeClock())
    answered_by(respx_mock, source)
    assert await walk(source) == [Page([], last=True, total=0)]
    request = route.calls.last.request
    assert request.headers["X-CEKURA-API-KEY"] == "k"
    assert request.url.params["page_size"] == "200"
