"""Texts that a database cannot hold as they are, times at the ends of the range, large windows."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from tests.support.states import State
from tests.support.stores import NOON, backlog, dead_letters, explained, seal, span

from auditrelay.events import AuditEvent
from auditrelay.events.page import Page
from auditrelay.evidence import facts
from auditrelay.store import DeadLetter, KnownFile, Proof, RejectedEvent
from auditrelay.store.conditions import SinkCondition, SourceCondition
from auditrelay.store.sealing import Run
from auditrelay.store.sql.store import SqlStore
from auditrelay.window import Interval, micros

Make = Callable[..., AuditEvent]

ODD = ["a\0b", "\0", "\U0001f600\ufffe", "x" * 1_000_000]
"""NUL, what is no character, and a megabyte. Halves of a pair of surrogates are replaced before."""


@pytest.mark.parametrize("text", ODD, ids=["nul", "only", "astral", "long"])
async def test_whatever_is_said_is_kept_or_written_as_what_it_is(
    store: SqlStore, state: State, event: Make, text: str
) -> None:
    await store.log.begin(Run("0" * 32, {"auditrelay": "1"}, settings({})))
    storable = text.encode("utf-8", "replace").decode()
    odd = event(1, native_id=storable, message=storable, reason=storable)
    name = text[:200]
    await store.add(
        "voice",
        Page.of([odd]),
        via=f"export {name}",
        proof=Proof(covers=(span(0, 5),), file=KnownFile(b"k" * 32, name)),
        bad=[DeadLetter(event(2, native_id=storable), "bad_row", text, None, 1, NOON, NOON)],
        condition=SourceCondition(up=False, last_error=text),
    )
    await store.add("voice", Page.of([event(3)]), via=f"export {name}")  # late
    await store.save_condition("sink", "splunk", SinkCondition(up=False, last_error=text))
    assert await store.is_file_known("voice", b"k" * 32)
    await store.settle("splunk", [(0, 1)], [refused(text)])
    [letter, row] = sorted(dead_letters(state), key=lambda each: each.sink or "z")
    assert (letter.letter.event, row.letter.event.native_id) == (odd, storable)
    if text == storable and "\0" not in text:
        assert letter.letter.message == text
    assert [each.id for each in await store.replay([letter.id])] == [letter.id]
    assert [each.id for each in await store.drop([row.id], NOON)] == [row.id]
    await store.log.restored(name, by=1000)
    assert await store.log.configure(settings({"tags": name}))
    assert not await store.log.configure(settings({"tags": name})), "the same"
    await seal(store)
    explained(state, sealed=True)
    with state.view() as view:
        assert [each.letter.message for each in view.dead_letters()] != []
        assert view.sources()[0].condition.up is view.sinks()[0].condition.up is False
        assert view.coverage("voice") is not None
    [waiting] = [each for page in await backlog(store) for each in page.events if each.replayed]
    assert waiting.native_id == storable


def refused(text: str) -> RejectedEvent:
    return RejectedEvent(0, "invalid", text, 400, 1, NOON, NOON)


def settings(found: dict[str, str]) -> facts.Body:
    return facts.configured(digest=bytes(32), settings=found)


FIRST, LAST = datetime(1, 1, 1, tzinfo=UTC), datetime(2500, 1, 1, tzinfo=UTC)


async def test_the_year_1_and_the_year_2500_are_times_like_others(
    store: SqlStore, state: State, event: Make
) -> None:
    days = [Interval(at, at + timedelta(days=1)) for at in (FIRST, LAST)]
    await store.start_source("old", FIRST)
    page = Page.of(
        event(number, source="old", at=micros(day.start) + 1) for number, day in enumerate(days)
    )
    await store.add("old", page, proof=Proof(covers=tuple(days)))
    assert [each.events for each in await store.ledger("old")] == [1, 1]
    assert [each.interval for each in await store.ledger("old")] == days
    missing = [await store.find_deleted("old", day, set(), 99) for day in days]
    assert [[uid for uid, _ in each] for each in missing] == [[uid] for uid in page.uid]
    for delay in (timedelta(hours=1), timedelta(days=3000)):
        await store.resweep_done("old", delay, LAST)
        assert await store.resweep_from("old", delay) == LAST
    await seal(store)
    explained(state, sealed=True)


async def test_a_window_of_50_000_events_is_read_compared_and_counted(
    store: SqlStore, state: State, event: Make
) -> None:
    number, at = 50_000, micros(NOON)
    events = [event(each, at=at + each) for each in range(number + 1)]
    for first in range(0, number, 5_000):
        page = Page.of(events[first : first + 5_000])
        assert len((await store.add("voice", page)).new) == 5_000
    window = span(0, 1)
    uids, times = [each.uid for each in events], [each.at + 7 for each in events]
    proof = Proof(covers=(window,))
    await store.add("voice", Page.of([]), proof=proof)
    [covered] = await store.ledger("voice")
    assert covered.events == number
    found = await store.look_up("voice", uids, times, [b"x" * 32] * (number + 1))
    assert found.new == [number]
    seen = {bytes.fromhex(uid) for uid in uids[1:]}
    assert [uid for uid, _ in await store.find_deleted("voice", window, seen, number)] == uids[:1]
    assert await store.record_deleted("voice", window, set(), number) == number
    assert (await store.count_forwarded("voice", window))[0] == number
    spooled = await store.spooled_events("voice", window)
    assert spooled is not None
    assert sum(map(len, spooled)) == number
    await store.settle("splunk", [(0, number)])
    await seal(store)
    explained(state, sealed=True)
