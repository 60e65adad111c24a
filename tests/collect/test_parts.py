"""Parts of a window: sized by density, nothing skipped, and nothing read twice without need."""

import bisect
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.collecting import answering, refuse_to_give_up
from tests.support.extent import extent, some_of

from auditrelay.collect.parts import (
    GROWTH,
    WALK,
    Budget,
    PartLength,
    Shown,
    Span,
    in_parts,
    spans_of,
)
from auditrelay.collect.walk import walk
from auditrelay.errors import WalkBroken
from auditrelay.sources import Page
from auditrelay.window import MAX_WINDOW, Interval, micros

START = datetime(2026, 3, 1, tzinfo=UTC)
MONTH = Interval(START, START + timedelta(days=30))
TARGET = 2_000
MOST = 5_000
PAGE = 25


BUDGET = Budget(counted=MOST, uncounted=MOST)


@dataclass
class Columns:
    """The uids and times of a page."""

    uid: list[str]
    at: list[int]


class History:
    """A vendor without a total: it shows its events in pages, and no walk may show too many."""

    scope = ""

    def __init__(
        self, times: Sequence[datetime], *, newest_first: bool | None, page: int = PAGE
    ) -> None:
        self.times = sorted(map(micros, times))
        self.newest_first = newest_first
        self.page = page
        self.served = 0
        self.requests = 0
        self.walked: list[Interval] = []
        self.read_whole: list[Interval] = []

    async def read(self, part: Interval, budget: Budget | None, *, finely: bool) -> int:
        self.walked.append(part)
        events = 0
        async for page, _, _ in walk(self, part, self.identify, budget=budget):
            events += len(page.uid)
        self.read_whole.append(part)
        return events

    async def walk(
        self, window: Interval, *, background: bool = False, finely: bool = False
    ) -> AsyncGenerator[Page]:
        first = bisect.bisect_left(self.times, micros(window.start))
        rows = list(range(first, bisect.bisect_left(self.times, micros(window.end))))
        if self.newest_first is None:
            Random(1).shuffle(rows)
        elif self.newest_first:
            rows.reverse()
        for at in range(0, max(len(rows), 1), self.page):
            page = [b"%d" % row for row in rows[at : at + self.page]]
            yield Page(page, last=at + self.page >= len(rows))

    def identify(self, records: list[bytes]) -> Columns:
        self.served += len(records)
        self.requests += 1
        return Columns([str(record) for record in records], [self.times[int(r)] for r in records])

    async def close(self) -> None: ...

    def is_served_about_once(self) -> None:
        """Fail unless it was: a burst may cost a page or two beyond a tenth of everything."""
        events = len(self.times)
        assert self.served <= 1.1 * events + 2 * self.page
        assert self.requests <= 1.1 * events / self.page + 40


def uniform(events: int, within: Interval = MONTH, *, seed: int = 0) -> list[datetime]:
    random = Random(seed)
    return [within.start + within.length * random.random() for _ in range(events)]


def around(day: float, length: timedelta) -> Interval:
    start = START + timedelta(days=day)
    return Interval(start, start + length)


async def read_month(history: History) -> None:
    await in_parts(
        "voice",
        MONTH,
        PartLength(TARGET, BUDGET),
        history.read,
        answers=answering,
        give_up=refuse_to_give_up,
    )


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
    assert history.served <= MOST + PAGE  # one page, since it looked like more


HOURS = timedelta(hours=2)


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize("events", [20, 60, 400, 2_000, 5_500, 12_500, extent(30_000, 80_000)])
@pytest.mark.parametrize("day", some_of([0, 0.5, 17.3, 3, 30 - HOURS / timedelta(days=1)], 2))
async def test_a_burst_costs_a_page(newest_first: bool, events: int, day: float) -> None:
    history = History(uniform(events, around(day, HOURS)), newest_first=newest_first)
    await read_month(history)
    history.is_served_about_once()
    assert history.served <= events + PAGE


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize("other", [300, 6_000])
async def test_two_bursts_cost_two_pages(newest_first: bool, other: int) -> None:
    times = uniform(other, around(5, HOURS)) + uniform(8_000, around(22, HOURS))
    history = History(times, newest_first=newest_first)
    await read_month(history)
    history.is_served_about_once()


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize(
    "events",
    [120_000, pytest.param(extent(400_000, 1_000_000), marks=pytest.mark.slow)],
)
async def test_any_number_of_events_is_served_about_once(newest_first: bool, events: int) -> None:
    times = uniform(events, around(17.3, HOURS))
    history = History(times, newest_first=newest_first, page=250)
    await in_parts(
        "voice",
        MONTH,
        PartLength(20_000, WALK),
        history.read,
        answers=answering,
        give_up=refuse_to_give_up,
    )
    history.is_served_about_once()
    assert history.served <= events + 250


