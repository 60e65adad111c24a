"""Dead letters: listed, replayed, refused again, delivered after all, or discarded."""

from collections.abc import AsyncIterator, Callable

import pytest
from isal import isal_zlib
from tests.support.states import State, rows
from tests.support.stores import MINUTE, NOON, backlog, dead_letters, opened

from auditrelay.events import AuditEvent
from auditrelay.events.page import Page
from auditrelay.store import DeadLetter, LetterOf, Proof, RejectedEvent
from auditrelay.store.sql.store import SqlStore

Make = Callable[..., AuditEvent]


@pytest.fixture
async def store(state: State, event: Make) -> AsyncIterator[SqlStore]:
    """Two sinks with dead letters: event 0 of both, event 1 of splunk, and a bad row of a file."""
    store = await opened(state)
    await store.start_source("voice", NOON)
    for sink in ("splunk", "elastic"):
        await store.start_sink(sink, ["voice"])
    await store.add("voice", Page.of([event(number) for number in range(3)]))
    await store.settle("splunk", [(0, 3)], [rejected(0), rejected(1, "too_large")])
    await store.settle("elastic", [(0, 3)], [rejected(0, status=400)])
    await store.add("voice", Page.of([]), bad=[letter(event(7), "bad_row")])
    yield store
    await store.close()


def letter(event: AuditEvent, reason: str = "invalid", status: int | None = None) -> DeadLetter:
    return DeadLetter(event, reason, f"no: {reason}", status, 2, NOON, NOON + MINUTE)


def rejected(place: int, reason: str = "invalid", status: int | None = None) -> RejectedEvent:
    return RejectedEvent(place, reason, f"no: {reason}", status, 2, NOON, NOON + MINUTE)


def listed(state: State) -> list[tuple[int, str | None, str]]:
    return [(each.id, each.sink, each.letter.event.native_id or "") for each in dead_letters(state)]


async def waiting(store: SqlStore, sink: str) -> list[tuple[int, AuditEvent]]:
    return [
        (page.first + place, event)
        for page in await backlog(store, sink)
        for place, event in enumerate(page.events)
    ]


async def test_they_are_listed_oldest_first_with_all_that_is_known(
    store: SqlStore, event: Make, state: State
) -> None:
    assert listed(state) == [
        (1, "splunk", "0"),
        (2, "splunk", "1"),
        (3, "elastic", "0"),
        (4, None, "7"),
    ]
    third = (dead_letters(state))[2]
    assert third.letter == letter(event(0), status=400)
    assert (third.source, third.replayed) == ("voice", False)


@pytest.mark.parametrize(
    ("filters", "ids"),
    [
        ({"sinks": ["splunk"]}, [1, 2]),
        ({"sinks": ["splunk", "elastic"]}, [1, 2, 3]),
        ({"sinks": ["unknown"]}, []),
        ({"sources": ["voice"]}, [1, 2, 3, 4]),
        ({"sources": ["other"]}, []),
        ({"reasons": ["too_large", "bad_row"]}, [2, 4]),
        ({"ids": [3, 1, 99]}, [1, 3]),
        ({"sinks": ["splunk"], "reasons": ["invalid"]}, [1]),
        ({"sinks": ["elastic"], "ids": [1]}, []),
    ],
)
async def test_every_filter_has_to_match(
    store: SqlStore, filters: dict[str, list[str]], ids: list[int], state: State
) -> None:
    assert [each.id for each in dead_letters(state, **filters)] == ids


async def test_no_ids_are_none_and_not_all_of_them(store: SqlStore, state: State) -> None:
    assert await store.replay([]) == []
    assert await store.drop([], NOON) == []
    assert len(listed(state)) == 4


async def test_a_replayed_dead_letter_goes_to_its_own_sink_alone_and_is_marked(
    store: SqlStore, event: Make, state: State
) -> None:
    sent = await store.replay([1, 2])
    assert [each.id for each in sent] == [1, 2]
    again = await waiting(store, "splunk")
    assert [(each.native_id, each.replayed, each.uid) for _, each in again] == [
        ("0", True, event(0).uid),
        ("1", True, event(1).uid),
    ]
    assert await waiting(store, "elastic") == []
    assert [each.replayed for each in dead_letters(state)] == [True, True, False, False]


async def test_a_dead_letter_being_replayed_is_neither_replayed_again_nor_dropped(
    store: SqlStore, state: State
) -> None:
    await store.replay([1])
    assert await store.replay([1]) == []
    assert await store.drop([1], NOON) == []
    assert len(await waiting(store, "splunk")) == 1
    await store.close()
    again = await opened(state)
    try:
        assert await again.replay([1]) == [], "nor after a restart"
    finally:
        await again.close()


async def test_it_is_deleted_with_its_own_delivery_and_not_with_that_of_another(
    store: SqlStore, event: Make, state: State
) -> None:
    await store.add("voice", Page.of([event(3)]))
    await store.replay([1, 2])
    (_, other), (first, _), (second, _) = await waiting(store, "splunk")
    assert other.native_id == "3"
    await store.settle("splunk", [(first - 1, first)])
    assert [each for each in listed(state) if each[1] == "splunk"] == [
        (1, "splunk", "0"),
        (2, "splunk", "1"),
    ]
    await store.settle("elastic", [(first - 1, second + 1)])
    assert len(listed(state)) == 4, "the delivery of another sink does not count"
    await store.settle("splunk", [(second, second + 1)])
    assert [each[0] for each in listed(state)] == [1, 3, 4]
    await store.settle("splunk", [(first, first + 1)])
    assert [each[0] for each in listed(state)] == [3, 4]
    assert await store.delivery_status("voice", [event(0)]) == [
        {"splunk": "delivered", "elastic": "dead_letter"}
    ]


