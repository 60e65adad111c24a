"""The proof of one event names the sinks that it was for, and the auditor's program agrees."""

import json
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.support.clock import FakeClock
from tests.support.states import State, open_state
from tests.support.stores import NOON, backlog, seal, span

from auditrelay.errors import RelayError
from auditrelay.events import AuditEvent
from auditrelay.events.page import Page
from auditrelay.evidence import entries
from auditrelay.evidence.auditor import program
from auditrelay.settings.reserved import ALERTS
from auditrelay.store import DeadLetter, Proof, RejectedEvent
from auditrelay.store.sql.event_proof import event_proof, is_refused
from auditrelay.store.sql.store import SqlStore

Make = Callable[..., AuditEvent]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOON)


@pytest.fixture
async def store(state: State, clock: FakeClock) -> AsyncIterator[SqlStore]:
    """Two sources, and a sink that gets only one of them."""
    store = await open_state(state, clock=clock, retention=timedelta(days=1))
    for source in ("voice", "calls", ALERTS):
        await store.start_source(source, NOON)
    await store.start_sink("wide", ["voice", "calls", ALERTS])
    await store.start_sink("narrow", ["calls", ALERTS])
    yield store
    await store.close()


async def add(store: SqlStore, *events: AuditEvent) -> None:
    for event in events:
        proof = Proof(covers=(span(0, 5),))
        await store.add(event.source, Page.of([event]), proof=proof)


async def take_all(store: SqlStore, *sinks: str, dead: Callable[[int], bool] = bool) -> None:
    """Let *sinks* settle all that waits; of that *dead* (places) is refused."""
    for sink in sinks:
        pages = await backlog(store, sink)
        places = [page.first + number for page in pages for number in range(len(page.events))]
        letters = [
            RejectedEvent(place, "invalid", "no", 400, 1, NOON, NOON)
            for place in places
            if dead is not bool and dead(place)
        ]
        await store.settle(sink, [(0, max(places) + 1)] if places else [], letters)


def proof_of(state: State, event: AuditEvent) -> dict[str, Any]:
    with state.view() as view:
        return view.in_snapshot(partial(event_proof, uid=event.uid))


def shown(state: State, event: AuditEvent, folder: Path) -> dict[str, str]:
    """Return by sink what the proof says of it, which the auditor's program must say as well."""
    proof, file = proof_of(state, event), folder / "proof.json"
    file.write_text(json.dumps(proof))
    report = program.check([file], [], [], {}, [])
    assert [each["code"] for each in report["findings"]] == ["no_witness"]
    sinks = proof["sinks"]
    said = {
        name: "refused" if is_refused(each, event.uid) else "took" for name, each in sinks.items()
    }
    lines = [line.split()[1:3] for line in report["lines"] if line.startswith("sink ")]
    assert dict(lines) == said
    return said


async def test_a_sink_that_does_not_get_the_source_has_not_taken_its_event(
    store: SqlStore, state: State, event: Make, tmp_path: Path
) -> None:
    voice, calls = event(1), event(2, source="calls")
    await add(store, voice, calls)
    await take_all(store, "wide", "narrow")  # its position passes what is not for it
    await seal(store)
    assert shown(state, voice, tmp_path) == {"wide": "took"}
    assert shown(state, calls, tmp_path) == {"wide": "took", "narrow": "took"}


async def test_a_sink_that_got_the_source_later_has_not_taken_what_was_before(
    store: SqlStore, state: State, event: Make, tmp_path: Path
) -> None:
    await add(store, event(1))
    await take_all(store, "wide", "narrow")
    await store.start_sink("narrow", ["voice"])
    await add(store, event(2))
    await take_all(store, "wide", "narrow")
    await seal(store)
    assert shown(state, event(1), tmp_path) == {"wide": "took"}
    assert shown(state, event(2), tmp_path) == {"wide": "took", "narrow": "took"}


async def test_a_sink_has_not_taken_what_was_pruned_while_it_was_not_configured(
    store: SqlStore, state: State, event: Make, clock: FakeClock, tmp_path: Path
) -> None:
    fed = ["voice", "calls", ALERTS]
    await add(store, event(1))
    await take_all(store, "wide", "narrow")
    await store.retire({"narrow": fed}, fed)
    await add(store, event(2))
    await take_all(store, "narrow")
    await seal(store)
    clock.advance(timedelta(days=2).total_seconds())
    await take_all(store, "narrow")
    await store.prune(clock.now())
    await store.start_sink("wide", fed)
    await add(store, event(3))
    await take_all(store, "wide", "narrow")
    await seal(store)
    assert shown(state, event(1), tmp_path) == {"wide": "took"}
    assert shown(state, event(2), tmp_path) == {}
    assert shown(state, event(3), tmp_path) == {"wide": "took"}


@pytest.mark.parametrize("longest", [60_000, 600])
async def test_a_refused_event_was_not_taken(
    longest: int,
    store: SqlStore,
    state: State,
    event: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So many dead letters may be named in an entry that it goes on in further lines."""
    monkeypatch.setattr(entries, "MAX_LINE", longest)
    events = [event(number) for number in range(60)]
    await store.add("voice", Page.of(events), proof=Proof(covers=(span(0, 5),)))
    await take_all(store, "wide", dead=lambda place: place % 2 == 0)
    await seal(store)
    for number in (0, 1, 58, 59):
        proof = proof_of(state, events[number])
        assert ("more" in proof["sinks"]["wide"]) is (longest < 60_000)
        said = "took" if number % 2 else "refused"
        assert shown(state, events[number], tmp_path) == {"wide": said}
    if longest < 60_000:  # a line that names the letter cannot be left out
        proof = proof_of(state, events[0])
        for left in range(len(proof["sinks"]["wide"]["more"])):
            forged = json.loads(json.dumps(proof))
            del forged["sinks"]["wide"]["more"][left]
            (tmp_path / "forged.json").write_text(json.dumps(forged))
            report = program.check([tmp_path / "forged.json"], [], [], {}, [])
            assert {each["code"] for each in report["findings"]} == {"form"}


async def test_an_entry_of_the_time_of_the_one_before_it_is_proved_as_well(
    store: SqlStore, state: State, event: Make, tmp_path: Path
) -> None:
    for number in (1, 2):  # the clock stands, as it does after it was set back
        await add(store, event(number))
        await take_all(store, "wide")
        await seal(store)
    assert shown(state, event(2), tmp_path) == {"wide": "took"}


async def test_a_record_that_was_put_aside_has_no_proof_and_is_reported_so(
    store: SqlStore, state: State, event: Make
) -> None:
    letter = DeadLetter(event(1), "bad_row", "no", None, 1, NOON, NOON)
    await store.add("voice", Page.of([]), bad=[letter])
    await seal(store)
    with pytest.raises(RelayError, match="put aside"):
        proof_of(state, event(1))
