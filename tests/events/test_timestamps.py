"""Times of vendors, and times for SIEMs."""

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditrelay.events.timestamps import epoch_seconds, iso_ms, iso_us, parse

BASE = 1_778_487_301_000_000  # 2026-05-11T08:15:01Z


@pytest.mark.parametrize(
    ("text", "at", "quality"),
    [
        ("2026-05-11T08:15:01Z", BASE, "source"),
        ("2026-05-11T08:15:01+00:00", BASE, "source"),
        ("2026-05-11T08:15:01.990052Z", BASE + 990_052, "source"),
        ("2026-05-11T08:15:01.990052+00:00", BASE + 990_052, "source"),
        ("2026-05-11T08:15:01.5Z", BASE + 500_000, "source"),
        ("2026-05-11T10:15:01.5+02:00", BASE + 500_000, "source"),
        ("2026-05-11T02:45:01-0530", BASE, "source"),
        ("2026-05-11T06:15:01-02", BASE, "source"),
        ("2026-05-11t08:15:01z", BASE, "source"),
        ("2026-05-11 08:15:01Z", BASE, "source"),
        (" 2026-05-11T08:15:01Z ", BASE, "source"),
        ("2026-05-11T08:15:01,5Z", BASE + 500_000, "source"),
        ("2026-05-11T08:15:01", BASE, "assumed_utc"),
        ("2026-05-11T08:15:01.25", BASE + 250_000, "assumed_utc"),
        ("2026-05-11", BASE - 29_701_000_000, "assumed_utc"),
        ("2026-W20-1T08:15:01Z", BASE, "source"),
        ("2026-05-11T08:15:01.1234567894444Z", BASE + 123_456, "source"),
        ("2026-05-11T08:15:01.999999999Z", BASE + 999_999, "source"),
        ("1969-12-31T23:59:59.999999Z", -1, "source"),
        ("0001-01-01T00:00:00Z", -62_135_596_800_000_000, "source"),
        ("9999-12-31T23:59:59.999999Z", 253_402_300_799_999_999, "source"),
    ],
)
def test_a_time_is_read_to_the_microsecond_and_never_rounded_up(
    text: str, at: int, quality: str
) -> None:
    assert parse(text) == (at, quality)


def test_a_leap_second_is_the_last_microsecond_of_its_minute() -> None:
    assert parse("2016-12-31T23:59:60Z") == parse("2016-12-31T23:59:59.999999Z")
    assert parse("2016-12-31T23:59:60.7Z") == parse("2016-12-31T23:59:59.999999Z")


def test_twenty_four_hours_are_the_next_midnight() -> None:
    assert parse("2026-05-11T24:00:00Z") == parse("2026-05-12T00:00:00Z")
    assert parse("2026-05-11T24:00:01Z") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "1767323045",
        "2026-13-01T00:00:00Z",
        "2026-02-29T00:00:00Z",
        "2026-05-11T25:00:00Z",
        "2026-05-11T08:60:00Z",
        "2026-05-11T08:15:61Z",
        "2026-05-11T08:15: 1Z",
        "2026-05-11T08:15:+1Z",
        "2026-05-11T08:15:01.1_0Z",
        "2026-05-11T08:15:01.٣Z",  # an Arabic digit
        "2026-05-11T08:15:01.5Zebra",
        "2026-05-11T08:15:01+24:00",
        "0001-01-01T00:00:00+01:00",
        "9999-12-31T23:59:59-01:00",
        "0000-01-01T00:00:00Z",
        "2026-05-11T08:15:01Z" * 1000,
    ],
)
def test_a_text_that_is_not_a_time_is_refused(text: str) -> None:
    parse("2026-05-11T08:15:01Z")  # the minute is cached now
    assert parse(text) is None


@given(
    st.datetimes(min_value=datetime(1, 1, 3), max_value=datetime(9999, 12, 29)),  # noqa: DTZ001
    st.integers(min_value=-1439, max_value=1439),
)
def test_every_time_in_every_zone_parses_as_in_the_standard_library(
    time: datetime, ahead: int
) -> None:
    local = time.replace(tzinfo=timezone(timedelta(minutes=ahead)))
    expected = (local - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert parse(local.isoformat()) == (expected, "source")
    assert parse(iso_us(expected)) == (expected, "source")
    assert parse(iso_ms(expected)) == (expected - expected % 1000, "source")


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    parse(text)


@given(st.integers(min_value=-62_135_596_800_000_000, max_value=253_402_300_799_999_999))
def test_epoch_seconds_are_a_plain_decimal_that_loses_nothing(at: int) -> None:
    text = epoch_seconds(at)
    assert isinstance(json.loads(text), float)
    assert "e" not in text.lower()
    assert int(text.replace(".", "")) == at


def test_epoch_seconds_before_1970_are_negative() -> None:
    assert epoch_seconds(-1) == "-0.000001"
    assert epoch_seconds(-1_500_000) == "-1.500000"
    assert epoch_seconds(0) == "0.000000"
