"""The quota of an account: who waits for it, for how long, and what the headers are believed."""

import asyncio

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.clock import FakeClock
from tests.support.peers import NOON, reply

from auditrelay.errors import Retryable
from auditrelay.http.headers import MAX_RETRY_AFTER, first_number, link, reset_after
from auditrelay.http.quota import (
    MAX_PAUSE,
    Quota,
    QuotaHeaders,
    asked_wait,
    is_used_up,
    shared_quota,
)
from auditrelay.http.retry import MAX_SOURCE_WAIT

HEADERS = QuotaHeaders(reset="reset", reset_is="seconds", remaining="left", limit="of", keep=0.2)


async def test_all_who_share_a_quota_wait_until_it_is_reset() -> None:
    clock = FakeClock()
    quota = Quota(clock)
    began = clock.monotonic()
    quota.pause(30)
    quota.pause(10)  # what was asked for first is not taken back
    await asyncio.gather(quota.wait(), quota.wait())
    assert clock.monotonic() - began == pytest.approx(30)
    await quota.wait()
    assert len(clock.waits) == 2


async def test_a_long_wait_is_left_to_a_later_poll() -> None:
    quota = Quota(FakeClock())
    quota.pause(MAX_SOURCE_WAIT + 1)
    with pytest.raises(Retryable) as caught:
        await quota.wait()
    assert caught.value.reason == "rate_limited"
    assert caught.value.retry_after == pytest.approx(MAX_SOURCE_WAIT + 1)


async def test_one_wrong_header_stops_no_source_for_a_day() -> None:
    clock = FakeClock()
    quota = Quota(clock)
    quota.pause(MAX_RETRY_AFTER)
    with pytest.raises(Retryable) as caught:
        await quota.wait()
    assert caught.value.retry_after == pytest.approx(MAX_PAUSE)
    clock.advance(MAX_PAUSE)
    await quota.wait()


@pytest.mark.parametrize(
    ("headers", "waits"),
    [
        ({"left": "19", "of": "100", "reset": "5"}, True),
        ({"left": "20", "of": "100", "reset": "5"}, False),
        ({"left": "19", "of": "100"}, False),
        ({"of": "100", "reset": "5"}, False),
        ({"left": "19", "of": "none", "reset": "5"}, False),
        ({"left": "0", "of": "0", "reset": "5"}, False),
    ],
)
async def test_a_share_is_kept_where_the_headers_tell_it(
    headers: dict[str, str], *, waits: bool
) -> None:
    clock = FakeClock()
    quota = Quota(clock)
    quota.hear(reply(200, b"", **headers), HEADERS)
    await quota.wait()
    assert clock.waits == ([5] if waits else [])


def test_there_is_one_quota_for_one_account_and_clock() -> None:
    clock, other = FakeClock(), FakeClock()
    one = shared_quota(clock, ("host", "key"))
    assert shared_quota(clock, ("host", "key")) is one
    assert shared_quota(clock, ("host", "other")) is not one
    assert shared_quota(other, ("host", "key")) is not one


def test_a_quota_that_no_source_has_is_forgotten() -> None:
    clock = FakeClock()
    quota = shared_quota(clock, ("host", "key"))
    quota.pause(100)
    del quota
    assert shared_quota(clock, ("host", "key"))._until == 0


@pytest.mark.parametrize(
    ("headers", "used_up"),
    [({"left": "0"}, True), ({"left": "0, 0;w=1"}, True), ({"left": "1"}, False), ({}, False)],
)
def test_nothing_is_left_at_zero_alone(headers: dict[str, str], *, used_up: bool) -> None:
    assert is_used_up(reply(403, b"", **headers), HEADERS) == used_up


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"retry_after": "7", "reset": "9"}, 9),
        ({"retry_after": "7", "reset": "9", "left": "0"}, 9),
        ({"retry_after": "7", "reset": "9", "left": "3"}, 7),
        ({"retry_after": "0"}, None),
        ({}, None),
    ],
)
def test_the_later_wait_counts(headers: dict[str, str], wait: float | None) -> None:
    assert asked_wait(reply(429, b"", **headers), HEADERS) == wait


# --- the headers


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("160", 160),
        ("160, 160;w=1", 160),
        (' "a";r=5', None),
        ("1.5", 1.5),
        ("5s", 5),
        ("-5", None),
        ("", None),
        ("many", None),
        (" 7", 7),
        ("9" * 500, float("9" * 20)),
    ],
)
def test_the_first_number_of_a_header_counts(text: str, number: float | None) -> None:
    assert first_number(httpx.Headers({"x": text}), "x") == number
    assert first_number(httpx.Headers(), "x") is None
    assert first_number(httpx.Headers({"x": text}), None) is None


@given(
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=80),
    st.sampled_from(["epoch_s", "epoch_ms", "seconds", "iso"]),
)
def test_no_header_makes_anybody_wait_for_more_than_a_day(text: str, unit: str) -> None:
    headers = httpx.Headers({"x": text, "date": text, "link": text, "retry-after": text})
    wait = reset_after(headers, "x", unit, NOON)  # type: ignore[arg-type]  # one of them
    assert wait is None or 0 < wait <= MAX_RETRY_AFTER
    assert link(headers, "next", {}) is None or "<" in text


def test_a_reset_counts_from_the_date_of_the_reply() -> None:
    headers = httpx.Headers({"x": "1767268830", "date": "Thu, 01 Jan 2026 12:00:00 GMT"})
    assert reset_after(headers, "x", "epoch_s", NOON) == 30


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ('<https://a.example/x?c=1>; rel="next"', "https://a.example/x?c=1"),
        ("</x>;rel=next", "/x"),
        ("</x>; REL=Next", "/x"),
        ('</x>; rel="prev next last"', "/x"),
        ('</a>; rel="prev", </x>; rel="next"', "/x"),
        ('</a,b;c>; rel="next"', "/a,b;c"),
        ('</a>; title="</b>; rel=\\"next\\""; rel="self"', None),
        ('</a>; title="x, </b>"; rel="next"', "/a"),
        ('</a>; rel="next"; rel="self"', "/a"),  # of two the first counts
        ('</a>; rel="nextone"', None),
        ("</a>", None),
        ('rel="next"', None),
        ("<", None),
        ("</a; rel=next", None),
    ],
)
def test_a_link_is_found_by_its_relation(value: str, address: str | None) -> None:
    assert link(httpx.Headers({"link": value}), "next", {}) == address


def test_links_may_come_in_several_headers() -> None:
    headers = httpx.Headers([("Link", '</a>; rel="self"'), ("Link", '</b>; rel="next"; ok="yes"')])
    assert link(headers, "next", {}) == "/b"
    assert link(headers, "next", {"ok": "yes"}) == "/b"
    assert link(headers, "next", {"OK": "yes"}) == "/b"
    assert link(headers, "next", {"ok": "no"}) is None


def test_a_link_of_any_length_is_read_at_once() -> None:
    for hostile in ("<" * 100_000, '<a>; x="' + "\\" * 100_000, "<a>" + ";a=b" * 100_000):
        assert link(httpx.Headers({"link": hostile}), "next", {}) is None
