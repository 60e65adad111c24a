"""Windows and intervals: no point in time is skipped, and none is claimed unread."""

from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditrelay.window import (
    MAX_WINDOW,
    Interval,
    covered_until,
    holes,
    iso,
    micros,
    moment,
    next_window,
    overdue,
    slices,
)

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)

seconds = st.integers(0, 400)
spans = st.tuples(seconds, seconds).filter(lambda pair: pair[0] != pair[1]).map(sorted)
moments = st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001  # hypothesis wants them naive


def interval(pair: Any) -> Interval:
    return Interval(NOON + pair[0] * SECOND, NOON + pair[1] * SECOND)


def contained(intervals: list[Interval]) -> set[int]:
    """Return the seconds after noon that *intervals* contain."""
    return {
        second
        for each in intervals
        for second in range((each.start - NOON) // SECOND, (each.end - NOON) // SECOND)
    }


@pytest.mark.parametrize("length", [timedelta(0), -SECOND])
def test_an_interval_that_is_empty_or_runs_backwards_is_refused(length: timedelta) -> None:
    with pytest.raises(ValueError, match="must end after it starts"):
        Interval(NOON, NOON + length)


@given(moments)
def test_microseconds_and_times_are_converted_exactly(at: datetime) -> None:
    assert moment(micros(at)) == at


@given(st.lists(spans.map(interval), max_size=8))
def test_the_checkpoint_is_the_first_time_that_was_not_read(ledger: list[Interval]) -> None:
    reached = (covered_until(NOON, ledger) - NOON) // SECOND
    read = contained(ledger)
    assert reached not in read
    assert read.issuperset(range(reached))


@given(spans.map(interval), st.lists(spans.map(interval), max_size=8))
def test_the_holes_are_what_is_wanted_and_not_in_the_ledger(
    wanted: Interval, ledger: list[Interval]
) -> None:
    found = list(holes(wanted, ledger))
    assert contained(found) == contained([wanted]) - contained(ledger)
    assert found == sorted(found)


@given(
    st.lists(st.integers(0, 20 * 86_400), min_size=1, max_size=12),
    st.integers(0, 3600),
    st.integers(1, 7200),
    st.integers(1, 60 * 86_400),
)
def test_however_the_clock_moves_no_time_is_skipped_and_no_window_is_too_long(
    pauses: list[int], settle: int, overlap: int, further: int
) -> None:
    checkpoint = now = NOON
    # the clock may also step back: every third pause does
    for number, pause in enumerate(pauses):
        now += SECOND * (pause if number % 3 < 2 else -pause // 4)
        windows = 0
        while window := next_window(
            checkpoint,
            now,
            settle=settle * SECOND,
            overlap=overlap * SECOND,
            max_window=(overlap + further) * SECOND,
        ):
            assert window.start <= checkpoint, "time was skipped"
            assert window.end > checkpoint, "the checkpoint does not move"
            assert window.end <= now - settle * SECOND, "not settled yet"
            assert window.length <= min(MAX_WINDOW, (overlap + further) * SECOND)
            checkpoint = window.end
            windows += 1
            if windows > 50:
                break
        else:
            assert checkpoint >= now - settle * SECOND, "settled time was not read"


def test_an_outage_of_45_days_is_two_windows_and_not_a_loss() -> None:
    def step(checkpoint: datetime) -> Interval | None:
        return next_window(
            checkpoint, NOON, settle=SECOND, overlap=600 * SECOND, max_window=90 * DAY
        )

    first = step(NOON - 45 * DAY)
    assert first is not None
    assert first.length == MAX_WINDOW
    second = step(first.end)
    assert second is not None
    assert second.start < first.end < second.end == NOON - SECOND
    assert step(second.end) is None


@given(spans.map(interval), st.integers(1, 400))
def test_slices_are_the_whole_and_meet(span: Interval, longest: int) -> None:
    parts = list(slices(span, longest * SECOND))
    assert (parts[0].start, parts[-1].end) == (span.start, span.end)
    assert all(one.end == other.start for one, other in pairwise(parts))
    assert all(part.length == longest * SECOND for part in parts[:-1])
    assert parts[-1].length <= longest * SECOND


@pytest.mark.parametrize(
    ("age", "limit", "given_up"),
    [
        (10 * DAY, None, None),
        (DAY, DAY, None),
        (10 * DAY, 3 * DAY, Interval(NOON - 10 * DAY, NOON - 3 * DAY)),
    ],
)
def test_only_what_lies_beyond_the_limit_is_given_up(
    age: timedelta, limit: timedelta | None, given_up: Interval | None
) -> None:
    assert overdue(NOON - age, NOON, catch_up_limit=limit) == given_up


def test_a_time_is_written_in_utc_with_a_z() -> None:
    at = datetime(2026, 3, 1, 2, tzinfo=timezone(timedelta(hours=2)))
    assert iso(at) == "2026-03-01T00:00:00Z"
    assert iso(at, "milliseconds") == "2026-03-01T00:00:00.000Z"
