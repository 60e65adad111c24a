"""What others do in the same database: locks, endless transactions, sessions that are ended."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest
from tests.support.shared_state import raw, rows
from tests.support.states import InDatabase, on_postgres
from tests.support.stores import NOON, backlog, explained, opened, seal, span, uids

from auditrelay.events import AuditEvent
from auditrelay.events.page import Page
from auditrelay.store import Proof
from auditrelay.store.sql.store import SqlStore

pytestmark = on_postgres

Make = Callable[..., AuditEvent]


@pytest.fixture
async def store(state: InDatabase) -> AsyncIterator[SqlStore]:
    store = await opened(state)
    await store.start_source("voice", NOON)
    await store.start_sink("splunk", ["voice"])
    yield store
    await store.close()


async def test_a_table_that_is_locked_is_waited_for(
    state: InDatabase, store: SqlStore, event: Make
) -> None:
    with contextlib.closing(raw(state.url)) as other:
        other.execute("begin; lock table auditrelay.spool in access exclusive mode")
        adding = asyncio.ensure_future(store.add("voice", Page.of([event(1)])))
        reading = asyncio.ensure_future(backlog(store))
        done, _ = await asyncio.wait([adding, reading], timeout=0.3)
        assert not done
        other.execute("rollback")
    assert (await adding).new == (0,)
    await reading
    assert await uids(store) == [event(1).uid]


async def test_a_transaction_that_never_ends_holds_no_write_up(
    state: InDatabase, store: SqlStore, event: Make
) -> None:
    with contextlib.closing(raw(state.url)) as other:
        other.execute("begin isolation level repeatable read; select from auditrelay.known")
        for number in range(30):
            await store.add("voice", Page.of([event(number)]))
            await store.settle("splunk", [(number, number + 1)])
        await store.make_room()
        await seal(store)
        other.execute("rollback")
    explained(state, sealed=True)


async def test_a_lock_on_one_row_of_a_sink_ends_without_a_lost_verdict(
    state: InDatabase, store: SqlStore, event: Make
) -> None:
    await store.add("voice", Page.of([event(1), event(2)]))
    with contextlib.closing(raw(state.url)) as other:
        other.execute("begin; select from auditrelay.sink for update")
        settling = asyncio.ensure_future(store.settle("splunk", [(0, 1)]))
        await asyncio.wait([settling], timeout=0.2)
        assert not settling.done()
        other.execute("rollback")
    await settling
    assert await uids(store) == [event(2).uid]


async def test_sessions_that_are_ended_again_and_again_repeat_and_lose_nothing(
    state: InDatabase, store: SqlStore, event: Make
) -> None:
    """An operator, a pooler, or a proxy ends sessions at any moment."""
    ending = True

    async def end() -> None:
        while ending:
            await asyncio.to_thread(
                state.server.execute,
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s",
                (state.name,),
            )
            await asyncio.sleep(0.15)

    enders = asyncio.ensure_future(end())
    for number in range(0, 30, 3):
        page = Page.of([event(number), event(number + 1), event(number + 2)])
        proof = Proof(covers=(span(number, number + 1),))
        assert len((await store.add("voice", page, proof=proof)).new) == 3
    ending = False
    await enders
    assert await uids(store) == [event(number).uid for number in range(30)]
    assert rows(state.url, "select value from meta where name = 'next_position'") == [(30,)]
    await seal(store)
    explained(state, sealed=True)
