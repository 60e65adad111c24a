"""The seals of a sink: kept until it has settled what they are of, and for no longer."""

from collections.abc import Callable

import pytest
from tests.support.states import State
from tests.support.stores import explained, opened

from auditrelay.events import AuditEvent
from auditrelay.events.page import Page
from auditrelay.store.seals import Seal
from auditrelay.store.sql import branches, meta
from auditrelay.store.sql.store import SqlStore

Make = Callable[..., AuditEvent]


def seal(name: str, *places: tuple[int, int]) -> Seal:
    return Seal(name, f"digest of {name}", places)


async def names(store: SqlStore, sink: str = "splunk") -> list[str]:
    return [each.name for each in (await store.batch_seals(sink)).all]


@pytest.fixture(autouse=True)
async def spooled(store: SqlStore, event: Make) -> None:
    await store.add("voice", Page.of([event(number) for number in range(10)]))


async def test_seals_outlive_the_process_as_they_were_written(
    store: SqlStore, state: State
) -> None:
    made = [seal("a/ü", (0, 3), (5, 6)), seal("b", (3, 5))]
    written = await store.seal_batches("splunk", made)
    assert written.all == tuple(made)
    await store.close()
    again = await opened(state)
    assert await again.batch_seals("splunk") == written
    with state.view() as view:
        assert [written.log] == view.read(lambda db: [branches.log_of(db)])
    await again.close()


async def test_a_seal_is_kept_until_all_of_it_is_settled(store: SqlStore) -> None:
    await store.seal_batches("splunk", [seal("a", (0, 3), (5, 6)), seal("b", (3, 5))])
    await store.settle("splunk", [(0, 3)])
    assert await names(store) == ["a", "b"]
    await store.settle("splunk", [(5, 6)])
    assert await names(store) == ["b"]
    assert [
        each.name for each in (await store.seal_batches("splunk", [seal("c", (6, 9))])).all
    ] == [
        "b",
        "c",
    ]
    await store.settle("splunk", [(3, 10)])
    assert await names(store) == []


async def test_a_new_seal_takes_the_place_of_those_that_it_shares_places_with(
    store: SqlStore,
) -> None:
    await store.seal_batches("splunk", [seal("a", (0, 4)), seal("b", (4, 6)), seal("c", (6, 9))])
    await store.seal_batches("splunk", [seal("first half", (0, 2)), seal("d", (5, 7))])
    assert await names(store) == ["first half", "d"]


async def test_sinks_have_seals_of_their_own_which_go_with_them(store: SqlStore) -> None:
    await store.start_sink("other", ["voice"])
    await store.seal_batches("splunk", [seal("a", (0, 4))])
    assert await names(store, "other") == []
    await store.retire({"other": ["voice"]}, ["voice"])
    assert await names(store) == ["a"], "it may come back"
    await store.forget("splunk")
    await store.start_sink("splunk", ["voice"])
    assert await names(store) == []


async def test_a_text_that_is_no_seals_is_none(store: SqlStore, state: State) -> None:
    await store.seal_batches("splunk", [seal("a", (0, 4))])
    await store._engine.write(lambda db: meta.put_text(db, "seals splunk", "[{}"))
    assert await names(store) == []
    await store.seal_batches("splunk", [seal("b", (0, 4))])
    assert await names(store) == ["b"]
    explained(state)
