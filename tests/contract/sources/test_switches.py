"""Every source works with each possible behaviour that its vendor's documentation leaves open."""

from datetime import timedelta
from typing import Any

import pytest
from tests.contract.sources.conftest import Rig

from auditrelay.collect.walk import walk
from auditrelay.errors import Refused, RelayError, Retryable, WalkBroken
from auditrelay.sandbox import vendors
from auditrelay.window import Interval

HOUR = timedelta(hours=1)


def fit(kind: str) -> list[Any]:
    vendor = vendors.available()[kind]
    return [
        pytest.param(kind, *answer, id=f"{kind}-{answer[0]}={answer[1]}")
        for answer in vendor.switch_values()
        if answer not in vendor.MUST_FAIL | vendor.SILENT_LOSS
    ]


def unfit(kind: str) -> list[Any]:
    return [
        pytest.param(kind, *answer, id=f"{kind}-{answer[0]}={answer[1]}")
        for answer in sorted(vendors.available()[kind].MUST_FAIL, key=str)
    ]


FIT = [case for kind in vendors.available() for case in fit(kind)]
UNFIT = [case for kind in vendors.available() for case in unfit(kind)]


@pytest.mark.parametrize("kind", vendors.available())
def test_every_declared_switch_of_a_double_exists(kind: str) -> None:
    vendor = vendors.available()[kind]
    assert (
        set(vendor.switch_values()) >= vendor.MUST_FAIL | vendor.SILENT_LOSS | vendor.UNSTABLE_ORDER
    )
    assert not vendor.MUST_FAIL & vendor.SILENT_LOSS
    for name in ("rate", "retry_after", "page_size_cap"):
        assert hasattr(vendor().switches, name)


@pytest.mark.parametrize(("rig", "switch", "answer"), FIT, indirect=["rig"])
@pytest.mark.parametrize(("pages", "smaller"), [(0, False), (2, False), (2, True)])
async def test_each_behaviour_shows_the_whole_window(
    *, rig: Rig, switch: str, answer: Any, pages: int, smaller: bool
) -> None:
    """With rows on both bounds, with ties, and on *smaller* pages than requested."""
    setattr(rig.double.switches, switch, answer)
    if smaller and switch != "oversize":
        rig.double.switches.page_size_cap = max(3, rig.double.MIN_PAGE_SIZE)
    rig.fill(pages * rig.page + bool(pages))
    for at in (rig.window.start, rig.window.end - timedelta(milliseconds=1), rig.window.end):
        rig.double.add(at)
    assert await rig.shown() == rig.made()


@pytest.mark.parametrize("inclusive", [True, False])
@pytest.mark.parametrize("part", [0, 1, 500, 999])
async def test_records_on_the_bounds_are_shown_whether_they_are_included_or_not(
    *, rig: Rig, inclusive: bool, part: int
) -> None:
    """Also if the bounds of the window are between two milliseconds."""
    for name in ("lower_inclusive", "upper_inclusive"):
        if hasattr(rig.double.switches, name):
            setattr(rig.double.switches, name, inclusive)
    micros = timedelta(microseconds=part)
    rig.window = Interval(rig.window.start + micros, rig.window.end - HOUR + micros)
    for at in (rig.window.start, rig.window.end - timedelta(microseconds=1)):
        rig.double.add(at)
    assert len(rig.made()) == 2
    assert await rig.shown() == rig.made()


@pytest.mark.parametrize(("rig", "switch", "answer"), FIT, indirect=["rig"])
async def test_two_adjacent_windows_show_every_record_at_their_border(
    rig: Rig, switch: str, answer: Any
) -> None:
    setattr(rig.double.switches, switch, answer)
    middle = rig.window.start + 7 * HOUR
    for _ in range(2):
        for micros in (-1000, 0, 1000):
            rig.double.add(middle + timedelta(microseconds=micros))
    source = rig.build()
    normalize = rig.normalizer(source)
    whole, shown = rig.window, set[str]()
    for window in (Interval(whole.start, middle), Interval(middle, whole.end)):
        async for events, _, _ in walk(source, window, lambda records: normalize(records, 0)):
            shown.update(event.uid for event in events)
    assert shown == {event.uid for event in normalize(rig.made(), 0)}
    assert len(shown) == 6


@pytest.mark.parametrize(("rig", "switch", "answer"), UNFIT, indirect=["rig"])
async def test_a_list_that_cannot_be_read_to_its_end_is_an_error_and_not_an_end(
    rig: Rig, switch: str, answer: Any
) -> None:
    rig.fill(3 * rig.page)
    setattr(rig.double.switches, switch, answer)
    error = await rig.whole_or_error()
    assert isinstance(error, Refused | Retryable | WalkBroken)
    assert rig.double.requests < 50


async def test_ties_that_change_places_are_all_shown_or_the_walk_breaks(
    rig: Rig,
) -> None:
    if not rig.double.UNSTABLE_ORDER:
        pytest.skip("ties keep their places")
    for switch, answer in rig.double.UNSTABLE_ORDER:
        setattr(rig.double.switches, switch, answer)
    for _ in range(3 * rig.page):
        rig.double.add(rig.window.start + HOUR)
    source = rig.build()
    errors = [await rig.whole_or_error(source) for _ in range(20)]
    assert None in errors, "one walk of many is whole"
    assert all(error is None or isinstance(error, WalkBroken) for error in errors)


async def test_no_record_is_lost_to_an_expired_cursor(rig: Rig) -> None:
    """The walk starts again, or breaks."""
    if not hasattr(rig.double.switches, "cursor_life"):
        pytest.skip("no cursors")
    rig.fill(4 * rig.page)
    rig.double.switches.cursor_life = 30.0
    now = rig.double.clock()

    def a_minute_passes() -> None:
        rig.double.clock = lambda: now + 60

    rig.double.before_page[2] = a_minute_passes
    source = rig.build()
    error: RelayError | None = await rig.whole_or_error(source)
    assert error is None or isinstance(error, WalkBroken)
    assert await rig.shown(source) == rig.made()
