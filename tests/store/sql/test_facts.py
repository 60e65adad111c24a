"""Each fact is written in the transaction that does what it says, and in no other one."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from hashlib import sha256
from typing import Any
from unittest import mock

import pytest
from tests.support.states import State, on_each, rows
from tests.support.stores import MINUTE, NOON, backlog, explained, opened, seal, span

from auditrelay.events import AuditEvent
from auditrelay.events.page import Page
from auditrelay.store import Changed, DeadLetter, KnownFile, Proof, RejectedEvent
from auditrelay.store.keys import known_key, known_times
from auditrelay.store.sql.store import SqlStore
from auditrelay.window import micros

Make = Callable[..., AuditEvent]
Act = Callable[[SqlStore, Make], Awaitable[object]]
DAY = timedelta(days=1)


@pytest.fixture
async def store(state: State) -> AsyncIterator[SqlStore]:
    store = await opened(state)
    await store.start_source("voice", NOON)
    await store.start_sink("splunk", ["voice"])
    yield store
    await store.close()


def facts(state: State) -> list[tuple[str, dict[str, Any]]]:
    """Return the open facts: unit and body."""
    found = rows(state, "select unit, text from fact order by id")
    return [(unit, json.loads(text)) for unit, text in found]


def digest(*events: AuditEvent) -> str:
    return sha256(b"".join(map(known_key, events))).hexdigest()


async def page(store: SqlStore, make: Make) -> None:
    await store.add("voice", Page.of([make(2), make(1)]), proof=Proof(covers=(span(0, 5),)))


async def gap(store: SqlStore, make: Make) -> None:
    proof = Proof(gaps=((span(5, 9), "retention"),))
    await store.add("voice", Page.of([]), proof=proof, notice=lambda *_: make(90))


async def filled(store: SqlStore, make: Make) -> None:
    await gap(store, make)
    proof = Proof(covers=(span(5, 7),))
    await store.add("voice", Page.of([]), via="backfill", proof=proof, notice=lambda *_: make(91))


async def taken_back(store: SqlStore, make: Make) -> None:
    await gap(store, make)
    proof = Proof(reopens=(span(5, 6),), retracts=(span(6, 7),))
    await store.add("voice", Page.of([]), via="reopen", proof=proof)


async def put_aside(store: SqlStore, make: Make) -> None:
    letters = [DeadLetter(make(n), "bad_row", "no", None, 1, NOON, NOON) for n in (7, 6)]
    await store.add("voice", Page.of([]), bad=letters)


async def file(store: SqlStore, _: Make) -> None:
    proof = Proof(file=KnownFile(b"k" * 32, "a.csv"))
    for _again in range(2):
        await store.add("voice", Page.of([]), via="export a.csv", proof=proof)


async def reswept(store: SqlStore, _: Make) -> None:
    await store.resweep_done("voice", timedelta(hours=1), NOON + MINUTE)


async def vanished(store: SqlStore, make: Make) -> None:
    await page(store, make)
    for _again in range(2):
        await store.record_deleted("voice", span(0, 5), {bytes.fromhex(make(1).uid)}, 99)


async def backfill(store: SqlStore, _: Make) -> None:
    await store.begin_backfill("voice", span(0, 5), ["splunk"], NOON)
    await store.begin_backfill("voice", span(1, 5), ["splunk"], NOON)
    await store.begin_backfill("voice", span(1, 9), ["splunk"], NOON)


async def resent(store: SqlStore, make: Make) -> None:
    await store.resend("voice", ["splunk"], [Page.of([make(1)]), Page.of([make(2)])], Proof())


async def dead(store: SqlStore, make: Make) -> None:
    await page(store, make)
    rejected = RejectedEvent(0, "invalid", "no", 400, 1, NOON, NOON, reduced=True)
    for _again in range(2):
        await store.settle("splunk", [(0, 1)], [rejected])


async def replayed(store: SqlStore, make: Make) -> None:
    await dead(store, make)
    await store.replay([1])


async def refused_again(store: SqlStore, make: Make) -> None:
    await replayed(store, make)
    rejected = RejectedEvent(3, "invalid", "no", 400, 1, NOON, NOON)
    await store.settle("splunk", [(0, 4)], [rejected])


async def delivered_after_all(store: SqlStore, make: Make) -> None:
    await replayed(store, make)
    await store.settle("splunk", [(0, 4)])


async def dropped(store: SqlStore, make: Make) -> None:
    await dead(store, make)
    await store.drop([1], NOON)


async def row_replayed(store: SqlStore, make: Make) -> None:
    await put_aside(store, make)
    await store.replay([1])


async def row_dropped(store: SqlStore, make: Make) -> None:
    await put_aside(store, make)
    await store.drop([1], NOON)


async def changed(store: SqlStore, make: Make) -> None:
    await page(store, make)
    [at] = known_times([make(1).at], [make(1).time_quality])
    other = Changed(make(1).uid, at, sha256(b"other").digest(), make(80))
    await store.contents.report_changed("voice", [other])


async def pruned(store: SqlStore, make: Make) -> None:
    await page(store, make)
    await store.settle("splunk", [(0, 2)])
    await store.prune(NOON + 8 * DAY)


async def room_made(store: SqlStore, make: Make) -> None:
    await page(store, make)
    await store.settle("splunk", [(0, 2)])
    assert await store.make_room()


async def forgotten(store: SqlStore, make: Make) -> None:
    await page(store, make)
    await store.settle("splunk", [(0, 2)])
    await store.prune(NOON + 401 * DAY)
    await store.prune(NOON + 402 * DAY)


async def another_source(store: SqlStore, make: Make) -> None:
    await page(store, make)
    await store.start_source("other", NOON)
    for _again in range(2):
        await store.start_sink("splunk", ["voice", "other"])


async def retired(store: SqlStore, make: Make) -> None:
    await page(store, make)
    for _again in range(2):
        await store.retire({}, ["voice"])
    await page(store, lambda number: make(number + 50))
    await store.start_sink("splunk", ["voice"])


async def without_a_source(store: SqlStore, make: Make) -> None:
    await page(store, make)
    for _again in range(2):
        await store.retire({"splunk": []}, ["voice"])


async def source_removed(store: SqlStore, make: Make) -> None:
    await dead(store, make)
    await store.forget("voice")


async def letter_without_a_source(store: SqlStore, make: Make) -> None:
    await source_removed(store, make)
    assert await store.replay([1]) == [], "there is no source that its event could be of"


async def forgotten_with_the_clock_back(store: SqlStore, make: Make) -> None:
    await page(store, make)
    await store.settle("splunk", [(0, 2)])
    await store.prune(NOON + 402 * DAY)
    await store.add("voice", Page.of([make(3)]))
    await store.prune(NOON + 401 * DAY)


async def pruned_while_away(store: SqlStore, make: Make) -> None:
    await store.start_sink("elastic", ["voice"])
    await store.retire({"elastic": ["voice"]}, ["voice"])
    await page(store, make)
    await store.settle("elastic", [(0, 2)])
    assert await store.make_room()
    await store.start_sink("splunk", ["voice"])


async def unread_source_removed(store: SqlStore, make: Make) -> None:
    await store.forget("voice")


async def unread_and_back(store: SqlStore, make: Make) -> None:
    await store.forget("voice")
    await store.start_source("voice", NOON)
    await store.start_sink("splunk", ["voice"])


async def sink_removed(store: SqlStore, make: Make) -> None:
    await replayed(store, make)
    await store.forget("splunk")


async def removed_and_back(store: SqlStore, make: Make) -> None:
    await source_removed(store, make)
    await store.start_source("voice", NOON)
    await page(store, make)


V, S = "source voice", "sink splunk"
BEGAN = (S, "began")
PAGE = [(V, "accepted"), (V, "covered")]
DEAD = [*PAGE, (S, "dead"), (S, "refilled")]
TELLS: dict[Act, list[tuple[str, str]]] = {
    page: PAGE,
    gap: [(V, "accepted"), (V, "gap")],
    filled: [(V, each) for each in ("accepted", "gap", "accepted", "filled", "covered")],
    taken_back: [(V, each) for each in ("accepted", "gap", "reopened", "retracted")],
    put_aside: [(V, "put_aside")],
    file: [(V, "parcel")],
    reswept: [(V, "looked_again")],
    vanished: [*PAGE, (V, "vanished")],
    backfill: [(V, "backfill"), (V, "backfill")],
    resent: [(S, "refilled"), (S, "refilled")],
    dead: DEAD,
    replayed: [*DEAD, (S, "replayed")],
    refused_again: [*DEAD, (S, "replayed"), (S, "dead")],
    delivered_after_all: [*DEAD, (S, "replayed")],
    dropped: [*DEAD, (S, "dropped")],
    row_replayed: [(V, "put_aside"), (V, "accepted")],
    row_dropped: [(V, "put_aside"), (V, "dropped")],
    changed: [*PAGE, (V, "accepted")],
    pruned: [*PAGE, ("instance", "pruned")],
    room_made: [*PAGE, ("instance", "pruned")],
    forgotten: [*PAGE, ("instance", "pruned"), (V, "forgot")],
    another_source: [*PAGE, BEGAN],
    retired: [*PAGE, (S, "retired"), (V, "accepted"), (S, "back")],
    without_a_source: [*PAGE, (S, "retired")],
    source_removed: [*DEAD, (V, "operator")],
    letter_without_a_source: [*DEAD, (V, "operator")],
    forgotten_with_the_clock_back: [
        *PAGE,
        ("instance", "pruned"),
        (V, "forgot"),
        (V, "accepted"),
        (V, "forgot"),
    ],
    pruned_while_away: [
        ("sink elastic", "began"),
        (S, "retired"),
        *PAGE,
        ("instance", "pruned"),
        (S, "back"),
    ],
    unread_source_removed: [(V, "operator")],
    unread_and_back: [(V, "operator"), BEGAN],
    sink_removed: [*DEAD, (S, "replayed"), (S, "operator")],
    removed_and_back: [*DEAD, (V, "operator"), *PAGE],
}
"""By what is done: the facts that tell of it, behind the one that the sink began."""


@pytest.mark.parametrize("act", TELLS, ids=lambda act: act.__name__)
async def test_what_is_done_has_its_facts_and_they_explain_the_state(
    store: SqlStore, state: State, event: Make, act: Act
) -> None:
    await act(store, event)
    assert [(unit, body["fact"]) for unit, body in facts(state)] == [BEGAN, *TELLS[act]]
    explained(state)
    await seal(store)
    explained(state, sealed=True)
    if act not in (source_removed, unread_source_removed, letter_without_a_source):
        await store.add("voice", Page.of([event(70)]))
    await seal(store)
    explained(state, sealed=True)


@pytest.mark.parametrize(("state", "act"), on_each(TELLS, every=3), indirect=["state"])
async def test_a_fact_and_what_it_tells_of_commit_together(
    state: State, event: Make, act: Act, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each commit of what is done is looked at by itself: the facts explain it, then and there."""
    looked: list[str] = []

    def look(writer: Any, group: Any) -> None:
        commits(writer, group)
        try:
            explained(state)
        except AssertionError as error:  # it must not end the thread
            looked.append(str(error))
        else:
            looked.append("")

    commits = state.writer._commit
    monkeypatch.setattr(state.writer, "_commit", look)
    store = await opened(state)
    try:
        await store.start_source("voice", NOON)
        await store.start_sink("splunk", ["voice"])
        await act(store, event)
    finally:
        await store.close()
    assert len(looked) > 2
    assert set(looked) == {""}


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5])
async def test_a_removal_that_was_interrupted_is_finished_before_it_comes_back(
    store: SqlStore, state: State, event: Make, steps: int
) -> None:
    await dead(store, event)
    write, done = state.writer.write, 0

    class KilledError(Exception): ...

    async def killed(writer: object, *work: Any, **named: Any) -> Any:
        nonlocal done
        if done == steps:
            raise KilledError
        done += 1
        return await write(writer, *work, **named)

    with mock.patch.object(state.writer, "write", killed), pytest.raises(KilledError):
        await store.forget("voice")
    explained(state)
    await store.start_source("voice", NOON)
    await store.start_sink("splunk", ["voice"])
    explained(state)
    assert await store.ledger("voice") == ()
    await page(store, event)
    await seal(store)
    explained(state, sealed=True)
    await store.start_source("voice", NOON)
    assert await store.ledger("voice") != (), "it is removed once"


