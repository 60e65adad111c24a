"""Times of vendors, and times for SIEMs."""

import json
import math
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditrelay.events.timestamps import epoch_seconds, iso_ms, iso_us, parse, read

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


@pytest.mark.parametrize(
    "value",
    [
        "2026-05-11 08:15:01 UTC",
        "2026-05-11 08:15:01 gmt",
        "2026-05-11T08:15:01Z[UTC]",
        "2026-05-11T10:15:01+02:00[Europe/Berlin]",
        "2026-05-11T06:15:01\N{MINUS SIGN}02:00",
        "Mon, 11 May 2026 08:15:01 +0000",
        "Mon, 11 May 2026 10:15:01 +0200",
        "11 May 2026 08:15:01 GMT",
        "Mon, 11 May 2026 04:15:01 EDT",
        "Monday, 11-May-2026 08:15:01 GMT",
        "/Date(1778487301000)/",
        "/Date(1778487301000+0200)/",
        "1778487301",
        "1778487301000",
        "1778487301.000",
        1778487301,
        1778487301.0,
        1778487301000,
        1778487301000000,
        1778487301000000999,
        {"$date": 1778487301000},
        {"$date": {"$numberLong": "1778487301000"}},
        {"$date": "2026-05-11T08:15:01Z"},
        {"seconds": 1778487301, "nanos": 999},
        {"_seconds": "1778487301", "_nanoseconds": "999"},
    ],
)
def test_every_other_spelling_that_machines_write_is_read(value: object) -> None:
    assert read(value) == (BASE, "source")


def test_a_date_as_in_mail_without_a_zone_is_taken_for_utc() -> None:
    assert parse("Mon, 11 May 2026 08:15:01") == (BASE, "assumed_utc")


@pytest.mark.parametrize(
    ("value", "micros"),
    [(1778487301.990052, 990_052), ("1778487301990", 990_000), (1778487301990052, 990_052)],
)
def test_the_fraction_of_a_number_is_kept_to_the_microsecond(value: object, micros: int) -> None:
    assert read(value) == (BASE + micros, "source")


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, [], {}, [1778487301], 10**20, -(10**20), 1e300, math.nan, math.inf),
        {"$date": None},
        {"$date": {"$date": {"$date": {"$date": 1778487301000}}}},
        {"seconds": True},
        {"seconds": 1778487301, "nanos": -1},
        {"seconds": "9" * 60},
        pytest.param(10**5000, id="huge"),
        pytest.param({"seconds": 10**5000}, id="huge seconds"),
        pytest.param({"seconds": 1, "nanos": 10**5000}, id="huge nanos"),
    ],
)
def test_a_value_that_is_not_a_time_is_refused(value: object) -> None:
    assert read(value) is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: st.dictionaries(
        st.sampled_from(["$date", "$numberLong", "seconds", "nanos", "_seconds"]), inner
    ),
    max_leaves=6,
)


@given(json_values | st.from_regex(r"/Date\(-?\d+\)/|\d+\.\d+|.{3}, \d\d [A-Z][a-z]{2} \d{4} .*"))
def test_no_value_at_all_raises(value: object) -> None:
    found = read(value)
    assert found is None or iso_us(found[0])


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
        "17673230",
        "176732304500000000000",
        "1.767323045e9",
        "2026-05-11T08:15:01[Europe/Berlin]",
        "Mon, 11 May 2026 08:15:01 CEST",
        "31 Feb 2026 08:15:01 GMT",
        "/Date(99999999999999999)/",
        "0000-01-01T00:00:00Z",
        "10000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+00:01",
        "9999-12-31T23:59:59-00:01",
        "[UTC]",
        " UTC",
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
