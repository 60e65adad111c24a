"""
Whatever happens, events forwarded, dead-lettered or in declared gaps are the whole history.

Histories with a heavy tail of lateness, settings, faults and kills are drawn at random; one source
in this process, on a clock that only the test moves. ``verify`` finds exactly the events that came
after the last resweep of their time.
"""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from tests.support.clock import FakeClock
from tests.support.extent import extent
from tests.support.states import ENGINES, Engine, InFolder, State, maker, open_state
from tests.support.stores import backlog, explained, seal

from auditrelay.collect.backfill import Backfiller, BackfillProgress
from auditrelay.collect.collector import Collector
from auditrelay.collect.verify import Verifier, VerifyReport
from auditrelay.errors import RelayError, Retryable, WalkBroken
from auditrelay.events.normalize import Normalizer, vendor_named
from auditrelay.sources import UNREADABLE, Page, bland
from auditrelay.store import Proof
from auditrelay.store.sql import intake, ledger
from auditrelay.store.sql.store import SqlStore
from auditrelay.store.sqlite.state_dir import connect, create
from auditrelay.telemetry.metrics import Metrics
from auditrelay.window import Interval, covered_until, micros

pytestmark = pytest.mark.slow

START = datetime(2026, 1, 10, tzinfo=UTC)
SECOND = timedelta(seconds=1)
HISTORY = 6 * 3600
"""Seconds after START in which events happen."""


@dataclass(frozen=True)
class Happened:
    """An event *at* so many seconds after START, which is shown *late* seconds later."""

    at: int
    late: int


@dataclass
class Vendor:
    """An API that shows its visible events oldest first, in pages of three."""

    now: Callable[[], datetime]
    history: list[Happened]
    errors: dict[int, str] = field(default_factory=dict)
    unreadable: Interval | None = None
    failure: RelayError = field(
        default_factory=lambda: WalkBroken("poison", reason="repeated_page")
    )
    pages: int = 0
    scope: str = ""

    async def walk(
        self, window: Interval, *, background: bool = False, finely: bool = False
    ) -> AsyncGenerator[Page]:
        if self.unreadable is not None and (
            window.start < self.unreadable.end and window.end > self.unreadable.start
        ):
            raise self.failure
        shown = [
            b'{"id":"e%d","event_type":"auth.logout","created_at":"%b"}'
            % (number, (START + thing.at * SECOND).isoformat().encode())
            for number, thing in sorted(enumerate(self.history), key=lambda each: each[1].at)
            if window.start <= START + thing.at * SECOND < window.end
            and START + (thing.at + thing.late) * SECOND <= self.now()
        ]
        for first in range(0, max(1, len(shown)), 3):
            self.pages += 1
            match self.errors.pop(self.pages, ""):
                case "retry":
                    raise Retryable("no", reason="status_500")
                case "broken":
                    raise WalkBroken("no", reason="no_progress")
            yield Page(shown[first : first + 3], last=first + 3 >= len(shown), total=len(shown))

    async def close(self) -> None: ...


