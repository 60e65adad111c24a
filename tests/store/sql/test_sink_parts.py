"""A sink in parts on a shared state: each store delivers its own, and the sink has one position."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable

import pytest
from tests.support.extent import extent
from tests.support.shared_state import rows, take
from tests.support.states import InDatabase, on_postgres
from tests.support.stores import NOON, backlog, dead_letters, explained, opened, seal, uids

from auditrelay.errors import Fenced
from auditrelay.events import AuditEvent
from auditrelay.events.page import Page
from auditrelay.store import Reached, RejectedEvent
from auditrelay.store.conditions import SinkCondition
from auditrelay.store.parts import Part, sink_units
from auditrelay.store.sql import readers
from auditrelay.store.sql.store import SqlStore

pytestmark = on_postgres

Make = Callable[..., AuditEvent]

SOURCES = ("cekura", "bland", "jitsudo", "voice")
"""In two parts: cekura, jitsudo and voice are of the second, bland of the first."""


@pytest.fixture
async def parts(state: InDatabase, store: SqlStore) -> AsyncIterator[list[SqlStore]]:
    """The two parts of the sink, each of another replica."""
    for source in SOURCES:
        await store.start_source(source, NOON)
    await store.start_sink("splunk", SOURCES)
    others = [await opened(state), await opened(state)]
    units = zip(others, sink_units("splunk", 2), strict=True)
    yield [other.under(take(state.url, unit)) for other, unit in units]
    for other in others:
        await other.close()


def page(event: Make, source: str, *numbers: int) -> Page:
    return Page.of([event(number, source=source) for number in numbers])


def position(state: InDatabase) -> tuple[int, str]:
    ((place, ahead),) = rows(state.url, "select position, ahead from sink where name = 'splunk'")
    return place, ahead


async def test_each_part_reads_the_events_of_its_sources_and_no_others(
    store: SqlStore, parts: list[SqlStore], event: Make
) -> None:
    for number, source in enumerate(SOURCES * 3):
        await store.add(source, page(event, source, number))
    read = [{page.source for page in await backlog(part)} for part in parts]
    assert read == [{s for s in SOURCES if Part(n, 2).has(s)} for n in range(2)]
    assert all(read)
    assert sorted([*await uids(parts[0]), *await uids(parts[1])]) == sorted(await uids(store))


async def test_the_sink_has_one_position_and_what_each_part_has_settled(
    state: InDatabase, store: SqlStore, parts: list[SqlStore], event: Make
) -> None:
    for number, source in enumerate(("bland", "cekura", "bland", "voice", "bland")):
        await store.add(source, page(event, source, number))
    await parts[0].settle("splunk", [(0, 1), (2, 3), (4, 5)])
    assert position(state) == (1, "[[2, 3], [4, 5]]")
    (sink,) = await store.sinks()
    assert (sink.position, sink.backlog_events) == (1, 2)
    assert await uids(parts[0]) == []
    assert await uids(parts[1]) == [event(1).uid, event(3).uid]
    await seal(store)
    await parts[1].settle("splunk", [(3, 4)])
    await parts[1].settle("splunk", [(1, 2)])
    assert position(state)[0] >= 5
    assert await backlog(store) == []
    await seal(store)
    explained(state, sealed=True)


async def test_two_parts_that_settle_at_the_same_time_lose_nothing_of_each_other(
    state: InDatabase, store: SqlStore, parts: list[SqlStore], event: Make
) -> None:
    for number in range(40):
        source = SOURCES[number % 2]
        await store.add(source, page(event, source, number))

    async def deliver(part: SqlStore, first: int) -> None:
        for place in random.Random(first).sample(range(first, 40, 2), 20):
            await part.settle("splunk", [(place, place + 1)])

    await asyncio.gather(deliver(parts[1], 0), deliver(parts[0], 1))
    assert position(state) == (40, "[]")
    explained(state)


async def test_who_has_a_part_no_more_settles_nothing_of_it(
    state: InDatabase, store: SqlStore, parts: list[SqlStore], event: Make
) -> None:
    await store.add("bland", page(event, "bland", 1))
    take(state.url, "sink splunk 0/2")
    with pytest.raises(Fenced):
        await parts[0].settle("splunk", [(0, 1)])
    assert position(state) == (0, "[]")


async def test_what_a_replica_has_in_memory_of_other_parts_is_passed_over(
    state: InDatabase, store: SqlStore, event: Make
) -> None:
    for source in SOURCES[:2]:
        await store.start_source(source, NOON)
    await store.start_sink("splunk", SOURCES[:2])
    mine = store.under(take(state.url, "sink splunk 1/2"))
    pages, reached = await mine.read("splunk", None, 10)
    assert (pages, reached.at_end) == ([], True)
    for number, source in enumerate(("bland", "bland", "cekura", "bland")):
        await store.add(source, page(event, source, number))
    rows(state.url, "update spool set events = ''")  # who reads the database now, fails
    store.reaches(4)
    pages, reached = await mine.read("splunk", reached, 10)
    assert [(page.first, page.source) for page in pages] == [(2, "cekura")]
    assert reached == Reached((4,), at_end=True)


async def test_letters_and_replays_are_those_of_the_part_that_has_the_source(
    state: InDatabase, store: SqlStore, parts: list[SqlStore], event: Make
) -> None:
    await store.add("bland", page(event, "bland", 1))
    await store.add("cekura", page(event, "cekura", 2))
    refused = RejectedEvent(1, "invalid", "no", 400, 1, NOON, NOON, reduced=True)
    assert await parts[1].settle("splunk", [(1, 2)], [refused]) == {1}
    copies = [(page.source, page.first) for page in await backlog(parts[1])]
    assert copies == [("cekura", 2)], "its reduced copy"
    await parts[1].settle("splunk", [(2, 3)])
    (letter,) = dead_letters(state)
    await store.replay([letter.id])
    assert [page.source for page in await backlog(parts[0])] == ["bland"]
    assert await uids(parts[1]) == [event(2).uid]
    await parts[1].settle("splunk", [(3, 4)])
    await parts[0].settle("splunk", [(0, 1)])
    assert dead_letters(state) == []
    assert await backlog(store) == []
    await seal(store)
    explained(state, sealed=True)


async def test_a_part_that_is_far_ahead_waits_for_the_others_and_goes_on_then(
    state: InDatabase,
    store: SqlStore,
    parts: list[SqlStore],
    event: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(readers, "MOST_AHEAD", 3)
    for number in range(20):
        source = SOURCES[number % 2]  # odd places are of the first part
        await store.add(source, page(event, source, number))
    reached, places = None, list[int]()
    while True:
        pages, reached = await parts[0].read("splunk", reached, 1)
        if not pages:
            break
        places += [page.first for page in pages]
        await parts[0].settle("splunk", [(page.first, page.first + 1) for page in pages])
    assert places == [1, 3, 5]
    assert not reached.at_end, "something waits"
    assert position(state) == (0, "[[1, 2], [3, 4], [5, 6]]")
    # What is in flight already is not held back, nor is the part that all wait for.
    assert [page.first for page in await parts[0].reread("splunk", (7, 8), 1)] == [7]
    assert [page.first for page in await backlog(parts[1])] == [0, 2, 4]
    await parts[1].settle("splunk", [(0, 1), (2, 3)])
    pages, reached = await parts[0].read("splunk", reached, 10)
    assert [page.first for page in pages] == [7, 9, 11, 13, 15, 17, 19]
    assert [page.first for page in await backlog(parts[1])] == [*range(4, 20, 2)]


async def test_what_others_have_of_it_says_when_a_part_has_read_too_far_in_memory(
    state: InDatabase, store: SqlStore, event: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "MOST_AHEAD", 2)
    for source in SOURCES[:2]:
        await store.start_source(source, NOON)
    await store.start_sink("splunk", SOURCES[:2])
    mine = store.under(take(state.url, "sink splunk 0/2"))
    _, reached = await mine.read("splunk", None, 10)
    for number in range(12):
        source = SOURCES[number % 2]
        await store.add(source, page(event, source, number))
    store.reaches(12)
    await mine.settle("splunk", [(1, 2), (3, 4)])
    pages, reached = await mine.read("splunk", reached, 10)
    assert (pages, reached.at_end) == ([], False)


async def test_the_health_of_a_sink_is_that_of_its_worst_part(
    store: SqlStore, parts: list[SqlStore]
) -> None:
    await store.save_condition("sink", "splunk", SinkCondition(held=True, last_error="before"))
    await parts[0].save_condition("sink", "splunk", SinkCondition(up=True))
    assert (await store.sinks())[0].condition == SinkCondition(up=True)
    failing = SinkCondition(last_error="reset")
    await parts[1].save_condition("sink", "splunk", failing)
    await parts[0].save_condition("sink", "splunk", SinkCondition(up=True))
    assert (await store.sinks())[0].condition == failing
    await parts[1].save_condition("sink", "splunk", SinkCondition(up=True))
    assert (await store.sinks())[0].condition.up


class Fleet:
    """Holders of the sink's units, which read and settle in any order; events come meanwhile."""

    def __init__(self, store: SqlStore, event: Make, rng: random.Random) -> None:
        self.taken: Counter[str] = Counter()
        self.added = 0
        self._store, self._event, self._rng = store, event, rng

    async def add(self) -> None:
        source, count = self._rng.choice(SOURCES), self._rng.randint(1, 3)
        numbers = range(self.added, self.added + count)
        await self._store.add(source, page(self._event, source, *numbers))
        self.added += count

    async def work(self, units: list[SqlStore], steps: int) -> None:
        rng = self._rng
        reached: list[Reached | None] = [None] * len(units)
        flying: list[tuple[SqlStore, int, list[str]]] = []
        for _ in range(steps):
            if rng.random() < 0.4:
                await self.add()
            mine = rng.randrange(len(units))
            pages, reached[mine] = await units[mine].read("splunk", reached[mine], 4)
            flying += [(units[mine], each.first, list(each.events.uid)) for each in pages]
            rng.shuffle(flying)
            landed = rng.randint(0, 3)
            await self.land(flying[:landed])
            del flying[:landed]
            if rng.random() < 0.1:
                await seal(self._store)
        await self.land(flying)  # in order: it is handed over once all has landed

    async def land(self, sent: list[tuple[SqlStore, int, list[str]]]) -> None:
        for unit, first, names in sent:
            self.taken.update(names)
            await unit.settle("splunk", [(first, first + len(names))])


@pytest.mark.parametrize("seed", range(extent(1, 40)))
async def test_whatever_the_number_of_parts_becomes_each_event_is_settled_once(
    state: InDatabase, store: SqlStore, event: Make, seed: int
) -> None:
    rng = random.Random(seed)
    for source in SOURCES:
        await store.start_source(source, NOON)
    await store.start_sink("splunk", SOURCES)
    fleet, number = Fleet(store, event, rng), 1
    for _ in range(5):
        units = [store.under(take(state.url, unit)) for unit in sink_units("splunk", number)]
        await fleet.work(units, 25)
        number = rng.choice([each for each in (1, 2, 3, 5) if each != number])
    await seal(store)
    explained(state, sealed=True)
    last = store.under(take(state.url, "sink splunk"))
    await fleet.land([(last, each.first, list(each.events.uid)) for each in await backlog(last)])
    assert set(fleet.taken.values()) == {1}
    assert {event(each).uid for each in range(fleet.added)} <= fleet.taken.keys()
    assert await backlog(store) == []
    await seal(store)
    explained(state, sealed=True)
