"""What a vendor cannot serve costs that record alone, however its pages are asked for."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from itertools import product
from pathlib import Path

import pytest
from tests.contract.sources.conftest import KINDS, Rig
from tests.support.clock import FakeClock
from tests.support.extent import extent
from tests.support.stores import backlog, opened

from auditrelay.collect.collector import Collector
from auditrelay.collect.unreadable import UNREADABLE_AFTER, UNREADABLE_TRIES
from auditrelay.errors import RelayError, WalkBroken
from auditrelay.http import retry
from auditrelay.sandbox import faults
from auditrelay.sandbox.messages import Request
from auditrelay.sources import UNREADABLE
from auditrelay.store.sql.store import SqlStore
from auditrelay.telemetry.metrics import Metrics
from auditrelay.window import Interval

SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
RECORDS = 60
BAD = 30

pytestmark = pytest.mark.usefixtures("no_waits")


@pytest.fixture
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries that do not wait, so that the clock stands still during a poll."""
    monkeypatch.setattr(retry, "_backoff", lambda _: 0.0)


@asynccontextmanager
async def collecting(
    rig: Rig, clock: FakeClock, folder: Path, **changes: object
) -> AsyncIterator[tuple[SqlStore, Collector]]:
    """Collect what the double shows, from six hours ago on."""
    settings = rig.settings(
        settle="60s", overlap="10m", resweep=[], initial_lookback="6h", page_size=50, **changes
    )
    source = rig.build(page_size=50)
    store = await opened(folder)
    await store.start_sink("sink", ["it"])
    yield (
        store,
        Collector(
            "it",
            settings,
            source,
            normalizer=rig.normalizer(source),
            store=store,
            metrics=Metrics(sources=["it"], sinks=["sink"]),
            clock=clock,
            announce=lambda: None,
        ),
    )
    await store.close()


def fill(rig: Rig, now: datetime) -> list[str]:
    """Add records, one every six minutes, that are not on whole seconds."""
    start = now - 6 * HOUR + timedelta(milliseconds=1234)
    return [rig.double.add(start + number * HOUR / 10) for number in range(RECORDS)]


async def delivered(store: SqlStore) -> set[str]:
    pages = await backlog(store, "sink")
    return {event.native_id for page in pages for event in page.events if event.native_id}


async def gaps(store: SqlStore) -> list[Interval]:
    return [span.interval for span in await store.ledger("it") if span.gap == UNREADABLE]


FAULTS = ["500", "html", "broken", "400", "403", "404", "405", "413", "422"]
CASES = list(product([0, BAD, RECORDS - 2], FAULTS))


@pytest.mark.parametrize(
    ("rig", "bad", "fault"),
    [
        (kind, *each)
        for number, kind in enumerate(KINDS)
        # Three places and three failures for each kind, others for the next.
        for each in extent([CASES[(number + step) % len(CASES)] for step in (0, 10, 20)], CASES)
    ]
    # It may be the cursor that is refused.
    + extent([(kind, BAD, "400") for kind in ("jitsudo", "slaunch", "described-slaunch")], []),
    indirect=["rig"],
)
async def test_all_but_the_record_that_fails_is_read_at_once(
    rig: Rig, clock: FakeClock, tmp_path: Path, bad: int, fault: str
) -> None:
    if rig.described and not rig.settings().filters_time and bad:
        pytest.skip("such a list cannot be asked for in the other order: what is behind is a gap")
    made = fill(rig, clock.now())
    at = clock.now() - 6 * HOUR + timedelta(milliseconds=1234) + bad * HOUR / 10
    rig.double.faults.add(faults.fails_at(made[bad].encode(), fault), times=None)
    async with collecting(rig, clock, tmp_path) as (store, collector):
        with pytest.raises(WalkBroken, match="everything else was read"):
            await collector.poll()
        assert await delivered(store) == {*made} - {made[bad]}
        assert len(rig.double.seen) < 400, "requests"
        asked = len(rig.double.seen)
        if rig.kind == "cencori":
            return  # what cannot be read is looked for row by row, which takes long
        for _ in range(UNREADABLE_TRIES - 1):
            assert await gaps(store) == [], "only what has failed for long is declared"
            clock.advance(UNREADABLE_AFTER / UNREADABLE_TRIES)
            late = rig.double.add(clock.now() - 90 * SECOND)
            made.append(late)
            with pytest.raises(WalkBroken, match="everything else was read"):
                await collector.poll()
            assert late in await delivered(store)
        assert len(rig.double.seen) - asked < 200 * UNREADABLE_TRIES, "requests"
        clock.advance(UNREADABLE_AFTER / UNREADABLE_TRIES)
        await collector.poll()
        found = await gaps(store)
        gap = Interval(found[0].start, found[-1].end)
        assert gap.start <= at < gap.end
        if collector.settings.filters_time:
            assert gap.length <= SECOND
        rig.double.faults.clear()
        await collector.poll()
        assert await delivered(store) == {*made} - {made[bad]}


