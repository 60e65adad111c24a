"""Sinks: where each begins, what it reads, its progress, and how it ends."""

from collections.abc import Callable
from datetime import timedelta

from tests.support.states import State, forge
from tests.support.stores import MINUTE, NOON, uids

from auditrelay.events import AuditEvent
from auditrelay.events.page import Page
from auditrelay.store import DeadLetter, RejectedEvent
from auditrelay.store.sql.store import SqlStore

Make = Callable[..., AuditEvent]


async def test_a_new_sink_begins_at_the_end_and_an_old_one_where_it_was(
    store: SqlStore, event: Make
) -> None:
    await store.add("voice", Page.of([event(1)]))
    await store.start_sink("later", ["voice"])
    await store.start_sink("splunk", ["voice"])
    await store.add("voice", Page.of([event(2)]))
    assert await uids(store, "later") == [event(2).uid]
    assert await uids(store, "splunk") == [event(1).uid, event(2).uid]


async def test_a_sink_reads_only_its_own_sources(store: SqlStore, event: Make) -> None:
    await store.start_source("other", NOON)
    await store.start_sink("both", ["other", "voice"])
    await store.add("other", Page.of([event(1)]))
    await store.add("voice", Page.of([event(2)]))
    assert await uids(store, "splunk") == [event(2).uid]
    assert await uids(store, "both") == [event(1).uid, event(2).uid]


async def test_the_position_is_the_end_of_the_contiguous_part(store: SqlStore, event: Make) -> None:
    await store.add("voice", Page.of([event(n) for n in range(10)]))
    await store.settle("splunk", [(4, 6), (8, 9)])
    (sink,) = await store.sinks()
    assert (sink.position, sink.backlog_events) == (0, 7)
    assert await uids(store) == [event(n).uid for n in (0, 1, 2, 3, 6, 7, 9)]
    await store.settle("splunk", [(0, 4)])
    (sink,) = await store.sinks()
    assert (sink.position, sink.backlog_events) == (6, 3)
    assert await uids(store) == [event(n).uid for n in (6, 7, 9)]


async def test_what_is_for_other_sinks_is_no_hole(store: SqlStore, event: Make) -> None:
    await store.start_source("other", NOON)
    for number, source in enumerate(("other", "voice", "other", "voice", "other", "voice")):
        await store.add(source, Page.of([event(10 * number + each) for each in range(10)]))
    await store.settle("splunk", [(30, 40)])
    (sink,) = await store.sinks()
    assert (sink.position, sink.backlog_events) == (0, 20)
    await store.settle("splunk", [(50, 60)])
    (sink,) = await store.sinks()
    assert (sink.position, sink.backlog_events) == (0, 10), "the page between is not its own"
    await store.settle("splunk", [(10, 15)])
    (sink,) = await store.sinks()
    assert (sink.position, sink.backlog_events) == (15, 5)
    await store.settle("splunk", [(15, 20)])
    (sink,) = await store.sinks()
    assert (sink.position, sink.backlog_events) == (60, 0)


async def test_a_hole_that_an_older_version_left_is_closed_by_the_next_verdict(
    store: SqlStore, event: Make, state: State
) -> None:
    await store.start_source("other", NOON)
    await store.add("other", Page.of([event(1)]))
    await store.add("voice", Page.of([event(2), event(3)]))
    forge(state, "update sink set ahead = '[[1, 2]]'")
    await store.settle("splunk", [(2, 3)])
    (sink,) = await store.sinks()
    assert (sink.position, sink.backlog_events) == (3, 0)


async def test_dead_letters_and_the_position_are_one_write(
    store: SqlStore, event: Make, state: State
) -> None:
    await store.add("voice", Page.of([event(1)]))
    why = ("rejected", "field too long", 400, 3, NOON, NOON + MINUTE)
    await store.settle("splunk", [(0, 1)], [RejectedEvent(0, *why)])
    with state.view() as view:
        (found,) = view.dead_letters()
        assert (found.sink, found.source, found.letter) == (
            "splunk",
            "voice",
            DeadLetter(event(1), *why),
        )
        assert view.dead_letters(reasons=["other"]) == []
        assert view.dead_letters(sinks=["splunk"], ids=[found.id]) == [found]
        (sink,) = view.sinks()
    assert (sink.backlog_events, sink.dead_letters) == (0, 1)


async def test_an_orphaned_sink_keeps_its_backlog_and_gets_nothing_more(
    store: SqlStore, event: Make
) -> None:
    await store.start_sink("gone", ["voice"])
    await store.add("voice", Page.of([event(1)]))
    assert await store.retire({"splunk": ["voice"]}, ["voice"]) == ("gone",)
    await store.add("voice", Page.of([event(2)]))
    later = NOON + timedelta(days=8)
    await store.settle("splunk", [(0, 2)])
    assert await store.prune(later) == 0
    assert {sink.name: sink.backlog_events for sink in await store.sinks()} == {
        "gone": 1,
        "splunk": 0,
    }
    await store.start_sink("gone", ["voice"])
    assert await uids(store, "gone") == [event(1).uid, event(2).uid]


async def test_starting_a_sink_takes_no_source_away_from_it(store: SqlStore, event: Make) -> None:
    await store.start_source("other", NOON)
    await store.start_sink("splunk", ["other"])
    await store.add("voice", Page.of([event(1)]))
    await store.add("other", Page.of([event(2)]))
    assert await uids(store) == [event(1).uid, event(2).uid]


async def test_a_source_that_a_sink_is_not_to_receive_any_more_is_retired(
    store: SqlStore, event: Make
) -> None:
    await store.start_source("other", NOON)
    await store.start_sink("splunk", ["other", "voice"])
    await store.start_sink("both", ["other", "voice"])
    for number, source in enumerate(("other", "voice")):
        await store.add(source, Page.of([event(number)]))
    configured = {"both": ["other", "voice"], "splunk": ["voice"]}
    assert await store.retire(configured, ["other", "voice"]) == ()
    await store.add("other", Page.of([event(2)]))
    assert await uids(store) == [event(1).uid]
    assert await uids(store, "both") == [event(number).uid for number in range(3)]
    statuses = await store.delivery_status("other", [event(2)])
    assert statuses == [{"both": "waiting"}]
    await store.start_sink("splunk", ["other"])
    await store.add("other", Page.of([event(3)]))
    statuses = await store.delivery_status("other", [event(2), event(3)])
    assert statuses == [
        {"both": "waiting", "splunk": "before_sink"},
        {"both": "waiting", "splunk": "waiting"},
    ]


async def test_the_backlog_of_an_orphaned_source_is_still_delivered(
    store: SqlStore, event: Make
) -> None:
    await store.add("voice", Page.of([event(1)]))
    assert await store.retire({"splunk": ["other"]}, ["other"]) == ()
    assert await uids(store) == [event(1).uid]
    assert await store.retire({"splunk": []}, ["voice"]) == (), "it is configured, and for no sink"
    assert await uids(store) == []
