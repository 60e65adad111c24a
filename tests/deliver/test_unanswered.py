"""A sink that never says what becomes of events gets one at a time, ever less often."""

import asyncio
import math
from collections.abc import Callable, Sequence

import pytest
from tests.support.daemon import eventually
from tests.support.delivering import Intake, World, name_of, running

from auditrelay.deliver.probe import EVENT_MAX, EventProbe
from auditrelay.errors import Refused, Rejected, RelayError, Retryable
from auditrelay.sinks import Item, Verdict


@pytest.fixture
def speed() -> float:
    """Waiting takes no time: these tests wait for hours."""
    return math.inf


def hours(world: World) -> float:
    """Return for how long the clock of *world* has run."""
    return (world.clock.monotonic() - 1000) / 3600


def timeout() -> Retryable:
    return Retryable("no complete reply", reason="timeout", sent=True)


FAILURES: dict[str, Callable[[], Retryable]] = {
    "time-out": timeout,
    "reset": lambda: Retryable("it broke", reason="reset", sent=True, while_sending=True),
    "no HTTP": lambda: Retryable("not HTTP", reason="bad_reply", sent=True),
    "a gateway's error": lambda: Retryable("504", reason="status_504", sent=True),
}


def fails(failure: Callable[[], RelayError]) -> Callable[[Sequence[Item]], Verdict]:
    def judge(_: Sequence[Item]) -> Verdict:
        raise failure()

    return judge


def fails_and_notes(world: World, failure: Callable[[], RelayError]) -> tuple[Intake, list[float]]:
    """Return an intake that fails, and the hours at which it was offered events."""
    times: list[float] = []

    def judge(_: Sequence[Item]) -> Verdict:
        times.append(hours(world))
        raise failure()

    return Intake(always=judge), times


def between(first: float, last: float, times: Sequence[float]) -> int:
    return sum(first <= each < last for each in times)


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
async def test_a_sink_that_answers_its_check_alone_gets_one_event_an_hour_at_last(
    world: World, failure: Callable[[], Retryable]
) -> None:
    made = await world.spool(40)
    intake, times = fails_and_notes(world, failure)
    deliverer = world.deliverer(intake, concurrency=4)
    async with running(deliverer):
        await eventually(lambda: hours(world) > 20)
        assert deliverer.condition.held
        assert deliverer.condition.error_code == "unanswered"
        assert "less often" in str(deliverer.condition.last_error)
        assert all(len(each) == 1 for each in intake.offered[-10:])
        assert between(2, 20, times) <= 18
        assert between(0, 1, times) > 10
        sent = sum(map(len, intake.offered))
        assert sent - 1 <= world.counted("events_possible_duplicate_total") <= sent
        intake.always = lambda _: Verdict()
        await eventually(lambda: len(set(intake.taken)) == 40)
        await eventually(lambda: not deliverer.condition.held)
    assert sorted(intake.taken) == sorted(made)
    assert world.dead() == []


async def test_while_its_check_fails_too_a_sink_gets_one_event_an_hour(world: World) -> None:
    made = await world.spool(8)
    intake, times = fails_and_notes(world, timeout)
    intake.checks = [timeout() for _ in range(100_000)]
    deliverer = world.deliverer(intake)
    async with running(deliverer):
        await eventually(lambda: hours(world) > 10)
        assert not deliverer.condition.held  # it is down, as in any outage
        assert not deliverer.condition.up
        # It is asked as often as ever, so that it is found again within a minute.
        assert intake.asked > 10 * 60
        assert 7 <= between(1, 10, times) <= 9
        intake.always, since = lambda _: Verdict(), hours(world)
        intake.checks.clear()
        await eventually(lambda: len(intake.taken) == 8)
        assert hours(world) - since < 0.1
    assert sorted(intake.taken) == sorted(made)


@pytest.mark.parametrize(
    "refusal",
    [
        Refused("403 from the health check, which is blocked", status=403),
        Retryable("no connection to the host of the check", reason="connect"),
        Rejected("400", reason="hec_6", status=400),
    ],
)
async def test_a_check_that_is_blocked_keeps_a_sink_from_no_event_for_good(
    world: World, refusal: RelayError
) -> None:
    made = await world.spool(40)
    intake = Intake(always=fails(timeout), checks=[refusal] * 100_000)
    async with running(world.deliverer(intake)):
        await eventually(lambda: hours(world) > 1)
        intake.always, since = lambda _: Verdict(), hours(world)
        await eventually(lambda: len(intake.taken) == 40)
        assert hours(world) - since < 1.5
    assert sorted(intake.taken) == sorted(made)
    assert world.dead() == []


async def test_several_events_that_fail_alone_do_not_stop_the_others(world: World) -> None:
    made = await world.spool(40)
    poison = set(made[3:6])

    def judge(items: Sequence[Item]) -> Verdict:
        if poison & set(map(name_of, items)):
            raise timeout()
        return Verdict()

    intake = Intake(always=judge)
    deliverer = world.deliverer(intake)
    async with running(deliverer):
        await eventually(lambda: len(intake.taken) == 37)
        intake.always = lambda _: Verdict()
        await eventually(lambda: len(intake.taken) == 40)
    assert sorted(intake.taken) == sorted(made)


