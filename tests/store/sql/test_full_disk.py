"""No room on the disk: nothing of a page is stored, and what was delivered is still settled."""

from collections.abc import Callable

import pytest
from tests.support.states import State
from tests.support.stores import NOON, dead_letters, explained, seal, span, uids

from auditrelay.errors import StoreFull
from auditrelay.events import AuditEvent
from auditrelay.events.page import Page
from auditrelay.store import Proof, RejectedEvent
from auditrelay.store.sql.store import SqlStore

Make = Callable[..., AuditEvent]


async def test_what_finds_no_room_is_not_stored_and_verdicts_are(
    store: SqlStore, state: State, event: Make
) -> None:
    await store.add("voice", Page.of([event(number) for number in range(10)]))
    await state.fill_up(store)
    large = Page.of([event(100 + n, message="x" * 9_000 + str(n)) for n in range(90)])
    with pytest.raises(StoreFull):
        await store.add("voice", large, proof=Proof(covers=(span(0, 5),)))
    assert await store.ledger("voice") == ()
    await store.settle("splunk", [(0, 5)])
    assert await uids(store) == [event(number).uid for number in range(5, 10)]
    explained(state)
    await state.clear(store)
    await store.make_room()  # what was reserved for verdicts is reserved again
    assert len((await store.add("voice", large)).new) == 90, "as if it had not been tried before"
    await seal(store)
    explained(state, sealed=True)


async def test_a_dead_letter_that_finds_no_room_waits_with_its_verdict(
    store: SqlStore, state: State, event: Make
) -> None:
    await store.add("voice", Page.of([event(1, message="x" * 90_000), event(2)]))
    await state.fill_up(store)
    refused = RejectedEvent(0, "invalid", "no", 400, 1, NOON, NOON)
    try:
        await store.settle("splunk", [(0, 1)], [refused])
    except StoreFull:
        assert await uids(store) == [event(1).uid, event(2).uid], "all or nothing"
        assert dead_letters(state) == []
        await state.clear(store)
        await store.settle("splunk", [(0, 1)], [refused])
    assert [each.letter.event.uid for each in dead_letters(state)] == [event(1).uid]
    assert await uids(store) == [event(2).uid]
    explained(state)
