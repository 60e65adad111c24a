"""Delivered events are counted by minute, for the last hour only."""

from datetime import UTC, datetime, timedelta

from auditrelay.deliver.throughput import MINUTES, Throughput

NOON = datetime(2026, 1, 10, 12, 0, 30, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def test_each_minute_since_the_start_is_counted_the_current_one_last() -> None:
    throughput = Throughput(NOON)
    assert throughput.per_minute(NOON) == [0]
    throughput.add(NOON, 5)
    throughput.add(NOON + timedelta(seconds=29), 2)
    throughput.add(NOON + 2 * MINUTE, 1)
    assert throughput.per_minute(NOON + 3 * MINUTE) == [7, 0, 1, 0]


def test_counts_older_than_an_hour_are_deleted() -> None:
    throughput = Throughput(NOON)
    for number in range(1000):
        throughput.add(NOON + number * MINUTE, number)
    now = NOON + 999 * MINUTE
    assert throughput.per_minute(now) == list(range(940, 1000))
    assert throughput.per_minute(now + 30 * MINUTE) == [*range(970, 1000), *[0] * 30]
    assert len(throughput._counts) == MINUTES


def test_a_clock_that_steps_back_does_no_harm() -> None:
    throughput = Throughput(NOON)
    throughput.add(NOON, 1)
    assert throughput.per_minute(NOON - 5 * MINUTE) == [0]
    for number in range(200):
        throughput.add(NOON - number * MINUTE, 1)
    assert len(throughput._counts) == MINUTES
    assert throughput.per_minute(NOON)[-1] == 2
