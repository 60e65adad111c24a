"""
A database that loses what it had acknowledged, as in a failover: nothing is lost with it.

It is put back to what it was when it was saved; what came after that is the tail. A guard that
is taken away in a test shows what it guards.
"""

from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import uuid4

import pytest
from tests.support.shared_state import take
from tests.support.states import InDatabase, on_postgres
from tests.support.stores import NOON, backlog, dead_letters, explained, opened, seal, span, uids

from auditrelay.errors import Fenced, RolledBack
from auditrelay.events import AuditEvent
from auditrelay.events.page import Page
from auditrelay.store import Proof, RejectedEvent
from auditrelay.store.sql.marks import Marks
from auditrelay.store.sql.store import SqlStore

pytestmark = on_postgres

Make = Callable[..., AuditEvent]


@pytest.fixture
async def other(state: InDatabase, store: SqlStore) -> AsyncIterator[SqlStore]:
    """The store of another replica, which has written before anything is lost."""
    other = await opened(state)
    await other.start_source("voice", NOON)
    yield other
    await other.close()


@pytest.fixture
async def third(state: InDatabase, store: SqlStore) -> AsyncIterator[SqlStore]:
    """The store of a replica that has written nothing before: it takes over what others drop."""
    third = await opened(state)
    yield third
    await third.close()


def go_on(store: SqlStore) -> None:
    """Drop all leases, as a replica does that was rolled back."""
    store._engine.writer.continue_as(uuid4())  # type: ignore[attr-defined]  # it is PostgreSQL's


# --- a walk whose first pages are lost


async def walk(state: InDatabase, store: SqlStore, event: Make) -> None:
    """Lose the first page of a walk behind its back, and finish it."""
    mine = store.under(take(state.url, "source voice"))
    await mine.start_source("voice", NOON)
    saved = state.back_up()
    await mine.add("voice", Page.of([event(1), event(2)]))
    state.roll_back(saved)
    await mine.add("voice", Page.of([event(3)]), proof=Proof(covers=(span(0, 5),)))


async def test_a_walk_whose_first_pages_were_lost_proves_nothing(
    state: InDatabase, store: SqlStore, third: SqlStore, event: Make
) -> None:
    with pytest.raises(RolledBack):
        await walk(state, store, event)
    again = third.under(take(state.url, "source voice"))
    assert await again.ledger("voice") == ()
    page, proof = Page.of([event(number) for number in (1, 2, 3)]), Proof(covers=(span(0, 5),))
    assert (await again.add("voice", page, proof=proof)).new == (0, 1, 2)
    explained(state)


async def test_without_the_count_of_writes_they_would_be_covered_and_lost(
    state: InDatabase, store: SqlStore, event: Make
) -> None:
    with state.raw() as db:
        # As the fence is, but for the count.
        db.execute(
            "create or replace function fence(me uuid, expected bigint, units text[], "
            "tokens uuid[]) returns void language sql as $$ select $$"
        )
    await walk(state, store, event)
    assert len(await store.ledger("voice")) == 1, "covered"
    assert await uids(store) == [event(3).uid], "and lost"


async def test_a_page_of_known_events_is_covered_by_the_count_too(
    state: InDatabase, store: SqlStore, event: Make
) -> None:
    """It writes nothing of its own, and what made its events known is lost."""
    mine = store.under(take(state.url, "source voice"))
    await mine.start_source("voice", NOON)
    saved = state.back_up()
    await mine.add("voice", Page.of([event(1)]))
    assert (await mine.add("voice", Page.of([event(1)]))).known == 1
    state.roll_back(saved)
    with pytest.raises(RolledBack):
        await mine.add("voice", Page.of([event(1)]), proof=Proof(covers=(span(0, 5),)))
    assert await mine.ledger("voice") == ()


# --- what a sink has read


async def read_what_is_lost(
    state: InDatabase, store: SqlStore, other: SqlStore, third: SqlStore, event: Make, *, then: int
) -> tuple[SqlStore, Any]:
    """
    Let the sink of *other* read ten events that are lost; *then* so many others take their places.

    Returns the sink's store, and what it has reached.
    """
    source = store.under(take(state.url, "source voice"))
    sink = other.under(take(state.url, "sink splunk"))
    await sink.settle("splunk", [])
    saved = state.back_up()
    await source.add("voice", Page.of([event(number) for number in range(10)]))
    pages, reached = await sink.read("splunk", None, 100)
    assert sum(len(page.events) for page in pages) == 10
    state.roll_back(saved)
    again = third.under(take(state.url, "source voice"))
    await again.add("voice", Page.of([event(100 + number) for number in range(then)]))
    return sink, reached


async def test_a_verdict_on_a_page_that_was_lost_is_not_one_on_what_took_its_place(
    state: InDatabase, store: SqlStore, other: SqlStore, third: SqlStore, event: Make
) -> None:
    sink, _ = await read_what_is_lost(state, store, other, third, event, then=10)
    refused = RejectedEvent(3, "invalid", "no", 400, 1, NOON, NOON)
    with pytest.raises(RolledBack):
        await sink.settle("splunk", [(0, 10)], [refused])
    with pytest.raises(RolledBack):
        await sink.settle("splunk", [(4, 5)])
    assert len(await uids(third)) == 10, "they wait"
    assert dead_letters(state) == []
    go_on(other)
    afresh = other.under(take(state.url, "sink splunk"))
    assert await uids(afresh) == [event(100 + number).uid for number in range(10)]
    await afresh.settle("splunk", [(0, 10)])
    await seal(third)
    explained(state, sealed=True)


