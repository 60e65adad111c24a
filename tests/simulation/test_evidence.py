"""
Facts explain the state: whatever the store does, in any order, sealed now and then, and killed.

After each step the state is derived from its facts and entries, and compared; the checker, which
shares no code with the writer, finds the export whole; and every head that ever left fits.
"""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from tests.conftest import make_event
from tests.support.clock import FakeClock
from tests.support.extent import extent
from tests.support.states import ENGINES, Engine, State, maker
from tests.support.stores import NOON, explained, opened, seal, span

from auditrelay.events.page import Page
from auditrelay.evidence.tree import leaf, root
from auditrelay.settings.reserved import ALERTS
from auditrelay.store import DeadLetter, Proof, RejectedEvent
from auditrelay.store.sql import evidence

pytestmark = pytest.mark.slow

T = TypeVar("T")

SOURCES = ("voice", "access")
SINKS = ("splunk", "elastic")
minutes = st.integers(0, 60)


class Machine(RuleBasedStateMachine):
    """A store and everything that is done to it."""

    make: tuple[Callable[[Path], State], ...]
    """What makes its state, or those that are dealt the same."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = TemporaryDirectory()
        self.states = tuple(make(Path(self.folder.name, "state")) for make in self.make)
        self.clock = FakeClock(NOON + timedelta(hours=2))
        self.made = 0
        self.heads: list[tuple[int, bytes]] = []
        self.run(self.start())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    async def start(self) -> None:
        self.store = await self.open()
        for source in SOURCES:
            await self.store.start_source(source, NOON)
        await self.store.start_source(ALERTS, NOON)
        for sink in SINKS:
            await self.store.start_sink(sink, [*SOURCES, ALERTS])
        self.fed = {sink: {*SOURCES} for sink in SINKS}

    async def open(self) -> Any:
        (state,) = self.states
        return await opened(state, clock=self.clock)

    def events(self, source: str, count: int) -> list[Any]:
        """Return *count* events that are new."""
        self.made += count
        return [make_event(self.made - n, source=source) for n in range(count)]

    @rule(
        source=st.sampled_from(SOURCES),
        count=st.integers(0, 4),
        start=minutes,
        length=st.integers(1, 30),
        what=st.sampled_from(["covers", "gaps", "reopens", "retracts", "nothing"]),
        via=st.sampled_from(["poll", "resweep 1h", "backfill"]),
        bad=st.booleans(),
    )
    def add(
        self, source: str, count: int, start: int, length: int, what: str, via: str, bad: bool
    ) -> None:
        part = span(start, start + length)
        proof = {
            "covers": Proof(covers=(part,)),
            "gaps": Proof(gaps=((part, "retention"),)),
            "reopens": Proof(reopens=(part,)),
            "retracts": Proof(retracts=(part,)),
            "nothing": None,
        }[what]
        rows = [
            DeadLetter(event, "bad_row", "no", None, 1, NOON, NOON)
            for event in self.events(source, 1 if bad else 0)
        ]
        page, (about, filled) = Page.of(self.events(source, count)), self.events(source, 2)

        def notice(_: Any, is_filled: bool) -> Any:
            return filled if is_filled else about

        self.run(self.store.add(source, page, via=via, proof=proof, notice=notice, bad=rows))

    @rule(
        sink=st.sampled_from(SINKS),
        most=st.integers(1, 6),
        skip=st.integers(0, 2),
        refuse=st.booleans(),
    )
    def deliver(self, sink: str, most: int, skip: int, refuse: bool) -> None:
        async def deliver() -> None:
            pages, _ = await self.store.read(sink, None, 50)
            places = [page.first + n for page in pages for n in range(len(page.events))]
            taken = places[skip : skip + most]
            dead = [
                RejectedEvent(place, "invalid", "no", 400, 1, NOON, NOON, reduced=True)
                for place in taken[:1]
                if refuse
            ]
            await self.store.settle(sink, [(place, place + 1) for place in taken], dead)

        self.run(deliver())

    @rule(source=st.sampled_from(SOURCES), sink=st.sampled_from(SINKS))
    def resend(self, source: str, sink: str) -> None:
        if source in self.fed[sink]:  # the command refuses others
            pages = [Page.of(self.events(source, 2))]
            self.run(self.store.resend(source, [sink], pages, Proof()))

    @rule(number=st.integers(1, 8), drop=st.booleans())
    def operate(self, number: int, drop: bool) -> None:
        if drop:
            self.run(self.store.drop([number], self.clock.now()))
        else:
            self.run(self.store.replay([number]))

    @rule(source=st.sampled_from(SOURCES))
    def resweep(self, source: str) -> None:
        self.run(self.store.record_deleted(source, span(0, 60), set(), 10))
        self.run(self.store.resweep_done(source, timedelta(hours=1), self.clock.now()))

    @rule(days=st.sampled_from([0, 8, 401]))
    def prune(self, days: int) -> None:
        self.clock.advance(timedelta(days=days))
        self.run(self.store.prune(self.clock.now()))

    @rule()
    def make_room(self) -> None:
        self.run(self.store.make_room())

    @rule(name=st.sampled_from([*SOURCES, *SINKS]))
    def forget(self, name: str) -> None:
        async def forget() -> None:
            await self.store.forget(name)
            await self.store.close()
            await self.start()

        self.run(forget())

    @rule(configured=st.sampled_from([{}, {"splunk": ["voice", ALERTS]}]))
    def retire(self, configured: dict[str, list[str]]) -> None:
        self.run(self.store.retire(configured, [*SOURCES, ALERTS]))
        self.fed = {sink: set(configured.get(sink, ())) for sink in SINKS}

    @rule(back=st.sampled_from([0, 0, 90]))
    def seal(self, back: int) -> None:
        self.clock.advance(timedelta(seconds=60 - back))
        head = self.run(seal(self.store)).head
        self.heads.append((head.size, head.root))

    @rule()
    def restart(self) -> None:
        """As after a kill: only what was committed is there."""

        async def restart() -> None:
            await self.store.close()
            await self.start()

        self.run(restart())

    @invariant()
    def facts_explain_the_state(self) -> None:
        for state in self.states:
            explained(state, sealed=bool(self.heads))

    def teardown(self) -> None:
        try:
            with self.states[0].view() as view:
                leaves = [leaf(line.encode()) for _, line in view.read(evidence.entries)]
            for size, sealed in self.heads:
                assert root(leaves[:size]) == sealed
        finally:
            self.run(self.store.close())
            self.loop.close()
            for state in self.states:
                state.drop()
            self.folder.cleanup()


@pytest.mark.parametrize("engine", ENGINES)
def test_facts_explain_the_state_after_whatever_is_done(
    engine: Engine, request: pytest.FixtureRequest
) -> None:
    few = extent(2, 40) if engine == "postgres" else extent(12, 200)
    run_state_machine_as_test(
        type("Machine", (Machine,), {"make": (maker(engine, request),)}),
        settings=settings(
            max_examples=few,
            stateful_step_count=20,
            deadline=None,
            derandomize=True,
            phases=[Phase.generate, Phase.shrink],
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
