"""JITSudo against its double, with every switch for what its documentation leaves open."""

import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
import respx
from pydantic import ValidationError
from tests.support.clock import FakeClock
from tests.support.peers import answered_by
from tests.support.stores import backlog

from auditrelay.collect.collector import Collector
from auditrelay.errors import Refused, Retryable, WalkBroken
from auditrelay.events.normalize import Normalizer, vendor_named
from auditrelay.sandbox import faults
from auditrelay.sandbox.vendors.jitsudo import PATH, TENANT, Jitsudo
from auditrelay.settings.secrets import Resolved
from auditrelay.sources import Page, jitsudo
from auditrelay.store.sqlite.state_dir import prepare
from auditrelay.store.sqlite.store import open_store
from auditrelay.telemetry.metrics import Metrics
from auditrelay.telemetry.scrubber import scrubber
from auditrelay.window import Interval

Walk = Callable[..., Awaitable[list[Page]]]
Connect = Callable[..., jitsudo.Source]

BASE = "https://jitsudo.acme.example"
OTHER = "11111111-2222-3333-4444-555555555555"


def settings(**changes: Any) -> jitsudo.Settings:
    keys = {"type": "jitsudo", "base_url": BASE, "tenant_id": TENANT, "api_key": "k", **changes}
    return jitsudo.Settings.model_validate(
        {key: value for key, value in keys.items() if value is not None}
    )


@pytest.fixture
async def vendor(clock: FakeClock) -> AsyncIterator[Jitsudo]:
    async with Jitsudo(clock=clock.seconds) as vendor:
        yield vendor


@pytest.fixture
async def connect(vendor: Jitsudo, clock: FakeClock) -> AsyncIterator[Connect]:
    sources: list[jitsudo.Source] = []

    def make(**changes: Any) -> jitsudo.Source:
        keys = {"base_url": vendor.url, "api_key": vendor.api_key, "page_size": 4, **changes}
        sources.append(jitsudo.build("access", settings(**keys), Metrics(), clock))
        return sources[-1]

    yield make
    for source in sources:
        await source.close()


def ids(pages: list[Page]) -> list[str]:
    return [json.loads(record)["id"] for page in pages for record in page.records]


def body(records: int = 0, *, has_more: bool = False, **more: Any) -> bytes:
    """Return a page with as many *records*, and *more* fields."""
    return json.dumps({"data": [{}] * records, "has_more": has_more, **more}).encode()


async def broken(walk: Walk, source: jitsudo.Source) -> WalkBroken:
    with pytest.raises(WalkBroken) as caught:
        await walk(source)
    return caught.value


