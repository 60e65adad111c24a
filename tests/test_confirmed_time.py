"""What time it certainly is, by our clock and those of peers."""

from datetime import UTC, datetime, timedelta

import pytest
from tests.support.clock import FakeClock

from auditrelay.clock import Clock
from auditrelay.confirmed_time import EARLIEST, LEAP, PACE, REPEATED, TOLERANCE

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
YEARS = timedelta(days=730)
FRESH = timedelta(0)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOON)


def test_with_nothing_but_our_own_clock_it_is_that(clock: FakeClock) -> None:
    assert clock.confirmed.certain() == clock.confirmed.certain("calls") == NOON
    assert clock.confirmed.now("calls") == NOON
    assert not clock.confirmed.is_bounded
    assert not clock.confirmed.heard_once.is_set()


def test_clocks_that_agree_show_ours(clock: FakeClock) -> None:
    clock.confirmed.hear("calls", NOON - TOLERANCE, FRESH)
    assert clock.confirmed.certain("calls") == clock.confirmed.now("calls") == NOON
    assert clock.confirmed.differences() == {}
    assert clock.confirmed.heard_once.is_set()


def test_those_that_agree_with_our_clock_are_counted(clock: FakeClock) -> None:
    assert clock.confirmed.agreeing() == 0
    clock.confirmed.hear("calls", NOON - TOLERANCE, FRESH)
    clock.confirmed.hear("splunk", NOON - HOUR, FRESH)
    assert clock.confirmed.agreeing() == 1
    clock.set(NOON - HOUR)
    assert clock.confirmed.agreeing() == 1


@pytest.mark.parametrize("jump", [2 * TOLERANCE, HOUR, YEARS])
def test_a_clock_that_is_ahead_makes_nothing_certain(clock: FakeClock, jump: timedelta) -> None:
    clock.confirmed.hear("calls", NOON, FRESH)
    clock.set(NOON + jump)
    assert clock.confirmed.certain("calls") == NOON
    assert clock.confirmed.certain("another") == clock.confirmed.certain() == NOON
    assert clock.confirmed.now("calls") == NOON
    assert clock.confirmed.differences() == {"calls": jump}
    clock.advance(HOUR)
    assert clock.confirmed.certain("calls") == NOON + HOUR


@pytest.mark.parametrize("jump", [2 * TOLERANCE, HOUR, YEARS])
def test_a_vendor_whose_clock_is_ahead_makes_nothing_certain(
    clock: FakeClock, jump: timedelta
) -> None:
    clock.confirmed.hear("calls", NOON + jump, FRESH)
    assert clock.confirmed.certain("calls") == clock.confirmed.certain() == NOON
    assert clock.confirmed.now("calls") == NOON + jump
    assert clock.confirmed.differences() == {"calls": -jump}


def test_of_a_clock_that_is_behind_two_peers_are_witnesses(clock: FakeClock) -> None:
    clock.confirmed.hear("calls", NOON + 3 * HOUR, FRESH)
    clock.confirmed.hear("splunk", NOON + 3 * HOUR - SECOND, FRESH)
    assert clock.confirmed.certain("calls") == NOON + 3 * HOUR - SECOND
    assert clock.confirmed.certain() == NOON


@pytest.mark.parametrize("jump", [2 * TOLERANCE, HOUR, YEARS])
def test_peers_that_are_ahead_by_one_shift_do_not_outvote_a_clock_that_another_confirms(
    clock: FakeClock, jump: timedelta
) -> None:
    for vendor in ("access", "calls", "voice"):
        clock.confirmed.hear(vendor, NOON + jump, FRESH)
    assert clock.confirmed.certain("calls") == NOON + jump
    clock.confirmed.hear("splunk", NOON - SECOND, FRESH)
    assert clock.confirmed.certain("calls") == clock.confirmed.certain() == NOON
    # What a peer says that is behind stays the bound for what is written about it.
    clock.confirmed.hear("late", NOON - jump, FRESH)
    assert clock.confirmed.certain("late") == NOON - jump
    # Once our clock has jumped to theirs, the one that confirmed it does so no longer.
    clock.set(NOON + 2 * jump)
    assert clock.confirmed.certain("calls") == NOON + jump


def test_an_old_reply_of_a_cache_confirms_only_what_it_says(clock: FakeClock) -> None:
    clock.confirmed.hear("calls", NOON - HOUR, HOUR)
    assert clock.confirmed.certain("calls") == NOON - HOUR
    assert clock.confirmed.now("calls") == NOON
    clock.confirmed.hear("calls", NOON, FRESH)
    clock.confirmed.hear("calls", NOON - HOUR, HOUR)
    assert clock.confirmed.certain("calls") == NOON
    clock.confirmed.hear("calls", NOON, timedelta(seconds=2**31))
    clock.set(NOON + YEARS)
    assert clock.confirmed.certain("calls") == NOON