async def test_a_window_that_is_too_long_is_read_in_shorter_ones(
    rig: Rig, clock: FakeClock, tmp_path: Path
) -> None:
    made = fill(rig, clock.now())

    def too_long(request: Request) -> bool:
        times = [value for value in request.query.values() if value.endswith("Z")]
        if len(times) < 2:
            return False
        first, last = sorted(map(datetime.fromisoformat, times))
        return last - first > HOUR

    rig.double.faults.add(faults.answer(504), when=too_long, times=None)
    async with collecting(rig, clock, tmp_path) as (store, collector):
        await collector.poll()
        assert await delivered(store) == {*made}
        assert {span.gap for span in await store.ledger("it")} == {None}
        assert len(rig.double.seen) < 60, "requests"


@pytest.mark.parametrize(
    "fault",
    [faults.answer(500), faults.html(200), faults.reset(), faults.answer(400), faults.html(403)],
)
async def test_a_source_that_is_down_is_not_asked_for_small_parts(
    rig: Rig, clock: FakeClock, tmp_path: Path, fault: faults.Action
) -> None:
    made = fill(rig, clock.now())
    rig.double.faults.add(fault, times=None)
    async with collecting(rig, clock, tmp_path) as (store, collector):
        for _ in range(3):
            before = len(rig.double.seen)
            with pytest.raises(RelayError):
                await collector.poll()
            assert len(rig.double.seen) - before <= 40, "requests"
            clock.advance(HOUR)
        assert await store.ledger("it") == ()
        rig.double.faults.clear()
        await collector.poll()
        assert await delivered(store) == {*made}
        assert {span.gap for span in await store.ledger("it")} == {None}


async def test_what_a_source_refuses_in_its_own_words_whatever_is_asked_holds_it_at_once(
    rig: Rig, clock: FakeClock, tmp_path: Path
) -> None:
    """404 may be what it says of a page behind the last one, too."""
    fill(rig, clock.now())
    words = {
        "bland": b'{"data":null,"errors":[{"error":"NOT_FOUND","message":"No"}]}',
        "cekura": b'{"detail":"Invalid page."}',
    }
    body = words.get(rig.kind, b'{"error":"no","detail":"no"}')
    refuse = faults.answer(404, body, {"Content-Type": "application/json"})
    rig.double.faults.add(refuse, times=None)
    async with collecting(rig, clock, tmp_path) as (store, collector):
        for _ in range(3):
            before = len(rig.double.seen)
            with pytest.raises(RelayError):
                await collector.poll()
            assert collector.condition.held
            assert len(rig.double.seen) - before <= 4, "requests"
            clock.advance(HOUR)
        assert await store.ledger("it") == ()


async def test_a_span_that_can_be_read_again_is_no_gap(
    rig: Rig, clock: FakeClock, tmp_path: Path
) -> None:
    made = fill(rig, clock.now())
    rig.double.faults.add(faults.fails_at(made[BAD].encode()), times=None)
    async with collecting(rig, clock, tmp_path) as (store, collector):
        with pytest.raises(WalkBroken):
            await collector.poll()
        saved = (await store.sources())[0].condition
    rig.double.faults.clear()
    clock.advance(UNREADABLE_AFTER)
    async with collecting(rig, clock, tmp_path) as (store, collector):
        collector.restore(saved)
        await collector.poll()
        assert await delivered(store) == {*made}
        assert {span.gap for span in await store.ledger("it")} == {None}