@pytest.mark.parametrize("newest_first", [True, False])
async def test_a_burst_amid_many_events_costs_at_most_one_walk_over_the_budget(
    newest_first: bool,
) -> None:
    times = uniform(10_000) + uniform(10_000, around(17.3, HOURS))
    history = History(times, newest_first=newest_first)
    await read_month(history)
    assert history.served <= 1.1 * len(times) + MOST


@pytest.mark.parametrize("newest_first", [True, False])
async def test_a_burst_that_begins_slowly_costs_little(newest_first: bool) -> None:
    minute = timedelta(minutes=1)
    times = [
        *uniform(60, around(17.2, timedelta(hours=1))),
        *uniform(20_000, around(17.24, 5 * minute)),
        *uniform(60, around(17.25, timedelta(hours=1))),
    ]
    history = History(times, newest_first=newest_first)
    await read_month(history)
    history.is_served_about_once()


@ORDERS
async def test_one_instant_with_more_events_than_a_walk_may_show_is_read(
    newest_first: bool | None,
) -> None:
    history = History([MONTH.start + timedelta(days=17.3)] * 20_000, newest_first=newest_first)
    await read_month(history)
    history.is_served_about_once()


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize(
    "events", [40, 150, pytest.param(extent(400, 1_000), marks=pytest.mark.slow)]
)
async def test_small_bursts_that_come_again_are_met_with_a_broken_walk_at_first_only(
    newest_first: bool, events: int
) -> None:
    minute = timedelta(minutes=1)
    times = [
        at for hour in range(720) for at in uniform(events, around(hour / 24, minute), seed=hour)
    ]
    history = History(times, newest_first=newest_first)
    await read_month(history)
    history.is_served_about_once()
    assert len(history.walked) - len(history.read_whole) <= 8


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
    await in_parts(
        "voice",
        window,
        PartLength(TARGET, BUDGET),
        history.read,
        answers=answering,
        give_up=refuse_to_give_up,
    )
    parts = sorted(history.read_whole)
    assert parts[0].start == window.start
    assert parts[-1].end == window.end
    assert all(one.end == other.start for one, other in pairwise(parts))
    assert len(history.walked) <= 60 + 12 * len(times) / TARGET + 40 * len(bursts)
    if newest_first is not None:
        # What the judged walks have shown in vain, and a walk over its budget for each burst that
        # is too short for its density to be judged.
        assert history.served <= 1.2 * len(times) + MOST / 10 + (MOST + PAGE) * 2 * len(bursts)


@given(
    parts=st.lists(st.tuples(st.floats(1, 1e6), st.integers(0, 100_000)), min_size=1, max_size=30)
)
def test_a_part_is_never_more_than_four_times_as_long_as_what_was_read_nor_than_a_window(
    parts: list[tuple[float, int]],
) -> None:
    length = PartLength(TARGET, BUDGET)
    for seconds, events in parts:
        before = length.length
        part = Interval(START, START + timedelta(seconds=seconds))
        length.read(part, events)
        assert length.length <= max(before, part.length * GROWTH)
        assert length.length <= MAX_WINDOW
        if events > TARGET:
            assert length.length <= max(part.length, timedelta(seconds=1))


async def test_where_plenty_and_nothing_alternate_the_length_settles_between_them() -> None:
    hours = [around(hour / 24, timedelta(hours=1)) for hour in range(0, 720, 2)]
    times = [at for number, hour in enumerate(hours) for at in uniform(1_500, hour, seed=number)]
    history = History(times, newest_first=True)
    await read_month(history)
    settled = [part.length for part in history.walked[20:-1]]
    assert max(settled) <= 4 * min(settled)
    assert history.served <= len(times) + 3 * PAGE


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
    async def read(part: Interval, budget: Budget | None, *, finely: bool) -> int:
        if part.start <= START + timedelta(minutes=7) < part.end:
            raise WalkBroken("a record breaks it", reason="reply_too_large")
        return 0

    window = Interval(START, START + timedelta(minutes=10))
    with pytest.raises(WalkBroken) as raised:
        await in_parts(
            "voice",
            window,
            PartLength(TARGET, BUDGET),
            read,
            answers=answering,
            give_up=refuse_to_give_up,
        )
    assert raised.value.window.length <= timedelta(seconds=1)
    assert raised.value.window.start <= START + timedelta(minutes=7) < raised.value.window.end
