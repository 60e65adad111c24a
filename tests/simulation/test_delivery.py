"""
Whatever happens, every vendor's events reach a sink that recognises them: all, and each once.

A history, its lateness, what the vendor's documentation leaves open, faults and kills are drawn at
random. The daemon runs in this process against a double and an Elasticsearch, over sockets, with a
clock that moves only between its lives.
"""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_type_hints
from unittest import mock

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from tests.support.clock import FakeClock
from tests.support.extent import extent
from tests.support.shared_state import lend
from tests.support.states import ENGINES, Engine, InDatabase, State, maker, open_state
from tests.support.stores import explained

from auditrelay.config.model import Alerts, Config, Log, Spool, Status
from auditrelay.sandbox import Request, Vendor, faults, vendors
from auditrelay.sandbox.siems.elasticsearch import Elastic
from auditrelay.service.app import App
from auditrelay.settings.reserved import ALERTS
from auditrelay.sources import available
from auditrelay.store.leases import KEEPER, sole
from auditrelay.store.sql.store import SqlStore
from auditrelay.telemetry.metrics import Metrics
from auditrelay.window import covered_until

pytestmark = pytest.mark.slow

T = TypeVar("T")

START = datetime(2100, 3, 1, tzinfo=UTC)
"""In the future: a vendor that sends its time must not seem to be behind the machine's clock."""
SETTLE, OVERLAP = 60, 600
LOOKBACK = 3600
"""Seconds before the first poll that the source starts at: at START."""
HISTORY = 3 * 3600
"""Seconds after START in which things happen."""

EXAMPLES = {"sqlite": extent(16, 90), "postgres": extent(3, 16)}
"""Histories of each vendor, by engine."""


# --- what is drawn


@dataclass(frozen=True)
class Happened:
    """A thing that happened *at* so many seconds after START, to be seen *late* seconds later."""

    at: int
    late: int


@dataclass(frozen=True)
class Kill:
    """The end of a life: at the vendor's or the sink's n-th request, or at the n-th write."""

    at: Literal["page", "batch", "before write", "after write"]
    number: int


@dataclass(frozen=True)
class Life:
    """A life of the daemon, *wait* seconds after the one before; faults by number of request."""

    wait: int
    vendor: dict[int, str]
    sink: dict[int, str]
    kill: Kill | None


LAST = Life(0, {}, {}, None)
"""A life in which nothing goes wrong."""

OF_VENDORS = {
    "html": faults.html(200),
    "html 503": faults.html(503),
    "500": faults.empty(500),
    "empty": faults.empty(),
    "truncated": faults.truncated(),
    "cut": faults.truncated(honest_length=True),
    "broken": faults.truncated(reset=True),
    "reset before": faults.reset(),
    "reset after": faults.store_then_reset(),
    "429": faults.too_many(retry_after=3),
    "429 for hours": faults.too_many(retry_after=7200),
    "401": faults.empty(401),
    "403": faults.html(403),
    "404": faults.html(404),
    "redirect": faults.redirect("http://127.0.0.1:9"),
    "gzip": faults.gzipped(),
    "chunks": faults.chunked(7),
    "close": faults.close(),
}
OF_SINKS = {
    "html 503": faults.html(503),
    "reset before": faults.reset(),
    "reset after": faults.store_then_reset(),
    "429": faults.too_many(retry_after=3),
    "401": faults.empty(401),
    "truncated": faults.truncated(),
}