async def test_without_marks_they_would_be_said_to_be_delivered(
    state: InDatabase,
    store: SqlStore,
    other: SqlStore,
    third: SqlStore,
    event: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Marks, "done", lambda *_: None)
    sink, _ = await read_what_is_lost(state, store, other, third, event, then=10)
    await sink.settle("splunk", [(0, 10)])
    assert await uids(third) == [], "never sent, and lost"


@pytest.mark.parametrize("then", [0, 4, 10, 14])
async def test_who_has_read_beyond_the_end_does_not_pass_over_what_is_put_there(
    state: InDatabase, store: SqlStore, other: SqlStore, third: SqlStore, event: Make, then: int
) -> None:
    sink, reached = await read_what_is_lost(state, store, other, third, event, then=then)
    with pytest.raises(RolledBack):
        await sink.read("splunk", reached, 100)


async def test_without_marks_it_would_be_passed_over(
    state: InDatabase,
    store: SqlStore,
    other: SqlStore,
    third: SqlStore,
    event: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Marks, "last", lambda *_: None)
    sink, reached = await read_what_is_lost(state, store, other, third, event, then=14)
    pages, _ = await sink.read("splunk", reached, 100)
    assert sum(len(page.events) for page in pages) < 14


async def test_what_was_settled_in_the_tail_is_delivered_again(
    state: InDatabase, store: SqlStore, event: Make
) -> None:
    await store.add("voice", Page.of([event(1), event(2)]))
    sink = store.under(take(state.url, "sink splunk"))
    await sink.read("splunk", None, 10)
    await sink.settle("splunk", [(0, 1)])
    saved = state.back_up()
    refused = RejectedEvent(1, "invalid", "no", 400, 1, NOON, NOON)
    await sink.settle("splunk", [(1, 2)], [refused])
    state.roll_back(saved)
    with pytest.raises(RolledBack, match="lost 1 of"):
        await sink.settle("splunk", [])
    go_on(store)
    afresh = store.under(take(state.url, "sink splunk"))
    assert await uids(afresh) == [event(2).uid]
    assert dead_letters(state) == []
    explained(state)


async def test_a_page_that_was_settled_or_pruned_meanwhile_is_no_page_that_was_lost(
    state: InDatabase, store: SqlStore, event: Make
) -> None:
    sink = store.under(take(state.url, "sink splunk"))
    for first in range(0, 40, 10):
        await store.add("voice", Page.of([event(first + number) for number in range(10)]))
    pages, reached = await sink.read("splunk", None, 100)
    await sink.settle("splunk", [(page.first, page.first + 10) for page in pages[1:]])
    await sink.settle("splunk", [(0, 10)])
    assert await store.make_room()
    assert (await sink.read("splunk", reached, 100))[0] == []
    await sink.settle("splunk", [(5, 15)])  # said once more
    await store.add("voice", Page.of([event(50)]))
    assert len((await sink.read("splunk", reached, 100))[0]) == 1


# --- leases


async def test_a_lease_that_was_lost_and_given_out_again_has_another_token(
    state: InDatabase, store: SqlStore, other: SqlStore, event: Make
) -> None:
    """The same epoch twice: the numbers of both say the same."""
    take(state.url, "source voice")
    saved = state.back_up()
    lost = take(state.url, "source voice")
    state.roll_back(saved)
    given = take(state.url, "source voice")
    assert (lost.epoch, lost.unit) == (given.epoch, given.unit)
    with pytest.raises(Fenced):
        await other.under(lost).add("voice", Page.of([event(1)]))
    assert (await store.under(given).add("voice", Page.of([event(1)]))).new == (0,)


async def test_a_backfill_and_a_resweep_break_off_with_the_lease_that_they_began_under(
    state: InDatabase, store: SqlStore, event: Make
) -> None:
    lease = take(state.url, "source voice")
    resweep, backfill = store.under(lease), store.under(lease)
    await resweep.start_source("voice", NOON)
    begun = await backfill.begin_backfill("voice", span(0, 9), [], NOON)
    saved = state.back_up()
    for reader, number in ((resweep, 1), (backfill, 2)):
        await reader.add("voice", Page.of([event(number)]), via="backfill")
    state.roll_back(saved)
    with pytest.raises(RolledBack):
        await resweep.add("voice", Page.of([event(3)]))
    go_on(store)
    poll = store.under(take(state.url, "source voice"))
    await poll.add("voice", Page.of([event(4)]))
    part = Proof(covers=(span(0, 9),), backfill=begun.id, part=span(0, 9))
    for reader in (resweep, backfill):
        with pytest.raises(Fenced):
            await reader.add("voice", Page.of([event(5)]), via="backfill", proof=part)
    assert await store.ledger("voice") == ()
    assert (await poll.begin_backfill("voice", span(0, 9), [], NOON)).done == ()


async def test_a_dead_letter_in_the_tail_is_an_event_that_waits_again(
    state: InDatabase, store: SqlStore, event: Make
) -> None:
    await store.add("voice", Page.of([event(1), event(2)]))
    sink = store.under(take(state.url, "sink splunk"))
    refused = RejectedEvent(0, "invalid", "no", 400, 1, NOON, NOON)
    await sink.settle("splunk", [(0, 1)], [refused])
    saved = state.back_up()
    [letter] = dead_letters(state)
    await store.replay([letter.id])
    [page] = [page for page in await backlog(sink) if page.first == 2]
    await sink.settle("splunk", [(2, 3)])
    assert dead_letters(state) == [], "delivered after all"
    state.roll_back(saved)
    with pytest.raises(RolledBack):
        await sink.settle("splunk", [(1, 2)])
    assert [each.id for each in dead_letters(state)] == [letter.id], "it can be replayed again"
    assert page.events[0].replayed
    go_on(store)
    assert [each.id for each in await store.replay([letter.id])] == [letter.id]
    explained(state)
