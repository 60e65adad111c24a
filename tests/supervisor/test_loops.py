"""What the loops do with a bug of their peer: they hold it, and try again ever less often."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.deliver.late_acknowledger import LateAcknowledger
from tests.support import collecting, delivering
from tests.support.bugs import Bug
from tests.support.clock import FakeClock
from tests.support.collecting import HOUR
from tests.support.daemon import eventually
from tests.support.delivering import Intake, Make, running

from auditrelay.errors import PeerBug, StateError
from auditrelay.sinks import Verdict
from auditrelay.sources import Page
from auditrelay.supervisor import RETRY_FIRST, RETRY_MAX, Supervisor
from auditrelay.supervisor.sinks import SupervisedSink
from auditrelay.supervisor.sources import SupervisedSource
from auditrelay.window import Interval

FIRST = [RETRY_FIRST * 2**number for number in range(6)]
"""The first waits: 1, 2, 4... minutes."""


@pytest.fixture
async def source(tmp_path: Path) -> AsyncIterator[collecting.World]:
    async with collecting.open_world(tmp_path) as world:
        yield world


@pytest.fixture
async def sink(tmp_path: Path, event: Make, clock: FakeClock) -> AsyncIterator[delivering.World]:
    async with delivering.opened(tmp_path, event, clock) as world:
        yield world


# --- sources --------------------------------------------------------------------------------------


def polled(world: collecting.World, **changes: Any) -> Any:
    """Return a collector of the supervised vendor of *world*."""
    collector: Any = world.collector(poll_interval="5m", **changes)
    supervised = SupervisedSource(world.vendor, Supervisor("calls", world.metrics))
    for reader in (collector, collector._reader, collector.resweeper.reader):
        reader.source = supervised
    collector.probe._source = supervised
    return collector


def after(count: int, bug: Callable[[], None], world: collecting.World) -> None:
    """Let each walk of the vendor meet *bug* once *count* were made."""
    walks = iter(range(10**6))

    async def walk(window: Interval) -> AsyncGenerator[Page]:
        if next(walks) >= count:
            bug()
        async for page in world.vendor.walk_records(window):
            yield page

    world.vendor.walk_instead = walk


async def test_a_source_with_a_bug_is_polled_after_1_2_4_minutes_up_to_an_hour_apart(
    source: collecting.World,
) -> None:
    bug = Bug()
    after(0, bug, source)
    collector = polled(source)
    rests, sleep = [], source.clock.sleep

    async def sleep_and_record(seconds: float) -> None:
        rests.append(collector.polls.rested_at - source.clock.monotonic())
        await sleep(seconds)

    source.clock.sleep = sleep_and_record  # type: ignore[method-assign]  # it records
    collector.polls.due.set()
    polling = asyncio.ensure_future(collector.keep_polling())
    await eventually(lambda: len(rests) >= 8)  # a poll may meet the bug more than once
    assert collector.condition.held
    assert collector.condition.error_code == "bug"
    assert not collector.worked_once
    assert rests[:6] == FIRST  # while it waits it does not count as stuck
    bug.there = False
    await eventually(lambda: collector.condition.up)
    assert source.clock.waits[:8] == [*FIRST, RETRY_MAX, RETRY_MAX]
    bug.there, before = True, len(source.clock.waits)
    source.clock.advance(HOUR)
    collector.polls.due.set()
    await eventually(lambda: len(source.clock.waits) >= before + 2)
    assert source.clock.waits[before : before + 2] == FIRST[:2]
    polling.cancel()
    await asyncio.wait([polling])


async def test_no_checkpoint_moves_past_a_bug(source: collecting.World) -> None:
    bug = Bug()
    source.vendor.size = 1
    for minutes in (50, 40, 30):
        source.vendor.add(source.clock.now() - timedelta(minutes=minutes))
    source.vendor.before_page = lambda: bug() if source.vendor.pages >= 2 else None
    collector = polled(source)
    with pytest.raises(PeerBug):
        await collector.poll()
    assert await source.covered() == []
    bug.there = False
    await collector.poll()
    assert await source.names() == ["r0", "r1", "r2"]
    assert len(await source.covered()) == 1


async def test_a_bug_in_resweeps_alone_holds_the_source_whose_polls_succeed(
    source: collecting.World,
) -> None:
    bug = Bug()
    bug.there = False
    after(0, lambda: bug() if source.vendor.background[-1] else None, source)
    collector = polled(source, resweep=["1h"])
    await collector.poll()
    source.clock.advance(2 * HOUR)
    bug.there = True
    resweeping = asyncio.ensure_future(collector.resweeper.keep_resweeping())
    before = len(source.clock.waits)
    collector.resweeper.due.set()
    await eventually(lambda: len(source.clock.waits) >= before + 2)
    assert source.clock.waits[before : before + 2] == FIRST[:2]
    await collector._poll()
    assert (collector.condition.held, collector.condition.error_code) == (True, "bug")
    bug.there = False
    await eventually(lambda: collector._health.resweep_bug is None)
    await collector._poll()
    assert collector.condition.up
    resweeping.cancel()
    await asyncio.wait([resweeping])


async def test_a_bug_in_the_store_is_not_the_bug_of_a_source(
    source: collecting.World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    collector = polled(source)
    monkeypatch.setattr(source.store, "add", broken)
    collector.polls.due.set()
    with pytest.raises(ZeroDivisionError):
        async with asyncio.timeout(5):
            await collector.keep_polling()


# --- sinks ----------------------------------------------------------------------------------------


def supervised(world: delivering.World, intake: Intake, **changes: Any) -> Any:
    return world.deliverer(
        SupervisedSink(intake, Supervisor("sink", world.metrics)),  # type: ignore[arg-type]  # the same methods
        **changes,
    )


@pytest.mark.parametrize("crossing", ["send", "render"])
async def test_a_sink_with_a_bug_is_probed_after_1_2_4_minutes_up_to_an_hour_apart(
    sink: delivering.World, clock: FakeClock, crossing: str
) -> None:
    intake, bug = Intake(), Bug()
    setattr(intake, crossing, bug.before(getattr(intake, crossing)))
    names = await sink.spool(3)
    deliverer = supervised(sink, intake)
    async with running(deliverer):
        deliverer.wake.set()
        await eventually(lambda: bug.met >= 9)
        assert clock.waits[:8] == [*FIRST, RETRY_MAX, RETRY_MAX]
        assert (deliverer.condition.held, deliverer.condition.error_code) == (True, "bug")
        assert await sink.backlog() == 3
        bug.there = False
        await eventually(lambda: intake.taken == names)
        await eventually(lambda: deliverer.condition.up)
        await eventually(lambda: sink.counted("events_delivered_total") == 3)
    assert await sink.backlog() == 0
    assert sink.dead() == []
    assert bool(sink.counted("events_possible_duplicate_total")) is (crossing == "send")


async def test_all_that_was_on_its_way_goes_at_once_when_the_bug_is_over(
    sink: delivering.World, clock: FakeClock
) -> None:
    intake, bug = Intake(), Bug()
    intake.send = bug.before(intake.send)  # type: ignore[method-assign]  # the bug
    names = await sink.spool(40)
    deliverer = supervised(sink, intake, concurrency=4, batch_events=5)
    intake.limits = type(intake.limits)(5, 10**9)
    async with running(deliverer):
        deliverer.wake.set()
        await eventually(lambda: bug.met >= 6)
        bug.there = False
        waits = len(clock.waits)
        await eventually(lambda: sorted(intake.taken) == sorted(names))
    assert len(clock.waits) - waits <= 1


async def test_a_bug_in_the_check_of_a_sink_holds_it_until_it_works(
    sink: delivering.World, clock: FakeClock
) -> None:
    intake, bug = Intake(), Bug()
    intake.check = bug.before(intake.check)  # type: ignore[method-assign]  # the bug
    deliverer = supervised(sink, intake)
    checking = asyncio.ensure_future(deliverer.probe_until_up())
    await eventually(lambda: bug.met >= 3)
    assert (deliverer.condition.held, deliverer.condition.error_code) == (True, "bug")
    assert clock.waits[:2] == FIRST[:2]
    bug.there = False
    async with asyncio.timeout(5):
        await checking
    assert deliverer.condition.up


async def test_what_comes_before_an_event_that_cannot_be_rendered_is_sent(
    sink: delivering.World,
) -> None:
    intake = Intake()
    rendered, bad = intake.rendered, asyncio.Event()

    def render(event: Any, now: int) -> Any:
        if event.native_id == "150":  # on the second page
            bad.set()
            raise ZeroDivisionError
        return rendered(event, now)

    intake.rendered = render  # type: ignore[method-assign]  # the bug
    names = await sink.spool(300)
    deliverer = supervised(sink, intake)
    async with running(deliverer):
        deliverer.wake.set()
        await eventually(lambda: intake.taken == names[:100])
        await eventually(lambda: deliverer.condition.held)
        assert await sink.backlog() == 200
        intake.rendered = rendered  # type: ignore[method-assign]  # it is fixed
        await eventually(lambda: intake.taken == names)
    assert sink.dead() == []


async def test_what_is_on_its_way_does_not_release_a_sink_whose_next_batch_has_a_bug(
    sink: delivering.World,
) -> None:
    """The batch before it is answered only then, and with success."""
    intake, bug, answered = Intake(), Bug(), asyncio.Event()

    async def late(_: object) -> Any:
        await answered.wait()
        return Verdict()

    intake.always = late
    deliverer = supervised(sink, intake, concurrency=2)
    names = await sink.spool(1)
    async with running(deliverer):
        deliverer.wake.set()
        await eventually(lambda: intake.offered == [names])
        intake.render = bug.before(intake.render)  # type: ignore[method-assign]  # the bug
        await sink.spool(1, first=1)
        deliverer.wake.set()
        await eventually(lambda: deliverer.condition.held)
        with capture_logs() as logs:
            answered.set()
            async with asyncio.timeout(10):
                while await sink.backlog() != 1:  # noqa: ASYNC110  # until its verdict is stored
                    await asyncio.sleep(0)
        assert "sink_released" not in [line["event"] for line in logs]
        bug.there = False
        await eventually(lambda: len(intake.taken) == 2)
        await eventually(lambda: deliverer.condition.up)


async def test_acknowledgements_are_asked_for_again_after_1_2_4_minutes(
    sink: delivering.World, clock: FakeClock
) -> None:
    intake, bug = LateAcknowledger(), Bug()
    channel = intake.channels[0]
    channel.acknowledges = set
    channel.acknowledged = bug.before(channel.acknowledged)  # type: ignore[method-assign]  # the bug
    await sink.spool(3)
    deliverer = supervised(sink, intake)
    async with running(deliverer):
        deliverer.wake.set()
        await eventually(lambda: bug.met >= 4)
        assert (deliverer.condition.held, deliverer.condition.error_code) == (True, "bug")
        assert [wait for wait in clock.waits if wait >= RETRY_FIRST][:3] == FIRST[:3]
        assert await sink.backlog() == 3
        bug.there = False
        await eventually(lambda: deliverer.condition.up)


async def test_what_was_not_acknowledged_in_time_is_resent_although_the_channel_has_a_bug(
    sink: delivering.World,
) -> None:
    intake, bug = LateAcknowledger(), Bug()
    first = intake.channels[0]
    first.ack_timeout, first.acknowledges = timedelta(minutes=5), lambda _: set()
    retire = first.retire

    def retire_with_bug() -> None:
        retire()
        try:
            bug()
        finally:
            bug.there, first.acknowledges = False, set  # the next channel acknowledges

    first.retire = retire_with_bug  # type: ignore[method-assign]  # the bug
    names = await sink.spool(3)
    deliverer = supervised(sink, intake)
    async with running(deliverer):
        deliverer.wake.set()
        await eventually(lambda: intake.offered[:2] == [names, names])
    assert bug.met


async def test_a_verdict_on_events_that_were_not_sent_is_a_bug_of_the_sink(
    sink: delivering.World,
) -> None:
    intake = Intake(script=[Verdict(retry=(7,))])
    names = await sink.spool(3)
    deliverer = supervised(sink, intake)
    async with running(deliverer):
        deliverer.wake.set()
        await eventually(lambda: intake.offered == [names, names])
        await eventually(lambda: deliverer.condition.up)


@pytest.mark.parametrize("crossing", ["send", "render"])
async def test_a_run_that_has_to_end_raises_the_bug(sink: delivering.World, crossing: str) -> None:
    intake, bug = Intake(), Bug()
    setattr(intake, crossing, bug.before(getattr(intake, crossing)))
    await sink.spool(3)
    deliverer = supervised(sink, intake, attempts=5)
    deliverer.finish()
    with pytest.raises(ExceptionGroup) as group:
        await deliverer.keep_delivering()
    assert group.group_contains(PeerBug)
    assert bug.met == 1


async def test_a_state_that_cannot_be_used_is_no_bug_of_a_sink(
    sink: delivering.World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise StateError("the state cannot be used")

    await sink.spool(3)
    monkeypatch.setattr(sink.store, "settle", broken)
    deliverer = supervised(sink, Intake())
    deliverer.finish()
    with pytest.raises(ExceptionGroup) as group:
        await deliverer.keep_delivering()
    assert group.group_contains(StateError)
