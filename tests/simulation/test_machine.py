"""
Whatever a product does wrong, in any order, and however often we are killed: no event is lost.

A state machine deals the misbehaviours of one double, over real sockets, to a deliverer that is
killed and restarted in between. The double's own store is the oracle: in the end each event is
there exactly once, or is a dead letter, or was counted as a possible duplicate.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from structlog.testing import capture_logs
from tests.conftest import make_event
from tests.support.clock import FakeClock
from tests.support.daemon import eventually
from tests.support.delivering import World, opened
from tests.support.extent import extent
from tests.support.rigs import RIGS, WITHOUT_DOUBLE, Rig
from tests.support.states import ENGINES, Engine, State, maker
from tests.support.stores import explained, uids

from auditrelay import sinks
from auditrelay.deliver.deliverer import Deliverer
from auditrelay.descriptions import HTTP
from auditrelay.events.reduced import reduced

pytestmark = pytest.mark.slow

T = TypeVar("T")

SPEED = 1000
"""Waits are this many times shorter; requests take their real time."""


class Machine(RuleBasedStateMachine):
    """One double, one spool, and the lives of a deliverer between them."""

    rig: Rig
    make: Callable[[Path], State]
    """What makes its state."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = TemporaryDirectory()
        self.state = self.make(Path(self.folder.name, "state"))
        self.clock = FakeClock(speed=SPEED)
        self.logs = capture_logs()
        self.lines = self.logs.__enter__()
        self.double: Any = self.rig.double()
        self.made: list[str] = []
        self.died_with: Counter[str] = Counter()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    @initialize()
    def begin(self) -> None:
        async def begin() -> None:
            await self.double.start()
            self.opened = opened(self.state, make_event, self.clock)
            self.world: World = await self.opened.__aenter__()
            self._live()

        self.run(begin())

    def _live(self) -> None:
        settings, sink = self.rig.build(self.double, self.world.metrics, self.clock)
        self.sink = sink
        self.deliverer = Deliverer(
            "sink",
            settings,
            sink,
            store=self.world.store,
            metrics=self.world.metrics,
            clock=self.clock,
        )
        self.task = self.loop.create_task(self.deliverer.keep_delivering())

    async def _die(self) -> None:
        if self.task.done():
            self.task.result()
        self.task.cancel()
        await asyncio.wait([self.task])
        await self.sink.close()

    @rule(count=st.integers(1, 20))
    def collect(self, count: int) -> None:
        """New events come into the spool."""

        async def collect() -> None:
            first = len(self.made)
            await self.world.spool(count, first=first)
            self.made += [make_event(first + number).uid for number in range(count)]
            self.deliverer.wake.set()

        self.run(collect())

    @rule(data=st.data())
    def misbehave(self, data: st.DataObject) -> None:
        """The product does something wrong, now or at the next request."""
        own, every = sorted(self.rig.misbehaviours), self.rig.all_misbehaviours
        name = data.draw(st.sampled_from(own) | st.sampled_from(sorted(every)))
        every[name](self.double)

    @rule(count=st.integers(1, 20), data=st.data())
    def misbehave_in_the_middle(self, count: int, data: st.DataObject) -> None:
        """New events are on their way when the product does what only it can do wrong."""
        name = data.draw(st.sampled_from(sorted(self.rig.misbehaviours)))
        before = self.double.requests

        async def middle() -> None:
            for _ in range(20):
                await asyncio.sleep(0.001)
                if self.double.requests > before + 1:
                    break

        self.collect(count)
        self.run(middle())
        self.rig.misbehaviours[name](self.double)

    @rule(milliseconds=st.sampled_from([2, 20, 60]))
    def wait(self, milliseconds: int) -> None:
        """Some time passes."""
        self.run(asyncio.sleep(milliseconds / 1000))

    @rule()
    def outage(self) -> None:
        """The product goes away and comes back."""

        async def outage() -> None:
            await self.double.stop()
            await asyncio.sleep(0.01)
            await self.double.start()

        self.run(outage())

    @rule()
    def kill(self) -> None:
        """We are killed; events not settled yet may be stored already, and are sent again."""

        async def kill() -> None:
            await self._die()
            self.died_with.update(await self._unsettled())
            self._live()

        self.run(kill())

    @rule()
    def restart(self) -> None:
        """We are stopped as by SIGTERM, and started again."""

        async def restart() -> None:
            self.deliverer.stop()
            draining = asyncio.ensure_future(self.deliverer.drain())
            await asyncio.wait([draining], timeout=2)
            drained = draining.done()
            draining.cancel()
            await asyncio.wait([draining])
            await self._die()
            if not drained:
                self.died_with.update(await self._unsettled())
            self._live()

        self.run(restart())

    async def _unsettled(self) -> list[str]:
        # This write is queued behind the last one of the killed deliverer, so that one is done.
        await self.world.store.settle("sink", [])
        explained(self.state)
        return await uids(self.world.store, "sink")

    def teardown(self) -> None:
        try:
            if self.double.port:
                self.run(self._reckon())
        finally:
            self.loop.close()
            self.state.drop()
            self.logs.__exit__(None, None, None)
            self.folder.cleanup()

    async def _reckon(self) -> None:
        """Clear all faults, wait until everything is delivered, and compare."""
        try:
            self.double.faults.clear()
            if hasattr(self.double, "switches") and hasattr(self.double.switches, "ack_after"):
                self.double.switches.ack_after = 0
            try:
                await eventually(self._empty)
            finally:
                await self._die()
            self._compare()
        finally:
            await self.opened.__aexit__(None, None, None)
            await self.double.stop()

    async def _empty(self) -> bool:
        if self.task.done():
            self.task.result()
        return await self.world.backlog() == 0

    def _compare(self) -> None:
        stored: Counter[str] = self.double.stored.by_uid
        names = [name for name, *_ in self.world.dead()]
        assert len(names) == len(set(names)), "a dead letter twice"
        refused = [make_event(int(name)) for name in names if name.isdigit()]
        copies = {copy.uid: event.uid for event in refused if (copy := reduced(event, ""))}
        # A reduced copy that is refused as well is a dead letter that names the refused event.
        dead = {event.uid for event in refused}
        arrived = {copies[uid] for uid in stored if uid in copies}
        assert dead == arrived | {name for name in names if not name.isdigit()}
        lost = set(self.made) - set(stored) - dead
        assert not lost, f"{len(lost)} lost"
        assert set(stored) <= set(self.made) | set(copies)
        extra = Counter({uid: count - 1 for uid, count in stored.items()})
        extra.update(dead & set(stored))
        if self.rig.deduplicates:
            assert max(stored.values(), default=1) == 1
            return
        # Duplicates caused by a kill cannot be counted by the deliverer; all others must be.
        unexplained = (+extra - self.died_with).total()
        counted = self.world.counted("events_possible_duplicate_total")
        assert unexplained <= counted, f"{unexplained} repeated, {counted} counted"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", RIGS)
def test_each_event_arrives_once_or_is_accounted_for(
    name: str, engine: Engine, request: pytest.FixtureRequest
) -> None:
    made = {"rig": RIGS[name], "make": staticmethod(maker(engine, request))}
    few = extent(8, 12)
    examples = {"sqlite": 30 if name == "splunk with ack" else few, "postgres": extent(2, 12)}
    run_state_machine_as_test(
        type("Machine", (Machine,), made),
        settings=settings(
            max_examples=examples[engine],
            stateful_step_count=14,
            deadline=None,
            derandomize=True,
            phases=[Phase.generate],  # shrinking a failure that ends in a time-out takes too long
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_a_row_for_every_sink_over_http() -> None:
    kinds = {rig.kind for rig in RIGS.values()}
    assert kinds == {*sinks.available(), HTTP} - WITHOUT_DOUBLE
