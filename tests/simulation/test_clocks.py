"""
Whatever our clock shows from time to time, everything is read, once, and nothing is declared.

A source with a year of retention, uids that are forgotten and a spool that is pruned; the process
is restarted again and again, with a clock that is right, or off by hours or years in either
direction, and that is stepped while it runs. After some time with a right clock no event is
missing, none was forwarded twice, no gap was declared but of time that is really older than the
retention, and no time counts as covered that is still to come.
"""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from tests.support.clock import FakeClock
from tests.support.collecting import NOON, Vendor, World
from tests.support.stores import backlog, explained

from auditrelay.confirmed_time import TOLERANCE
from auditrelay.errors import RelayError
from auditrelay.store.sqlite.store import open_store
from auditrelay.telemetry.metrics import Metrics

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
RETENTION = timedelta(days=365)


@dataclass
class Life:
    """A run of the process: how far its clock is ahead at each poll, and the minutes between."""

    off: float
    ahead: list[timedelta]
    minutes: int
    witness: bool


class Stepped:
    """A machine whose clock is stepped, a vendor whose clock is right, and the state."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = FakeClock(NOON)
        self._began = self.clock.monotonic()
        self.vendor = Vendor(self.clock, date=self.now)
        self.names: list[str] = []

    def now(self) -> datetime:
        return NOON + timedelta(seconds=self.clock.monotonic() - self._began)

    @contextlib.asynccontextmanager
    async def living(self, ahead: timedelta = timedelta(0)) -> AsyncIterator[World]:
        self.clock.restart()
        self.clock.set(self.now() + ahead)
        store = await open_store(
            self.folder,
            clock=self.clock,
            max_bytes=2**30,
            retention=timedelta(30),
            remember=timedelta(400),
        )
        await store.start_sink("sink", ["calls"])
        metrics = Metrics(sources=["calls"], sinks=["sink"])
        try:
            yield World(self.vendor, self.clock, store, metrics, self.folder)
        finally:
            await store.close()

    async def live(self, life: Life, *, events: bool = True) -> None:
        self.clock.advance(life.off)
        async with self.living(life.ahead[0]) as world:
            collector = world.collector(retention="365d", resweep=["1h"])
            for ahead in life.ahead:
                self.clock.set(self.now() + ahead)
                if events:
                    self.names.append(self.vendor.add(self.now()))
                if life.witness:
                    self.clock.confirmed.hear("splunk", self.now(), timedelta(0))
                with contextlib.suppress(RelayError):
                    await collector.poll()
                confirmed = self.clock.confirmed
                if confirmed.is_bounded:
                    await world.store.prune(confirmed.certain())
                await world.store.remember_time(confirmed.mark)
                for span, gap in await world.covered():
                    assert gap is None or span.end <= self.now() - RETENTION + TOLERANCE
                    assert span.end <= self.now(), "time that is still to come counts as covered"
                self.clock.advance(life.minutes * MINUTE)

    async def end(self) -> None:
        await self.live(Life(60, [timedelta(0)] * 3, 70, witness=False), events=False)
        async with self.living() as world:
            pages = await backlog(world.store, "sink")
            forwarded = [event.native_id for page in pages for event in page.events]
        assert sorted(filter(None, forwarded)) == sorted(self.names)
        explained(self.folder)


steps = st.one_of(
    st.just(timedelta(0)),
    st.integers(-90, 90).map(lambda seconds: timedelta(seconds=seconds)),
    st.integers(-72, 72).map(lambda hours: timedelta(hours=hours)),
    st.integers(-5, 5).map(lambda years: timedelta(days=365 * years)),
)
lives = st.lists(
    st.builds(
        Life,
        st.sampled_from([1.0, 600.0, 86_400.0, 20 * 86_400.0]),
        st.lists(steps, min_size=1, max_size=4),
        st.integers(1, 90),
        st.booleans(),
    ),
    max_size=4,
)


@settings(
    max_examples=20,
    phases=[Phase.explicit, Phase.generate],
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(lives)
def test_whatever_our_clock_shows_everything_is_read_once(story: list[Life]) -> None:
    async def bounded(folder: str) -> None:
        async with asyncio.timeout(60):
            world = Stepped(Path(folder))
            for life in story:
                await world.live(life)
            await world.end()

    with tempfile.TemporaryDirectory() as folder, capture_logs():
        asyncio.run(bounded(folder))
