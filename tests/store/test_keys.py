"""Keys of known events: made by the page they are those made one by one, and sort like times."""

from collections.abc import Callable
from typing import Any

import pytest

from auditrelay.events import AuditEvent
from auditrelay.events.page import Page
from auditrelay.store.keys import (
    TIMELESS,
    keys_of,
    known_key,
    known_keys,
    sortable,
    time_of,
    uid_bytes,
)

Make = Callable[..., AuditEvent]
YEAR_1, YEAR_9999 = -62135596800_000_000, 253402300799_999_999


@pytest.mark.parametrize("changes", [[], [{}], [{"at": YEAR_1}, {"at": YEAR_9999}, {"at": 0}]])
@pytest.mark.parametrize("quality", ["source", "fetched"])
def test_the_keys_of_a_page_are_those_of_its_events(
    event: Make, changes: list[dict[str, Any]], quality: str
) -> None:
    events = [event(number, **each) for number, each in enumerate(changes)]
    events += [event(9 + n, time_quality=quality) for n in range(len(changes))]
    assert known_keys(Page.of(events)) == [known_key(each) for each in events]


def test_an_event_without_a_time_of_its_own_has_none_in_its_key(event: Make) -> None:
    (key,) = known_keys(Page.of([event(1, time_quality="fetched")]))
    assert key == TIMELESS + bytes.fromhex(event(1).uid)


def test_keys_sort_like_times_and_give_them_back(event: Make) -> None:
    times = [YEAR_1, -1, 0, 1, YEAR_9999]
    keys = keys_of([event(number).uid for number in range(5)], times)
    assert keys == sorted(keys)
    assert [time_of(key) for key in keys] == times
    assert [key[:8] for key in keys] == [sortable(at) for at in times]
    assert uid_bytes([event(1).uid]) == [bytes.fromhex(event(1).uid)]
    assert keys_of([], []) == uid_bytes([]) == []
