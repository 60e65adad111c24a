"""The spool: read page by page, pruned, and what happens when it is full."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from tests.support.states import State
from tests.support.stores import NOON, opened, uids

from auditrelay.errors import StoreFull
from auditrelay.events import AuditEvent
from auditrelay.events.page import Page
from auditrelay.store import SpoolPage
from auditrelay.store.sql import spool
from auditrelay.store.sql.store import SqlStore

Make = Callable[..., AuditEvent]


def shape(pages: list[SpoolPage]) -> list[tuple[int, int]]:
    return [(page.first, len(page.events)) for page in pages]


async def test_reading_goes_on_where_it_stopped_and_stops_at_enough(
    store: SqlStore, event: Make
) -> None:
    for page in range(5):
        await store.add("voice", Page.of([event(page * 10 + n) for n in range(10)]))
    pages, reached = await store.read("splunk", None, 12)
    assert shape(pages) == [(0, 10), (10, 10)]
    pages, reached = await store.read("splunk", reached, 30)
    assert shape(pages) == [(20, 10), (30, 10), (40, 10)]
    pages, reached = await store.read("splunk", reached, 30)
    assert pages == []
    await store.add("voice", Page.of([event(50)]))
    pages, _ = await store.read("splunk", reached, 30)
    assert shape(pages) == [(50, 1)]


async def test_a_part_is_read_again_up_to_its_end_without_what_is_settled(
    store: SqlStore, event: Make
) -> None:
    for page in range(5):
        await store.add("voice", Page.of([event(page * 10 + n) for n in range(10)]))
    assert shape(await store.reread("splunk", (15, 32), 100)) == [(15, 5), (20, 10), (30, 2)]
    assert shape(await store.reread("splunk", (15, 32), 5)) == [(15, 5)], "enough"
    await store.settle("splunk", [(16, 18), (20, 40)])
    assert shape(await store.reread("splunk", (15, 32), 100)) == [(15, 1), (18, 2)]
    assert await store.reread("splunk", (20, 32), 100) == []


async def test_pages_that_are_settled_do_not_count_towards_the_size_of_a_read(
    store: SqlStore, event: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        await store.add("voice", Page.of([event(number)]))
    await store.settle("splunk", [(1, 4)])
    monkeypatch.setattr(spool, "MAX_READ_BYTES", 1)
    pages, reached = await store.read("splunk", None, 10)
    assert shape(pages) == [(0, 1)]
    pages, reached = await store.read("splunk", reached, 10)
    assert shape(pages) == [(4, 1)], "else it would seem that nothing waits"


async def test_only_what_every_sink_has_and_retention_has_passed_is_pruned(
    store: SqlStore, event: Make
) -> None:
    await store.start_sink("slow", ["voice"])
    await store.add("voice", Page.of([event(1)]))
    await store.add("voice", Page.of([event(2)]))
    later = NOON + timedelta(days=8)
    await store.settle("splunk", [(0, 2)])
    assert await store.prune(later) == 0
    await store.settle("slow", [(0, 1)])
    assert await store.prune(NOON) == 0
    assert await store.prune(later) == 1
    assert await uids(store, "slow") == [event(2).uid]
    await store.settle("slow", [(1, 2)])
    await store.prune(later)
    assert store.spool_bytes == 0
    assert (await store.add("voice", Page.of([event(3)]))).new == (0,)
    assert await uids(store) == [event(3).uid]


async def test_a_full_spool_takes_nothing_until_delivered_events_are_deleted(
    state: State, event: Make
) -> None:
    store = await opened(state, max_bytes=700)
    await store.start_source("voice", NOON)
    await store.start_sink("splunk", ["voice"])
    await store.add("voice", Page.of([event(1)]))
    await store.add("voice", Page.of([event(2)]))
    with pytest.raises(StoreFull):
        await store.add("voice", Page.of([event(3)]))
    assert not await store.make_room()
    assert await uids(store) == [event(1).uid, event(2).uid]
    with pytest.raises(StoreFull):
        await store.add("voice", Page.of([event(3)]))
    assert store.spool_bytes < 700
    await store.settle("splunk", [(0, 2)])
    assert await store.make_room()
    assert (await store.add("voice", Page.of([event(3)]))).new == (0,)
    assert await uids(store) == [event(3).uid]
    await store.close()
