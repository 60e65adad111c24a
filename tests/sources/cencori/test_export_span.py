"""What an export covers: never more than is certain."""

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditrelay.sources.cencori.export_span import (
    RANGES,
    TRUNCATED_AT,
    Coverage,
    FileName,
    RowStats,
    covered_span,
    parse_file_name,
)
from auditrelay.window import EPOCH, Interval

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
MS = timedelta(milliseconds=1)
MINUTE = timedelta(minutes=1)
D = datetime(2026, 3, 10, tzinfo=UTC)
LATER = datetime(2026, 4, 1, tzinfo=UTC)


def rows(
    count: int = 5,
    oldest: datetime | None = None,
    newest: datetime | None = None,
    *,
    broken_off: bool = False,
) -> RowStats:
    return RowStats(count, oldest, newest, MS, broken_off)


def file_name(range_: str = "7d", day: datetime = D) -> FileName:
    return FileName("acme", RANGES.get(range_), day)


def coverage(
    name: FileName | None, made: datetime | None, stats: RowStats, now: datetime = LATER
) -> Coverage:
    return covered_span(name, made, stats, settle=MINUTE, now=now)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("audit-log-acme-7d-2026-03-10.json", ("acme", 7 * DAY)),
        ("audit-log-acme-labs-24h-2026-03-10.csv", ("acme-labs", DAY)),
        ("audit-log-a-7d-b-1h-2026-03-10.csv", ("a-7d-b", HOUR)),
        ("audit-log-acme-all-2026-03-10.JSON", ("acme", None)),
        ("audit-log-acme-90d-2026-03-10 (1).json", ("acme", 90 * DAY)),
        ("audit-log-acme-90d-2026-03-10(12).json", ("acme", 90 * DAY)),
        ("audit-log-acme-30d-2026-03-10-2.json", ("acme", 30 * DAY)),
        ("audit-log-acme-30d-2026-03-10 2.json", ("acme", 30 * DAY)),
        ("audit-log-acme-31d-2026-03-10.json", None),
        ("audit-log-acme-7d-2026-02-30.json", None),
        ("audit-log--7d-2026-03-10.json", None),
        ("audit-log-acme-7d.json", None),
        ("my-audit-log-acme-7d-2026-03-10.json", None),
        ("audit-log-acme-7d-2026-03-10.txt", None),
        ("export.csv", None),
    ],
)
def test_a_documented_name_is_parsed(
    name: str, expected: tuple[str, timedelta | None] | None
) -> None:
    found = parse_file_name(name)
    assert (found and (found.slug, found.length)) == expected
    assert found is None or found.day == D


def test_a_file_with_the_time_of_the_export_covers_its_range_up_to_then() -> None:
    made = D + 9 * HOUR
    expected = Interval(made - 7 * DAY, made - MINUTE)
    assert coverage(file_name(), made, rows()) == Coverage(covers=(expected,))
    assert coverage(file_name(), made, rows(0)) == Coverage(covers=(expected,))


def test_the_range_all_goes_back_to_the_epoch() -> None:
    assert coverage(file_name("all"), D, rows()) == Coverage(covers=(Interval(EPOCH, D - MINUTE),))


@pytest.mark.parametrize(
    ("newest", "end"),
    [(None, D), (D - HOUR, D), (D, D), (D + 5 * HOUR, D + 5 * HOUR), (D + DAY, D + DAY)],
)
def test_a_file_with_only_a_day_covers_what_is_certain_for_any_time_of_that_day(
    newest: datetime | None, end: datetime
) -> None:
    expected = Interval(D + DAY - 7 * DAY, end - MINUTE)
    assert coverage(file_name(), None, rows(5, D - DAY, newest)) == Coverage(covers=(expected,))


def test_an_hour_of_some_day_is_covered_only_as_far_as_its_rows_reach() -> None:
    assert coverage(file_name("1h"), None, rows(0)) == Coverage()
    assert coverage(file_name("1h"), None, rows(1, D, D + 22 * HOUR)) == Coverage()
    known = coverage(file_name("1h"), None, rows(1, D, D + 23 * HOUR + 30 * MINUTE))
    assert known.covers == (Interval(D + 23 * HOUR, D + 23 * HOUR + 29 * MINUTE),)


@pytest.mark.parametrize("made", [None, D])
def test_a_file_of_another_name_covers_nothing(made: datetime | None) -> None:
    assert coverage(None, made, rows(5, D - DAY, D)) == Coverage()


def test_a_name_that_contradicts_the_file_is_ignored() -> None:
    assert coverage(file_name(), D + 3 * DAY, rows()) == Coverage()
    assert coverage(file_name(), D - 2 * DAY, rows()) == Coverage()
    assert coverage(file_name(), None, rows(1, D, D + 25 * HOUR)) == Coverage()


def test_the_future_is_not_covered() -> None:
    now = D + HOUR
    [span] = coverage(file_name(), D + 2 * HOUR, rows(), now).covers
    assert span.end == now - MINUTE
    assert coverage(file_name("1h"), D + 20 * HOUR, rows(), now) == Coverage()


