"""What a reply that is no page means."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tests.sources.described.conftest import Connect, Serve
from tests.support.clock import FakeClock
from tests.support.scripted import feed, ids, page

from auditrelay.descriptions import load
from auditrelay.errors import Refused, RequestRefused, Retryable, WalkBroken
from auditrelay.http.headers import MAX_RETRY_AFTER
from auditrelay.sandbox.messages import Request, Response, json_response
from auditrelay.settings.secrets import Resolved, Secret
from auditrelay.telemetry.scrubber import scrubber
from auditrelay.window import Interval

Failing = Any


def refusal(status: int, words: str = "no", **headers: str) -> Response:
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return json_response(status, {"error": {"message": words}}, named)


# --- statuses


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, RequestRefused),
        (401, Refused),
        (403, RequestRefused),
        (404, RequestRefused),
        (405, RequestRefused),
        (422, RequestRefused),
        (302, Refused),
        (408, Retryable),
        (429, Retryable),
        (500, Retryable),
        (503, Retryable),
    ],
)
async def test_the_status_of_a_first_page_says_what_to_do(
    serve: Serve, connect: Connect, failing: Failing, status: int, kind: type[Exception]
) -> None:
    vendor = await serve(refusal(status, "something is wrong"))
    _, error = await failing(connect(vendor))
    assert type(error) is kind
    assert f"{status} from GET {vendor.url}/v1/events: something is wrong" in str(error)


@pytest.mark.parametrize("status", [302, 400, 402, 403, 409, 422, 429, 503])
async def test_a_hint_says_what_the_operator_should_do_whatever_the_status(
    serve: Serve, connect: Connect, failing: Failing, status: int
) -> None:
    vendor = await serve(refusal(status))
    hints = {str(status): "give it the right"}
    _, error = await failing(connect(vendor, feed(errors={"hints": hints})))
    assert str(error).endswith("; give it the right")


@pytest.mark.parametrize("status", [400, 404, 410, 422, 409])
async def test_a_cursor_that_is_refused_breaks_the_walk(
    serve: Serve, connect: Connect, failing: Failing, status: int
) -> None:
    vendor = await serve(page([1], next="c"), refusal(status, "gone"))
    pages, error = await failing(connect(vendor))
    assert ids(pages) == ["e1"]
    assert (type(error), error.reason) == (WalkBroken, "cursor_expired")
    assert "gone" in str(error)


@pytest.mark.parametrize(
    ("status", "kind"), [(401, Refused), (403, RequestRefused), (302, Refused)]
)
async def test_missing_rights_are_missing_on_a_later_page_too(
    serve: Serve, connect: Connect, failing: Failing, status: int, kind: type[Exception]
) -> None:
    vendor = await serve(page([1], next="c"), refusal(status))
    _, error = await failing(connect(vendor))
    assert (type(error), error.status) == (kind, status)


async def test_a_redirect_is_not_followed(serve: Serve, connect: Connect, failing: Failing) -> None:
    other = await serve(page([1]))
    vendor = await serve(Response(307, headers={"Location": f"{other.url}/v1/events"}))
    _, error = await failing(connect(vendor))
    assert isinstance(error, Refused)
    assert other.asked == []


@pytest.mark.parametrize("body", [b"", b"<h1>no</h1>", b"[1]", b'{"error":"text"}', b'{"error":{'])
async def test_the_body_of_a_refusal_may_be_anything(
    serve: Serve, connect: Connect, failing: Failing, body: bytes
) -> None:
    _, error = await failing(connect(await serve(Response(403, body))))
    assert (type(error), error.status) == (RequestRefused, 403)


async def test_the_words_are_those_of_all_paths_shortened(
    serve: Serve, connect: Connect, failing: Failing
) -> None:
    body = {"code": 17, "error": {"message": "not now " * 60}, "flag": True, "none": None}
    vendor = await serve(json_response(400, body))
    words = feed(errors={"words": ["code", "flag", "none", "absent", "error", "error.message"]})
    _, error = await failing(connect(vendor, words))
    assert ": 17; true; not now not" in str(error)
    assert len(str(error)) < 300


async def test_a_secret_in_the_words_is_hidden(
    serve: Serve, connect: Connect, failing: Failing
) -> None:
    source = connect(
        await serve(refusal(401, "bad key t0ken-0123456789")), token="t0ken-0123456789"
    )
    scrubber.learn(Secret("t0ken-0123456789"))
    _, error = await failing(source)
    assert "bad key" in str(error)
    assert "0123456789" not in str(error)


# --- later


async def test_a_403_with_nothing_left_is_a_rate_limit(
    serve: Serve, connect: Connect, walk: Any, clock: FakeClock
) -> None:
    reset = str(int(clock.seconds()) + 30)
    vendor = await serve(refusal(403, x_left="0, 0;w=1", x_reset=reset), page([1]))
    limits = {"statuses": [403, 429], "remaining": "x-left", "reset": "x-reset"}
    assert ids(await walk(connect(vendor, feed(limits=limits)))) == ["e1"]
    assert 29 < sum(clock.waits) <= 31


@pytest.mark.parametrize("status", [429, 500])
async def test_a_reset_says_nothing_of_another_limit(
    serve: Serve, connect: Connect, failing: Failing, status: int
) -> None:
    vendor = await serve(refusal(status, x_left="40" if status == 429 else "0", x_reset="3000"))
    limits = {"remaining": "x-left", "reset": "x-reset", "reset_is": "seconds"}
    _, error = await failing(connect(vendor, feed(limits=limits)))
    assert (error.retry_after, len(vendor.asked)) == (None, 5)


@pytest.mark.parametrize("headers", [{}, {"x_left": "1"}, {"x_left": "many"}])
async def test_a_403_with_something_left_keeps_its_meaning(
    serve: Serve, connect: Connect, failing: Failing, headers: dict[str, str]
) -> None:
    vendor = await serve(refusal(403, **headers))
    limits = {"statuses": [403, 429], "remaining": "x-left"}
    _, error = await failing(connect(vendor, feed(limits=limits)))
    assert isinstance(error, Refused)


@pytest.mark.parametrize("status", [400, 403, 200])
async def test_words_may_mean_later(serve: Serve, connect: Connect, walk: Any, status: int) -> None:
    vendor = await serve(refusal(status, "Quota exceeded for today."), page([1]))
    errors = {"retry": ["*rateLimit*", "Quota exceeded*"], "found": "error"}
    assert ids(await walk(connect(vendor, feed(errors=errors)))) == ["e1"]


@pytest.mark.parametrize("status", [400, 200, 403])
@pytest.mark.parametrize("data", [None, []])
async def test_a_code_may_mean_later(
    serve: Serve, connect: Connect, walk: Any, status: int, data: object
) -> None:
    body = {"errors": [{"extensions": {"code": "RATELIMITED"}}], "events": data}
    vendor = await serve(json_response(status, body), page([1]))
    errors = {"retry_at": {"body:errors.0.extensions.code": ["RATELIMITED", "BUSY"]}}
    assert ids(await walk(connect(vendor, feed(errors=errors)))) == ["e1"]
    assert len(vendor.asked) == 2


async def test_later_comes_before_a_cursor_that_is_refused(
    serve: Serve, connect: Connect, walk: Any
) -> None:
    body = {"code": "BUSY"}
    vendor = await serve(page([1], next="c"), json_response(400, body), page([2]))
    description = feed(errors={"retry_at": {"body:code": ["BUSY"]}})
    assert ids(await walk(connect(vendor, description))) == ["e1", "e2"]


NOW = 1_772_413_200  # when the clock begins
HTTP_NOW = "Mon, 02 Mar 2026 01:00:00 GMT"


@pytest.mark.parametrize(
    ("unit", "value", "wait"),
    [
        ("epoch_s", str(NOW + 40), 40),
        ("epoch_s", f"{NOW + 40}, {NOW + 50};w=60", 40),
        ("epoch_ms", str((NOW + 40) * 1000), 40),
        ("seconds", "40", 40),
        ("seconds", "40.5", 40.5),
        ("seconds", "160, 160;w=1", 160),
        ("iso", "2026-03-02T01:00:40Z", 40),
        ("iso", "2026-03-02T01:01Z", 60),
        ("iso", "2026-03-02 02:00:40+01:00", 40),
        # Another unit than the one that was declared, or nothing that makes sense.
        ("epoch_s", str((NOW + 40) * 1000), None),
        ("epoch_s", "40", None),
        ("epoch_ms", str(NOW + 40), None),
        ("seconds", str(NOW + 40), None),
        ("seconds", "0", None),
        ("seconds", "-5", None),
        ("iso", "soon", None),
        ("iso", "9999-12-31T23:59:59Z", None),
        ("epoch_s", "9" * 400, None),
        ("epoch_s", "", None),
    ],
)
async def test_a_reset_is_read_in_its_unit(
    serve: Serve,
    connect: Connect,
    walk: Any,
    clock: FakeClock,
    unit: str,
    value: str,
    wait: float | None,
) -> None:
    vendor = await serve(refusal(429, x_reset=value), page([1]))
    limits = {"reset": "x-reset", "reset_is": unit}
    await walk(connect(vendor, feed(limits=limits)))
    if wait is None:  # as if nothing had been said
        assert sum(clock.waits) < 2
    else:
        assert sum(clock.waits) == pytest.approx(wait, abs=0.1)


@pytest.mark.parametrize(
    ("retry_after", "reset", "wait"),
    [
        ("10", "20", 20),
        ("30", "20", 30),
        ("0", "20", 20),
        ("0", "0", None),
        ("99999999", None, MAX_RETRY_AFTER),
    ],
)
async def test_the_later_of_both_counts_and_never_at_once(
    serve: Serve,
    connect: Connect,
    failing: Failing,
    retry_after: str,
    reset: str | None,
    wait: float | None,
) -> None:
    headers = {"Retry-After": retry_after} | ({} if reset is None else {"X-Reset": reset})
    vendor = await serve(json_response(429, {}, headers))
    limits = {"reset": "x-reset", "reset_is": "seconds"}
    _, error = await failing(connect(vendor, feed(limits=limits)))
    assert error.retry_after == wait


# --- 200 that means failure


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        ({"error": {"message": "no such query"}, "events": []}, RequestRefused, "no such query"),
        ({"error": {"message": "no such query"}}, RequestRefused, "no such query"),
        ({"error": "invalid_auth"}, RequestRefused, "invalid_auth"),
        ({"error": [{}], "events": None}, Retryable, "not explained"),
    ],
)
async def test_what_is_found_in_a_page_means_failure(
    serve: Serve,
    connect: Connect,
    failing: Failing,
    body: Any,
    kind: type[Exception],
    words: str,
) -> None:
    vendor = await serve(json_response(200, body))
    _, error = await failing(connect(vendor, feed(errors={"found": "error"})))
    assert type(error) is kind
    assert words in str(error)


@pytest.mark.parametrize("nothing", [None, [], {}, "", False])
async def test_nothing_found_is_no_failure(
    serve: Serve, connect: Connect, walk: Any, nothing: object
) -> None:
    vendor = await serve(page([1], error=nothing))
    assert ids(await walk(connect(vendor, feed(errors={"found": "error"})))) == ["e1"]


@pytest.mark.parametrize(
    ("ok", "fails"),
    [(True, False), ("true", False), (1, False), (False, True), (None, True), ("no", True)],
)
async def test_a_page_may_have_to_say_that_it_is_one(
    serve: Serve, connect: Connect, ok: object, *, fails: bool, day: Interval
) -> None:
    vendor = await serve(page([1], ok=ok, message="missing_scope"))
    walk = connect(vendor, feed(errors={"ok": "ok"})).walk(day)
    if fails:
        with pytest.raises(Refused, match="missing_scope"):
            await anext(walk)
    else:
        assert ids([await anext(walk)]) == ["e1"]


async def test_a_later_page_that_fails_inside_breaks_the_walk(
    serve: Serve, connect: Connect, failing: Failing
) -> None:
    vendor = await serve(page([1], next="c"), json_response(200, {"error": {"message": "cursor"}}))
    _, error = await failing(connect(vendor, feed(errors={"found": "error"})))
    assert (type(error), error.reason) == (WalkBroken, "cursor_expired")


async def test_a_list_may_be_replaced_by_an_error(
    serve: Serve, connect: Connect, failing: Failing
) -> None:
    vendor = await serve(json_response(200, {"error": {"message": "bad filter"}}))
    description = feed(
        records={"at": ""},
        pages={"kind": "url", "from": "link:next", "to": None},
        errors={"found": "error"},
    )
    _, error = await failing(connect(vendor, description))
    assert (type(error), "bad filter" in str(error)) == (RequestRefused, True)


# --- one quota for one account


async def test_sources_with_the_same_credentials_wait_together(
    serve: Serve, connect: Connect, walk: Any, clock: FakeClock
) -> None:
    vendor = await serve(refusal(429, Retry_After="60"), page([1]))
    one, other = connect(vendor, name="one"), connect(vendor, name="other")
    asked: list[float] = []
    began = asyncio.Event()

    def note(request: Request) -> None:
        asked.append(request.at)
        began.set()

    vendor.on_request = note
    first = asyncio.ensure_future(walk(one))
    await began.wait()
    await asyncio.gather(first, walk(other))
    assert len(asked) == 3
    assert min(asked[1:]) >= asked[0] + 59


async def test_sources_with_other_credentials_do_not(
    serve: Serve, connect: Connect, walk: Any, failing: Failing, clock: FakeClock
) -> None:
    vendor = await serve(refusal(429, Retry_After="86400"), page([1]))
    await failing(connect(vendor, name="one"))
    await walk(connect(vendor, name="other", token="another"))
    assert sum(clock.waits) == 0


async def test_a_quota_that_is_used_up_for_long_is_not_waited_for(
    serve: Serve, connect: Connect, failing: Failing, clock: FakeClock
) -> None:
    vendor = await serve(refusal(429, Retry_After="3000"), page([1]))
    await failing(connect(vendor))
    _, error = await failing(connect(vendor, name="other"))
    assert isinstance(error, Retryable)
    assert (error.reason, round(error.retry_after or 0)) == ("rate_limited", 3000)
    assert len(vendor.asked) == 1
    assert sum(clock.waits) == 0


@pytest.mark.parametrize(
    ("left", "waited"), [("11", False), ("10", False), ("9", True), ("0", True), ("x", False)]
)
async def test_a_share_of_the_quota_is_left_to_others(
    serve: Serve, connect: Connect, walk: Any, clock: FakeClock, left: str, *, waited: bool
) -> None:
    first = page([1], next="c")
    first.headers |= {"X-Left": left, "X-Limit": "100, 100;w=60", "X-Reset": "45"}
    vendor = await serve(first, page([2]))
    limits = {
        "remaining": "x-left",
        "limit": "x-limit",
        "reset": "x-reset",
        "reset_is": "seconds",
        "keep": 0.1,
    }
    assert ids(await walk(connect(vendor, feed(limits=limits)))) == ["e1", "e2"]
    assert sum(clock.waits) == pytest.approx(45 if waited else 0)


@pytest.mark.parametrize(("left", "waited"), [("12", False), ("11", True)])
@pytest.mark.parametrize("vendor", ["datadog", "okta"])
async def test_of_a_quota_of_the_whole_organisation_a_tenth_is_left_to_its_other_tools(
    serve: Serve,
    connect: Connect,
    walk: Any,
    clock: FakeClock,
    vendor: str,
    left: str,
    *,
    waited: bool,
) -> None:
    limits = load.named(vendor).feed().limits
    reset = 45 if limits.reset_is == "seconds" else clock.now().timestamp() + 45
    first = page([1], next="c")
    counted = {limits.limit: "120", limits.remaining: left, limits.reset: f"{reset:.0f}"}
    first.headers |= {name: value for name, value in counted.items() if name is not None}
    served = await serve(first, page([2]))
    shared = feed(limits=limits.model_dump(exclude_none=True))
    assert ids(await walk(connect(served, shared))) == ["e1", "e2"]
    assert sum(clock.waits) == pytest.approx(45 if waited else 0, abs=1)


async def test_without_a_limit_the_most_that_was_left_is_the_limit(
    serve: Serve, connect: Connect, walk: Any, clock: FakeClock
) -> None:
    pages = [page([1], next="a"), page([2], next="b"), page([3])]
    for each, left in zip(pages, ("50", "4", "3"), strict=True):
        each.headers |= {"X-Left": left, "X-Reset": "20"}
    vendor = await serve(*pages)
    limits = {"remaining": "x-left", "reset": "x-reset", "reset_is": "seconds", "keep": 0.1}
    await walk(connect(vendor, feed(limits=limits)))
    assert sum(clock.waits) == pytest.approx(20)


TOKEN = json_response(200, {"access_token": "at-0123456789", "expires_in": 3600})

OAUTH = {
    "kind": "oauth2",
    "grant": "client_credentials",
    "token_url": "https://api.acme.example/token",
    "client_id": "token",
    "client_secret": "token",
    "secret": None,
}


async def test_a_token_that_the_same_host_refuses_for_now_makes_its_sources_wait(
    serve: Serve, connect: Connect, failing: Failing, clock: FakeClock
) -> None:
    vendor = await serve(refusal(429, Retry_After="3000"), TOKEN, page([1]))
    described, token_url = feed(auth=OAUTH), f"{vendor.url}/token"
    for name in ("one", "other"):
        _, error = await failing(connect(vendor, described, name=name, token_url=token_url))
        assert isinstance(error, Retryable)
        assert round(error.retry_after or 0) == 3000
    # Not even another token: the other one has other parameters, so it does not share the first's.
    other = feed(auth={**OAUTH, "params": {"resource": "logs"}})
    _, error = await failing(connect(vendor, other, token_url=token_url))
    assert "the vendor's quota is used up for another 3000 s" in str(error)
    assert len(vendor.asked) == 1


async def test_a_token_that_another_host_refuses_is_not_the_apis_quota(
    serve: Serve, connect: Connect, walk: Any, failing: Failing, clock: FakeClock
) -> None:
    login = await serve(refusal(429, Retry_After="3000"), TOKEN)
    vendor = await serve(page([1]))
    described, token_url = feed(auth=OAUTH), f"{login.url}/token"
    await failing(connect(vendor, described, token_url=token_url))
    other = feed(auth={**OAUTH, "params": {"resource": "logs"}})
    assert ids(await walk(connect(vendor, other, token_url=token_url))) == ["e1"]


async def test_a_token_counts_in_the_share_that_is_left_to_others(
    serve: Serve, connect: Connect, walk: Any, clock: FakeClock
) -> None:
    said = {"X-Left": "9", "X-Limit": "100", "X-Reset": "45"}
    vendor = await serve(replace(TOKEN, headers={**TOKEN.headers, **said}), page([1], next="c"))
    vendor.script.append(page([2]))
    limits = {
        "remaining": "x-left",
        "limit": "x-limit",
        "reset": "x-reset",
        "reset_is": "seconds",
        "keep": 0.1,
    }
    source = connect(vendor, feed(auth=OAUTH, limits=limits), token_url=f"{vendor.url}/token")
    assert ids(await walk(source)) == ["e1", "e2"]
    assert sum(clock.waits) == pytest.approx(45)


async def test_a_token_counts_in_the_requests_of_a_minute(
    serve: Serve, connect: Connect, walk: Any, clock: FakeClock
) -> None:
    vendor = await serve(TOKEN, page([1], next="c"), page([2]))
    keys = {"token_url": f"{vendor.url}/token", "requests_per_minute": 1}
    await walk(connect(vendor, feed(auth=OAUTH), **keys))
    assert len(vendor.asked) == 3
    assert sum(clock.waits) == pytest.approx(120)


# --- credentials and clocks


async def test_a_rotated_key_is_used_in_the_middle_of_a_walk(
    serve: Serve, connect: Connect, walk: Any, tmp_path: Any
) -> None:
    file = tmp_path / "key"
    file.write_text("old")
    key = Resolved(f"${{file:{file}}}")

    def rotate(_: Any) -> Response:
        file.write_text("new")
        return refusal(401)

    vendor = await serve(page([1], next="c"), rotate, page([2]))
    assert ids(await walk(connect(vendor, token=key))) == ["e1", "e2"]
    sent = [request.headers["authorization"] for request in vendor.asked]
    assert sent == ["Bearer old", "Bearer old", "Bearer new"]


async def test_a_clock_that_is_ahead_of_the_vendors_holds_the_source(
    serve: Serve, connect: Connect, failing: Failing, clock: FakeClock
) -> None:
    vendor = await serve(page([1]))
    vendor.date = lambda: clock.seconds() - timedelta(hours=2).total_seconds()
    _, error = await failing(connect(vendor))
    assert isinstance(error, Refused)
    assert "fix the system clock" in str(error)
