"""A collector without a network: a clock, a source that remembers its records, and the store."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.support.clock import FakeClock
from tests.support.stores import backlog, opened

from auditrelay.collect.collector import Collector
from auditrelay.collect.unreadable import Failure
from auditrelay.errors import Refused, RelayError, WalkBroken
from auditrelay.events import AuditEvent
from auditrelay.events.normalize import Normalizer, vendor_named
from auditrelay.sources import Page, bland
from auditrelay.store.sql.store import SqlStore
from auditrelay.telemetry.metrics import Metrics
from auditrelay.window import Interval

NOON = datetime(2026, 1, 10, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


@dataclass
class Vendor:
    """
    An API with stored records, windows and pages: half-open bounds, oldest first.

    A record is shown from its time on, or from *seen_from*. The error in *errors* is raised once,
    before the page of that number, counted over all walks. With a *date* its replies say what time
    it is, as those of a peer do.
    """

    clock: FakeClock
    size: int = 3
    scope: str = ""
    records: list[tuple[str, datetime, datetime]] = field(default_factory=list)
    errors: dict[int, RelayError] = field(default_factory=dict)
    too_many: int = 10**9
    asked: list[Interval] = field(default_factory=list)
    background: list[bool] = field(default_factory=list)
    pages: int = 0
    before_page: Callable[[], None] = lambda: None
    event_type: str = "auth.logout"
    walk_instead: Callable[[Interval], AsyncGenerator[Page]] | None = None
    date: Callable[[], datetime] | None = None

    def add(self, at: datetime, seen_from: datetime | None = None) -> str:
        name = f"r{len(self.records)}"
        self.records.append((name, at, at if seen_from is None else seen_from))
        return name

    def walk(
        self, window: Interval, *, background: bool = False, finely: bool = False
    ) -> AsyncGenerator[Page]:
        self.background.append(background)
        return (self.walk_instead or self.walk_records)(window)

    async def walk_records(self, window: Interval) -> AsyncGenerator[Page]:
        """Yield what is in *window*; *walk_instead* may call it, and change what it yields."""
        self.asked.append(window)
        assert len(self.asked) < 1000, "endless requests"
        found = [
            b'{"id":"%b","event_type":"%b","created_at":"%b"}'
            % (name.encode(), self.event_type.encode(), at.isoformat().encode())
            for name, at, seen_from in sorted(self.records, key=lambda record: record[1])
            if window.start <= at < window.end and seen_from <= (self.date or self.clock.now)()
        ]
        if len(found) > self.too_many:
            raise WalkBroken("too many", reason="over_budget")
        for first in range(0, max(1, len(found)), self.size):
            self.pages += 1
            self.before_page()
            if error := self.errors.pop(self.pages, None):
                raise error
            made = None if self.date is None else self.date()
            self.clock.confirmed.hear("calls", made, timedelta(0))
            if made is not None and self.clock.now() - made > timedelta(minutes=2):
                raise Refused("the clock of this machine is ahead")
            part = found[first : first + self.size]
            yield Page(part, last=first + self.size >= len(found), total=len(found))

    async def close(self) -> None: ...


async def answering(_: Failure) -> bool:
    """Answer, as a source does that is not down."""
    return True


async def refuse_to_give_up(span: Interval, error: Failure) -> None:
    """Raise the *error* of a span that cannot be read."""
    raise error


async def pass_over(span: Interval, error: Failure) -> None:
    """Go on behind a span that cannot be read."""


@dataclass
class World:
    """A collector, its source and its store."""

    vendor: Vendor
    clock: FakeClock
    store: SqlStore
    metrics: Metrics
    folder: Path

    def collector(self, name: str = "calls", **changes: Any) -> Collector:
        """Return a new collector, as after a restart."""
        keys = {
            "type": "bland",
            "api_key": "k",
            "settle": "60s",
            "overlap": "10m",
            "resweep": [],
            "initial_lookback": "2h",
            **changes,
        }
        patience = keys.pop("patience", None)
        settings = bland.Settings.model_validate(keys)
        return Collector(
            name,
            settings,
            self.vendor,
            normalizer=self.normalizer(name),
            store=self.store,
            metrics=self.metrics,
            clock=self.clock,
            announce=lambda: None,
            patience=patience,
        )

    @staticmethod
    def normalizer(name: str) -> Normalizer:
        return Normalizer(
            vendor=vendor_named("bland"),
            source=name,
            api_host="api.bland.ai",
            scope="",
            redact="default",
            tags={},
        )

    async def spooled(self) -> list[AuditEvent]:
        pages = await backlog(self.store, "sink")
        return [event for page in pages for event in page.events]

    async def names(self) -> list[str]:
        return [str(event.native_id) for event in await self.spooled()]

    async def covered(self) -> list[tuple[Interval, str | None]]:
        return [(span.interval, span.gap) for span in await self.store.ledger("calls")]

    def counted(self, name: str) -> float:
        text = self.metrics.render()[0].decode()
        return sum(
            float(line.rpartition(" ")[2])
            for line in text.splitlines()
            if line.startswith(f"auditrelay_{name}{{")
        )


@asynccontextmanager
async def open_world(folder: Path, sinks: Iterable[str] = ("sink",)) -> AsyncIterator[World]:
    """Open a store in *folder* for the source "calls" and *sinks*, at noon."""
    clock = FakeClock(NOON)
    store = await opened(folder)
    for sink in sinks:
        await store.start_sink(sink, ["calls"])
    yield World(Vendor(clock), clock, store, Metrics(sources=["calls"], sinks=["sink"]), folder)
    await store.close()


def covered_from(ledger: list[tuple[Interval, str | None]]) -> Interval:
    """Return the interval that *ledger* covers; it must have no hole."""
    for (one, _), (other, _) in pairwise(ledger):
        assert one.end == other.start
    return Interval(ledger[0][0].start, ledger[-1][0].end)
