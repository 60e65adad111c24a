"""Numbers, durations and times as people read them."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditrelay.telemetry import humanize

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 s"),
        (0.4, "0 s"),
        (59.6, "1 min"),
        (95, "1 min 35 s"),
        (1200, "20 min"),
        (1230, "20 min"),
        (3600, "1 h"),
        (12_000, "3 h 20 min"),
        (72_001, "20 h"),
        (86_400 + 3599, "1 d"),
        (86_400 * 2 + 3600 * 4, "2 d 4 h"),
        (86_400 * 400, "400 d"),
        (86_400 * 29 + 3600 * 6, "29 d 6 h"),
    ],
)
def test_a_span_has_at_most_two_units(seconds: float, text: str) -> None:
    assert humanize.span(seconds) == text


@given(st.floats(0, 1e9))
def test_a_span_is_rounded_down_by_at_most_5_percent(seconds: float) -> None:
    units = {"d": 86400, "h": 3600, "min": 60, "s": 1}
    text = humanize.span(seconds).split()
    shown = sum(int(n) * units[u] for n, u in zip(text[::2], text[1::2], strict=True))
    assert shown <= round(seconds)
    assert shown >= 0.95 * round(seconds)


@pytest.mark.parametrize(
    ("ago", "text"),
    [
        (timedelta(minutes=59), "11:01:00"),
        (timedelta(hours=9), "03:00"),
        (timedelta(hours=13), "yesterday 23:00"),
        (timedelta(days=2), "Sun 8 Mar 12:00"),
        (timedelta(days=100), "Sun 30 Nov 2025 12:00"),
    ],
)
def test_a_time_is_as_short_as_is_clear_and_always_utc(ago: timedelta, text: str) -> None:
    assert humanize.timestamp(NOON - ago, NOON) == text
    elsewhere = timezone(timedelta(hours=11))
    assert (
        humanize.timestamp((NOON - ago).astimezone(elsewhere), NOON.astimezone(elsewhere)) == text
    )


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 bytes"),
        (1023, "1,023 bytes"),
        (1024, "1.0 KiB"),
        (2**31, "2.0 GiB"),
        (3e13, "27 TiB"),
    ],
)
def test_a_size_is_in_the_unit_that_suits_it(number: float, text: str) -> None:
    assert humanize.size(number) == text


def test_counts_and_lists() -> None:
    assert [humanize.count(n, "event") for n in (0, 1, 12_431)] == [
        "0 events",
        "1 event",
        "12,431 events",
    ]
    assert [humanize.join(list("abc")[:n]) for n in range(4)] == ["", "a", "a and b", "a, b and c"]
