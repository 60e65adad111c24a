"""Bounds are written in every format, and records' times are read, whatever stands there."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from auditrelay.descriptions import times
from auditrelay.window import moment

AT = datetime(2026, 3, 1, 5, 6, 7, 123456, tzinfo=timezone(timedelta(hours=2)))


@pytest.mark.parametrize(
    ("name", "granule", "text"),
    [
        ("iso_s", timedelta(seconds=1), "2026-03-01T03:06:07Z"),
        ("iso_ms", timedelta(milliseconds=1), "2026-03-01T03:06:07.123Z"),
        ("iso_us", timedelta(microseconds=1), "2026-03-01T03:06:07.123456Z"),
        ("date", timedelta(days=1), "2026-03-01"),
        ("epoch_s", timedelta(seconds=1), "1772334367"),
        ("epoch_ms", timedelta(milliseconds=1), "1772334367123"),
        ("epoch_us", timedelta(microseconds=1), "1772334367123456"),
        ("%d.%m.%Y %H:%M", timedelta(minutes=1), "01.03.2026 03:06"),
        ("900%Y%m%d%H%M%S%L000", timedelta(milliseconds=1), "90020260301030607123000"),
    ],
)
def test_a_bound_is_written_in_its_format(name: str, granule: timedelta, text: str) -> None:
    found = times.writer(name)
    assert (found.granule, found.write(AT)) == (granule, text)
    assert found.is_number == name.startswith("epoch")


def test_years_have_four_digits() -> None:
    assert times.writer("date").write(datetime(33, 1, 2, tzinfo=UTC)) == "0033-01-02"


@pytest.mark.parametrize("make", [times.writer, times.reader])
@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("epoch", "'epoch' is no format: write one of "),
        ("", "'' is no format"),
        ("%Y-%m-%d %I", "has %I; only %Y %m %d %H %M %S %L are known"),
        ("%Y-%m-%d%", "has %; only"),
        ("%Y-%m", "has no %d, so it does not tell one time"),
        ("%Y%m%d%S", "has no %H, so it does not tell one time"),
        ("%Y%Y%m%d", "has %Y twice"),
    ],
)
def test_what_is_no_format_is_refused(make: Any, name: str, problem: str) -> None:
    with pytest.raises(ValueError, match=r"format|has") as caught:
        make(name)
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "micros"),
    [
        ("iso", "2026-03-01T03:06:07.123Z", 1_772_334_367_123_000),
        ("epoch_s", 1_772_334_367, 1_772_334_367_000_000),
        ("epoch_s", "1772334367", 1_772_334_367_000_000),
        ("epoch_s", "-1.5", -1_500_000),
        ("epoch_ms", 1_772_334_367_123, 1_772_334_367_123_000),
        ("epoch_ms", 1_772_334_367_123.25, 1_772_334_367_123_250),
        ("epoch_us", 1_772_334_367_123_456, 1_772_334_367_123_456),
        ("epoch_s_float", 1_772_334_367.123456, 1_772_334_367_123_456),
        ("%Y-%m-%d %H:%M", "2026-03-01 03:06", 1_772_334_360_000_000),
        ("%Y%m%d", "20260301", 1_772_323_200_000_000),
    ],
)
def test_a_time_is_read_in_its_format(name: str, value: object, micros: int) -> None:
    assert times.reader(name)(value) == (micros, "source")


@pytest.mark.parametrize("name", [*times.READ, "%Y-%m-%d %H:%M:%S.%L"])
@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        [],
        {},
        {"$date": 5},
        "",
        "soon",
        "2026-13-01 05:06:07.000",
        "٢٠٢٦-03-01 05:06:07.000",
        10**40,
        -(10**40),
        "9" * 400,
        float("nan"),
        float("inf"),
        1e300,
        "\ud800",
    ],
)
def test_what_is_no_time_is_none(name: str, value: object) -> None:
    assert times.reader(name)(value) is None


@pytest.mark.parametrize(
    "value",
    [1_772_334_367, 1_772_334_367.0, 1_772_334_367_000, "1772334367", {"$date": 1772334367000}],
)
def test_a_vendor_that_writes_otherwise_than_in_iso_is_read_all_the_same(value: Any) -> None:
    assert times.reader("iso")(value) == (1_772_334_367_000_000, "source")


@pytest.mark.parametrize("value", [True, None, 5, 1e308, [1_772_334_367], {}])
def test_what_can_be_no_time_is_none(value: Any) -> None:
    assert times.reader("iso")(value) is None


@pytest.mark.parametrize("name", ["iso_ms", "epoch_s", "epoch_ms", "epoch_us"])
def test_what_is_written_is_read_again(name: str) -> None:
    written = times.writer(name)
    found = times.reader("iso" if name.startswith("iso") else name)(written.write(AT))
    assert found is not None
    assert timedelta(0) <= AT - moment(found[0]) < written.granule
