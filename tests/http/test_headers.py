"""The values of headers, whatever stands in them: within bounds, and never an error."""

import string
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.support.extent import extent

from auditrelay.http.headers import (
    MAX_AGE,
    MAX_RETRY_AFTER,
    age,
    date,
    http_date,
    location_host,
    retry_after,
    seconds,
)

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "120"}, 120),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "-5"}, 0),
        ({"retry-after": "99999999999999"}, MAX_RETRY_AFTER),
        ({"retry-after": "1e400"}, MAX_RETRY_AFTER),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "Sun, 01 Mar 2026 12:00:30 GMT"}, 30),
        ({"retry-after": "Sunday, 01-Mar-26 12:00:30 GMT"}, 30),
        ({"retry-after": "Sun Mar  1 12:00:30 2026"}, 30),
        ({"retry-after": "Sun, 01 Mar 2026 11:00:00 GMT"}, 0),
        ({"retry-after": "Sun, 01 Mar 9999 11:00:00 GMT"}, MAX_RETRY_AFTER),
        ({"retry-after": "Sun, 99 Mar 2026 99:00:00 GMT"}, None),
        ({"retry-after": "Sun, 01 Mar 99999999999999999999 11:00:00 GMT"}, None),
        (  # the peer's clock is an hour behind: what counts is the distance
            {
                "retry-after": "Sun, 01 Mar 2026 11:00:30 GMT",
                "date": "Sun, 01 Mar 2026 11:00:00 GMT",
            },
            30,
        ),
        ({"retry-after": "Sun, 01 Mar 2026 12:00:30 GMT", "date": "yesterday"}, 30),
        ({"retry-after": "9" * 5000}, MAX_RETRY_AFTER),
        ({"retry-after": "-" + "9" * 5000}, 0),
        ({"retry-after": "5, 9"}, 9),
        ({"retry-after": " 7 "}, 7),
        ({"retry-after": "1_000"}, None),
        ({"retry-after": "Sun, 01 Mar 2026 12:00:30 GMT" + " " * 90_000}, None),
    ],
)
def test_every_form_of_retry_after_is_read(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(httpx.Headers(headers), NOW) == seconds


def test_of_two_waits_the_longer_one_counts() -> None:
    waits = ("5", "Sun, 01 Mar 2026 12:00:30 GMT", "9")
    assert retry_after(httpx.Headers([("Retry-After", wait) for wait in waits]), NOW) == 30


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0),
        ("0", 0),
        ("86400", 86400),
        (" 7 ", 7),
        ("007", 7),
        ("5, 9", 5),
        ("2147483648", MAX_AGE),
        ("99999999999", MAX_AGE),
        ("9" * 5000, MAX_AGE),
        ("0" * 5000 + "7", 7),
        ("-5", 0),
        ("1.5", 0),
        ("1e400", 0),
        ("٣", 0),
        ("soon", 0),
    ],
)
def test_an_age_that_is_too_large_counts_as_the_largest_one(text: str, expected: int) -> None:
    assert age(httpx.Headers([(b"Age", text.encode())])) == timedelta(seconds=expected)


def test_of_two_ages_and_of_two_dates_the_first_one_counts() -> None:
    headers = httpx.Headers([("Age", "5"), ("Age", "7"), ("Date", "x"), ("Date", "y")])
    assert (age(headers), date(headers)) == (timedelta(seconds=5), None)


@pytest.mark.parametrize(
    "text",
    [
        "Fri, 31 Dec 9999 23:59:59 -2359",
        "Sun, 01 Mar 2026 12:00:00 +99999999",
        "Sun, 01 Mar 2026 12:00:00 GMT" * 100,
        "Sat, 01 Jan 0000 00:00:00 GMT",
        "Fri, 01 Mar 0026 12:00:00 +0000",
        "Sat, 01 Jan 10000 00:00:00 GMT",
    ],
)
def test_a_date_that_no_calendar_has_is_none(text: str) -> None:
    assert http_date(text) is None


@pytest.mark.parametrize(
    ("location", "host"),
    [
        ("https://a.example/x", "a.example"),
        ("//b.example", "b.example"),
        ("/login", None),
        ("http://[broken", None),
        ("http://\u2100.example", None),
        ("", None),
    ],
)
def test_the_host_of_a_redirect_is_read_or_none(location: str, host: str | None) -> None:
    assert location_host(httpx.Headers([(b"Location", location.encode())])) == host


VALUES = st.one_of(
    st.binary(max_size=80),
    st.text(string.digits + "+-.eE, ", max_size=40).map(str.encode),
    st.text(string.ascii_letters + string.digits + " :,+-GMT", max_size=70).map(str.encode),
    st.integers().map(lambda number: str(number).encode()),
)


@given(VALUES, VALUES)
@example(b"9" * 60_000, b"1" * 60_000)
@settings(max_examples=extent(100, 400), deadline=None)
def test_no_value_is_an_error(value: bytes, other: bytes) -> None:
    names = [b"Retry-After", b"Age", b"Date", b"Location", b"X-RateLimit-Reset"]
    headers = httpx.Headers([(name, each) for name in names for each in (value, other)])
    wait = retry_after(headers, NOW)
    assert wait is None or 0 <= wait <= MAX_RETRY_AFTER
    assert timedelta(0) <= age(headers) <= timedelta(seconds=MAX_AGE)
    # What is done with them: neither is an overflow.
    assert NOW - age(headers) - (date(headers) or NOW) < timedelta.max
    reset = seconds(headers, "x-ratelimit-reset")
    assert reset is None or 0 <= reset <= MAX_RETRY_AFTER
    location_host(headers)
