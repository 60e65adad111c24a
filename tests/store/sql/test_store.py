"""The store as a whole: a restart, writes that share a commit."""

import asyncio
from collections.abc import Callable
from datetime import timedelta

import pytest
from tests.support.states import State
from tests.support.stores import NOON, backlog, counted, opened, span, uids

from auditrelay.events import AuditEvent
from auditrelay.events.page import Page
from auditrelay.store import Declared, Proof
from auditrelay.store.conditions import SourceCondition
from auditrelay.store.sql.store import SqlStore

Make = Callable[..., AuditEvent]


async def test_a_start_is_stored_once_and_for_all(store: SqlStore) -> None:
    assert await store.start_source("voice", NOON) == NOON - timedelta(days=7)


async def test_events_survive_a_restart_with_everything_in_them(
    state: State, store: SqlStore, event: Make
) -> None:
    await store.add("voice", Page.of([event(1, tags=(("team", "blue"),), late_by_s=5)]))
    await store.close()
    second = await opened(state)
    (page,) = await backlog(second)
    assert list(page.events) == [event(1, tags=(("team", "blue"),), late_by_s=5)]
    assert (await second.add("voice", Page.of([event(1)]))).new == ()
    await second.close()


async def test_one_failing_write_leaves_its_neighbours_alone(store: SqlStore, event: Make) -> None:
    results = await asyncio.gather(
        store.add("voice", Page.of([event(1)])),
        store.add("never-started", Page.of([event(2)])),
        store.add("voice", Page.of([event(3)])),
        return_exceptions=True,
    )
    assert isinstance(results[1], KeyError)
    assert await uids(store) == [event(1).uid, event(3).uid]


async def test_a_condition_that_comes_with_a_page_is_part_of_its_write(
    store: SqlStore, event: Make
) -> None:
    due = 0

    def note() -> None:
        nonlocal due
        due += 1

    store.on_condition = note
    proof = Proof(covers=(span(0, 5),))
    with counted(store) as calls:
        await store.add("voice", Page.of([]), proof=proof, condition=SourceCondition(up=True))
    assert (calls, due) == ({"write add": 1}, 1)
    (state,) = await store.sources()
    assert (state.condition, len(state.ledger)) == (SourceCondition(up=True), 1)

    def broken(gap: Declared, filled: bool) -> AuditEvent:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await store.add(
            "voice",
            Page.of([event(1)]),
            proof=Proof(gaps=((span(5, 9), "retention"),)),
            notice=broken,
            condition=SourceCondition(up=False),
        )
    (state,) = await store.sources()
    assert (state.condition, len(state.ledger)) == (SourceCondition(up=True), 1), "all or nothing"
    await store.add("voice", Page.of([event(1)]))
    assert (await store.sources())[0].condition == SourceCondition(up=True), "without one it stays"