async def refusal(walk: Walk, source: jitsudo.Source) -> Refused:
    with pytest.raises(Refused) as caught:
        await walk(source)
    return caught.value


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
        ({"base_url": None}, "base_url"),
        (
            {"base_url": "http://jitsudo.acme.example"},
            "plain http would send the credentials in clear text",
        ),
        ({"tenant_id": None}, "tenant_id"),
        ({"tenant_id": "acme"}, r"tenant_id\s+Value error, is not a UUID: write the tenant's id"),
        ({"tenant_id": f"{TENANT}\n"}, "is not a UUID"),
        ({"tenant_id": "{" + TENANT + "}"}, "is not a UUID"),
        ({"api_key": None}, "a credential is missing: give api_key or bearer_token"),
        ({"bearer_token": "t"}, "api_key and bearer_token exclude each other"),
        ({"api_key": None, "bearer_token": "two\nlines"}, "bearer_token"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        settings(**change)


def test_the_tenant_has_one_spelling_in_any_case(connect: Connect) -> None:
    assert settings(tenant_id=TENANT.upper()).tenant_id == TENANT
    assert connect(tenant_id=TENANT.upper()).scope == TENANT


# --- whole walks


async def test_ties_across_a_page_border_are_all_shown(
    vendor: Jitsudo, connect: Connect, walk: Walk, day: Interval
) -> None:
    made = [vendor.add(day.start, nanos=number) for number in range(10)]
    assert sorted(ids(await walk(connect()))) == sorted(made)


@pytest.mark.parametrize("inclusive", [True, False])
@pytest.mark.parametrize("sub", [0, 1, 500, 999])
async def test_records_on_the_bounds_are_shown_whether_they_are_included_or_not(
    *, vendor: Jitsudo, connect: Connect, walk: Walk, day: Interval, inclusive: bool, sub: int
) -> None:
    vendor.switches.lower_inclusive = vendor.switches.upper_inclusive = inclusive
    part = timedelta(microseconds=sub)
    window = Interval(day.start + part, day.end - timedelta(hours=1) + part)
    last = window.end - timedelta(microseconds=1)
    made = [vendor.add(window.start), vendor.add(last, nanos=999)]
    assert set(made) <= set(ids(await walk(connect(), window)))


async def test_tenant_filters_and_limit_go_with_every_page(
    vendor: Jitsudo, connect: Connect, walk: Walk, day: Interval
) -> None:
    vendor.fill(9, day.start, day.end)
    await walk(connect())
    first, *others = vendor.seen
    assert len(others) == 2
    for seen in vendor.seen:
        assert seen.path == PATH
        assert seen.headers["x-api-key"] == vendor.api_key
        assert seen.headers["x-tenant-id"] == TENANT
        assert "authorization" not in seen.headers
        assert {name: seen.query[name] for name in first.query} == {
            "from": "2026-02-28T23:59:59.999Z",
            "to": "2026-03-02T00:00:00.000Z",
            "limit": "4",
        }
    assert [seen.query.keys() - first.query.keys() for seen in others] == [{"cursor"}] * 2


async def test_a_bearer_token_goes_in_place_of_a_key(
    vendor: Jitsudo, connect: Connect, walk: Walk
) -> None:
    token = vendor.issue()
    assert (await walk(connect(api_key=None, bearer_token=token)))[-1].last
    [seen] = vendor.seen
    assert seen.headers["authorization"] == f"Bearer {token}"
    assert seen.headers["x-tenant-id"] == TENANT
    assert "x-api-key" not in seen.headers


# --- rows that are deleted


async def test_the_last_page_may_have_become_empty(
    vendor: Jitsudo, connect: Connect, walk: Walk, day: Interval
) -> None:
    made = vendor.fill(5, day.start, day.end)
    vendor.before_page[2] = lambda: vendor.history.remove(made[0])
    pages = await walk(connect())
    assert [(len(page.records), page.last) for page in pages] == [(4, False), (0, True)]


# --- bad cursors


@pytest.mark.parametrize(
    ("more", "reason", "pages"),
    [
        ("absent", "cursor_missing", 1),
        ("null", "cursor_missing", 1),
        ("empty", "cursor_missing", 1),
        ("repeating", "cursor_repeats", 2),
    ],
)
async def test_a_bad_cursor_breaks_the_walk_after_the_records_of_its_page(
    *,
    vendor: Jitsudo,
    connect: Connect,
    day: Interval,
    more: Any,
    reason: str,
    pages: int,
) -> None:
    vendor.switches.more = more
    vendor.fill(13, day.start, day.end)
    shown: list[Page] = []

    async def collect() -> None:
        async for page in connect().walk(day):
            shown.append(page)  # noqa: PERF401  # what came before the failure counts

    with pytest.raises(WalkBroken) as caught:
        await collect()
    assert caught.value.reason == reason
    assert [(len(page.records), page.last) for page in shown] == [(4, False)] * pages
    assert len(vendor.seen) == pages


async def test_a_cursor_that_was_sent_before_in_the_walk_counts_as_repeated(
    vendor: Jitsudo, connect: Connect, walk: Walk
) -> None:
    for cursor in ("one", "two", "three", "one"):
        vendor.faults.add(faults.answer(200, body(1, has_more=True, next_cursor=cursor)))
    assert (await broken(walk, connect())).reason == "cursor_repeats"
    assert [seen.query.get("cursor") for seen in vendor.seen] == [None, "one", "two", "three"]


async def test_cursors_of_one_walk_do_not_count_in_the_next(
    vendor: Jitsudo, connect: Connect, walk: Walk
) -> None:
    source = connect()
    for _ in range(2):
        vendor.faults.add(faults.answer(200, body(1, has_more=True, next_cursor="one")))
        vendor.faults.add(faults.answer(200, body(1)))
        assert len(await walk(source)) == 2


async def test_an_empty_page_that_announces_another_breaks_the_walk(
    vendor: Jitsudo, connect: Connect, walk: Walk
) -> None:
    vendor.faults.add(faults.answer(200, body(0, has_more=True, next_cursor="one")))
    assert (await broken(walk, connect())).reason == "no_progress"


async def test_a_cursor_on_the_last_page_is_not_followed(
    vendor: Jitsudo, connect: Connect, walk: Walk
) -> None:
    vendor.faults.add(faults.answer(200, body(2, next_cursor="more")))
    assert [page.last for page in await walk(connect())] == [True]
    assert len(vendor.seen) == 1


async def test_a_cursor_may_contain_any_character(
    vendor: Jitsudo, connect: Connect, walk: Walk
) -> None:
    cursor = "a+b/c=&limit=1 %20\u00fc"
    vendor.faults.add(faults.answer(200, body(1, has_more=True, next_cursor=cursor)))
    vendor.faults.add(faults.answer(200, body(1)))
    assert len(await walk(connect())) == 2
    assert vendor.seen[-1].query["cursor"] == cursor
    assert vendor.seen[-1].query["limit"] == "4"


@pytest.mark.parametrize("status", [400, 404, 410, 422])
@pytest.mark.parametrize("envelope", ["own", "foreign", "html"])
async def test_a_cursor_that_expired_breaks_the_walk(
    *,
    vendor: Jitsudo,
    connect: Connect,
    walk: Walk,
    day: Interval,
    status: Any,
    envelope: Any,
) -> None:
    vendor.fill(9, day.start, day.end)
    switches = vendor.switches
    switches.cursor_life, switches.cursor_status, switches.envelope = 0, status, envelope
    error = await broken(walk, connect())
    assert error.reason == "cursor_expired"
    assert f"{status} from GET" in str(error)
    words = "the cursor is invalid or has expired (invalid_cursor)"
    assert (words if envelope == "own" else "no reason given") in str(error)
    assert len(vendor.seen) == 2


@pytest.mark.parametrize("status", [400, 404, 410, 422])
@pytest.mark.parametrize("envelope", ["own", "foreign", "html"])
async def test_the_same_answer_to_the_first_page_holds_the_source(
    *, vendor: Jitsudo, connect: Connect, walk: Walk, status: int, envelope: Any
) -> None:
    vendor.switches.failing, vendor.switches.envelope = status, envelope
    error = await refusal(walk, connect())
    assert error.status == status
    assert ("cannot be read (failed)" in str(error)) is (envelope == "own")
    assert len(vendor.seen) == 1


async def test_only_the_part_in_which_a_cursor_expired_is_walked_again(
    vendor: Jitsudo, connect: Connect, day: Interval, tmp_path: Path, clock: FakeClock
) -> None:
    prepare(tmp_path)
    store = await open_store(
        tmp_path,
        clock=clock,
        max_bytes=1 << 30,
        retention=timedelta(days=7),
        remember=timedelta(days=400),
    )
    clock.set(day.end)
    made = vendor.fill(64, day.start, day.end)
    source, metrics = connect(), Metrics(sources=["access"], sinks=["archive"])
    collector = Collector(
        "access",
        settings(settle="0s", overlap="1s", resweep=[], initial_lookback="1d"),
        source,
        normalizer=Normalizer(
            vendor=vendor_named("jitsudo"),
            source="access",
            api_host="localhost",
            scope=source.scope,
            redact="default",
            tags={},
        ),
        store=store,
        metrics=metrics,
        clock=clock,
        announce=lambda: None,
    )
    # the first part breaks on its third page, and a later one on another
    expired = faults.answer(410, b'{"code":"invalid_cursor","message":"expired"}')
    vendor.faults.add(expired, nth=(3, 3 + 9 + 2))
    try:
        await store.start_sink("archive", ["access"])
        await collector.poll()
        ledger = await store.ledger("access")
        events = [e for page in await backlog(store, "archive") for e in page.events]
    finally:
        await store.close()
    assert sorted(str(event.native_id) for event in events) == sorted(made)
    assert {event.org_id for event in events} == {TENANT}
    assert (ledger[0].interval.start, ledger[-1].interval.end) == (day.start, day.end)
    asked = Counter((seen.query["from"], seen.query["to"]) for seen in vendor.seen)
    broken = {(seen.query["from"], seen.query["to"]) for seen in vendor.seen if seen.status == 410}
    assert len(broken) == 2
    # The others are the whole day, each instant once but for the edges, which vendors round.
    parts = sorted(
        tuple(map(datetime.fromisoformat, window)) for window in asked if window not in broken
    )
    millisecond = timedelta(milliseconds=1)
    assert (parts[0][0], parts[-1][1]) == (day.start - millisecond, day.end)
    assert all(
        timedelta(0) <= one[1] - other[0] <= 2 * millisecond for one, other in pairwise(parts)
    )


# --- refusals


@pytest.mark.parametrize("details", [True, False])
@pytest.mark.parametrize("notices", [(), ("tenant isolation: forbid",)])
async def test_another_tenants_credential_is_refused_with_both_tenants(
    *, vendor: Jitsudo, connect: Connect, walk: Walk, details: bool, notices: tuple[str, ...]
) -> None:
    vendor.switches.details, vendor.switches.notices = details, notices
    vendor.tenant = OTHER
    error = await refusal(walk, connect())
    assert error.status == 403
    text = str(error)
    assert "the credential does not belong to the requested tenant (tenant_mismatch)" in text
    assert f"tenant_id is {TENANT} in the configuration" in text
    assert "this is a configuration error" in text
    assert (f'"credential_tenant":"{OTHER}"' in text) is details
    assert ("notices: tenant isolation: forbid" in text) is bool(notices)
    assert len(vendor.seen) == 1


async def test_a_wrong_key_is_refused_and_not_shown(
    vendor: Jitsudo, connect: Connect, walk: Walk
) -> None:
    error = await refusal(walk, connect(api_key="wrong-key-secret"))
    assert error.status == 401
    assert "invalid API key (unauthorized); the credentials are not accepted" in str(error)
    assert "wrong-key-secret" not in str(error)


async def test_an_expired_token_says_that_tokens_expire(
    vendor: Jitsudo, connect: Connect, walk: Walk, clock: FakeClock
) -> None:
    token = vendor.issue()
    vendor.clock = lambda: clock.seconds() + 3600
    error = await refusal(walk, connect(api_key=None, bearer_token=token))
    assert error.status == 401
    assert "by default such a token expires after an hour" in str(error)
    assert token not in str(error)


async def test_a_token_that_was_renewed_in_its_file_is_used_at_once(
    vendor: Jitsudo, connect: Connect, walk: Walk, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("an-expired-token")
    source = connect(api_key=None, bearer_token=Resolved(f"${{file:{file}}}"))
    file.write_text(vendor.issue())
    assert (await walk(source))[-1].last
    assert vendor.answered == {401: 1, 200: 1}


async def test_notices_of_the_policies_are_shown_within_a_length(
    vendor: Jitsudo, connect: Connect, walk: Walk
) -> None:
    answer = {
        "code": "forbidden",
        "message": "m" * 5000,
        "notices": ["auditors only", "ask\x1b[31m the admins", 7, None, "n" * 5000],
    }
    vendor.faults.add(faults.answer(403, json.dumps(answer).encode()))
    text = str(await refusal(walk, connect()))
    assert "mmm…; notices: auditors only; ask\\x1b[31m the admins; nnn" in text
    assert f"the credential may not read the audit log of tenant {TENANT}" in text
    assert len(text) < 500


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"code": "x", "message": "Words."}, ": Words. (x)"),
        ({"code": "x"}, ": x"),
        ({"message": "Words."}, ": Words."),
        ({"notices": ["One.", "Two."]}, ": notices: One.; Two."),
        ({"code": 7, "message": ["no"], "notices": "no", "details": 7}, ""),
        ({"code": "tenant_mismatch", "details": {"n": 2**70}}, ": tenant_mismatch"),
        ([], ""),
    ],
)
async def test_a_refusal_of_any_form_is_reported(
    vendor: Jitsudo, connect: Connect, walk: Walk, answer: Any, words: str
) -> None:
    vendor.faults.add(faults.answer(403, json.dumps(answer).encode()))
    text = str(await refusal(walk, connect()))
    assert text.startswith(f"403 from GET {vendor.url}{PATH}{words}; ")