@pytest.mark.parametrize("count", TRUNCATED_AT)
def test_a_truncated_export_covers_what_is_newer_than_its_oldest_row(count: int) -> None:
    oldest = D - 2 * DAY
    found = coverage(file_name(), D, rows(count, oldest, D - HOUR))
    assert found.covers == (Interval(oldest + MS, D - MINUTE),)
    assert found.gaps == ((Interval(D - 7 * DAY, oldest + MS), "export_cut"),)
    for other in (count - 1, count + 1):
        assert coverage(file_name(), D, rows(other, oldest, D - HOUR)).gaps == ()


def test_a_truncated_export_of_no_known_range_has_a_gap_at_its_oldest_row() -> None:
    oldest = D - 2 * DAY
    found = coverage(None, None, rows(1_000, oldest, D))
    assert found == Coverage(gaps=((Interval(oldest, oldest + MS), "export_cut"),))


def test_a_file_that_breaks_off_is_like_a_truncated_one() -> None:
    oldest = D - DAY
    found = coverage(file_name(), D, rows(7, oldest, D, broken_off=True))
    assert found.covers == (Interval(oldest + MS, D - MINUTE),)
    assert found.gaps == ((Interval(D - 7 * DAY, oldest + MS), "export_broken_off"),)
    nothing = coverage(file_name(), D, rows(1, broken_off=True))
    assert nothing.covers == ()
    assert nothing.gaps == ((Interval(D - 7 * DAY, D - MINUTE), "export_broken_off"),)


def test_truncation_at_the_ends_of_the_range_makes_no_span_that_runs_backwards() -> None:
    before = coverage(file_name("24h"), D, rows(1_000, D - 2 * DAY, D))
    assert before.covers == (Interval(D - DAY, D - MINUTE),)
    after = coverage(file_name("24h"), D, rows(1_000, D, D))
    assert after == Coverage(gaps=((Interval(D - DAY, D + MS), "export_cut"),))


AT = st.datetimes(datetime(2026, 3, 1), datetime(2026, 3, 20), timezones=st.just(UTC))  # noqa: DTZ001  # hypothesis wants bounds without a zone


@given(
    st.sampled_from([*RANGES, "all"]),
    AT,
    st.lists(AT, max_size=4),
    st.sampled_from([0, 3, 1_000]),
    st.booleans(),
)
def test_nothing_is_covered_that_the_export_does_not_contain(
    range_: str, made: datetime, times: list[datetime], count: int, in_json: bool
) -> None:
    length = RANGES.get(range_)
    start = EPOCH if length is None else made - length
    shown = sorted(at for at in times if start <= at <= made)
    stats = rows(count if shown else 0, *((shown[0], shown[-1]) if shown else (None, None)))
    day = made.replace(hour=0, minute=0, second=0, microsecond=0)
    found = coverage(FileName("acme", length, day), made if in_json else None, stats)
    for span in found.covers:
        assert start <= span.start
        assert span.end <= made
        if found.gaps:
            assert span.start > shown[0]
    for span in found.covers:
        assert all(span.end <= gap.start or gap.end <= span.start for gap, _ in found.gaps)


# --- names and rows of impossible times


@pytest.mark.parametrize("day", ["9999-12-31", "0001-01-01", "1999-12-31", "0000-00-00"])
@pytest.mark.parametrize("length", [*RANGES, "all"])
def test_an_export_of_an_impossible_day_has_no_documented_name(day: str, length: str) -> None:
    assert parse_file_name(f"audit-log-acme-{length}-{day}.csv") is None


@given(
    st.dates(date(2000, 1, 1), date(9998, 12, 31)),
    st.sampled_from([*RANGES, "all"]),
    st.none() | st.datetimes(timezones=st.just(UTC)),
    st.lists(
        st.integers(0, 253_370_764_800).map(lambda at: datetime.fromtimestamp(at, UTC)), max_size=2
    ),
    st.sampled_from([0, 1, *TRUNCATED_AT]),
    st.booleans(),
)
def test_every_span_can_be_calculated(
    day: date,
    length: str,
    made: datetime | None,
    times: list[datetime],
    count: int,
    broken_off: bool,  # hypothesis passes them by place
) -> None:
    name = parse_file_name(f"audit-log-acme-{length}-{day.isoformat()}.json")
    assert name is not None
    oldest, newest = min(times, default=None), max(times, default=None)
    found = coverage(name, made, rows(count, oldest, newest, broken_off=broken_off))
    for span in (*found.covers, *(each for each, _ in found.gaps)):
        assert span.start < span.end


def test_an_export_of_all_time_without_rows_covers_nothing() -> None:
    assert coverage(file_name("all"), D, rows(0)) == Coverage()
    assert coverage(file_name("all"), D, rows(1)).covers == (Interval(EPOCH, D - MINUTE),)
    assert coverage(file_name("24h"), D, rows(0)).covers == (Interval(D - DAY, D - MINUTE),)
