"""Reading a source: whatever it does and wherever it dies, what it shows is read once."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from auditrelay.collect.collector import Collector
from auditrelay.config.model import Alerts, Config, Log, Spool, Status
from auditrelay.errors import Refused, RelayError, Retryable, StoreFull, WalkBroken
from auditrelay.events import AuditEvent
from auditrelay.events.normalize import Normalizer
from auditrelay.sources import Page, bland
from auditrelay.status.report import report
from auditrelay.store.sqlite.store import SqliteStore
from auditrelay.telemetry.metrics import Metrics
from auditrelay.window import Interval

NOON = datetime(2026, 1, 10, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


class Clock:
    """A time that moves only when a test moves it."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


@dataclass
class Vendor:
    """
    An API with a memory that honours window and pages: half-open bounds, oldest first.

    A record can be seen from its time on, or from *seen_from*. *trouble* is raised before the page
    of that number, counted over all walks, and then forgotten.
    """

    clock: Clock
    size: int = 3
    scope: str = ""
    records: list[tuple[str, datetime, datetime]] = field(default_factory=list)
    trouble: dict[int, RelayError] = field(default_factory=dict)
    too_many: int = 10**9
    asked: list[Interval] = field(default_factory=list)
    pages: int = 0
    before_page: Callable[[], None] = lambda: None
    event_type: str = "auth.logout"

    def add(self, at: datetime, seen_from: datetime | None = None) -> str:
        name = f"r{len(self.records)}"
        self.records.append((name, at, at if seen_from is None else seen_from))
        return name

    async def walk(self, window: Interval) -> AsyncGenerator[Page]:
        self.asked.append(window)
        assert len(self.asked) < 1000, "it asks for ever"
        found = [
            b'{"id":"%b","event_type":"%b","created_at":"%b"}'
            % (name.encode(), self.event_type.encode(), at.isoformat().encode())
            for name, at, seen_from in sorted(self.records, key=lambda record: record[1])
            if window.start <= at < window.end and seen_from <= self.clock.now
        ]
        if len(found) > self.too_many:
            raise WalkBroken("too many", reason="over_budget")
        for first in range(0, max(1, len(found)), self.size):
            self.pages += 1
            self.before_page()
            if error := self.trouble.pop(self.pages, None):
                raise error
            part = found[first : first + self.size]
            yield Page(part, last=first + self.size >= len(found), total=len(found))

    async def close(self) -> None: ...


