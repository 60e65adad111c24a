"""How large the next page is, and where it begins."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditrelay.errors import Retryable, WalkBroken
from auditrelay.http.paging import MAX_IN_A_ROW, OffsetPages

BROKEN = WalkBroken("broken", reason="no_progress")


@given(st.lists(st.integers(0, 20), max_size=30), st.integers(1, 10))
def test_an_offset_is_the_sum_of_what_came(counts: list[int], most: int) -> None:
    paging = OffsetPages(most, finely=False)
    for count in counts:
        paging.read(count)
        assert paging.size == most
    assert paging.offset == sum(counts)


@given(st.sets(st.integers(0, 60)), st.integers(1, 16))
def test_reading_finely_passes_over_what_fails_alone(bad: set[int], most: int) -> None:
    rows, paging = 61, OffsetPages(most, finely=True)
    shown: set[int] = set()
    assert paging.size == 1
    while paging.offset < rows:
        page = range(paging.offset, min(paging.offset + paging.size, rows))
        if bad & set(page):
            try:
                paging.failed(BROKEN)
            except WalkBroken:
                in_a_row = range(paging.offset - MAX_IN_A_ROW, paging.offset + 1)
                assert set(in_a_row) <= bad
                return
        else:
            shown.update(page)
            paging.read(len(page))
        assert paging.size <= most
    assert shown == set(range(rows)) - bad
    assert paging.passed_over == len(bad)


def test_a_usual_walk_passes_over_nothing() -> None:
    with pytest.raises(WalkBroken):
        OffsetPages(10, finely=False).failed(BROKEN)


def test_nor_does_any_for_a_vendor_that_is_down() -> None:
    with pytest.raises(Retryable):
        OffsetPages(10, finely=True).failed(Retryable("no", reason="connect"))
