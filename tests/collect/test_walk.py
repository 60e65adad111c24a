"""One walk of one window: when it is complete, and when it proves nothing."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain, count

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from auditrelay.collect import walk as walking
from auditrelay.collect.parts import WALK, Budget, Span, spans_of
from auditrelay.collect.walk import time_range, walk
from auditrelay.errors import WalkBroken
from auditrelay.events import AuditEvent, TimeQuality
from auditrelay.events.page import Page as EventPage
from auditrelay.sources import Page
from auditrelay.window import Interval, micros, moment

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
WINDOW = Interval(NOON, NOON + timedelta(hours=1))
Make = Callable[..., AuditEvent]


class Scripted:
    """A source that shows one script of pages after the other, the last one for ever."""

    scope = "org-1"

    def __init__(self, *scripts: Iterable[Page]) -> None:
        self.scripts = [list(script) for script in scripts]
        self.walks = 0

    async def walk(
        self, window: Interval, *, background: bool = False, finely: bool = False
    ) -> AsyncGenerator[Page]:
        script = self.scripts[min(self.walks, len(self.scripts) - 1)]
        self.walks += 1
        for page in script:
            yield page

    async def close(self) -> None: ...


def page(*numbers: int, last: bool = False, total: int | None = None, shrunk: bool = False) -> Page:
    return Page([b"%d" % number for number in numbers], last=last, total=total, shrunk=shrunk)


Shown = Callable[..., Awaitable[list[tuple[list[int], bool]]]]


@pytest.fixture
def shown(event: Make) -> Shown:
    """Walk a source, and return the numbers of each page and whether it completed the window."""

    async def run(
        source: Scripted, *, budget: Budget | None = WALK
    ) -> list[tuple[list[int], bool]]:
        def identify(records: list[bytes]) -> EventPage:
            return EventPage.of(event(int(record)) for record in records)

        return [
            ([int(each.native_id or "") for each in events], outcome is not None)
            async for events, _, outcome in walk(source, WINDOW, identify, budget=budget)
        ]

    return run


async def test_only_the_last_page_makes_a_window_complete(shown: Shown) -> None:
    source = Scripted([page(1, 2), page(3), page(last=True)])
    assert await shown(source) == [([1, 2], False), ([3], False), ([], True)]


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ([page(1), page(2)], "no_last_page"),
        ([], "no_last_page"),
        ([page(1, 2), page(1, 2), page(3, last=True)], "repeated_page"),
        ([page(1, 2), page(), page(3, last=True)], "no_progress"),
    ],
)
async def test_pages_that_cannot_be_a_whole_window_are_an_error_with_a_name(
    shown: Shown, script: list[Page], reason: str
) -> None:
    with pytest.raises(WalkBroken) as broken:
        await shown(Scripted(script))
    assert broken.value.reason == reason


async def test_a_page_that_repeats_some_and_brings_others_is_no_loop(shown: Shown) -> None:
    source = Scripted([page(1, 2), page(2, 3), page(3, 4, last=True)])
    assert [complete for _, complete in await shown(source)] == [False, False, True]


async def test_thousands_of_records_are_distinct(shown: Shown) -> None:
    pages = [range(first, first + 500) for first in range(0, 6000, 500)]
    source = Scripted([page(*each, last=each is pages[-1], total=6000) for each in pages])
    assert await shown(source) == [([*each], each is pages[-1]) for each in pages]
    assert source.walks == 1, "none seemed to come twice, so that the total was reached"


async def test_a_window_that_shrank_is_walked_again_and_both_walks_count(shown: Shown) -> None:
    # 1 was deleted between the pages, so 3 moved from the second page to the first
    source = Scripted(
        [page(1, 2, total=4), page(4, last=True, total=3)],
        [page(2, 3, total=3), page(4, last=True, total=3)],
    )
    pages = await shown(source)
    assert [complete for _, complete in pages] == [False, False, False, True]
    assert {number for numbers, _ in pages for number in numbers} == {1, 2, 3, 4}


async def test_a_page_beyond_the_last_one_means_that_records_were_deleted(shown: Shown) -> None:
    source = Scripted(
        [page(1, 2, total=3), page(last=True, shrunk=True)], [page(2, 3, last=True, total=2)]
    )
    assert (await shown(source))[-1] == ([2, 3], True)
    assert source.walks == 2


@pytest.mark.parametrize("pages", [1, 2])
async def test_a_total_that_is_not_shown_is_walked_again_and_then_logged(
    shown: Shown, pages: int
) -> None:
    script = [page(1, 2, last=True, total=5)]
    if pages == 2:
        script = [page(1, total=5), page(2, last=True, total=5)]
    source = Scripted(script)
    with capture_logs() as logs:
        walked = await shown(source)
    assert [complete for _, complete in walked] == [False] * (2 * pages - 1) + [True]
    assert source.walks == 2
    (line,) = logs
    assert (line["event"], line["total"], line["events"]) == ("total_mismatched", 5, 2)


async def test_a_window_that_keeps_moving_is_broken_and_not_walked_for_ever(shown: Shown) -> None:
    scripts = [
        [page(number, total=9), page(number + 100, last=True, total=8)] for number in range(20)
    ]
    source = Scripted(*scripts)
    with pytest.raises(WalkBroken) as broken:
        await shown(source)
    assert broken.value.reason == "pages_moved"
    assert source.walks == walking.MAX_WALKS_PER_WINDOW


@pytest.mark.parametrize(
    "script",
    [
        [page(1, total=11), page(2, last=True, total=11)],
        [page(*range(11)), page(last=True)],
        [*(page(number) for number in range(6)), page(last=True)],
    ],
)
async def test_a_window_over_budget_is_broken_unless_it_cannot_be_cut(
    shown: Shown, monkeypatch: pytest.MonkeyPatch, script: list[Page]
) -> None:
    monkeypatch.setattr(walking, "MAX_PAGES_PER_WALK", 5)
    with pytest.raises(WalkBroken) as broken:
        await shown(Scripted(script), budget=Budget(10, 10))
    assert broken.value.reason == "over_budget"
    assert (await shown(Scripted(script), budget=None))[-1][1]


async def test_a_window_at_the_budget_is_not_over_it(
    shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walking, "MAX_PAGES_PER_WALK", 2)
    script = [page(*range(9), total=10), page(9, last=True, total=10)]
    assert (await shown(Scripted(script), budget=Budget(10, 10)))[-1][1]


TWICE = [page(1, 2, total=4), page(2, 3, last=True, total=4)]
"""A list that leaves ties open: 2 has taken the place of 4."""


async def test_a_record_that_came_twice_may_hide_another_so_halves_are_asked_for(
    shown: Shown,
) -> None:
    source = Scripted(TWICE)
    with pytest.raises(WalkBroken) as broken:
        await shown(source)
    assert broken.value.reason == "pages_moved"
    assert source.walks == walking.MAX_WALKS_PER_WINDOW


async def test_where_there_are_no_halves_two_walks_alike_are_believed(shown: Shown) -> None:
    source = Scripted(TWICE)
    with capture_logs() as logs:
        assert (await shown(source, budget=None))[-1] == ([2, 3], True)
    assert source.walks == 2
    assert [line["event"] for line in logs] == ["total_mismatched"]


async def test_and_two_walks_that_differ_are_not(shown: Shown) -> None:
    source = Scripted(TWICE, [page(3, 2, total=4), page(2, 1, last=True, total=4)], TWICE)
    source.scripts += [[page(4, 3, total=4), page(3, 2, last=True, total=4)]]
    assert (await shown(source, budget=None))[-1] == ([3, 2], True)
    assert source.walks == 4


async def test_a_page_that_breaks_the_walk_is_seen_before_it_does(event: Make) -> None:
    source = Scripted([page(1, total=3), page(1, total=3), page(2, last=True, total=3)])
    seen: list[tuple[int | None, int]] = []

    def identify(records: list[bytes]) -> EventPage:
        return EventPage.of(event(int(record)) for record in records)

    with pytest.raises(WalkBroken, match="second time"):
        async for _ in walk(
            source,
            WINDOW,
            identify,
            on_page=lambda each, events: seen.append((each.total, len(events))),
        ):
            pass
    assert seen == [(3, 1), (3, 1)]


async def test_the_outcome_says_whether_the_vendors_total_was_reached(event: Make) -> None:
    for total, outcome in ((2, "complete"), (None, "complete"), (5, "total_mismatched")):
        source = Scripted([page(1, 2, last=True, total=total)])
        walked = [
            each
            async for _, _, each in walk(
                source, WINDOW, lambda texts: EventPage.of(map(event, map(int, texts)))
            )
        ]
        assert walked[-1] == outcome
        assert walked[:-1] == [None] * (len(walked) - 1)


@dataclass
class Times:
    """The times of a page."""

    at: list[int]
    time_quality: list[TimeQuality]


def test_events_without_a_time_of_their_own_have_no_part_in_the_times_of_a_page() -> None:
    second = 10**6
    page = Times([5 * second, 3 * second, 9 * second], ["source", "assumed_utc", "fetched"])
    assert time_range(page) == (moment(3 * second), moment(5 * second))
    assert time_range(Times([9 * second], ["fetched"])) is None


@pytest.mark.parametrize("year", [1, 1970, 9999])
async def test_a_time_that_is_far_off_has_no_part_in_how_a_walk_is_cut(
    event: Make, year: int
) -> None:
    far = micros(datetime(year, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC))

    def identify(records: list[bytes]) -> EventPage:
        found = EventPage.of(event(int(record)) for record in records)
        return msgspec.structs.replace(found, at=[far, *found.at[1:]])

    source = Scripted([page(1, 2), page(3, 4, last=True)])
    with pytest.raises(WalkBroken) as broken:
        async for _ in walk(source, WINDOW, identify, budget=Budget(2, 2)):
            pass
    assert broken.value.shown is not None
    assert broken.value.shown.oldest is None
    assert spans_of(WINDOW, broken.value.shown) == [Span(WINDOW)]


# --- one page ahead


class Asked:
    """A source that counts requests, and answers after one turn of the loop."""

    scope = "org-1"

    def __init__(self, *pages: Page | WalkBroken | None) -> None:
        self.pages = pages
        self.asked = 0
        self.closed = False

    async def walk(
        self, window: Interval, *, background: bool = False, finely: bool = False
    ) -> AsyncGenerator[Page]:
        try:
            for each in self.pages:
                self.asked += 1
                await asyncio.sleep(0)
                if each is None:
                    await asyncio.Event().wait()  # it never answers
                elif isinstance(each, WalkBroken):
                    raise each
                else:
                    yield each
            self.asked += 1
        finally:
            self.closed = True

    async def close(self) -> None: ...


async def turns() -> None:
    """Let the loop run all that is ready."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_the_next_page_is_asked_for_while_one_is_worked_on_and_no_further(
    event: Make,
) -> None:
    source = Asked(page(1), page(2), page(3), page(last=True))
    asked = []
    async with contextlib.aclosing(
        walk(source, WINDOW, lambda _: EventPage.of([event(source.asked)]))
    ) as pages:
        async for _ in pages:
            await turns()
            asked.append(source.asked)
    assert asked == [2, 3, 4, 4]  # and after the last one nothing
    assert source.closed


