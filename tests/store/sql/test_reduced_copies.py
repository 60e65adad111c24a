"""The reduced copy of a dead letter: in one transaction with it, for its sink alone, and once."""

from collections.abc import AsyncIterator, Callable
from datetime import timedelta

import pytest
from tests.support.states import State
from tests.support.stores import NOON, backlog, dead_letters, opened

from auditrelay.events import AuditEvent
from auditrelay.events.page import Page
from auditrelay.events.reduced import reduced
from auditrelay.store import RejectedEvent
from auditrelay.store.sql.store import SqlStore

Make = Callable[..., AuditEvent]


@pytest.fixture
async def store(state: State, event: Make) -> AsyncIterator[SqlStore]:
    store = await opened(state)
    for source in ("voice", "calls"):
        await store.start_source(source, NOON)
    for sink in ("splunk", "elastic"):
        await store.start_sink(sink, ["voice", "calls"])
    await store.add("voice", Page.of([event(number) for number in range(3)]))
    await store.add("calls", Page.of([event(number, source="calls") for number in range(3, 6)]))
    yield store
    await store.close()


def refused(place: int, *, copied: bool = True) -> RejectedEvent:
    return RejectedEvent(place, "mapping", "no", 400, 1, NOON, NOON, copied)


async def waiting(store: SqlStore, sink: str) -> list[AuditEvent]:
    return [event for page in await backlog(store, sink) for event in page.events]


def copy_of(event: AuditEvent) -> AuditEvent:
    copy = reduced(event, "mapping")
    assert copy is not None
    return copy


async def test_it_waits_for_the_sink_that_refused_and_for_no_other(
    store: SqlStore, event: Make, state: State
) -> None:
    dead = [refused(1), refused(4), refused(2, copied=False)]
    assert await store.settle("splunk", [(0, 6)], dead) == {1, 4}
    assert await waiting(store, "splunk") == [copy_of(event(4, source="calls")), copy_of(event(1))]
    assert len(await waiting(store, "elastic")) == 6
    assert [each.letter.event for each in dead_letters(state)] == [
        event(1),
        event(4, source="calls"),
        event(2),
    ]


async def test_it_is_read_from_memory_and_from_the_disk_alike(store: SqlStore) -> None:
    _, reached = await store.read("splunk", None, 100)
    await store.settle("splunk", [(0, 6)], [refused(1)])
    handed_over, _ = await store.read("splunk", reached, 100)
    from_disk = await backlog(store, "splunk")
    assert [list(page.events) for page in handed_over] == [list(page.events) for page in from_disk]
    assert sum(len(page.events) for page in from_disk) == 1
    others, _ = await store.read("elastic", None, 100)
    assert sum(len(page.events) for page in others) == 6


async def test_there_is_none_of_a_reduced_copy_that_is_refused_too(
    store: SqlStore, state: State
) -> None:
    await store.settle("splunk", [(0, 6)], [refused(1)])
    (page,) = await backlog(store, "splunk")
    first = page.first
    assert await store.settle("splunk", [(first, first + 1)], [refused(first)]) == set()
    assert await waiting(store, "splunk") == []
    assert len(dead_letters(state)) == 2


async def test_a_replay_that_is_refused_again_brings_no_second_copy(
    store: SqlStore, event: Make, state: State
) -> None:
    await store.settle("splunk", [(0, 6)], [refused(1)])
    (letter,) = dead_letters(state)
    await store.replay([letter.id])
    place = max(page.first for page in await backlog(store, "splunk"))
    copy, replayed = await waiting(store, "splunk")
    assert copy == copy_of(event(1))
    assert (replayed.uid, replayed.replayed) == (event(1).uid, True)
    assert await store.settle("splunk", [(place, place + 1)], [refused(place)]) == set()
    assert await waiting(store, "splunk") == [copy]
    assert len(dead_letters(state)) == 1


async def test_a_spool_that_is_full_has_room_for_it(store: SqlStore, event: Make) -> None:
    store.resize(max_bytes=1, retention=timedelta(days=1), remember=timedelta(days=9))
    assert await store.settle("splunk", [(0, 6)], [refused(1)]) == {1}
    assert await waiting(store, "splunk") == [copy_of(event(1))]
