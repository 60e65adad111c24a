"""The sentence about late events, and the settings that would have caught them."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditrelay.status.lateness import CAUGHT, IN_TIME, assess
from auditrelay.store import Lateness

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


def test_there_is_no_sentence_before_there_is_any_event() -> None:
    assert assess(0, [], settle=MINUTE, overlap=HOUR) is None


def test_without_a_late_event_no_other_setting_is_suggested() -> None:
    found = assess(12_345, [], settle=MINUTE, overlap=HOUR)
    assert found is not None
    assert found.sentence == "100% of 12,345 events were there when their time was first read."
    assert (found.settle, found.overlap) == (MINUTE, HOUR)


def test_the_sentence_has_the_counts_by_what_found_them_and_the_longest_delay() -> None:
    late = [
        Lateness("poll", 64, 5),
        Lateness("resweep 1h", 4096, 3),
        Lateness("resweep 1h", 8192, 1),
        Lateness("resweep 24h", 131_072, 1),
    ]
    found = assess(1000, late, settle=MINUTE, overlap=HOUR)
    assert found is not None
    assert found.sentence == (
        "99 % of 1,000 events were there when their time was first read; 10 came later, 2d at "
        "the most, and were found (poll 5, resweep 1h 4, resweep 24h 1)."
    )


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(1, "1s"), (32, "32s"), (64, "2m"), (2048, "35m"), (4096, "2h"), (65_536, "19h"),
     (131_072, "2d"), (1 << 30, "12428d")],
)  # fmt: skip
def test_the_longest_delay_is_rounded_up(seconds: int, shown: str) -> None:
    found = assess(10, [Lateness("poll", seconds, 1)], settle=MINUTE, overlap=HOUR)
    assert found is not None
    assert f"came later, {shown} at the most" in found.sentence


@pytest.mark.parametrize(
    ("total", "late", "percent"),
    [
        (1_000_000, 1, "99.9999 %"),
        (10_000_000, 1, "99.99999 %"),
        (10_000_000_000, 1, "99.99999 %"),
        (3, 1, "66.66666 %"),
        (4, 4, "0%"),
    ],
)
def test_a_share_is_never_rounded_to_a_hundred(total: int, late: int, percent: str) -> None:
    found = assess(total, [Lateness("poll", 60, late)], settle=MINUTE, overlap=HOUR)
    assert found is not None
    assert found.sentence.startswith(f"{percent} of")


@given(
    total=st.integers(1, 3000) | st.integers(1, 10**12),
    late=st.lists(
        st.tuples(st.integers(0, 30), st.integers(1, 5) | st.integers(1, 10**6)), max_size=8
    ),
    settle=st.just(0) | st.integers(0, 10**6),
    overlap=st.just(0) | st.integers(0, 10**6),
)
def test_the_suggested_settings_would_have_caught_the_share_that_they_promise(
    total: int, late: list[tuple[int, int]], settle: int, overlap: int
) -> None:
    rows = [Lateness("poll", 1 << power, count) for power, count in late]
    total = max(total, sum(count for _, count in late))
    found = assess(
        total, rows, settle=timedelta(seconds=settle), overlap=timedelta(seconds=overlap)
    )
    assert found is not None
    assert found.settle >= timedelta(seconds=settle)
    assert found.overlap >= timedelta(seconds=overlap)
    for suggested, share in ((found.settle, IN_TIME), (found.overlap, CAUGHT)):
        missed = sum(each.events for each in rows if timedelta(seconds=each.seconds) > suggested)
        assert missed <= total * (1 - share) + 1e-6
    if rows:
        assert not found.sentence.startswith("100")


def test_one_in_two_thousand_does_not_raise_settle_but_overlap() -> None:
    """Detections stay fast: the long tail is for the overlap and the resweep."""
    late = [Lateness("poll", 64, 500), Lateness("resweep 24h", 65_536, 5)]
    found = assess(10_000, late, settle=timedelta(0), overlap=10 * MINUTE)
    assert found is not None
    assert found.settle == timedelta(seconds=64)
    assert found.overlap == timedelta(hours=19), "65,536 seconds, in the form that settings have"