async def test_a_page_is_processed_before_the_failure_of_the_next_is_raised(event: Make) -> None:
    broken = WalkBroken("the cursor has expired", reason="cursor_expired")
    source = Asked(page(1), broken)
    pages = walk(source, WINDOW, lambda _: EventPage.of([event(1)]))
    assert len((await anext(pages))[0]) == 1
    await turns()
    with pytest.raises(WalkBroken, match="expired"):
        await anext(pages)


@pytest.mark.parametrize("ahead", [page(2), WalkBroken("gone", reason="cursor_expired"), None])
async def test_a_walk_that_is_left_early_leaves_nothing_behind(
    event: Make, ahead: Page | WalkBroken | None
) -> None:
    source = Asked(page(1), ahead, page(last=True))
    before = asyncio.all_tasks()
    async with (
        asyncio.timeout(10),
        contextlib.aclosing(walk(source, WINDOW, lambda _: EventPage.of([event(1)]))) as pages,
    ):
        await anext(pages)
        if not isinstance(ahead, Page):
            await turns()  # it is waiting, or has failed before it was awaited
    assert source.closed
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("at_most", [None, 101, 100])
async def test_a_walk_that_is_known_to_fit_is_not_broken_for_its_density(
    event: Make, at_most: int | None
) -> None:
    """Two events a second apart, and an hour to go: that may be far more than the budget."""
    first = Page([b"0", b"1"], last=False, at_most=at_most)
    source = Scripted([first, page(last=True)])

    def identify(records: list[bytes]) -> EventPage:
        seconds = [int(record) for record in records]
        return EventPage.of(event(each, at=micros(NOON) + each * 1_000_000) for each in seconds)

    budget = Budget(counted=100, uncounted=100, spare=10)
    pages = walk(source, WINDOW, identify, budget=budget)
    if at_most == 100:
        assert [len(events) async for events, _, _ in pages] == [2, 0]
        return
    with pytest.raises(WalkBroken) as broken:
        assert [len(events) async for events, _, _ in pages]
    assert broken.value.reason == "over_budget"


FAR = [micros(NOON) + hours * 3_600_000_000 for hours in (-20_000_000, -9_000, 0, 1, 9_000)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(FAR), max_size=4), min_size=1, max_size=6),
    st.integers(0, 3),
    st.integers(1, 9),
)
@example([[FAR[0]]], 0, 9)  # ended the process
@example([[FAR[0], FAR[0]], [FAR[2], FAR[3]]], 1, 9)
def test_whatever_times_a_vendor_shows_a_walk_ends_or_breaks(
    event: Make, times: list[list[int]], burst: int, spare: int
) -> None:
    numbers = count()
    pages = [page(*(next(numbers) for _ in each)) for each in times]
    at = dict(enumerate(chain.from_iterable(times)))

    def identify(records: list[bytes]) -> EventPage:
        return EventPage.of(event(int(record), at=at[int(record)]) for record in records)

    async def walked() -> None:
        budget = Budget(counted=100, uncounted=100, spare=spare, burst=burst)
        with contextlib.suppress(WalkBroken):
            async for _ in walk(
                Scripted([*pages, page(last=True)]), WINDOW, identify, budget=budget
            ):
                pass

    asyncio.run(walked())
