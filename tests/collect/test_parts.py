"""Parts of a window: sized by density, nothing skipped, and nothing read twice without need."""

import bisect
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditrelay.collect.parts import (
    GROWTH,
    PartLength,
    Shown,
    Span,
    can_be_cut,
    in_parts,
    spans_of,
)
from auditrelay.errors import WalkBroken
from auditrelay.window import Interval

START = datetime(2026, 3, 1, tzinfo=UTC)
MONTH = Interval(START, START + timedelta(days=30))
TARGET = 2_000
MOST = 5_000
PAGE = 25


class History:
    """A vendor without a total: it shows its events in pages, and no walk may show too many."""

    def __init__(self, times: Sequence[datetime], *, newest_first: bool | None) -> None:
        self.times = sorted(times)
        self.newest_first = newest_first
        self.served = 0
        self.requests = 0
        self.walked: list[Interval] = []
        self.read_whole: list[Interval] = []

    async def read(self, part: Interval) -> int:
        found = self._inside(part)
        self.walked.append(part)
        if len(found) > MOST and can_be_cut(part):
            shown = (found[::-1] if self.newest_first else found)[: MOST + 1]
            if self.newest_first is None:
                shown = Random(1).sample(found, MOST + 1)
            self._serve(len(shown))
            error = WalkBroken("too many", reason="over_budget")
            error.shown = Shown(len(shown), min(shown), max(shown), self.newest_first)
            raise error
        self._serve(len(found))
        self.read_whole.append(part)
        return len(found)

    def _serve(self, events: int) -> None:
        self.served += events
        self.requests += max(1, -(-events // PAGE))

    def _inside(self, part: Interval) -> list[datetime]:
        first = bisect.bisect_left(self.times, part.start)
        return self.times[first : bisect.bisect_left(self.times, part.end)]


def uniform(events: int, within: Interval = MONTH, *, seed: int = 0) -> list[datetime]:
    random = Random(seed)
    return [within.start + within.length * random.random() for _ in range(events)]


def around(day: float, length: timedelta) -> Interval:
    start = START + timedelta(days=day)
    return Interval(start, start + length)


async def read_month(history: History) -> None:
    await in_parts("voice", MONTH, PartLength(TARGET), history.read)


ORDERS = pytest.mark.parametrize("newest_first", [True, False, None])


@ORDERS
async def test_an_even_history_is_read_once(newest_first: bool | None) -> None:
    history = History(uniform(60_000), newest_first=newest_first)
    await read_month(history)
    assert history.served == 60_000
    assert history.requests <= 60_000 / PAGE * 1.1 + 40


async def test_an_empty_month_takes_a_handful_of_requests() -> None:
    history = History([], newest_first=True)
    await read_month(history)
    assert history.requests <= 7


@ORDERS
async def test_events_that_fit_into_one_walk_are_read_once_wherever_they_are(
    newest_first: bool | None,
) -> None:
    history = History(uniform(MOST, around(17.3, timedelta(hours=2))), newest_first=newest_first)
    await read_month(history)
    assert history.served == MOST


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize("day", [0, 0.5, 3, 17.3, 29.9])
async def test_a_burst_costs_one_broken_walk(newest_first: bool, day: float) -> None:
    burst = around(day, timedelta(hours=2))
    history = History(uniform(80_000, burst), newest_first=newest_first)
    await read_month(history)
    assert history.served <= 80_000 + MOST + 1
    assert history.requests <= 80_000 / PAGE * 1.1 + MOST / PAGE + 40


async def test_bursts_every_day_are_not_met_with_a_broken_walk_each() -> None:
    times = [
        at
        for day in range(30)
        for at in uniform(4_000, around(day + 0.4, timedelta(minutes=5)), seed=day)
    ]
    history = History(times, newest_first=True)
    await read_month(history)
    assert history.served <= 1.1 * len(times)


@given(
    bursts=st.lists(
        st.tuples(
            st.floats(0, 29.9), st.sampled_from([1, 60, 7200, 86400]), st.integers(0, 3 * MOST)
        ),
        max_size=5,
    ),
    newest_first=st.sampled_from([True, False, None]),
    length=st.timedeltas(min_value=timedelta(seconds=3), max_value=timedelta(days=30)),
)
async def test_no_instant_is_skipped_or_read_twice_and_it_ends(
    bursts: list[tuple[float, int, int]], newest_first: bool | None, length: timedelta
) -> None:
    times = [
        at
        for number, (day, seconds, events) in enumerate(bursts)
        for at in uniform(events, around(day, timedelta(seconds=seconds)), seed=number)
    ]
    history = History(times, newest_first=newest_first)
    window = Interval(START, START + length)
    await in_parts("voice", window, PartLength(TARGET), history.read)
    parts = sorted(history.read_whole)
    assert parts[0].start == window.start
    assert parts[-1].end == window.end
    assert all(one.end == other.start for one, other in pairwise(parts))
    assert len(history.walked) <= 60 + 12 * len(times) / TARGET + 40 * len(bursts)


@given(
    parts=st.lists(st.tuples(st.floats(1, 1e6), st.integers(0, 100_000)), min_size=1, max_size=30)
)
def test_a_part_is_never_more_than_four_times_as_long_as_what_was_read(
    parts: list[tuple[float, int]],
) -> None:
    length = PartLength(TARGET)
    for seconds, events in parts:
        before = length.length
        part = Interval(START, START + timedelta(seconds=seconds))
        length.read(part, events)
        assert length.length <= max(before, part.length * GROWTH)
        if events > TARGET:
            assert length.length <= max(part.length, timedelta(seconds=1))


async def test_where_plenty_and_nothing_alternate_the_length_settles_between_them() -> None:
    hours = [around(hour / 24, timedelta(hours=1)) for hour in range(0, 720, 2)]
    times = [at for number, hour in enumerate(hours) for at in uniform(1_500, hour, seed=number)]
    history = History(times, newest_first=True)
    await read_month(history)
    settled = [part.length for part in history.walked[10:-1]]
    assert max(settled) <= 4 * min(settled)
    assert history.served == len(times)


def test_the_dense_end_is_read_first_and_what_was_empty_apart() -> None:
    part = Interval(START, START + timedelta(hours=10))
    noon, one = START + timedelta(hours=4), START + timedelta(hours=5)
    second = timedelta(seconds=1)
    assert spans_of(part, Shown(9, noon, one, newest_first=True)) == [
        Span(Interval(part.start, one + second), backwards=True),
        Span(Interval(one + second, part.end)),
    ]
    assert spans_of(part, Shown(9, noon, one, newest_first=False)) == [
        Span(Interval(noon - second, part.end)),
        Span(Interval(part.start, noon - second)),
    ]
    assert spans_of(part, Shown(9, noon, one)) == [Span(part)]
    assert spans_of(part, None) == [Span(part)]


async def test_a_part_too_short_to_be_cut_is_named() -> None:
    async def read(part: Interval) -> int:
        if part.start <= START + timedelta(minutes=7) < part.end:
            raise WalkBroken("a record breaks it", reason="reply_too_large")
        return 0

    window = Interval(START, START + timedelta(minutes=10))
    with pytest.raises(WalkBroken) as raised:
        await in_parts("voice", window, PartLength(TARGET), read)
    assert raised.value.window.length <= timedelta(seconds=1)
    assert raised.value.window.start <= START + timedelta(minutes=7) < raised.value.window.end