moments = st.one_of(
    # Round ones, so that many happen together and on the bounds of windows.
    st.integers(0, HISTORY // 600).map(lambda number: number * 600),
    st.integers(0, HISTORY),
)
happened = st.builds(Happened, at=moments, late=st.integers(0, SETTLE + OVERLAP))
kills = st.builds(
    Kill,
    at=st.sampled_from(get_args(get_type_hints(Kill)["at"])),
    number=st.integers(1, 9),
)
lives = st.builds(
    Life,
    wait=st.one_of(st.integers(0, 60).map(lambda number: number * 60), st.integers(0, 7200)),
    vendor=st.dictionaries(st.integers(1, 9), st.sampled_from(sorted(OF_VENDORS)), max_size=4),
    sink=st.dictionaries(st.integers(1, 6), st.sampled_from(sorted(OF_SINKS)), max_size=3),
    kill=st.none() | kills,
)


def open_questions(kind: str) -> st.SearchStrategy[dict[str, Any]]:
    """Draw answers to some of what the documentation of *kind* leaves open."""
    vendor = vendors.available()[kind]
    fit: dict[str, list[object]] = {}
    for name, value in vendor.switch_values():
        if (name, value) not in vendor.MUST_FAIL | vendor.SILENT_LOSS:
            fit.setdefault(name, []).append(value)
    del fit["retry_after"]  # without a rate it says nothing
    choices: dict[str, st.SearchStrategy[Any]] = {
        name: st.sampled_from(values) for name, values in fit.items()
    }
    choices["page_size_cap"] = st.integers(0, 4).map(vendor.MIN_PAGE_SIZE.__add__)
    return st.fixed_dictionaries({}, optional=choices)


# --- what runs


class World:
    """A vendor, a sink, a state and a clock; and a daemon that lives again and again."""

    def __init__(self, kind: str, state: State, *, page_size: int, max_window: str) -> None:
        self.clock = FakeClock(START + timedelta(seconds=LOOKBACK))
        self.vendor: Vendor = vendors.available()[kind](clock=self.clock.seconds)
        self.elastic = Elastic(clock=self.clock.seconds)
        self.vendor.date = self.elastic.date = self.clock.seconds
        self._kind, self._state = kind, state
        if isinstance(state, InDatabase):
            lend(state.url, *map(sole, ("source it", "sink es", KEEPER)))  # it is alone
        self._keys = {"page_size": page_size, "max_window": max_window}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Let vendor and sink be there."""
        async with self.vendor, self.elastic:
            yield

    def config(self) -> Config:
        table = {
            **self.vendor.settings(),
            "settle": f"{SETTLE}s",
            "overlap": f"{OVERLAP}s",
            "initial_lookback": f"{LOOKBACK}s",
            "resweep": [],  # it would find again what was lost
            "timeout": "5s",
            **self._keys,
        }
        source = import_module(f"auditrelay.sources.{self._kind}").Settings.model_validate(table)
        sink = import_module("auditrelay.sinks.elasticsearch").Settings.model_validate(
            {
                "type": "elasticsearch",
                "urls": [self.elastic.url],
                "api_key": self.elastic.api_key,
                "batch_events": 5,
                "linger": "0s",
            }
        )
        return Config(
            path=None,
            state_dir=Path(),
            status=Status(),
            log=Log(),
            spool=Spool(),
            alerts=Alerts(),
            sources={"it": source},
            sinks={"es": sink},
        )

    async def live(self, life: Life) -> list[str]:
        """Let the daemon catch up once, or die on the way; return what failed."""
        for double, script, actions in (
            (self.vendor, life.vendor, OF_VENDORS),
            (self.elastic, life.sink, OF_SINKS),
        ):
            double.faults.clear()
            for number, name in script.items():
                # One matcher counts for all: a fault counts only what no earlier one has struck.
                double.faults.add(actions[name], when=_nth(number))
        store = await self._open()
        config = self.config()
        metrics = Metrics(sources=["it"], sinks=["es"], pairs=[("it", "es")])
        app = App(config, store, metrics, clock=self.clock, attempts=3)
        try:
            await store.start_source(ALERTS, self.clock.now())
            await store.start_sink("es", ["it", ALERTS])
            once = asyncio.ensure_future(app.once())
            with self._killing(life.kill, once):
                await asyncio.wait([once])
            return [] if once.cancelled() else once.result()
        finally:
            await app._topology.close()
            await store.close()
            explained(self._state)

    async def live_through(self, story: list[Life]) -> None:
        """Let the daemon have one life after the other; it starts at START."""
        for life in story:
            # Where a source starts is settled by its first life that is long enough.
            if await self.covered() is not None:
                self.clock.advance(timedelta(seconds=life.wait))
            await self.live(life)
        if await self.covered() is None:
            await self.live(LAST)

    async def catch_up(self, attempts: int) -> list[str]:
        """Wait until everything has settled and can be seen, and read it; return what failed."""
        end = START + timedelta(seconds=HISTORY + 2 * (SETTLE + OVERLAP))
        self.clock.set(max(self.clock.now(), end))
        failed = ["it was never tried"]
        while failed and attempts:
            failed = await self.live(LAST)
            attempts -= 1
        return failed

    @contextlib.contextmanager
    def _killing(self, kill: Kill | None, once: asyncio.Future[Any]) -> Iterator[None]:
        """End *once* as *kill* says: what it waits for then never comes back."""
        count = 0

        def strikes() -> bool:
            nonlocal count
            count += 1
            return kill is not None and count == kill.number

        async def request(_: Request) -> None:
            if strikes():
                once.cancel()

        real = self._state.writer.write

        async def write(self: object, work: Callable[..., Any], **named: Any) -> Any:
            assert kill is not None
            doomed = strikes()
            if doomed and kill.at == "before write":
                once.cancel()
                await asyncio.Event().wait()
            result = await real(self, work, **named)
            if doomed:
                once.cancel()
                await asyncio.Event().wait()
            return result

        at = kill.at if kill is not None else ""
        doubles: dict[str, Vendor | Elastic] = {"page": self.vendor, "batch": self.elastic}
        if at in doubles:
            doubles[at].on_request = request
        patched = mock.patch.object(self._state.writer, "write", write)
        with patched if at.endswith("write") else contextlib.nullcontext():
            yield
        for double in doubles.values():
            double.on_request = None

    async def covered(self) -> datetime | None:
        """Return until when everything since START is covered; None before the source starts."""
        store = await self._open()
        try:
            ledgers = {state.name: state.ledger for state in await store.sources()}
        finally:
            await store.close()
        if "it" not in ledgers:
            return None
        assert not [span for span in ledgers["it"] if span.gap], "a gap was declared"
        return covered_until(START, (span.interval for span in ledgers["it"]))

    async def _open(self) -> SqlStore:
        return await open_state(self._state, clock=self.clock)


def _nth(number: int) -> Callable[[Request], bool]:
    count = 0

    def when(_: Request) -> bool:
        nonlocal count
        count += 1
        return count == number

    return when


def run(story: Callable[[], Awaitable[T]]) -> T:
    """Run *story* without waits, and without tuning the interpreter for a service."""

    async def bounded() -> T:
        async with asyncio.timeout(90):
            return await story()

    with capture_logs():
        return asyncio.run(bounded())


# --- what holds


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", available())
def test_every_event_arrives_and_arrives_once(
    kind: str, engine: Engine, request: pytest.FixtureRequest
) -> None:
    bounded = settings(
        max_examples=EXAMPLES[engine],
        derandomize=True,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    make = st.just(maker(engine, request))
    bounded(given(kind=st.just(kind), make=make, data=st.data())(every_event_arrives_once))()


def every_event_arrives_once(kind: str, make: Callable[[Path], State], data: st.DataObject) -> None:
    history = data.draw(st.lists(happened, max_size=25), label="history")
    switches = data.draw(open_questions(kind), label="open questions")
    smallest = vendors.available()[kind].MIN_PAGE_SIZE
    page_size = data.draw(st.integers(smallest, smallest + 6), label="page_size")
    patience = 1
    if vendors.available()[kind].UNSTABLE_ORDER & switches.items():
        switches.pop("page_size_cap", None)
        page_size, patience = page_size + 4, 30
    if switches.get("oversize") == "refuse":
        page_size = min(page_size, switches.get("page_size_cap", page_size))
    max_window = data.draw(st.sampled_from(["30d", "1h", "25m"]), label="max_window")
    story = data.draw(st.lists(lives, max_size=5), label="lives")

    async def scenario() -> None:
        with tempfile.TemporaryDirectory() as folder:
            state = make(Path(folder, "state"))
            world = World(kind, state, page_size=page_size, max_window=max_window)
            for name, value in switches.items():
                setattr(world.vendor.switches, name, value)
            for thing in history:
                at = START + timedelta(seconds=thing.at)
                world.vendor.add(at, visible_from=at + timedelta(seconds=thing.late))
            async with world.running():
                await world.live_through(story)
                assert await world.catch_up(patience) == []
                stored = world.elastic.stored
                assert len(stored.documents) == len(history), "lost or repeated"
                assert len(stored.by_uid) == len(history), "an event has one uid, and only one"
                assert await world.covered() == world.clock.now() - timedelta(seconds=SETTLE)
            state.drop()

    run(scenario)