async def test_details_nested_too_deeply_are_left_out(
    vendor: Jitsudo, connect: Connect, walk: Walk
) -> None:
    deep = b"[" * 900 + b"]" * 900
    answer = b'{"code":"tenant_mismatch","message":"No.","details":%b}' % deep
    vendor.faults.add(faults.answer(403, answer))
    text = str(await refusal(walk, connect()))
    assert "belongs to another tenant: this is a configuration error" in text


async def test_a_secret_that_the_server_repeats_is_not_shown(
    vendor: Jitsudo, connect: Connect, walk: Walk
) -> None:
    source = connect()
    scrubber.learn(source._settings.credential)
    key = vendor.api_key
    answer = {
        "code": "tenant_mismatch",
        "message": f"key {key}",
        "details": {"k": key},
        "notices": [key],
    }
    vendor.faults.add(faults.answer(403, json.dumps(answer).encode()))
    assert key not in str(await refusal(walk, source))


async def test_a_refused_limit_holds_the_source_with_the_servers_message(
    vendor: Jitsudo, connect: Connect, walk: Walk
) -> None:
    vendor.switches.oversize, vendor.switches.page_size_cap = "refuse", 3
    error = await refusal(walk, connect())
    assert error.status == 400
    assert "limit must be between 1 and 3 (invalid_request)" in str(error)


