"""A page that was found new is stored without another look-up, unless something came between."""

import asyncio
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.states import State, on_each
from tests.support.stores import NOON, find_new, opened, uids

from auditrelay.events import AuditEvent
from auditrelay.events.page import Page
from auditrelay.store.sql import known
from auditrelay.store.sql.store import SqlStore
from auditrelay.window import micros

Make = Callable[..., AuditEvent]


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many keys each look-up had."""
    sizes: list[int] = []

    def watched(real: Callable[..., Any]) -> Callable[..., Any]:
        def look_up(
            db: object, uids: object, owner: int, keys: list[bytes], *others: object
        ) -> Any:
            if keys:
                sizes.append(len(keys))
            return real(db, uids, owner, keys, *others)

        return look_up

    monkeypatch.setattr(known, "look_up", watched(known.look_up))
    monkeypatch.setattr(known, "find_new", watched(known.find_new))
    return sizes


async def new_of(store: SqlStore, page: Page, source: str = "voice") -> Page:
    return page.take(await find_new(store, source, page.uid, page.at))


async def test_what_was_found_new_is_not_looked_up_again(
    store: SqlStore, event: Make, looked_up: list[int]
) -> None:
    for start in (0, 20):
        new = await new_of(store, Page.of(event(number) for number in range(start, start + 30)))
        assert len((await store.add("voice", new)).new) == len(new)
    assert looked_up == [30, 30]
    assert len(await uids(store)) == 50


async def test_what_memory_shows_to_be_new_is_looked_up_once_by_the_one_that_writes(
    tmp_path: Path, event: Make, looked_up: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await opened(tmp_path)
    await store.start_source("voice", NOON)
    await store.start_sink("splunk", ["voice"])
    await store.add("voice", await new_of(store, Page.of(event(n) for n in range(20))))
    looked_up.clear()
    monkeypatch.setattr(store._engine, "read", None)  # nothing is read on the other thread
    new = await new_of(store, Page.of(event(n) for n in range(20, 50)))
    assert looked_up == []
    assert len((await store.add("voice", new)).new) == 30
    assert looked_up == [30]
    monkeypatch.undo()
    page = Page.of([event(60), event(61), event(60, at=micros(NOON)), event(49)])
    assert await find_new(store, "voice", page.uid, page.at) == [0, 1], "one of them comes twice"
    await store.close()


async def test_what_the_log_of_uids_has_lost_is_still_known_under_its_time(
    tmp_path: Path, event: Make
) -> None:
    """Forgetting takes several transactions, and the log goes first: the process may end there."""
    store = await opened(tmp_path)
    await store.start_source("voice", NOON)
    await store.start_sink("splunk", ["voice"])
    await store.add("voice", Page.of(event(number) for number in range(20)))
    await store._engine.write(lambda db: db.execute("delete from uid_log"))
    await store.close()
    store = await opened(tmp_path)
    for page in (Page.of([event(50)]), Page.of([event(1), event(51)])):
        await store.add("voice", await new_of(store, page))
    assert (await store.add("voice", await new_of(store, Page.of([event(2)])))).new == ()
    assert len(await uids(store)) == 22
    await store.close()


async def test_anything_that_came_between_is_seen(
    store: SqlStore, event: Make, looked_up: list[int]
) -> None:
    page = Page.of([event(1), event(2)])
    new = await new_of(store, page)
    await store.add("voice", page[:1])
    assert (await store.add("voice", new)).new == (1,)
    assert (await store.add("voice", new)).new == ()
    assert len(looked_up) == 4


async def test_another_page_is_looked_up(store: SqlStore, event: Make) -> None:
    await store.add("voice", Page.of([event(1)]))
    await new_of(store, Page.of([event(2)]))
    assert (await store.add("voice", Page.of([event(1)]))).new == ()
    await store.start_source("other", NOON)
    await new_of(store, Page.of([event(3)]), source="other")
    assert (await store.add("voice", Page.of([event(3), event(3)]))).new == (0,)


@pytest.mark.parametrize(("state", "seed"), on_each(range(6), every=3), indirect=["state"])
async def test_two_that_read_the_same_store_each_event_once(
    event: Make, state: State, seed: int
) -> None:
    """A poll and a backfill, whose look-ups and writes come in any order."""
    draw = random.Random(seed)
    store = await opened(state)
    await store.start_source("voice", NOON)
    await store.start_sink("splunk", ["voice"])

    async def read(order: list[int]) -> int:
        added = 0
        for start in range(0, len(order), 5):
            page = Page.of(event(number) for number in order[start : start + 5])
            for _ in range(draw.randrange(3)):
                await asyncio.sleep(0)
            new = await new_of(store, page)
            for _ in range(draw.randrange(3)):
                await asyncio.sleep(0)
            added += len((await store.add("voice", new)).new)
        return added

    orders = [draw.sample(range(100), 100) if draw.random() < 0.5 else [*range(100)] for _ in "abc"]
    assert sum(await asyncio.gather(*map(read, orders))) == 100
    stored = await uids(store)
    assert len(stored) == len(set(stored)) == 100
    await store.close()


async def test_a_write_that_shares_the_transaction_is_seen(store: SqlStore, event: Make) -> None:
    begun, go = threading.Event(), threading.Event()

    def wait(_: object) -> bool:
        begun.set()
        return go.wait(5)

    blocked = asyncio.ensure_future(store._engine.write(wait))
    await asyncio.to_thread(begun.wait)
    page = Page.of([event(1)])
    first = asyncio.ensure_future(store.add("voice", page))
    await asyncio.sleep(0)
    # With another time today, since the database itself refuses the same uid and time twice.
    new = await new_of(store, Page.of([event(1, at=micros(NOON))]))
    assert len(new) == 1, "nothing is written yet"
    second = asyncio.ensure_future(store.add("voice", new))
    await asyncio.sleep(0)
    go.set()
    assert [len((await each).new) for each in (first, second)] == [1, 0]
    await blocked


async def test_a_write_that_was_under_way_is_seen(
    store: SqlStore, event: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go = threading.Event(), threading.Event()
    remember = known.remember

    def slow(*args: Any, **named: Any) -> None:
        begun.set()
        go.wait(5)
        remember(*args, **named)

    monkeypatch.setattr(known, "remember", slow)
    page = Page.of([event(1)])
    first = asyncio.ensure_future(store.add("voice", page))
    await asyncio.to_thread(begun.wait)
    new = await new_of(store, Page.of([event(1, at=micros(NOON))]))
    assert len(new) == 1, "nothing is committed yet"
    go.set()
    assert [len((await each).new) for each in (first, store.add("voice", new))] == [1, 0]