@dataclass
class World:
    """A collector, its source and its store."""

    vendor: Vendor
    clock: Clock
    store: SqliteStore
    metrics: Metrics
    folder: Path

    def collector(self, **changes: Any) -> Collector:
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
            "calls",
            settings,
            self.vendor,
            normalizer=Normalizer(
                vendor="bland",
                source="calls",
                api_host="api.bland.ai",
                scope="",
                redact="default",
                tags={},
            ),
            store=self.store,
            metrics=self.metrics,
            clock=self.clock,
            announce=lambda: None,
            patience=patience,
        )

    async def spooled(self) -> list[AuditEvent]:
        pages = await self.store.read("sink", 0, 10**6)
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


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    clock = Clock()
    store = await SqliteStore.open(
        tmp_path, max_bytes=1 << 30, retention=7 * DAY, remember=400 * DAY
    )
    await store.start_sink("sink", ["calls"])
    yield World(Vendor(clock), clock, store, Metrics(sources=["calls"], sinks=["sink"]), tmp_path)
    await store.close()


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let nobody sleep; return how long they would have."""
    waited: list[float] = []

    async def instantly(seconds: float) -> None:
        waited.append(seconds)
        assert len(waited) < 1000, "it waits for ever"
        await asyncio.sleep(0)

    for module in ("http.retry", "collect.reader", "deliver.deliverer"):
        monkeypatch.setattr(f"auditrelay.{module}.pause", instantly)
    return waited


# --- windows


async def test_a_first_poll_reads_the_lookback_up_to_what_has_settled(world: World) -> None:
    inside = world.vendor.add(NOON - 2 * HOUR)
    last = world.vendor.add(NOON - 61 * SECOND)
    world.vendor.add(NOON - 2 * HOUR - SECOND)
    world.vendor.add(NOON - 60 * SECOND)
    await world.collector().poll()
    assert await world.names() == [inside, last]
    assert await world.covered() == [(Interval(NOON - 2 * HOUR, NOON - 60 * SECOND), None)]


async def test_a_source_down_on_its_first_day_still_gets_its_whole_lookback(world: World) -> None:
    early = world.vendor.add(NOON - 2 * HOUR + SECOND)
    world.vendor.trouble = {1: Retryable("down", reason="connect")}
    with pytest.raises(Retryable):
        await world.collector().poll()
    world.clock.now += 9 * HOUR
    await world.collector().poll()
    assert await world.names() == [early]


async def test_an_outage_of_45_days_is_read_in_several_windows_of_30_days_at_most(
    world: World,
) -> None:
    await world.collector().poll()
    world.clock.now += 45 * DAY
    made = [world.vendor.add(NOON + number * HOUR) for number in range(45 * 24)]
    world.vendor.asked.clear()
    await world.collector().poll()
    assert sorted(await world.names()) == sorted(made)
    assert len(world.vendor.asked) == 2
    assert all(window.length <= 30 * DAY for window in world.vendor.asked)
    assert covered_from(await world.covered()) == Interval(
        NOON - 2 * HOUR, world.clock.now - 60 * SECOND
    )


def covered_from(ledger: list[tuple[Interval, str | None]]) -> Interval:
    """Return what *ledger* covers, which must be without a hole."""
    for (one, _), (other, _) in pairwise(ledger):
        assert one.end == other.start
    return Interval(ledger[0][0].start, ledger[-1][0].end)


@pytest.mark.parametrize("step", [-5 * DAY, -30 * SECOND, 30 * SECOND])
async def test_a_clock_that_steps_loses_nothing(world: World, step: timedelta) -> None:
    collector = world.collector()
    made = []
    real = NOON
    for number in range(20):
        real += 300 * SECOND
        # for polls 5 to 9 the clock is wrong; the vendor's never is
        world.clock.now = real + (step if 5 <= number < 10 else timedelta(0))
        made.append(world.vendor.add(real - 200 * SECOND, seen_from=NOON - 100 * DAY))
        with contextlib.suppress(Refused):  # it is held while the clock is far behind
            await collector.poll()
    assert sorted(await world.names()) == sorted(made)


# --- walks that die


@pytest.mark.parametrize("page", range(1, 6))
@pytest.mark.parametrize(
    "error",
    [
        Retryable("it hangs up", reason="reset"),
        Refused("401", status=401),
    ],
)
async def test_a_walk_that_dies_at_any_page_is_walked_again_and_nothing_is_read_twice(
    world: World, page: int, error: RelayError
) -> None:
    made = [world.vendor.add(NOON - HOUR + number * SECOND) for number in range(13)]
    world.vendor.trouble = {page: error}
    with pytest.raises(type(error)):
        await world.collector().poll()
    assert await world.names() == made[: 3 * (page - 1)], "what was read until then is kept"
    assert await world.covered() == [], "what was not read to its end is claimed"
    await world.collector().poll()
    assert await world.names() == made
    assert len(await world.covered()) == 1


@pytest.mark.parametrize("page", range(1, 6))
async def test_a_walk_that_is_cancelled_at_any_page_is_walked_again(
    world: World, page: int
) -> None:
    made = [world.vendor.add(NOON - HOUR + number * SECOND) for number in range(13)]
    polling = asyncio.ensure_future(world.collector().poll())

    def cancel() -> None:
        if world.vendor.pages == page:
            polling.cancel()

    world.vendor.before_page = cancel
    with pytest.raises(asyncio.CancelledError):
        await polling
    world.vendor.before_page = lambda: None
    await world.collector().poll()
    assert await world.names() == made


async def test_a_window_that_cannot_be_walked_is_halved_until_it_can(world: World) -> None:
    made = [world.vendor.add(NOON - HOUR + number * SECOND) for number in range(40)]
    world.vendor.too_many = 7
    with capture_logs() as logs:
        await world.collector().poll()
    assert sorted(await world.names()) == sorted(made)
    ledger = await world.covered()
    assert covered_from(ledger) == Interval(NOON - 2 * HOUR, NOON - 60 * SECOND)
    events = [line["event"] for line in logs]
    assert events.count("window_collected") == 1
    assert events.count("window_halved") > 2
    (line,) = [line for line in logs if line["event"] == "window_collected"]
    assert line["new"] == 40


async def test_a_window_that_cannot_be_walked_however_small_is_not_claimed(world: World) -> None:
    for _ in range(9):
        world.vendor.add(NOON - HOUR)
    world.vendor.too_many = 7
    collector = world.collector()
    with pytest.raises(WalkBroken):
        await collector.poll()
    read = covered_from(await world.covered())
    assert NOON - HOUR - SECOND <= read.end <= NOON - HOUR
    assert not collector.condition.up
    assert world.counted("source_up") == 0


# --- late


async def test_what_appears_late_is_found_by_the_second_look_and_marked(world: World) -> None:
    collector = world.collector(resweep=["1h"])
    await collector.poll()
    world.clock.now = NOON + 20 * SECOND * 60
    late_at = NOON + 60 * SECOND
    on_time = world.vendor.add(NOON + 90 * SECOND)
    await collector.poll()
    late = world.vendor.add(late_at, seen_from=world.clock.now + SECOND)
    world.clock.now += 15 * 60 * SECOND
    await collector.poll()
    assert await world.names() == [on_time], "the overlap is too short for it"
    world.clock.now += HOUR
    with capture_logs() as logs:
        await collector.poll()
    found = await world.spooled()
    assert [event.native_id for event in found] == [on_time, late]
    lateness = (world.clock.now - late_at) // SECOND
    assert [event.late_by_s for event in found] == [None, lateness]
    assert world.counted("events_late_total") == 1
    assert world.counted("event_lateness_seconds_count") == 1
    (line,) = [line for line in logs if line["event"] == "late_events_found"]
    assert line["count"] == 1
    # and never again
    world.clock.now += 2 * HOUR
    await collector.poll()
    assert len(await world.spooled()) == 2


async def test_new_events_of_an_unknown_type_are_counted_once_and_told(world: World) -> None:
    world.vendor.event_type = "auth.teleported"
    for minutes in (5, 6, 7, 8):
        world.vendor.add(NOON - minutes * 60 * SECOND)
    collector = world.collector()
    await collector.poll()
    world.clock.now += 60 * SECOND
    await collector.poll()  # the overlap shows them again
    assert world.counted("events_duplicate_total") == 4
    assert world.counted("events_unknown_total") == 4
    assert collector.condition.unknown_actions == 4
    world.vendor.event_type = "auth.logout"
    world.vendor.add(NOON)
    world.clock.now += 60 * SECOND
    await collector.poll()
    assert world.counted("events_collected_total") == 5
    assert world.counted("events_unknown_total") == 4
    [state] = await world.store.sources()
    config = Config(None, world.folder, Status(), Log(), Spool(), Alerts(), {}, {})
    [row] = report(config, [state], [], spool_bytes=0, now=world.clock.now)["sources"]
    assert row["unknown_actions"] == 4


async def test_a_second_look_does_not_read_what_was_given_up(world: World) -> None:
    collector = world.collector(
        initial_lookback="10d", catch_up_limit="5h", overlap="1s", resweep=["1h"]
    )
    world.vendor.add(NOON - 2 * DAY)
    kept = world.vendor.add(NOON - 4 * HOUR)
    await collector.poll()
    world.clock.now += 3 * HOUR
    await collector.poll()
    assert any(window.start < NOON - 4 * HOUR for window in world.vendor.asked)
    assert all(window.start >= NOON - 5 * HOUR - SECOND for window in world.vendor.asked)
    names = await world.names()
    assert names == ["None", kept], "the notice of the gap, and what was not given up"
    notice = (await world.spooled())[0]
    assert notice.native_action == "auditrelay.gap_declared"
    assert world.counted("gap_seconds_total") == pytest.approx((10 * 24 - 5) * 3600)


async def test_a_gap_is_declared_once(world: World) -> None:
    for _ in range(3):
        await world.collector(initial_lookback="10d", catch_up_limit="5h").poll()
    assert len(await world.spooled()) == 1


# --- how it fares


async def test_a_source_that_refuses_is_held_with_one_error_until_it_answers(world: World) -> None:
    collector = world.collector()
    with capture_logs() as logs:
        for _ in range(3):
            world.vendor.trouble = {world.vendor.pages + 1: Refused("401: no", status=401)}
            with pytest.raises(Refused):
                await collector.poll()
        (row,) = await world.store.sources()
        assert (row.condition["held"], row.condition["last_error"]) == (True, "401: no")
        await collector.poll()
    events = [line["event"] for line in logs]
    assert events.count("source_held") == 1
    assert events.count("source_released") == 1
    (row,) = await world.store.sources()
    assert (row.condition["up"], row.condition["held"]) == (True, False)
    assert row.condition["last_error"] is None


async def test_since_when_it_fares_so_is_told_through_failures_restarts_and_recovery(
    world: World,
) -> None:
    async def fail(collector: Collector, error: RelayError) -> tuple[object, object]:
        world.clock.now += HOUR
        world.vendor.trouble = {world.vendor.pages + 1: error}
        with pytest.raises(RelayError):
            await collector.poll()
        (row,) = await world.store.sources()
        assert row.condition["last_poll_at"] == world.clock.now.isoformat()
        return row.condition["since"], row.condition["error_code"]

    def hours(number: int) -> str:
        return (NOON + number * HOUR).isoformat()

    collector = world.collector()
    await collector.poll()
    assert collector.condition.since == NOON.isoformat()
    assert await fail(collector, Retryable("no", reason="connect")) == (hours(1), "connect")
    assert await fail(collector, Retryable("no", reason="timeout")) == (hours(1), "timeout")
    assert await fail(collector, Refused("401: no", status=401)) == (hours(3), "status_401")

    (row,) = await world.store.sources()
    collector = world.collector()
    collector.recall(row.condition)
    assert await fail(collector, Refused("clock")) == (hours(3), "refused")
    collector = world.collector()
    collector.recall(row.condition)
    await collector.poll()
    assert (collector.condition.since, collector.condition.error_code) == (hours(4), None)

    (row,) = await world.store.sources()
    world.clock.now += HOUR
    collector = world.collector()
    collector.recall(row.condition)
    await collector.poll()
    assert collector.condition.since == hours(5), "nobody knows of the time between the two"


async def test_no_room_pauses_the_poll_until_there_is_some(
    world: World, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    made = [world.vendor.add(NOON - HOUR + number * SECOND) for number in range(9)]
    add, refusals = world.store.add, iter(range(12))

    async def full(*args: Any, **kwargs: Any) -> Any:
        if next(refusals, None) is not None:
            raise StoreFull("no room")
        return await add(*args, **kwargs)

    monkeypatch.setattr(world.store, "add", full)
    with capture_logs() as logs:
        await world.collector().poll()
    assert await world.names() == made
    assert len(waits) == 12
    events = [line["event"] for line in logs]
    assert (events.count("polling_paused"), events.count("polling_resumed")) == (1, 1)


async def test_a_run_that_shall_end_gives_up_when_no_room_is_made(
    world: World, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    async def full(*_: Any, **__: Any) -> Any:
        raise StoreFull("no room")

    monkeypatch.setattr(world.store, "add", full)
    monkeypatch.setattr(world.store, "note", full)
    with pytest.raises(StoreFull):
        await world.collector(patience=5 * SECOND).poll()
    assert len(waits) == 5


async def test_a_poll_that_is_cancelled_on_a_full_disk_ends(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be written down at the end must not stand in the way of the end."""
    collector = world.collector()
    pausing = asyncio.Event()

    async def full(*_: Any, **__: Any) -> Any:
        raise StoreFull("no room")

    async def full_later(*_: Any) -> None:
        monkeypatch.setattr(world.store, "note", full)

    async def pause(_: float) -> None:
        pausing.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(world.store, "add", full)
    monkeypatch.setattr(world.store, "note", full_later)
    monkeypatch.setattr("auditrelay.collect.reader.pause", pause)
    polling = asyncio.ensure_future(collector.keep_polling())
    collector.due.set()
    async with asyncio.timeout(5):
        await pausing.wait()
    polling.cancel()
    await asyncio.wait([polling], timeout=5)
    assert polling.cancelled()