class World:
    """One source with its state, which is restarted again and again."""

    def __init__(self, state: State, history: list[Happened], **keys: Any) -> None:
        self.clock = FakeClock(START)
        self.vendor = Vendor(self.clock.now, history)
        self.state = state
        self.keys = keys

    @contextlib.asynccontextmanager
    async def living(self) -> AsyncIterator[tuple[SqlStore, Collector]]:
        """Start the source on the state of its earlier lives."""
        store = await open_state(self.state, clock=self.clock, retention=timedelta(30))
        table = {"type": "bland", "api_key": "k", "initial_lookback": "0s", **self.keys}
        collector = Collector(
            "it",
            bland.Settings.model_validate(table),
            self.vendor,
            normalizer=Normalizer(
                vendor=vendor_named("bland"),
                source="it",
                api_host="",
                scope="",
                redact="default",
                tags={},
            ),
            store=store,
            metrics=Metrics(sources=["it"], sinks=["sink"]),
            clock=self.clock,
            announce=lambda: None,
        )
        try:
            await store.start_source("it", START)
            await store.start_sink("sink", ["it"])
            yield store, collector
        finally:
            await store.close()

    async def live(self, seconds: int, poll_every: int, kill: int | None) -> None:
        """Poll for *seconds*, or until the *kill*-th write is done and its caller never resumes."""
        end = self.clock.now() + seconds * SECOND
        real, count = self.state.writer.write, 0
        ended = asyncio.Event()

        async def write(self: object, work: Callable[..., Any], **named: Any) -> Any:
            nonlocal count
            count += 1
            result = await real(self, work, **named)
            if count == kill:
                ended.set()
                await asyncio.Event().wait()
            return result

        async def poll(collector: Collector) -> None:
            while self.clock.now() < end:
                with contextlib.suppress(RelayError):
                    await collector.poll()
                self.clock.advance(poll_every * SECOND)

        async with self.living() as (store, collector):
            with mock.patch.object(self.state.writer, "write", write):
                polling = asyncio.ensure_future(poll(collector))
                dying = asyncio.ensure_future(ended.wait())
                await asyncio.wait([polling, dying], return_when=asyncio.FIRST_COMPLETED)
                dying.cancel()
                if not polling.done():
                    polling.cancel()
                    await asyncio.wait([polling])
                else:
                    polling.result()
            explained(self.state)
            await seal(store)
        explained(self.state, sealed=True)

    async def forwarded(self) -> list[str]:
        """Return all ids in the spool, with repetitions, without the notices of gaps."""
        async with self.living() as (store, _):
            pages = await backlog(store, "sink")
        return [event.native_id for page in pages for event in page.events if event.native_id]

    def whole(self) -> None:
        """Fail unless the facts explain the state."""
        explained(self.state)


def run(
    story: Callable[[World], Any],
    history: list[Happened],
    make: Callable[[Path], State] = InFolder,
    **keys: Any,
) -> None:
    async def bounded(state: State) -> None:
        async with asyncio.timeout(60):
            await story(World(state, history, **keys))

    with (
        tempfile.TemporaryDirectory() as folder,
        capture_logs(),
    ):
        state = make(Path(folder, "state"))
        asyncio.run(bounded(state))
        state.drop()


