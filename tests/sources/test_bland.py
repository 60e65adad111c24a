"""Bland AI against its double, with every switch for what its documentation leaves open."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
import respx
from pydantic import ValidationError
from tests.support.clock import FakeClock
from tests.support.peers import answered_by

from auditrelay.errors import Refused, RequestRefused, Retryable, WalkBroken
from auditrelay.sandbox import faults
from auditrelay.sandbox.vendors.bland import PATH, Bland
from auditrelay.sources import Page, bland
from auditrelay.telemetry.metrics import Metrics
from auditrelay.window import Interval

Walk = Callable[..., Awaitable[list[Page]]]
Connect = Callable[..., bland.Source]

BASE = "https://api.bland.ai"


def settings(**changes: Any) -> bland.Settings:
    return bland.Settings.model_validate({"type": "bland", "api_key": "k", **changes})


@pytest.fixture
async def vendor(clock: FakeClock) -> AsyncIterator[Bland]:
    async with Bland(clock=clock.seconds) as vendor:
        yield vendor


@pytest.fixture
async def connect(vendor: Bland, clock: FakeClock) -> AsyncIterator[Connect]:
    sources: list[bland.Source] = []

    def make(**changes: Any) -> bland.Source:
        keys = {"base_url": vendor.url, "api_key": vendor.api_key, "page_size": 4, **changes}
        sources.append(bland.build("voice", settings(**keys), Metrics(), clock))
        return sources[-1]

    yield make
    for source in sources:
        await source.close()


def ids(pages: list[Page]) -> list[str]:
    return [json.loads(record)["id"] for page in pages for record in page.records]


def body(events: int = 0, **data: Any) -> bytes:
    """Return a page with as many *events*, and other fields of its *data*."""
    return json.dumps({"data": {"events": [{}] * events, **data}, "errors": None}).encode()


# --- settings


@pytest.mark.parametrize(
    "change",
    [
        {"api_key": "two\nlines"},
        {"auth_scheme": "Bearer "},
        {"page_size": 101},
        {"page_size": 0},
        {"max_window": "31d"},
        {"overlap": "0s"},
        {"type": "cekura"},
    ],
)
def test_a_setting_that_cannot_work_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(change))):
        settings(**change)


# --- whole walks


async def test_every_page_is_requested_with_the_whole_window(
    vendor: Bland, connect: Connect, walk: Walk, day: Interval
) -> None:
    vendor.fill(9, day.start, day.end)
    await walk(connect())
    assert len(vendor.seen) == 3
    for number, seen in enumerate(vendor.seen, 1):
        assert seen.path == PATH
        assert seen.headers["authorization"] == vendor.api_key
        assert seen.query == {
            "created_after": "2026-02-28T23:59:59.999Z",
            "created_before": "2026-03-02T00:00:00.000Z",
            "page": str(number),
            "page_size": "4",
        }


async def test_a_scheme_can_be_put_before_the_key(
    vendor: Bland, connect: Connect, walk: Walk
) -> None:
    with pytest.raises(Refused):
        await walk(connect(auth_scheme="Bearer"))
    vendor.switches.bearer = "accept"
    assert (await walk(connect(auth_scheme="Bearer")))[-1].last


# --- rows that are deleted


@pytest.mark.parametrize("past_end", ["404", "empty"])
async def test_a_page_that_was_deleted_ends_the_walk_as_shrunk(
    vendor: Bland, connect: Connect, walk: Walk, day: Interval, past_end: Any
) -> None:
    vendor.switches.past_end = past_end
    made = vendor.fill(5, day.start, day.end)
    vendor.before_page[2] = lambda: vendor.history.remove(made[0])
    pages = await walk(connect())
    assert [(page.last, page.shrunk) for page in pages] == [(False, False), (True, True)]


async def test_a_list_that_is_emptied_during_a_walk_has_shrunk(
    vendor: Bland, connect: Connect, walk: Walk, day: Interval
) -> None:
    made = vendor.fill(9, day.start, day.end)
    vendor.before_page[2] = lambda: list(map(vendor.history.remove, made))
    pages = await walk(connect())
    assert [(page.last, page.shrunk) for page in pages] == [(False, False), (True, True)]


async def test_rows_deleted_during_a_walk_are_noticed(
    vendor: Bland, connect: Connect, walk: Walk, day: Interval
) -> None:
    made = vendor.fill(13, day.start, day.end)
    vendor.before_page[2] = lambda: vendor.history.remove(made[-1])
    assert [page.shrunk for page in await walk(connect())] == [False, True, True]


async def test_a_404_for_the_first_page_is_not_an_end(
    vendor: Bland, connect: Connect, walk: Walk
) -> None:
    vendor.faults.add(faults.answer(404, b'{"data":null,"errors":[{"error":"NOT_FOUND"}]}'))
    with pytest.raises(Refused) as caught:
        await walk(connect())
    assert caught.value.status == 404


async def test_another_404_for_a_later_page_is_not_an_end(
    vendor: Bland, connect: Connect, walk: Walk, day: Interval
) -> None:
    vendor.fill(9, day.start, day.end)
    vendor.faults.add(faults.html(404), nth=2)
    with pytest.raises(Refused, match="404"):
        await walk(connect())


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ([body(0, total=9, total_pages=3, current_page=1)], "no_progress"),
        ([body(0, total_pages=3)], "no_progress"),
        ([body(4, total_pages=3, current_page=1)] * 2, "repeated_page"),
        ([body(4, total_pages=3, current_page=0)], "repeated_page"),
    ],
)
async def test_answers_that_cannot_be_a_whole_window_break_the_walk(
    vendor: Bland, connect: Connect, walk: Walk, answers: list[bytes], reason: str
) -> None:
    for answer in answers:
        vendor.faults.add(faults.answer(200, answer))
    with pytest.raises(WalkBroken) as caught:
        await walk(connect())
    assert caught.value.reason == reason


async def test_without_any_count_an_empty_page_is_the_end(
    vendor: Bland, connect: Connect, walk: Walk
) -> None:
    for answer in (body(2), body(1), body(0)):
        vendor.faults.add(faults.answer(200, answer))
    pages = await walk(connect())
    assert [(len(page.records), page.last, page.total) for page in pages] == [
        (2, False, None),
        (1, False, None),
        (0, True, None),
    ]


async def test_a_server_that_shows_its_last_page_for_one_past_the_end_has_shrunk(
    vendor: Bland, connect: Connect, walk: Walk
) -> None:
    vendor.faults.add(faults.answer(200, body(4, total_pages=3, current_page=1)))
    vendor.faults.add(faults.answer(200, body(4, total_pages=1, current_page=1)))
    pages = await walk(connect())
    assert [(page.last, page.shrunk) for page in pages] == [(False, False), (True, True)]


# --- refusals


async def refusal(walk: Walk, source: bland.Source) -> Refused:
    with pytest.raises(Refused) as caught:
        await walk(source)
    return caught.value


@pytest.mark.parametrize("envelope", ["modern", "older"])
@pytest.mark.parametrize("code", ["AUTH_FAILURE", "UNAUTHORIZED"])
async def test_a_wrong_key_is_refused(
    vendor: Bland, connect: Connect, walk: Walk, envelope: Any, code: Any
) -> None:
    vendor.switches.envelope, vendor.switches.unauthorized = envelope, code
    error = await refusal(walk, connect(api_key="wrong-key-secret"))
    assert error.status == 401
    assert ("Unauthorized" if code == "AUTH_FAILURE" else "Invalid API key") in str(error)
    assert (code in str(error)) is (envelope == "modern")
    assert "check the key" in str(error)
    assert "secret" not in str(error)


@pytest.mark.parametrize("envelope", ["modern", "older"])
@pytest.mark.parametrize("feature", ["403", "404"])
async def test_a_refusal_without_the_feature_names_who_can_enable_it(
    vendor: Bland, connect: Connect, walk: Walk, envelope: Any, feature: Any
) -> None:
    vendor.switches.envelope, vendor.switches.feature = envelope, feature
    error = await refusal(walk, connect())
    assert error.status == int(feature)
    assert "Enterprise feature of Bland AI, which Bland must enable" in str(error)


async def test_a_bad_request_holds_the_source_with_the_vendors_message(
    vendor: Bland, connect: Connect, walk: Walk
) -> None:
    vendor.switches.oversize, vendor.switches.page_size_cap = "refuse", 3
    error = await refusal(walk, connect())
    assert error.status == 400
    assert "Invalid page or page_size (BAD_REQUEST)" in str(error)


@pytest.mark.parametrize("errors", ["without data", "with data"])
async def test_a_success_with_errors_inside_is_a_failure(
    vendor: Bland, connect: Connect, walk: Walk, day: Interval, errors: Any
) -> None:
    vendor.fill(9, day.start, day.end)
    vendor.switches.errors = errors
    with pytest.raises(Retryable, match="Could not read all") as caught:
        await walk(connect())
    assert caught.value.reason == "bad_reply"


@pytest.mark.parametrize(
    ("errors", "words"),
    [
        ('[{"error":"AUTH_FAILURE","message":"Unauthorized"}]', "Unauthorized (AUTH_FAILURE); che"),
        ('[{"error":"UNAUTHORIZED","message":"No."}]', "No. (UNAUTHORIZED); check the key"),
        ('[{"error":"FEATURE_NOT_ENABLED","message":"Off"}]', "Enterprise feature"),
        ('[{"error":"SOMETHING_NEW","message":"Oh"}]', "Oh (SOMETHING_NEW)"),
        ('["plain words"]', "plain words"),
        ('{"error":"X","message":"an object"}', "an object (X)"),
    ],
)
async def test_errors_inside_a_success_are_shown(
    vendor: Bland, connect: Connect, walk: Walk, errors: str, words: str
) -> None:
    answer = f'{{"data":null,"errors":{errors}}}'.encode()
    vendor.faults.add(faults.answer(200, answer), times=None)
    error = await refusal(walk, connect())
    assert words in str(error)
    assert len(vendor.seen) == 1
    means_all = any(code in errors for code in ("AUTH_FAILURE", "UNAUTHORIZED", "FEATURE_NOT"))
    assert isinstance(error, RequestRefused) is not means_all


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b'{"status":"error","message":"Rate limit exceeded"}', "rate_limited"),
        (b'{"data":null,"errors":[{"error":"RATE_LIMITED","message":"Slow"}]}', "rate_limited"),
        (b'{"data":null,"errors":[{"error":{},"message":[]}]}', "bad_reply"),
        (b'{"data":null,"errors":null}', "bad_reply"),
        (b'{"data":{"events":[],"total_pages":"two"},"errors":null}', "bad_reply"),
        (b'{"data":{},"errors":null}', "bad_reply"),
        (b"{}", "bad_reply"),
    ],
)
async def test_a_success_without_data_is_retried(
    vendor: Bland, connect: Connect, walk: Walk, answer: bytes, reason: str
) -> None:
    vendor.faults.add(faults.answer(200, answer))
    assert (await walk(connect()))[-1].last
    vendor.faults.add(faults.answer(200, answer), times=None)
    with pytest.raises(Retryable) as caught:
        await walk(connect())
    assert caught.value.reason == reason


async def test_an_empty_list_of_errors_is_not_an_error(
    vendor: Bland, connect: Connect, walk: Walk
) -> None:
    answer = body(1, total=1, total_pages=1, current_page=1).replace(b"null}", b"[]}")
    vendor.faults.add(faults.answer(200, answer))
    assert len((await walk(connect()))[0].records) == 1
    assert len(vendor.seen) == 1


@pytest.mark.parametrize("text", [b"<html>", b"[]", b'{"errors":7}', b'{"errors":[7]}'])
async def test_a_refusal_without_a_message_is_still_reported(
    vendor: Bland, connect: Connect, walk: Walk, text: bytes
) -> None:
    vendor.faults.add(faults.answer(403, text))
    error = await refusal(walk, connect())
    assert str(error).startswith(f"403 from GET {vendor.url}{PATH}; audit logs are an Enterprise")


# --- the adapter alone


@pytest.mark.respx(base_url=BASE)
async def test_the_vendors_address_and_the_bare_key_are_the_defaults(
    respx_mock: respx.MockRouter, walk: Walk
) -> None:
    data = {"events": [], "total": 0, "total_pages": 0, "current_page": 1, "page_size": 100}
    route = respx_mock.get(PATH).mock(httpx.Response(200, json={"data": data, "errors": None}))
    source = bland.build("voice", settings(), Metrics(), FakeClock())
    answered_by(respx_mock, source)
    assert await walk(source) == [Page([], last=True, total=0)]
    assert route.calls.last.request.headers["authorization"] == "k"
    assert route.calls.last.request.url.params["page_size"] == "100"
    assert source.scope == ""
