"""What is said of late events, and which settings would have caught them."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditrelay.status.lateness import CAUGHT, IN_TIME, assess
from auditrelay.store import Lateness

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


def test_nothing_is_said_before_there_is_any_event() -> None:
    assert assess(0, [], settle=MINUTE, overlap=HOUR) is None


def test_without_a_late_event_it_is_said_plainly_and_nothing_is_to_be_changed() -> None:
    told = assess(12_345, [], settle=MINUTE, overlap=HOUR)
    assert told is not None
    assert told.sentence == "100% of 12,345 events were there when their time was first read."
    assert (told.settle, told.overlap) == (MINUTE, HOUR)


def test_who_found_how_many_and_how_late_the_last_was_is_in_the_sentence() -> None:
    late = [
        Lateness("poll", 64, 5),
        Lateness("second look 1h", 4096, 3),
        Lateness("second look 1h", 8192, 1),
        Lateness("second look 24h", 131_072, 1),
    ]
    told = assess(1000, late, settle=MINUTE, overlap=HOUR)
    assert told is not None
    assert told.sentence == (
        "99 % of 1,000 events were there when their time was first read; 10 came later, 2d at "
        "the most, and were found (poll 5, second look 1h 4, second look 24h 1)."
    )


@pytest.mark.parametrize(
    ("seconds", "spelled"),
    [(1, "1s"), (32, "32s"), (64, "2m"), (2048, "35m"), (4096, "2h"), (65_536, "19h"),
     (131_072, "2d"), (1 << 30, "12428d")],
)  # fmt: skip
def test_the_longest_is_never_spelled_shorter_than_it_was(seconds: int, spelled: str) -> None:
    told = assess(10, [Lateness("poll", seconds, 1)], settle=MINUTE, overlap=HOUR)
    assert told is not None
    assert f"came later, {spelled} at the most" in told.sentence


@pytest.mark.parametrize(
    ("total", "late", "said"),
    [
        (1_000_000, 1, "99.9999 %"),
        (10_000_000, 1, "99.99999 %"),
        (10_000_000_000, 1, "99.99999 %"),
        (3, 1, "66.66666 %"),
        (4, 4, "0%"),
    ],
)
def test_a_share_is_never_rounded_to_a_hundred(total: int, late: int, said: str) -> None:
    told = assess(total, [Lateness("poll", 60, late)], settle=MINUTE, overlap=HOUR)
    assert told is not None
    assert told.sentence.startswith(f"{said} of")


@given(
    total=st.integers(1, 3000) | st.integers(1, 10**12),
    late=st.lists(
        st.tuples(st.integers(0, 30), st.integers(1, 5) | st.integers(1, 10**6)), max_size=8
    ),
    settle=st.just(0) | st.integers(0, 10**6),
    overlap=st.just(0) | st.integers(0, 10**6),
)
def test_what_is_suggested_would_have_caught_what_it_promises(
    total: int, late: list[tuple[int, int]], settle: int, overlap: int
) -> None:
    rows = [Lateness("poll", 1 << power, count) for power, count in late]
    total = max(total, sum(count for _, count in late))
    told = assess(total, rows, settle=timedelta(seconds=settle), overlap=timedelta(seconds=overlap))
    assert told is not None
    assert told.settle >= timedelta(seconds=settle)
    assert told.overlap >= timedelta(seconds=overlap)
    for suggested, share in ((told.settle, IN_TIME), (told.overlap, CAUGHT)):
        missed = sum(each.events for each in rows if timedelta(seconds=each.seconds) > suggested)
        assert missed <= total * (1 - share) + 1e-6
    if rows:
        assert not told.sentence.startswith("100")


def test_one_in_two_thousand_does_not_make_everybody_wait_but_is_caught() -> None:
    """Detections stay fast: the long tail is for the overlap and the second look."""
    late = [Lateness("poll", 64, 500), Lateness("second look 24h", 65_536, 5)]
    told = assess(10_000, late, settle=timedelta(0), overlap=10 * MINUTE)
    assert told is not None
    assert told.settle == timedelta(seconds=64)
    assert told.overlap == timedelta(seconds=65_536)