lateness = st.one_of(
    st.just(0),
    st.integers(0, 60),
    st.integers(60, 1800),
    st.integers(1800, 6 * 3600),
    st.integers(6 * 3600, 30 * 3600),  # the heavy tail: later than any resweep
)
happened = st.builds(
    Happened,
    at=st.one_of(st.integers(0, HISTORY // 600).map(lambda n: n * 600), st.integers(0, HISTORY)),
    late=lateness,
)
lives = st.tuples(
    st.integers(0, 3 * 3600),  # how long
    st.none() | st.integers(1, 40),  # killed at which write
    st.integers(0, 4 * 3600),  # how long there is no poll after it
    st.dictionaries(st.integers(1, 30), st.sampled_from(["retry", "broken"]), max_size=4),
)
EXAMPLES = {"sqlite": extent(16, 120), "postgres": extent(3, 24)}


def tried(engine: Engine, test: Callable[..., None], **drawn: st.SearchStrategy[Any]) -> None:
    """Run *test* with examples of what is *drawn*; how many there are depends on the engine."""
    bounded = settings(
        max_examples=EXAMPLES[engine],
        derandomize=True,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    bounded(given(**drawn)(test))()


@pytest.mark.parametrize("engine", ENGINES)
def test_forwarded_and_declared_together_are_the_whole_history(
    engine: Engine, request: pytest.FixtureRequest
) -> None:
    tried(
        engine,
        whole_history,
        make=st.just(maker(engine, request)),
        history=st.lists(happened, max_size=25),
        story=st.lists(lives, max_size=4),
        settle=st.sampled_from(["0s", "60s"]),
        overlap=st.sampled_from(["10s", "10m"]),
        max_window=st.sampled_from(["20m", "30d"]),
        resweep=st.sampled_from([[], ["1h"], ["1h", "8h"]]),
        limit=st.none() | st.sampled_from(["2h"]),
    )


def whole_history(
    make: Callable[[Path], State],
    history: list[Happened],
    story: list[tuple[int, int | None, int, dict[int, str]]],
    settle: str,
    overlap: str,
    max_window: str,
    resweep: list[str],
    limit: str | None,
) -> None:
    async def scenario(world: World) -> None:
        for length, kill, pause, errors in story:
            world.vendor.pages, world.vendor.errors = 0, dict(errors)
            await world.live(length, 600, kill)
            world.clock.advance(pause * SECOND)
        world.vendor.errors = {}
        world.clock.set(max(world.clock.now(), START + (HISTORY + 3600) * SECOND))
        # A resweep of 8 h waits until another quarter of that is due, and then for the next poll.
        await world.live(10 * 3600, 1800, None)
        forwarded = await world.forwarded()
        assert len(forwarded) == len(set(forwarded)), "nothing is repeated"
        world.whole()

        world.clock.set(START + (HISTORY + 40 * 3600) * SECOND)  # now every event is shown
        async with world.living() as (store, collector):
            await collector.checkpoint.refresh()
            spans = await store.ledger("it")
            end = covered_until(START, [span.interval for span in spans])
            gaps = [span.interval for span in spans if span.gap]
            report = await _verify(world, store, collector, Interval(START, end), repair=True)
        missing = {row.native_id for row in report.missing}
        for number, thing in enumerate(history):
            name, at = f"e{number}", START + thing.at * SECOND
            if name in forwarded or at >= end:
                assert name not in missing
                continue
            assert name in missing, "what was not forwarded is found by verify"
            declared = any(gap.start <= at < gap.end for gap in gaps)
            reach = max((_seconds(each) for each in resweep), default=0)
            patience = max(reach, _seconds(settle))
            assert declared or thing.late >= patience, "it was neither late nor declared"
        assert report.repaired == len(missing)
        after = await world.forwarded()
        assert len(after) == len(set(after)), "nothing is repeated by the repair"
        assert {f"e{n}" for n, one in enumerate(history) if START + one.at * SECOND < end} == set(
            after
        )
        world.whole()

    run(
        scenario,
        history,
        make,
        settle=settle,
        overlap=overlap,
        max_window=max_window,
        resweep=resweep,
        **({} if limit is None else {"catch_up_limit": limit}),
    )


def _seconds(text: str) -> int:
    return int(text[:-1]) * {"s": 1, "m": 60, "h": 3600}[text[-1]]


async def _verify(
    world: World, store: SqlStore, collector: Collector, span: Interval, *, repair: bool
) -> VerifyReport:
    async def silent(_: object) -> None: ...

    return await Verifier(
        collector,
        store,
        span=span,
        sinks=["sink"],
        searchable={},
        repair=repair,
        clock=world.clock,
        on_progress=silent,
    ).run()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_backfill_that_is_killed_again_and_again_fills_everything_once(
    engine: Engine, request: pytest.FixtureRequest
) -> None:
    tried(
        engine,
        killed_backfill,
        make=st.just(maker(engine, request)),
        history=st.lists(happened, min_size=1, max_size=25),
        kills=st.lists(st.integers(1, 60), max_size=4),
        concurrency=st.integers(1, 4),
        newest_first=st.booleans(),
        single_sink=st.booleans(),
    )


def killed_backfill(
    make: Callable[[Path], State],
    history: list[Happened],
    kills: list[int],
    concurrency: int,
    newest_first: bool,
    single_sink: bool,
) -> None:
    async def scenario(world: World) -> None:
        world.clock.set(START + (HISTORY + 40 * 3600) * SECOND)
        span = Interval(START, START + (HISTORY + 3600) * SECOND)
        for kill in (*kills, None):
            async with world.living() as (store, collector):
                working = asyncio.ensure_future(
                    _backfill(
                        world,
                        store,
                        collector,
                        span,
                        concurrency=concurrency,
                        newest_first=newest_first,
                        sinks=["sink"] if single_sink else [],
                    )
                )
                with _killed_at(kill, working, world.state.writer):
                    await asyncio.wait([working])
                if kill is None:
                    working.result()
            world.whole()
        forwarded = await world.forwarded()
        # A finished backfill that is requested again is a new one; into a single sink it resends
        # everything.
        once = sorted(f"e{number}" for number in range(len(history)))
        assert sorted(set(forwarded)) == once
        if not single_sink:
            assert sorted(forwarded) == once
        world.whole()

    run(scenario, history, make, resweep=[])


async def _backfill(
    world: World,
    store: SqlStore,
    collector: Collector,
    span: Interval,
    *,
    concurrency: int = 1,
    newest_first: bool = False,
    sinks: list[str] | None = None,
) -> BackfillProgress:
    async def silent(_: BackfillProgress) -> None: ...

    return await Backfiller(
        collector,
        store,
        span=span,
        sinks=sinks or [],
        clock=world.clock,
        on_progress=silent,
    ).run(concurrency=concurrency, newest_first=newest_first)


@contextlib.contextmanager
def _killed_at(number: int | None, working: asyncio.Future[Any], writer: Any) -> Any:
    real, count = writer.write, 0

    async def write(self: object, work: Callable[..., Any], **named: Any) -> Any:
        nonlocal count
        count += 1
        result = await real(self, work, **named)
        if count == number:
            working.cancel()
            await asyncio.Event().wait()
        return result

    with mock.patch.object(writer, "write", write):
        yield


def test_a_span_that_cannot_be_read_is_declared_after_an_hour_and_holds_nothing_up() -> None:
    history = [Happened(number * 600, 0) for number in range(30)]

    async def scenario(world: World) -> None:
        world.vendor.unreadable = Interval(START + 3599 * SECOND, START + 3601 * SECOND)
        await world.live(5 * 3600, 300, None)
        async with world.living() as (store, collector):
            await collector.checkpoint.refresh()
            gaps = [span for span in await store.ledger("it") if span.gap]
            assert {span.gap for span in gaps} == {UNREADABLE}
            lost = sum(span.interval.length.total_seconds() for span in gaps)
            assert lost < 5, "no more than could not be read"
            assert collector.checkpoint.at > START + 4 * 3600 * SECOND
            world.vendor.unreadable = None
            result = await _backfill(
                world, store, collector, Interval(START, START + 2 * 3600 * SECOND)
            )
            assert result.new == 1
            assert not [span for span in await store.ledger("it") if span.gap], "it is filled"
        world.whole()

    run(scenario, history, resweep=[], settle="0s")


@pytest.mark.parametrize("kill", [1, 2, 3, 5, 8, 13, 21, 34, 55])
def test_a_kill_at_any_write_around_an_unreadable_span_loses_nothing_beside_it(kill: int) -> None:
    history = [Happened(number * 600, 0) for number in range(30)]

    async def scenario(world: World) -> None:
        world.vendor.unreadable = Interval(START + 3599 * SECOND, START + 3601 * SECOND)
        world.vendor.failure = Retryable("500", reason="status_500")
        world.clock.advance(3 * 3600 * SECOND)  # it is met while catching up
        await world.live(3600, 600, kill)
        await world.live(4 * 3600, 600, None)
        forwarded = await world.forwarded()
        assert sorted(forwarded) == sorted(f"e{number}" for number in range(30) if number != 6)
        async with world.living() as (store, _):
            gaps = [span for span in await store.ledger("it") if span.gap]
        assert {span.gap for span in gaps} == {UNREADABLE}
        assert sum(span.interval.length.total_seconds() for span in gaps) < 5
        assert world.vendor.pages < 1500, "requests"
        world.whole()

    run(scenario, history, resweep=[], settle="0s")


def test_a_year_of_polls_every_five_minutes_leaves_a_small_ledger(tmp_path: Path) -> None:
    """A month of the year, unless all is tried: what there is at its end grows by the day."""
    days = extent(31, 365)
    create(tmp_path)
    with contextlib.closing(connect(tmp_path, write=True)) as db:
        db.execute("pragma synchronous = off")
        db.execute("insert into source (id, name, started) values (1, 'it', ?)", (micros(START),))
        db.execute("begin")
        step = timedelta(minutes=5)
        for number in range(days * 24 * 12):
            window = Interval(START + number * step - step, START + (number + 1) * step)
            proof = Proof(covers=(window,))
            intake.enter(db, "it", proof, now=micros(window.end), via="poll")
        db.execute("commit")
        spans = ledger.spans(db, 1)
        assert spans[0].interval.start == START - step
        assert spans[-1].interval.end == START + timedelta(days=days)
        assert len(spans) <= days + 2
        (size,) = db.execute("select sum(pgsize) from dbstat where name = 'coverage'").fetchone()
        assert size < 100_000
