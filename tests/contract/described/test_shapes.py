"""
A described source keeps its promises in every shape: credentials, window, pages, signs of an end.

The double reads the same description, by code of its own, and misbehaves on command.
"""

import contextlib
from datetime import UTC, datetime, timedelta

import pytest
from tests.contract.described.conftest import DescribedRig

from auditrelay.collect.walk import walk
from auditrelay.errors import Refused, RelayError, Retryable, WalkBroken
from auditrelay.sandbox import faults
from auditrelay.sandbox.history import Span
from auditrelay.window import Interval

HOUR = timedelta(hours=1)
NULL = faults.answer(200, b"null")
MILLISECOND = timedelta(milliseconds=1)


@pytest.mark.parametrize("count", [0, 1, 4, 13])
async def test_every_record_is_shown_and_only_the_last_page_is_the_last(
    rig: DescribedRig, count: int
) -> None:
    rig.fill(count)
    pages = await rig.pages()
    shown = [record for page in pages for record in page.records]
    assert sorted(each for each in shown if each in rig.made()) == sorted(rig.made())
    assert [page.last for page in pages] == [False] * (len(pages) - 1) + [True]
    assert len(rig.double.seen) < 30


@pytest.mark.parametrize("inclusive", [True, False])
@pytest.mark.parametrize("part", [0, 1, 999_999])
async def test_records_on_the_bounds_are_shown_whether_they_are_included_or_not(
    rig: DescribedRig, part: int, *, inclusive: bool
) -> None:
    rig.double.switches.lower_inclusive = rig.double.switches.upper_inclusive = inclusive
    micros = timedelta(microseconds=part)
    rig.window = Interval(rig.window.start + micros, rig.window.end - HOUR + micros)
    for at in (
        rig.window.start,
        rig.window.start + HOUR,
        rig.window.end - timedelta(microseconds=1),
    ):
        rig.double.add(at)
    assert await rig.shown() == rig.made()


async def test_two_adjacent_windows_show_every_record_at_their_border(rig: DescribedRig) -> None:
    middle = rig.window.start + 7 * HOUR
    for _ in range(2):
        for micros in (-1000, 0, 1000):
            rig.double.add(middle + timedelta(microseconds=micros))
    source = rig.build()
    normalize = rig.normalizer(source)
    shown = set[str]()
    for window in (Interval(rig.window.start, middle), Interval(middle, rig.window.end)):
        async for events, _, _ in walk(source, window, lambda records: normalize(records, 0)):
            shown.update(event.uid for event in events)
    whole = [entry.text for entry in rig.double.history.select(Span(), rig.clock.seconds())]
    assert shown == {event.uid for event in normalize(whole, 0)}
    assert len(shown) == 6


async def test_no_tie_is_lost_at_a_page_border(rig: DescribedRig) -> None:
    for _ in range(11):
        rig.double.add(rig.window.start + HOUR)
    assert await rig.shown() == rig.made()


async def test_pages_may_be_smaller_than_asked_for(rig: DescribedRig) -> None:
    rig.double.switches.page_size_cap = 3
    rig.fill(7)
    assert await rig.shown() == rig.made()


async def test_a_late_row_is_shown_by_the_next_walk(rig: DescribedRig) -> None:
    rig.fill(6)
    now = rig.double.clock()
    visible = datetime.fromtimestamp(now + 60, UTC)
    rig.double.add(rig.window.start + HOUR, visible_from=visible)
    source = rig.build()
    assert len(await rig.shown(source)) == 6
    rig.clock.advance(61)
    if rig.double.description.time.get("axis") == "recorded":
        rig.window = Interval(rig.window.start, rig.clock.now())
    assert await rig.shown(source) == rig.made()
    assert len(rig.made()) == 7


@pytest.mark.parametrize("gone", [slice(0, 1), slice(5, 7), slice(None)])
async def test_no_other_row_is_lost_to_rows_that_come_and_go_during_a_walk(
    rig: DescribedRig, gone: slice
) -> None:
    if not rig.turns_pages:
        pytest.skip("there is one page")
    rig.fill(12)
    ids = list(rig.double.history.ids())

    def change() -> None:
        for each in ids[gone]:
            rig.double.history.remove(each)
        if not rig.is_counted:  # a total would hide it that one goes while another one comes
            rig.double.add(rig.window.start + 2 * HOUR)

    if rig.is_counted and not rig.double.REPORTS_TOTAL:
        pytest.skip("rows that move to the page before leave no trace without a total")
    before = rig.made()
    rig.double.before_page[2] = change
    with contextlib.suppress(WalkBroken):  # then smaller parts are walked
        assert set(await rig.shown()) >= set(before) & set(rig.made())
    assert not rig.double.before_page, "the page was never requested"
    assert await rig.shown() == rig.made()


@pytest.mark.parametrize("turns", ["repeats", "endless", "empties"])
async def test_pages_that_lead_nowhere_end_and_nothing_is_lost(
    rig: DescribedRig, turns: str
) -> None:
    if not rig.turns_pages:
        pytest.skip("there is one page")
    if turns == "empties" and (rig.is_counted or rig.double.description.pages.get("until_empty")):
        pytest.skip("an empty page is the end")
    rig.fill(13)
    rig.double.switches.turns = turns  # type: ignore[assignment]
    error = await rig.whole_or_error()
    assert error is None or isinstance(error, WalkBroken | Retryable)
    assert rig.double.requests < 150
    rig.double.switches.turns = "right"
    assert await rig.shown() == rig.made()


