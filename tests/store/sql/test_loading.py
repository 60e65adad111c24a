"""What is known of a source is loaded before its first page, where replicas share the state."""

import asyncio
import threading

import pytest
from tests.conftest import make_event
from tests.support.states import State, forge
from tests.support.stores import NOON

from auditrelay.errors import Fenced, StateError
from auditrelay.events.page import Page
from auditrelay.store.sql import removal
from auditrelay.store.sql.loading import Loading
from auditrelay.store.sql.store import SqlStore
from auditrelay.store.sql.uids import Uids


async def test_a_page_waits_until_what_is_known_is_loaded_and_it_is_loaded_once(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = store._engine.shared
    loads: list[int] = []
    load = Uids.load

    def counted(uids: Uids, db: object, owner: int) -> None:
        loads.append(owner)
        load(uids, db, owner)  # type: ignore[arg-type]  # as given

    monkeypatch.setattr(Uids, "load", counted)
    await store.start_source("voice", NOON)
    await store.add("voice", Page.of([]))
    assert not loads, "nothing is to be compared"
    pages = [Page.of([make_event(number), make_event(number + 1)]) for number in range(0, 8, 2)]
    added = await asyncio.gather(*(store.add("voice", page) for page in pages))
    assert [len(each.new) for each in added] == [2, 2, 2, 2]
    assert len(loads) == 1
    again = await asyncio.gather(*(store.add("voice", page) for page in pages))
    assert [each.known for each in again] == [2, 2, 2, 2]
    assert len(loads) == 1
    assert store._adding._loading._loaded == ({"voice"} if shared else set())


async def test_what_another_opener_has_stored_is_known_after_loading(store: SqlStore) -> None:
    await store.start_source("voice", NOON)
    await store.add("voice", Page.of([make_event(1)]))
    uids = Uids()
    await Loading(store._engine, uids).ensure("voice")
    known = bytes.fromhex(make_event(1).uid)
    assert bool(uids._loaded) is store._engine.shared
    assert list(uids.possible(1, [known])) == [known]


async def test_who_asks_after_one_that_was_cancelled_waits_for_the_same_load(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not store._engine.shared:
        return
    await store.start_source("voice", NOON)
    begun, go, loads = threading.Event(), threading.Event(), []
    load = Uids.load

    def slow(uids: Uids, db: object, owner: int) -> None:
        loads.append(owner)
        begun.set()
        go.wait(10)
        load(uids, db, owner)  # type: ignore[arg-type]  # as given

    monkeypatch.setattr(Uids, "load", slow)
    loading = Loading(store._engine, Uids())
    first = asyncio.create_task(loading.ensure("voice"))
    await asyncio.to_thread(begun.wait, 10)
    first.cancel()
    await asyncio.wait([first])
    second = asyncio.create_task(loading.ensure("voice"))
    await asyncio.sleep(0)
    go.set()
    await second
    assert len(loads) == 1


async def test_nothing_is_stored_for_a_source_that_another_instance_has_removed(
    store: SqlStore,
) -> None:
    await store.start_source("voice", NOON)
    await store.add("voice", Page.of([make_event(0)]))
    await removal.remove(store._engine, store._spooling, store._spool, "voice", 0, by=None)
    store._adding._ids = {"voice": 1}
    before = await store.end_of_spool("voice")
    with pytest.raises(Fenced, match="was removed"):
        await store.add("voice", Page.of([make_event(1)]))
    assert await store.end_of_spool("voice") == before


@pytest.mark.parametrize("column", ["uids", "times"])
async def test_a_log_of_uids_that_is_damaged_is_refused_and_nothing_is_new(
    store: SqlStore, state: State, column: str
) -> None:
    await store.start_source("voice", NOON)
    await store.add("voice", Page.of([make_event(1), make_event(2)]))
    empty = "zeroblob(3)" if state.engine == "sqlite" else r"'\x000000'::bytea"
    forge(state, f"update uid_log set {column} = {empty}")
    fresh = Uids()
    with pytest.raises(StateError, match=r"uid_log is damaged, near its row \d+: .* Restore"):
        await store._engine.write(lambda db: fresh.load(db, 1))