@pytest.mark.parametrize(
    "date",
    [
        datetime.min.replace(tzinfo=UTC),
        datetime.max.replace(tzinfo=UTC),
        datetime.min.replace(tzinfo=UTC) + timedelta(1),
        datetime(1970, 1, 1, tzinfo=UTC),
    ],
)
def test_a_date_that_no_server_can_have_is_no_claim(clock: FakeClock, date: datetime) -> None:
    clock.confirmed.hear("calls", date, timedelta(seconds=2**31))
    assert not clock.confirmed.has_heard("calls")
    assert clock.confirmed.certain("calls") == NOON


def test_without_any_reply_our_clock_goes_on_from_what_the_last_run_knew(clock: FakeClock) -> None:
    clock.confirmed.resume(NOON)
    clock.set(NOON + LEAP)
    assert clock.confirmed.certain() == NOON + LEAP
    clock.set(NOON + YEARS)
    assert clock.confirmed.certain() == NOON + LEAP
    clock.advance(4)
    assert clock.confirmed.certain() == NOON + LEAP + 4 * PACE * SECOND
    assert clock.confirmed.mark == clock.confirmed.certain()
    clock.set(NOON - YEARS)
    assert clock.confirmed.certain() == NOON - YEARS
    assert clock.confirmed.mark == NOON, "a clock that is behind takes nothing back"
    clock.confirmed.hear("calls", NOON - HOUR, FRESH)
    clock.set(NOON - HOUR)
    assert clock.confirmed.mark == NOON - HOUR, "but a reply does"


def test_a_real_clock_that_agrees_differs_by_nothing_at_all() -> None:
    clock = Clock()
    clock.confirmed.hear("calls", clock.now().replace(microsecond=0), FRESH)
    assert clock.confirmed.ahead_of("calls") == FRESH
    assert clock.confirmed.differences() == {}


@pytest.mark.parametrize("age", [timedelta(minutes=30), timedelta(seconds=2**31)])
def test_an_age_moves_no_clock_beyond_ours(clock: FakeClock, age: timedelta) -> None:
    clock.confirmed.hear("calls", NOON - HOUR / 2, age)
    assert clock.confirmed.ahead_of("calls") == FRESH
    clock.set(NOON - HOUR)
    assert clock.confirmed.ahead_of("calls") == -HOUR / 2, "it was made later than ours shows"


def test_a_clock_that_is_ahead_of_all_that_a_cached_reply_can_mean_is_ahead(
    clock: FakeClock,
) -> None:
    clock.confirmed.hear("calls", NOON - HOUR, HOUR / 2)
    assert clock.confirmed.ahead_of("calls") == HOUR / 2


# --- one wrong date, and none after it


def test_a_peer_that_says_no_time_any_more_is_not_held_to_what_it_said_once(
    clock: FakeClock,
) -> None:
    clock.confirmed.hear("calls", NOON - YEARS, FRESH)
    clock.advance(REPEATED)
    clock.confirmed.hear("calls", None, FRESH)
    assert clock.confirmed.certain("calls") < NOON, "it may say it again"
    clock.advance(1)
    clock.confirmed.hear("calls", None, FRESH)
    assert clock.confirmed.certain("calls") == clock.confirmed.now("calls") == clock.now()
    assert clock.confirmed.differences() == {}


def test_what_is_no_time_takes_nothing_back_at_once(clock: FakeClock) -> None:
    clock.confirmed.hear("calls", NOON - YEARS, FRESH)
    clock.advance(2 * REPEATED)
    clock.confirmed.hear("calls", NOON - YEARS, FRESH)
    clock.confirmed.hear("calls", EARLIEST - SECOND, FRESH)
    assert clock.confirmed.has_heard("calls")


def test_a_jump_of_our_clock_is_not_believed_for_want_of_another_date(clock: FakeClock) -> None:
    clock.confirmed.hear("calls", NOON, FRESH)
    clock.set(NOON + YEARS)
    clock.advance(10 * REPEATED)
    clock.confirmed.hear("calls", None, FRESH)
    assert clock.confirmed.certain("calls") == NOON + 10 * REPEATED * SECOND


def test_without_its_word_the_bounds_of_the_last_run_hold(clock: FakeClock) -> None:
    clock.confirmed.resume(NOON)
    clock.set(NOON + YEARS)
    clock.confirmed.hear("calls", NOON, FRESH)
    clock.advance(REPEATED + 1)
    clock.confirmed.hear("calls", None, FRESH)
    assert clock.confirmed.certain("calls") == NOON + LEAP + PACE * (REPEATED + 1) * SECOND
