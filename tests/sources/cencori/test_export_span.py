"""What an export speaks for: never more than it surely shows."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditrelay.sources.cencori.export_span import CUTS, RANGES, Claims, Named, Rows, claims, named
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
    broken: bool = False,
) -> Rows:
    return Rows(count, oldest, newest, MS, broken)


def says(range_: str = "7d", day: datetime = D) -> Named:
    return Named("acme", RANGES.get(range_), day)


def claimed(name: Named | None, made: datetime | None, what: Rows, now: datetime = LATER) -> Claims:
    return claims(name, made, what, settle=MINUTE, now=now)


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
def test_a_documented_name_is_understood(
    name: str, expected: tuple[str, timedelta | None] | None
) -> None:
    found = named(name)
    assert (found and (found.slug, found.length)) == expected
    assert found is None or found.day == D


def test_a_file_that_says_when_it_was_made_covers_its_range_up_to_then() -> None:
    made = D + 9 * HOUR
    expected = Interval(made - 7 * DAY, made - MINUTE)
    assert claimed(says(), made, rows()) == Claims(covers=(expected,))
    assert claimed(says(), made, rows(0)) == Claims(covers=(expected,))


def test_all_there_is_goes_back_to_the_beginning() -> None:
    assert claimed(says("all"), D, rows()) == Claims(covers=(Interval(EPOCH, D - MINUTE),))


@pytest.mark.parametrize(
    ("newest", "end"),
    [(None, D), (D - HOUR, D), (D, D), (D + 5 * HOUR, D + 5 * HOUR), (D + DAY, D + DAY)],
)
def test_a_file_that_knows_its_day_alone_covers_what_it_does_whenever_it_was_made(
    newest: datetime | None, end: datetime
) -> None:
    expected = Interval(D + DAY - 7 * DAY, end - MINUTE)
    assert claimed(says(), None, rows(5, D - DAY, newest)) == Claims(covers=(expected,))


def test_an_hour_of_some_day_is_known_only_as_far_as_its_rows_reach() -> None:
    assert claimed(says("1h"), None, rows(0)) == Claims()
    assert claimed(says("1h"), None, rows(1, D, D + 22 * HOUR)) == Claims()
    known = claimed(says("1h"), None, rows(1, D, D + 23 * HOUR + 30 * MINUTE))
    assert known.covers == (Interval(D + 23 * HOUR, D + 23 * HOUR + 29 * MINUTE),)


@pytest.mark.parametrize("made", [None, D])
def test_a_file_of_another_name_covers_nothing(made: datetime | None) -> None:
    assert claimed(None, made, rows(5, D - DAY, D)) == Claims()


def test_a_name_that_cannot_be_that_of_the_file_is_not_believed() -> None:
    assert claimed(says(), D + 3 * DAY, rows()) == Claims()
    assert claimed(says(), D - 2 * DAY, rows()) == Claims()
    assert claimed(says(), None, rows(1, D, D + 25 * HOUR)) == Claims()


def test_the_future_is_not_covered() -> None:
    now = D + HOUR
    [span] = claimed(says(), D + 2 * HOUR, rows(), now).covers
    assert span.end == now - MINUTE
    assert claimed(says("1h"), D + 20 * HOUR, rows(), now) == Claims()


@pytest.mark.parametrize("count", CUTS)
def test_an_export_that_was_cut_covers_what_is_newer_than_its_oldest_row(count: int) -> None:
    oldest = D - 2 * DAY
    found = claimed(says(), D, rows(count, oldest, D - HOUR))
    assert found.covers == (Interval(oldest + MS, D - MINUTE),)
    assert found.gaps == ((Interval(D - 7 * DAY, oldest + MS), "export_cut"),)
    for other in (count - 1, count + 1):
        assert claimed(says(), D, rows(other, oldest, D - HOUR)).gaps == ()


def test_a_cut_export_of_no_known_range_tells_at_least_the_instant() -> None:
    oldest = D - 2 * DAY
    found = claimed(None, None, rows(1_000, oldest, D))
    assert found == Claims(gaps=((Interval(oldest, oldest + MS), "export_cut"),))


def test_a_file_that_breaks_off_is_like_one_that_was_cut() -> None:
    oldest = D - DAY
    found = claimed(says(), D, rows(7, oldest, D, broken=True))
    assert found.covers == (Interval(oldest + MS, D - MINUTE),)
    assert found.gaps == ((Interval(D - 7 * DAY, oldest + MS), "export_broken_off"),)
    nothing = claimed(says(), D, rows(1, broken=True))
    assert nothing.covers == ()
    assert nothing.gaps == ((Interval(D - 7 * DAY, D - MINUTE), "export_broken_off"),)


def test_a_cut_right_at_the_ends_of_the_range_makes_no_span_that_runs_backwards() -> None:
    before = claimed(says("24h"), D, rows(1_000, D - 2 * DAY, D))
    assert before.covers == (Interval(D - DAY, D - MINUTE),)
    after = claimed(says("24h"), D, rows(1_000, D, D))
    assert after == Claims(gaps=((Interval(D - DAY, D + MS), "export_cut"),))


AT = st.datetimes(datetime(2026, 3, 1), datetime(2026, 3, 20), timezones=st.just(UTC))  # noqa: DTZ001  # hypothesis wants bounds without a zone


@given(
    st.sampled_from([*RANGES, "all"]),
    AT,
    st.lists(AT, max_size=4),
    st.sampled_from([0, 3, 1_000]),
    st.booleans(),
)
def test_nothing_is_claimed_that_the_export_does_not_show(
    range_: str, made: datetime, times: list[datetime], count: int, in_json: bool
) -> None:
    length = RANGES.get(range_)
    start = EPOCH if length is None else made - length
    shown = sorted(at for at in times if start <= at <= made)
    what = rows(count if shown else 0, *((shown[0], shown[-1]) if shown else (None, None)))
    day = made.replace(hour=0, minute=0, second=0, microsecond=0)
    found = claimed(Named("acme", length, day), made if in_json else None, what)
    for span in found.covers:
        assert start <= span.start
        assert span.end <= made
        if found.gaps:
            assert span.start > shown[0]
    for span in found.covers:
        assert all(span.end <= gap.start or gap.end <= span.start for gap, _ in found.gaps)