async def test_a_replay_that_is_refused_is_the_same_dead_letter_with_more_attempts(
    store: SqlStore, event: Make, state: State
) -> None:
    await store.replay([1])
    ((position, _),) = await waiting(store, "splunk")
    refused = RejectedEvent(position, "other", "still no", 413, 3, NOON + MINUTE, NOON + 9 * MINUTE)
    await store.settle("splunk", [(position, position + 1)], [refused])
    assert listed(state) == [
        (1, "splunk", "0"),
        (2, "splunk", "1"),
        (3, "elastic", "0"),
        (4, None, "7"),
    ]
    (one, *_) = dead_letters(state, ids=[1])
    assert not one.replayed
    assert (one.letter.attempts, one.letter.reason, one.letter.status) == (5, "other", 413)
    assert (one.letter.first_at, one.letter.last_at) == (NOON, NOON + 9 * MINUTE)
    assert [each.id for each in await store.replay([1])] == [1], "it may be sent yet again"


async def test_a_dead_letter_without_a_sink_is_replayed_to_all_sinks(
    store: SqlStore, event: Make, state: State
) -> None:
    assert await store.delivery_status("voice", [event(7)]) == [
        {"splunk": "dead_letter", "elastic": "dead_letter"}
    ]
    await store.replay([4])
    for sink in ("splunk", "elastic"):
        ((_, each),) = await waiting(store, sink)
        assert (each.native_id, each.replayed) == ("7", True)
    assert [each[0] for each in listed(state)] == [1, 2, 3]


async def test_a_dropped_dead_letter_stays_on_record_without_its_event(
    store: SqlStore, event: Make, state: State
) -> None:
    gone = await store.drop([1, 99], NOON + MINUTE)
    assert [each.id for each in gone] == [1]
    assert [each[0] for each in listed(state)] == [2, 3, 4]
    assert await store.drop([1], NOON) == [], "it is dropped once"
    assert await store.replay([1]) == []
    assert await store.delivery_status("voice", [event(0)]) == [
        {"splunk": "dropped", "elastic": "dead_letter"}
    ]
    (sink,) = [each for each in await store.sinks() if each.name == "splunk"]
    assert sink.dead_letters == 1
    await store.close()
    sizes = rows(state, "select length(event) from dead_letter order by id")
    assert [size > 0 for (size,) in sizes] == [False, True, True, True]


async def test_an_event_that_is_refused_again_is_one_dead_letter_with_more_attempts(
    store: SqlStore, event: Make, state: State
) -> None:
    before = listed(state)
    await store.resend("voice", ["splunk"], [Page.of([event(0)])], Proof())
    await store.settle("splunk", [(3, 4)], [rejected(3, "too_old")])
    assert listed(state) == before
    (again,) = dead_letters(state, sinks=["splunk"], reasons=["too_old"])
    assert again.letter.attempts == 4


async def test_a_page_is_inflated_once_for_all_its_dead_letters(
    store: SqlStore, event: Make, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    for page in range(2):
        await store.add(
            "voice", Page.of([event(10 + 100 * page + number) for number in range(100)])
        )
    inflated = list[bytes]()
    decompress = isal_zlib.decompress

    def counted(blob: bytes) -> bytes:
        inflated.append(blob)
        return decompress(blob)

    monkeypatch.setattr(isal_zlib, "decompress", counted)
    await store.settle("splunk", [(3, 203)], [rejected(place) for place in range(3, 203)])
    assert len(inflated) == 2
    ids = [each.letter.event.native_id for each in dead_letters(state, sinks=["splunk"])]
    assert ids[2:] == [str(10 + number) for number in range(200)]


async def test_an_event_removed_with_its_source_leaves_no_dead_letter(
    store: SqlStore, event: Make, state: State
) -> None:
    await store.add("voice", Page.of([event(3)]))
    await store.forget("voice")
    before = listed(state)
    await store.settle("splunk", [(3, 4)], [rejected(3)])
    assert listed(state) == before


async def test_an_id_that_is_another_letter_by_now_is_left_alone(
    store: SqlStore, event: Make, state: State
) -> None:
    """A database that has lost its last commits gives an id again, to the next dead letter."""
    seen = {number: LetterOf(event(5).uid, "splunk") for number in (1, 2)}
    assert await store.drop([1, 2], NOON, of=seen) == []
    assert await store.replay([1, 2], of=seen) == []
    of_the_other = {3: LetterOf(event(0).uid, "splunk")}
    assert await store.drop([3], NOON, of=of_the_other) == [], "the same event of another sink"
    right = {each.id: each.of for each in dead_letters(state)}
    assert [each.id for each in await store.replay([1], of=right)] == [1]
    assert [each.id for each in await store.drop([2, 3], NOON, of=right)] == [2, 3]
