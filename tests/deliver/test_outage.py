"""A sink that is down costs disk space only, and catches up without delaying the others."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import pytest
from tests.support.clock import NOON, FakeClock
from tests.support.daemon import eventually
from tests.support.delivering import Intake, World, busy
from tests.support.rigs import RIGS

from auditrelay.deliver.deliverer import Deliverer
from auditrelay.errors import Refused, Retryable
from auditrelay.sandbox import faults, siems
from auditrelay.sinks import Limits

pytestmark = pytest.mark.slow

HOUR = timedelta(hours=1)
BATCH = Limits(50, 10**9)


@pytest.fixture
def speed() -> float:
    """A second of waiting takes 0.2 ms: these tests wait for minutes."""
    return 5000


def down(_: object) -> Retryable:
    raise Retryable("no connection", reason="connect")


@pytest.mark.parametrize(
    "failure",
    [
        Retryable("no connection", reason="connect"),
        busy(sent=True),
        Refused("403", status=403),
    ],
)
async def test_a_sink_that_is_down_keeps_few_events_in_memory_and_is_probed_rarely(
    world: World, waits: list[float], failure: Exception
) -> None:
    def refuse(_: object) -> None:
        raise failure

    await world.spool(1000)
    intake = Intake(BATCH, always=refuse)  # type: ignore[arg-type]  # it never returns
    intake.checks = [Refused("403", status=403)] * 10_000
    deliverer = world.deliverer(intake, concurrency=4)
    task = asyncio.ensure_future(deliverer.keep_delivering())
    for page in range(1, 4):  # a source goes on collecting
        await eventually(lambda page=page: sum(waits) > page * 600)  # type: ignore[misc]  # mypy cannot infer a lambda's defaults
        await world.spool(1000, first=page * 1000)
        deliverer.wake.set()
    offered = {name for batch in intake.offered for name in batch}
    assert len(offered) <= 4 * 50
    assert len(deliverer._batches._ready) <= 50 + 100, "a batch, and the last page of it"
    asked, virtual = len(intake.offered), sum(waits)
    # Long, as each wait is drawn: in the mean of two hours 3.4 a minute, of 20 minutes up to 4.5.
    await eventually(lambda: sum(waits) > virtual + 7200)
    minutes = (sum(waits) - virtual) / 60
    assert len(intake.offered) - asked <= 4 * minutes
    assert await world.backlog() == 4000
    # It recovers.
    intake.always = Intake.always

    async def drained() -> bool:
        return await world.backlog() == 0

    await eventually(drained)
    assert len(intake.taken) == 4000
    task.cancel()
    await asyncio.wait([task])


@contextlib.asynccontextmanager
async def three(
    world: World,
) -> AsyncIterator[tuple[dict[str, siems.Intake], dict[str, Deliverer]]]:
    """Run three products over real sockets, and a deliverer for each on one spool."""
    doubles = {name: RIGS[name].double() for name in ("splunk", "datadog", "elastic")}
    async with contextlib.AsyncExitStack() as stack:
        deliverers: dict[str, Deliverer] = {}
        tasks = []
        for name, double in doubles.items():
            double.clock = world.clock.seconds
            await stack.enter_async_context(double)
            await world.store.start_sink(name, ["voice"])
            settings, sink = RIGS[name].build(
                double, world.metrics, world.clock, batch_events=500, timeout="5s", format="raw"
            )
            stack.push_async_callback(sink.close)
            deliverers[name] = Deliverer(
                name,
                settings,
                sink,
                store=world.store,
                metrics=world.metrics,
                clock=world.clock,
            )
            tasks.append(asyncio.ensure_future(deliverers[name].keep_delivering()))
        try:
            yield doubles, deliverers
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


async def test_one_of_three_sinks_is_down_and_recovers_and_the_others_do_not_wait(
    world: World,
) -> None:
    async with three(world) as (doubles, deliverers):
        splunk, datadog, elastic = (
            doubles[name].stored for name in ("splunk", "datadog", "elastic")
        )
        await doubles["datadog"].stop()

        async def spool(count: int, first: int) -> None:
            await world.spool(count, first=first)
            for deliverer in deliverers.values():
                deliverer.wake.set()

        await spool(10_000, 0)
        await eventually(lambda: len(splunk.by_uid) == len(elastic.by_uid) == 10_000)
        assert await world.backlog("datadog") == 10_000
        assert not deliverers["datadog"].condition.up
        requests = doubles["datadog"].requests
        await doubles["datadog"].start()
        made, spooled = 10_000, 0
        while len(datadog.by_uid) < 10_000:
            await spool(10, made)
            made, spooled = made + 10, spooled + 1
            await eventually(
                lambda: len(splunk.by_uid) == len(elastic.by_uid) == made,  # noqa: B023  # now
                within=5,
            )
        await eventually(lambda: len(datadog.by_uid) == made)
        # At full speed: full batches, except for the last of each.
        assert doubles["datadog"].requests - requests <= 10_000 / 500 + spooled + 10
    for stored in (splunk, datadog, elastic):
        assert not stored.repeated()
    assert world.counted("events_possible_duplicate_total") == 0


async def test_logs_that_an_outage_has_made_too_old_are_restamped_when_they_are_sent(
    world: World,
) -> None:
    clock = FakeClock()
    async with siems.available()["datadog"](clock=clock.seconds) as double:
        double.on_request = lambda _: clock.advance(10 * HOUR)
        double.fail_batches(faults.html(503), times=2)
        settings, sink = RIGS["datadog"].build(double, world.metrics, clock)
        await world.store.start_sink("datadog", ["voice"])
        await world.spool(3)
        deliverer = Deliverer(
            "datadog", settings, sink, store=world.store, metrics=world.metrics, clock=clock
        )
        deliverer.finish()
        async with asyncio.timeout(90):
            await deliverer.keep_delivering()
        await sink.close()
        assert (double.requests, double.stored.total) == (3, 3)
        for log in double.stored.documents:
            sent = datetime.fromisoformat(log["timestamp"])
            assert 20 * HOUR <= sent - NOON < 20 * HOUR + timedelta(minutes=5)
        original = datetime.fromisoformat(double.stored.documents[2]["evt"]["original_timestamp"])
        assert original == NOON + timedelta(seconds=2)
    assert world.counted("events_restamped_total") == 3