# --- transient failures


@pytest.mark.parametrize("envelope", ["own", "foreign", "html"])
@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_a_failing_server_is_retried_for_any_form_of_answer(
    *, vendor: Jitsudo, connect: Connect, walk: Walk, envelope: Any, status: int
) -> None:
    vendor.switches.failing, vendor.switches.envelope = status, envelope
    with pytest.raises(Retryable, match=f"^{status} from GET") as caught:
        await walk(connect())
    assert caught.value.reason == f"status_{status}"
    assert len(vendor.seen) == 5


@pytest.mark.parametrize(
    "action",
    [
        faults.answer(200, b'{"code":"failed","message":"an error inside of a success"}'),
        faults.answer(200, b'{"data":[]}'),
        faults.answer(200, b'{"data":null,"has_more":false}'),
        faults.answer(200, b'{"data":[],"has_more":"no"}'),
        faults.answer(200, b'{"data":[],"has_more":true,"next_cursor":7}'),
    ],
)
async def test_a_page_of_another_form_is_requested_again(
    vendor: Jitsudo, connect: Connect, walk: Walk, day: Interval, action: faults.Action
) -> None:
    made = vendor.fill(9, day.start, day.end)
    vendor.faults.add(action, nth=2)
    assert sorted(ids(await walk(connect()))) == sorted(made)
    cursors = [seen.query.get("cursor") for seen in vendor.seen]
    assert len(cursors) == 4
    assert cursors[1] == cursors[2] != cursors[3]


# --- the adapter alone


@pytest.mark.respx(base_url=BASE)
async def test_the_largest_page_of_the_vendors_other_lists_is_the_default(
    respx_mock: respx.MockRouter, walk: Walk
) -> None:
    route = respx_mock.get(PATH).mock(
        httpx.Response(200, json={"data": [], "has_more": False, "next_cursor": None})
    )
    source = jitsudo.build("access", settings(), Metrics(), FakeClock())
    answered_by(respx_mock, source)
    assert await walk(source) == [Page([], last=True)]
    assert route.calls.last.request.url.params["limit"] == "250"