async def test_a_restart_forgets_nothing(world: World) -> None:
    made = await world.spool(40)
    deliverer = world.deliverer(Intake(always=fails(timeout)), concurrency=4)
    async with running(deliverer):
        await eventually(lambda: hours(world) > 1)
    await world.store.settle("sink", [])  # waits for the writes in progress
    (state,) = await world.store.sinks()
    assert state.condition.unanswered
    again = world.deliverer(second := Intake(always=fails(timeout)), concurrency=4)
    again.restore(state.condition)
    async with running(again):
        await eventually(lambda: len(second.offered) > 3)
    assert second.asked
    assert {len(each) for each in second.offered} == {1}
    third = Intake()
    third_deliverer = world.deliverer(third, concurrency=4)
    third_deliverer.restore(state.condition)
    async with running(third_deliverer):
        await eventually(lambda: len(third.taken) == 40)
    assert sorted(third.taken) == sorted(made)


async def test_where_the_product_deduplicates_nothing_is_slowed(world: World) -> None:
    await world.spool(40)
    intake = Intake(always=fails(timeout))
    intake.deduplicates = True
    deliverer = world.deliverer(intake)
    async with running(deliverer):
        await eventually(lambda: hours(world) > 4)
        assert not deliverer.condition.unanswered
    assert len(intake.offered) > 100


async def test_a_run_that_has_to_end_ends_and_the_next_one_sends_one_event(world: World) -> None:
    await world.spool(1)
    with pytest.raises(ExceptionGroup):
        await world.run(Intake(always=fails(timeout)), attempts=5)
    await world.store.settle("sink", [])
    (state,) = await world.store.sinks()
    assert state.condition.unanswered
    await world.spool(39, first=1)
    deliverer = world.deliverer(again := Intake(always=fails(timeout)), attempts=5)
    deliverer.restore(state.condition)
    deliverer.finish()
    with pytest.raises(ExceptionGroup):
        async with asyncio.timeout(20):
            await deliverer.keep_delivering()
    assert {len(each) for each in again.offered} == {1}


def test_the_waits_double_up_to_an_hour_and_begin_again() -> None:
    probe = EventProbe(0.0)
    assert probe.wait(0.0, again=True) == probe.wait(0.0, again=False) == 0.0
    assert not probe.is_overdue(EVENT_MAX - 1)
    assert probe.is_overdue(EVENT_MAX)
    for again in True, False:
        waits = []
        for _ in range(12):
            probe.unanswered(0.0, checked=True, again=again)
            waits.append(probe.wait(0.0, again=again))
        assert waits == [5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600]
        assert probe.wait(3599.0, again=again) == 1
        probe.unanswered(100.0, checked=False, again=False)
        assert probe.wait(100.0, again=True) == 3600
        # What is sent again and again makes others wait no longer.
        assert probe.wait(100.0, again=False) == (0 if again else 3600)
        probe.answered()
        assert probe.wait(100.0, again=True) == probe.wait(100.0, again=False) == 0.0


async def test_while_nothing_is_answered_what_was_sent_gives_way_and_nothing_is_lost(
    world: World,
) -> None:
    made = await world.spool(20)
    intake, times = fails_and_notes(world, timeout)
    deliverer = world.deliverer(intake, concurrency=4)
    async with running(deliverer):
        await eventually(lambda: hours(world) > 12)
        alone = [each[0] for each in intake.offered if len(each) == 1]
        assert len(set(alone)) > 15, "the same ones were sent again and again"
        assert between(2, 12, times) <= 11
        intake.always = lambda _: Verdict()
        await eventually(lambda: len(set(intake.taken)) == 20)
    assert sorted(intake.taken) == sorted(made)


@pytest.mark.parametrize("quiet", [0.2, 1, 6, 30])
async def test_events_that_fail_alone_hold_up_no_other_after_a_quiet_night(
    world: World, monkeypatch: pytest.MonkeyPatch, quiet: float
) -> None:
    """A proxy may drop some for their words: the sink's check and all other events pass."""
    bad = set(await world.spool(3))
    good: list[str] = []
    sleep = world.clock.sleep

    async def at_most_a_minute(seconds: float) -> None:
        """Sleep, but for more than a minute never end: nothing may need it that is awaited."""
        ends = not good or (seconds <= 60 and not set(good) <= set(intake.taken))
        await (sleep(seconds) if ends else asyncio.Event().wait())

    async def judge(items: Sequence[Item]) -> Verdict:
        if not bad.isdisjoint(map(name_of, items)):
            if not good and hours(world) > quiet:
                good.extend(await world.spool(3, first=3))
                deliverer.wake.set()
            raise timeout()
        return Verdict()

    intake = Intake(always=judge)
    deliverer = world.deliverer(intake, concurrency=4)
    monkeypatch.setattr(world.clock, "sleep", at_most_a_minute)
    async with running(deliverer):
        await eventually(lambda: bool(good) and set(good) <= set(intake.taken))
        assert deliverer.condition.up
    assert not bad.intersection(intake.taken)