async def test_an_expired_cursor_breaks_the_walk_and_not_more(rig: DescribedRig) -> None:
    if rig.double.description.pages["kind"] not in ("cursor", "url"):
        pytest.skip("no cursors")
    rig.fill(13)
    rig.double.switches.cursor_life = 30.0
    rig.double.before_page[2] = lambda: rig.clock.advance(60)
    source = rig.build()
    error: RelayError | None = await rig.whole_or_error(source)
    assert error is None or isinstance(error, WalkBroken)
    assert await rig.shown(source) == rig.made()


@pytest.mark.parametrize("retry_after", ["seconds", "date", "absent", "reset header"])
@pytest.mark.parametrize("throttle", ["first", "last"])
async def test_too_many_requests_are_waited_for(
    one_of_few: DescribedRig, retry_after: str, throttle: str
) -> None:
    one_of_few.fill(13)
    one_of_few.double.switches.rate = 6
    one_of_few.double.switches.retry_after = retry_after  # type: ignore[assignment]
    one_of_few.double.switches.throttle = throttle  # type: ignore[assignment]
    source = one_of_few.build()
    shown = []
    for _ in range(8):
        try:
            shown.append(await one_of_few.shown(source))
        except Retryable:
            one_of_few.clock.advance(61)
    assert shown == [one_of_few.made()] * len(shown)
    assert len(shown) > 3
    assert {403, 429} & set(one_of_few.double.answered), "it was never too fast"
    assert max(one_of_few.clock.waits, default=0) < 200, "no wait of years"


@pytest.mark.parametrize("where", ["other host", "other path"])
async def test_a_next_address_elsewhere_is_not_followed(rig: DescribedRig, where: str) -> None:
    if rig.double.description.pages["kind"] != "url":
        pytest.skip("no addresses")
    rig.fill(13)
    rig.double.switches.next_address = where  # type: ignore[assignment]
    with pytest.raises(Refused, match="not followed"):
        await rig.shown()
    assert rig.double.requests == 1
    assert rig.double.answered == {200: 1}


async def test_a_next_address_may_be_a_path_alone(rig: DescribedRig) -> None:
    rig.fill(13)
    rig.double.switches.next_address = "path"
    assert await rig.shown() == rig.made()


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 418, 422])
async def test_a_refusal_holds_the_source_with_the_vendors_words(
    one_of_few: DescribedRig, status: int
) -> None:
    one_of_few.fill(3)
    one_of_few.double.switches.refuse = status
    with pytest.raises(Refused, match="refused on command") as caught:
        await one_of_few.shown()
    assert caught.value.status == status


async def test_no_credential_is_in_an_error_or_another_place(one_of_few: DescribedRig) -> None:
    one_of_few.fill(3)
    source = one_of_few.build(
        **dict.fromkeys(one_of_few.double.description.secrets, "wrong-key-of-another")
    )
    with pytest.raises(Refused) as caught:
        await one_of_few.shown(source)
    assert caught.value.status == 401
    assert "wrong-key" not in str(caught.value)
    assert not any("wrong-key" in str(seen.query) + seen.path for seen in one_of_few.double.seen)


@pytest.mark.parametrize(
    "action",
    [
        faults.html(200),
        faults.truncated(),
        faults.reset(),
        faults.answer(200, b'{"hello":"world"}'),
        NULL,
        faults.html(503),
    ],
    ids=["html", "half", "reset", "another JSON", "null", "503"],
)
@pytest.mark.parametrize("page", [1, 2])
async def test_no_record_is_lost_to_a_transient_failure(
    one_of_few: DescribedRig, action: faults.Action, page: int
) -> None:
    if page > 1 and not one_of_few.turns_pages:
        pytest.skip("there is one page")
    if action.answer is not None and not one_of_few.double.description.records["at"]:
        action = faults.html(200) if action is NULL else action  # null is an empty list
    one_of_few.fill(13)
    fault = one_of_few.double.faults.add(action, nth=page)
    assert await one_of_few.shown() == one_of_few.made()
    assert fault.applied == 1


async def test_finely_everything_is_shown_as_well(rig: DescribedRig) -> None:
    rig.fill(9)
    source = rig.build()
    pages = [page async for page in source.walk(rig.window, finely=True)]
    shown = {record for page in pages for record in page.records}
    assert shown >= set(rig.made())
    assert pages[-1].last


async def test_only_records_near_the_window_are_shown(rig: DescribedRig) -> None:
    if rig.double.description.bound_format == "date":
        pytest.skip("it is asked for whole days")
    inside = [rig.window.start, rig.window.end - MILLISECOND]
    for at in (*inside, rig.window.start - HOUR, rig.window.end + HOUR):
        for _ in range(5):
            rig.double.add(at)
    found = {record for page in await rig.pages() for record in page.records}
    made = set(rig.made())
    assert len(made) == 10
    assert made <= found
    if rig.double.description.time.get("end") or rig.double.description.time.get("text"):
        assert found == made
