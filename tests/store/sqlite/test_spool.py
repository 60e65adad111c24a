"""The spool: read page by page, pruned, and what happens when it is full."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from tests.support.stores import NOON, opened, uids

from auditrelay.errors import StoreFull
from auditrelay.events import AuditEvent
from auditrelay.store.sqlite.store import SqliteStore

Make = Callable[..., AuditEvent]


async def test_reading_goes_on_after_a_position_and_stops_at_enough(
    store: SqliteStore, event: Make
) -> None:
    for page in range(5):
        await store.add("voice", [event(page * 10 + n) for n in range(10)])
    pages = await store.read("splunk", 15, 12)
    assert [(page.first, len(page.events)) for page in pages] == [(15, 5), (20, 10)]


async def test_only_what_every_sink_has_and_retention_has_passed_is_pruned(
    store: SqliteStore, event: Make
) -> None:
    await store.start_sink("slow", ["voice"])
    await store.add("voice", [event(1)])
    await store.add("voice", [event(2)])
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
    assert (await store.add("voice", [event(3)])).new == (0,)
    assert await uids(store) == [event(3).uid]


async def test_a_full_spool_takes_nothing_until_delivered_events_are_deleted(
    tmp_path: Path, event: Make
) -> None:
    store = await opened(tmp_path, max_bytes=700)
    await store.start_source("voice", NOON)
    await store.start_sink("splunk", ["voice"])
    await store.add("voice", [event(1)])
    await store.add("voice", [event(2)])
    with pytest.raises(StoreFull):
        await store.add("voice", [event(3)])
    assert not await store.make_room()
    assert await uids(store) == [event(1).uid, event(2).uid]
    with pytest.raises(StoreFull):
        await store.add("voice", [event(3)])
    assert store.spool_bytes < 700
    await store.settle("splunk", [(0, 2)])
    assert await store.make_room()
    assert (await store.add("voice", [event(3)])).new == (0,)
    assert await uids(store) == [event(3).uid]
    await store.close()