async def test_the_fact_of_a_page_has_the_order_of_its_places(
    store: SqlStore, state: State, event: Make
) -> None:
    await page(store, event)
    _, (_, accepted), (_, covered) = facts(state)
    [(blob,)] = rows(state, "select events from spool")
    assert accepted == {
        "fact": "accepted",
        "via": "poll",
        "pages": [[0, 2]],
        "events": 2,
        "late": 0,
        "uids": digest(event(2), event(1)),
        "raws": sha256((event(2).raw_sha256 + event(1).raw_sha256).encode()).hexdigest(),
        "stored": sha256(blob).hexdigest(),
    }
    assert digest(event(2), event(1)) != digest(event(1), event(2))
    start, end = micros(NOON), micros(NOON + 5 * MINUTE)
    assert covered == {"fact": "covered", "via": "poll", "start": start, "end": end, "before": 2}
    [(sha,)] = rows(state, "select sha from spool")
    assert sha.hex() == accepted["stored"]


async def test_reduced_copies_are_listed_and_resent_events_are_not(
    store: SqlStore, state: State, event: Make
) -> None:
    await dead(store, event)
    await resent(store, event)
    copies = [each.get("each") for _, each in facts(state) if each["fact"] == "refilled"]
    waiting = [event for page in await backlog(store) for event in page.events]
    assert copies == [[waiting[1].uid], None, None]
    assert waiting[1].native_action == "auditrelay.reduced"