async def test_the_ledger_counts_what_it_covers(world: World) -> None:
    for number in range(7):
        world.vendor.add(NOON - HOUR + number * SECOND)
    await world.collector().poll()
    (span,) = await world.store.ledger("calls")
    assert span.events == 7
    uids = [int(event.uid, 16) for event in await world.spooled()]
    digest = 0
    for uid in uids:
        digest ^= uid
    assert int(span.digest, 16) == digest


async def test_a_source_that_is_silent_for_too_long_is_reported_once_until_it_speaks(
    world: World,
) -> None:
    world.vendor.add(NOON - HOUR)
    collector = world.collector(max_silence="90m")
    with capture_logs() as logs:
        silent = []
        for _ in range(4):
            await collector.poll()
            silent.append(collector.condition.silent)
            world.clock.now += HOUR
        assert silent == [False, True, True, True]
        assert [line["since"] for line in logs if line["event"] == "source_silent"] == [
            (NOON - HOUR).isoformat()
        ]
        world.vendor.add(world.clock.now)
        world.clock.now += HOUR
        await collector.poll()
        silent.append(collector.condition.silent)
        assert silent[-1] is False


async def test_the_last_event_is_remembered_over_a_restart(world: World) -> None:
    world.vendor.add(NOON - HOUR)
    await world.collector().poll()
    (state,) = await world.store.sources()
    again = world.collector()
    again.recall(state.condition)
    await again.poll()
    (state,) = await world.store.sources()
    assert state.condition["last_event_at"] == (NOON - HOUR).isoformat()


async def test_a_clock_that_was_set_back_holds_the_source_until_it_is_right(world: World) -> None:
    collector = world.collector()
    await collector.poll()
    asked = len(world.vendor.asked)
    world.clock.now -= DAY
    with pytest.raises(Refused, match="set it right"):
        await collector.poll()
    assert collector.condition.held
    assert len(world.vendor.asked) == asked
    world.clock.now += DAY + HOUR
    name = world.vendor.add(world.clock.now - HOUR / 2)
    await collector.poll()
    assert await world.names() == [name]


async def test_polls_come_even_if_nobody_says_that_they_are_due(world: World) -> None:
    collector = world.collector(poll_interval="1s")
    collector.settings.__dict__["poll_interval"] = timedelta(milliseconds=20)
    polling = asyncio.ensure_future(collector.keep_polling())
    async with asyncio.timeout(10):
        while len(world.vendor.asked) < 1:
            await asyncio.sleep(0.005)
            world.clock.now += HOUR
    polling.cancel()
