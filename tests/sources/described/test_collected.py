"""A described source behind a collector: what the ledger says, and what is forwarded."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.sources.described.conftest import Connect, Serve
from tests.support.clock import FakeClock
from tests.support.scripted import Scripted, feed, page, record, settings
from tests.support.stores import backlog, opened

from auditrelay.collect.backfill import Backfiller, BackfillProgress
from auditrelay.collect.collector import Collector
from auditrelay.collect.verify import Verifier, VerifyReport
from auditrelay.descriptions.model import Feed
from auditrelay.descriptions.vendor import vendor_of
from auditrelay.events.normalize import Normalizer
from auditrelay.sandbox.messages import Request, Response, json_response
from auditrelay.sources import RETENTION, Source
from auditrelay.store.sql.store import SqlStore
from auditrelay.telemetry.metrics import Metrics
from auditrelay.window import Interval

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)

OFFSET = {"kind": "offset", "from": None, "to": "query:offset", "total": "body:total"}
RECORDED = {"axis": "recorded"}


@dataclass
class Log:
    """A vendor's log: rows with the time when they were recorded, and when they happened."""

    clock: FakeClock
    rows: list[tuple[datetime, dict[str, Any]]] = field(default_factory=list)

    def add(self, recorded: datetime, happened: datetime | None = None) -> str:
        row = record(len(self.rows), happened or recorded)
        self.rows.append((recorded, row))
        return str(row["id"])

    def select(self, request: Request) -> list[dict[str, Any]]:
        start, end = (datetime.fromisoformat(request.query[key]) for key in ("from", "to"))
        return [
            row
            for recorded, row in sorted(self.rows, key=lambda each: each[0])
            if start <= recorded <= end and recorded <= self.clock.now()
        ]

    def answer(self, request: Request) -> Response:
        rows = self.select(request)
        offset = int(request.query.get("offset") or request.query.get("cursor") or 0)
        after = offset + int(request.query["limit"])
        more = str(after) if after < len(rows) else None
        return page(rows[offset:after], next=more, total=len(rows))


@dataclass
class World:
    """A collector over a described source, and its store."""

    store: SqlStore
    clock: FakeClock
    collector: Collector

    async def names(self) -> set[str]:
        pages = await backlog(self.store, "sink")
        events = (event for each in pages for event in each.events)
        return {event.native_id for event in events if event.native_id is not None}

    async def gaps(self) -> list[tuple[Interval, str]]:
        return [
            (span.interval, span.gap)
            for span in await self.store.ledger("acme")
            if span.gap is not None
        ]

    async def verify(self, span: Interval) -> VerifyReport:
        async def silent(_: object) -> None: ...

        return await Verifier(
            self.collector,
            self.store,
            span=span,
            sinks=["sink"],
            searchable={},
            repair=False,
            clock=self.clock,
            on_progress=silent,
        ).run()

    async def backfill(self, span: Interval, sinks: tuple[str, ...] = ()) -> BackfillProgress:
        async def silent(_: BackfillProgress) -> None: ...

        return await Backfiller(
            self.collector,
            self.store,
            span=span,
            sinks=sinks,
            clock=self.clock,
            on_progress=silent,
        ).run(concurrency=1, newest_first=True)


Make = Callable[..., World]


@pytest.fixture
async def make(connect: Connect, clock: FakeClock, tmp_path: Path) -> AsyncIterator[Make]:
    """Make a world for a vendor; its first poll looks back for two hours."""
    store = await opened(tmp_path)
    await store.start_sink("sink", ["acme"])

    def world(vendor: Scripted, description: Feed, **keys: Any) -> World:
        given = {
            "settle": "60s",
            "overlap": "10m",
            "resweep": [],
            "initial_lookback": "2h",
            **keys,
        }
        source: Source = connect(vendor, description, **given)
        normalizer = Normalizer(
            vendor=vendor_of(description),
            source="acme",
            api_host="acme.example",
            scope=source.scope,
            redact="default",
            tags={},
        )
        collector = Collector(
            "acme",
            settings(description, base_url=vendor.url, **given),
            source,
            normalizer=normalizer,
            store=store,
            metrics=Metrics(sources=["acme"], sinks=["sink"]),
            clock=clock,
            announce=lambda: None,
        )
        return World(store, clock, collector)

    yield world
    await store.close()


# --- totals and ceilings


async def test_a_total_that_counts_what_cannot_be_read_costs_a_finding_and_no_gap(
    serve: Serve, make: Make, clock: FakeClock
) -> None:
    log = Log(clock)
    made = {log.add(clock.now() - HOUR + number * MINUTE) for number in range(5)}

    def answer(request: Request) -> Response:
        rows = log.select(request)
        offset = int(request.query["offset"])
        return page(rows[offset : offset + 2], total=len(rows) + (3 if rows else 0))

    vendor = await serve(answer)
    world = make(vendor, feed(pages=OFFSET), page_size=2)
    with capture_logs() as logs:
        await world.collector.poll()
    assert await world.names() == made
    assert await world.gaps() == []
    (finding,) = [each for each in logs if each["event"] == "total_mismatched"]
    assert (finding["total"], finding["events"]) == (8, 5)
    assert len(vendor.asked) < 30