async def test_late_events_are_counted_in_the_fact_of_their_page(
    store: SqlStore, state: State, event: Make
) -> None:
    await page(store, event)
    await store.add("voice", Page.of([event(3), event(400)]), via="resweep 1h")
    assert [body["late"] for _, body in facts(state) if "late" in body] == [0, 1]
    (source,) = await store.sources()
    (late,) = source.late
    assert (late.events, late.via, late.start) == (1, "resweep 1h", micros(NOON))


async def test_a_gap_and_its_end_name_the_events_that_report_them(
    store: SqlStore, state: State, event: Make
) -> None:
    await page(store, event)
    await filled(store, event)
    found = {body["fact"]: body for _, body in facts(state) if body["fact"] in ("gap", "filled")}
    assert (found["gap"]["uid"], found["gap"]["place"]) == (event(90).uid, 2)
    assert (found["filled"]["uid"], found["filled"]["place"]) == (event(91).uid, 3)
    proof = Proof(gaps=((span(9, 12), "retention"),))  # it goes on, and is not reported again
    await store.add("voice", Page.of([]), proof=proof, notice=lambda *_: event(92))
    more = facts(state)[-1][1]
    assert (more["uid"], more["place"]) == (None, None)


async def test_a_transaction_that_fails_leaves_no_fact(
    store: SqlStore, state: State, event: Make
) -> None:
    before = facts(state)

    def fail(*_: object) -> AuditEvent:
        raise ZeroDivisionError

    proof = Proof(gaps=((span(5, 9), "retention"),))
    with pytest.raises(ZeroDivisionError):
        await store.add("voice", Page.of([event(1)]), proof=proof, notice=fail)
    assert facts(state) == before
