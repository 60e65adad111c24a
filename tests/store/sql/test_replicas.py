"""Several stores on one state: each writes under its leases, and only while it has them."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from tests.support.shared_state import take
from tests.support.states import InDatabase, on_postgres
from tests.support.stores import NOON, backlog, explained, opened, seal, span, uids

from auditrelay.errors import Fenced
from auditrelay.events import AuditEvent
from auditrelay.events.page import Page
from auditrelay.store import Proof, RejectedEvent
from auditrelay.store.sql.store import SqlStore

pytestmark = on_postgres

Make = Callable[..., AuditEvent]
Open = Callable[[], "asyncio.Future[SqlStore]"]


@pytest.fixture
async def other(state: InDatabase, store: SqlStore) -> AsyncIterator[SqlStore]:
    """The store of another replica on the same state; the first one has begun it."""
    other = await opened(state)
    yield other
    await other.close()


async def test_who_has_lost_its_lease_writes_nothing_more(
    state: InDatabase, store: SqlStore, other: SqlStore, event: Make
) -> None:
    before = store.under(take(state.url, "source voice"))
    await before.add("voice", Page.of([event(1)]))
    after = other.under(take(state.url, "source voice"))
    proof = Proof(covers=(span(0, 5),))
    for write in (
        before.add("voice", Page.of([event(2)]), proof=proof),
        before.record_deleted("voice", span(0, 5), set(), 99),
        before.begin_backfill("voice", span(0, 5), [], NOON),
    ):
        with pytest.raises(Fenced):
            await write
    assert (await after.add("voice", Page.of([event(1), event(2)]))).new == (1,)
    assert await after.ledger("voice") == (), "nothing was proved"
    explained(state)


async def test_a_verdict_of_a_sink_that_another_replica_has_is_refused(
    state: InDatabase, store: SqlStore, other: SqlStore, event: Make
) -> None:
    await store.add("voice", Page.of([event(1), event(2)]))
    before = store.under(take(state.url, "sink splunk"))
    await before.read("splunk", None, 10)
    after = other.under(take(state.url, "sink splunk"))
    refused = RejectedEvent(0, "invalid", "no", 400, 1, NOON, NOON)
    with pytest.raises(Fenced):
        await before.settle("splunk", [(0, 2)], [refused])
    assert await uids(after) == [event(1).uid, event(2).uid]
    assert (await after.sinks())[0].dead_letters == 0
    await after.settle("splunk", [(0, 2)])
    assert await uids(after) == []


async def test_one_lease_says_nothing_of_the_others(
    state: InDatabase, store: SqlStore, event: Make
) -> None:
    lost, kept = (store.under(take(state.url, unit)) for unit in ("source voice", "sink splunk"))
    await store.add("voice", Page.of([event(1)]))
    take(state.url, "source voice")
    # At the same time, so that they share a transaction first.
    added, settled = await asyncio.gather(
        lost.add("voice", Page.of([event(2)])),
        kept.settle("splunk", [(0, 1)]),
        return_exceptions=True,
    )
    assert isinstance(added, Fenced)
    assert settled == set()
    assert await backlog(store) == []


async def test_a_lease_that_comes_back_is_another_one(
    state: InDatabase, store: SqlStore, event: Make
) -> None:
    """What was read under the first one, such as by a resweep, may have been lost between them."""
    resweep = store.under(take(state.url, "source voice"))
    await resweep.add("voice", Page.of([event(1)]))
    take(state.url, "source voice")
    poll = store.under(take(state.url, "source voice"))
    await poll.add("voice", Page.of([event(2)]))
    with pytest.raises(Fenced):
        await resweep.add("voice", Page.of([]), proof=Proof(covers=(span(0, 5),)))
    assert await store.ledger("voice") == ()


async def test_what_is_known_is_known_to_the_next_holder_of_the_lease(
    state: InDatabase, store: SqlStore, other: SqlStore, event: Make
) -> None:
    """Back and forth, with other times: what one keeps in memory is of its lease alone."""
    for turn in range(6):
        holder = (store, other)[turn % 2].under(take(state.url, "source voice"))
        page = [event(number, at=event(number).at + turn) for number in range(2 * turn + 2)]
        assert (await holder.add("voice", Page.of(page))).new == (2 * turn, 2 * turn + 1)
    assert await uids(other) == [event(number).uid for number in range(12)]
    explained(state)


async def test_two_that_write_at_the_same_time_share_one_log_of_places(
    state: InDatabase, store: SqlStore, other: SqlStore, event: Make
) -> None:
    await store.start_source("access", NOON)
    await store.start_sink("splunk", ["voice", "access"])

    async def collect(replica: SqlStore, source: str, first: int) -> None:
        mine = replica.under(take(state.url, f"source {source}"))
        for number in range(first, first + 40, 2):
            page = Page.of([event(number, source=source), event(number + 1, source=source)])
            await mine.add(source, page)

    async def deliver() -> list[str]:
        mine, taken = other.under(take(state.url, "sink splunk")), list[str]()
        reached = None
        while len(taken) < 80:
            pages, reached = await mine.read("splunk", reached, 7)
            taken += [each.uid for page in pages for each in page.events]
            ends = [(page.first, page.first + len(page.events)) for page in pages]
            await mine.settle("splunk", ends)
        return taken

    async def seals() -> None:
        for _ in range(5):
            await seal(store)

    *_, taken, _ = await asyncio.gather(
        collect(store, "voice", 0), collect(other, "access", 100), deliver(), seals()
    )
    assert sorted(taken) == sorted(event(n).uid for n in (*range(40), *range(100, 140)))
    assert await backlog(store) == []
    await seal(other)
    explained(state, sealed=True)