async def test_an_error_behind_the_last_record_costs_a_finding_and_no_gap(
    serve: Serve, make: Make, clock: FakeClock
) -> None:
    log = Log(clock)
    made = {log.add(clock.now() - HOUR + number * MINUTE) for number in range(5)}

    def answer(request: Request) -> Response:
        rows = log.select(request)
        offset, size = int(request.query["offset"]), int(request.query["limit"])
        if offset >= len(rows) > 0:
            return json_response(500 if offset % 2 else 400, {"message": "no"})
        return page(rows[offset : offset + size], total=len(rows) + (3 if rows else 0))

    vendor = await serve(answer)
    world = make(vendor, feed(pages=OFFSET), page_size=4)
    log.add(clock.now() - HOUR + 6 * MINUTE)  # an even number: every error is a refusal
    await world.collector.poll()
    assert await world.names() == {*made, "e5"}
    assert await world.gaps() == []


@pytest.mark.parametrize("declared", [True, False])
async def test_all_records_beyond_a_ceiling_are_read_in_smaller_windows(
    serve: Serve, make: Make, clock: FakeClock, *, declared: bool
) -> None:
    log = Log(clock)
    made = {log.add(clock.now() - HOUR + number * timedelta(seconds=10)) for number in range(250)}
    refused: list[str] = []

    def answer(request: Request) -> Response:
        offset, size = int(request.query["offset"]), int(request.query["limit"])
        if offset + size > 100:
            refused.append(request.target)
            return json_response(400, {"message": "too deep"})
        rows = log.select(request)
        return page(rows[offset : offset + size], total=len(rows))

    vendor = await serve(answer)
    pages = {**OFFSET, **({"most": 100} if declared else {})}
    world = make(vendor, feed(pages=pages), page_size=40)
    await world.collector.poll()
    assert await world.names() == made
    assert await world.gaps() == []
    assert bool(refused) != declared


# --- what the vendor keeps


async def test_the_edge_of_what_is_kept_is_a_gap_and_the_rest_is_read(
    serve: Serve, make: Make, clock: FakeClock
) -> None:
    log = Log(clock)
    made = {log.add(clock.now() - HOUR)}
    kept = 2 * HOUR

    def answer(request: Request) -> Response:
        clock.advance(1)  # the edge moves while we ask
        if datetime.fromisoformat(request.query["from"]) < clock.now() - kept:
            return json_response(400, {"message": "too far back"})
        return log.answer(request)

    world = make(await serve(answer), feed(), retention="2h", initial_lookback="3h")
    await world.collector.poll()
    assert await world.names() == made
    assert {reason for _, reason in await world.gaps()} == {RETENTION}
    assert sum((gap.length for gap, _ in await world.gaps()), timedelta(0)) < HOUR + 5 * MINUTE


# --- windows of the recorded time


async def test_what_was_recorded_elsewhere_has_not_vanished(
    serve: Serve, make: Make, clock: FakeClock
) -> None:
    log = Log(clock)
    now = clock.now()
    late = log.add(recorded=now - 10 * MINUTE, happened=now - 90 * MINUTE)
    usual = log.add(now - 80 * MINUTE)
    world = make(await serve(log.answer), feed(time=RECORDED), resweep=["30m"], max_window="30m")
    await world.collector.poll()
    assert await world.names() == {late, usual}
    clock.advance(HOUR)
    with capture_logs() as logs:
        await world.collector.poll()
        await world.collector.resweeper.run()
    assert any(each["event"] == "window_reswept" for each in logs)
    assert not [each for each in logs if each["event"] == "events_deleted_at_source"]


async def test_a_comparison_takes_all_that_a_walk_shows(
    serve: Serve, make: Make, clock: FakeClock
) -> None:
    log = Log(clock)
    now = clock.now()
    log.add(recorded=now - 30 * MINUTE, happened=now - 100 * MINUTE)
    log.add(now - 20 * MINUTE)
    world = make(await serve(log.answer), feed(time=RECORDED))
    await world.collector.poll()
    report = await world.verify(Interval(now - HOUR, now - 5 * MINUTE))
    assert (report.axis, report.checked, report.missing) == ("recorded", 2, ())
    assert report.deleted_at_source == ()


async def test_a_backfill_counts_and_resends_all_that_a_walk_shows(
    serve: Serve, make: Make, clock: FakeClock
) -> None:
    log = Log(clock)
    now = clock.now()
    log.add(recorded=now - 30 * MINUTE, happened=now - 100 * MINUTE)
    log.add(now - 20 * MINUTE)
    world = make(await serve(log.answer), feed(time=RECORDED))
    await world.collector.poll()
    span = Interval(now - HOUR, now - 5 * MINUTE)
    assert (await world.backfill(span)).events == 2
    assert (await world.backfill(span, ("sink",))).events == 2


async def test_on_the_axis_of_events_what_was_recorded_in_it_is_not_what_happened_in_it(
    serve: Serve, make: Make, clock: FakeClock
) -> None:
    log = Log(clock)
    now = clock.now()
    log.add(recorded=now - 30 * MINUTE, happened=now - 100 * MINUTE)
    log.add(now - 20 * MINUTE)
    world = make(await serve(log.answer), feed())
    await world.collector.poll()
    assert (await world.backfill(Interval(now - HOUR, now - 5 * MINUTE))).events == 1
