"""A sink whose success proves nothing gets a batch once, and is then asked before it gets more."""

from collections.abc import Sequence

import pytest
from structlog.testing import capture_logs
from tests.support.daemon import eventually
from tests.support.delivering import Intake, World, busy, running

from auditrelay.deliver.probe import PROBE_FIRST, PROBE_MAX
from auditrelay.errors import Refused
from auditrelay.sinks import Item, Verdict


@pytest.fixture
def speed() -> float:
    """A second of waiting takes 0.2 ms: these tests wait for minutes."""
    return 5000


def odd() -> Refused:
    return Refused("200, but not the product", status=200, sent=True)


def answers_oddly(_: Sequence[Item]) -> Verdict:
    raise odd()


async def test_the_first_success_that_proves_nothing_holds_the_sink_after_one_send(
    world: World, waits: list[float]
) -> None:
    made = await world.spool(40)
    intake = Intake(always=answers_oddly, checks=[odd() for _ in range(1000)])
    deliverer = world.deliverer(intake, concurrency=4)
    async with running(deliverer):
        await eventually(lambda: sum(waits) > 600)
        assert deliverer.condition.held
        assert "not the product" in str(deliverer.condition.last_error)
        assert intake.offered == [made]
        assert intake.asked > 3
        assert world.counted("events_possible_duplicate_total") == 40
        # The address is corrected.
        intake.checks.clear()
        intake.always = lambda _: Verdict()
        await eventually(lambda: len(intake.taken) == 40)
    assert intake.offered == [made, made[:1], made[1:]]
    assert not deliverer.condition.held


async def test_while_only_its_check_succeeds_a_sink_gets_one_event_at_a_time_ever_less_often(
    world: World, waits: list[float]
) -> None:
    made = await world.spool(40)
    intake = Intake(always=answers_oddly)
    async with running(world.deliverer(intake)):
        await eventually(lambda: len(intake.offered) > 4)
        assert intake.offered[:4] == [made, made[:1], made[1:2], made[2:3]]
        assert {len(each) for each in intake.offered[1:]} == {1}
        assert sum(waits) >= PROBE_FIRST * (1 + 1 + 2)
        counted = world.counted("events_possible_duplicate_total")
        assert 40 + 3 <= counted <= 40 + len(intake.offered)


async def test_no_event_is_blamed_for_a_check_that_fails(world: World, waits: list[float]) -> None:
    await world.spool(40)
    intake = Intake(always=answers_oddly)
    with capture_logs() as logs:
        async with running(world.deliverer(intake)):
            await eventually(lambda: len(intake.offered) > 2)
            intake.checks = [odd()] * 100_000
            await eventually(lambda: sum(waits) > 2000)
            offered, before = len(intake.offered), len(waits)
            logs.clear()
            await eventually(lambda: sum(waits) > 8000)
            assert len(intake.offered) == offered
            assert max(waits[before:]) <= PROBE_MAX
    assert "event_postponed" not in [line["event"] for line in logs]


async def test_batches_in_flight_together_are_sent_once_each(world: World) -> None:
    made = await world.spool(40)
    intake = Intake(always=answers_oddly, checks=[odd() for _ in range(1000)])
    intake.limits = intake.limits.__class__(10, 10**9)
    async with running(world.deliverer(intake, concurrency=4)):
        await eventually(lambda: intake.asked > 3)
    sent = [name for each in intake.offered for name in each]
    assert len(sent) == len(set(sent))
    assert set(sent) <= set(made)


async def test_a_failure_in_between_and_a_restart_forget_nothing(world: World) -> None:
    made = await world.spool(40)
    intake = Intake(always=answers_oddly, checks=[odd(), busy(), odd()] * 100)
    deliverer = world.deliverer(intake)
    async with running(deliverer):
        await eventually(lambda: intake.asked > 5)
        assert intake.offered == [made]
    await world.store.settle("sink", [])  # waits for the writes in progress
    (state,) = await world.store.sinks()
    again = world.deliverer(second := Intake(always=answers_oddly))
    again.restore(state.condition)
    async with running(again):
        await eventually(lambda: second.offered)
        assert second.offered[0] == made[:1]
    assert second.asked


async def test_a_sink_that_refuses_without_having_stored_is_probed_with_its_batch(
    world: World,
) -> None:
    made = await world.spool(5)
    intake = Intake(script=[Refused("401", status=401)] * 2)
    await world.run(intake)
    assert intake.offered == [made] * 3
    assert intake.asked == 0


async def test_what_the_one_event_shows_holds_for_that_event_alone(world: World) -> None:
    made = await world.spool(5)
    intake = Intake(script=[odd(), Verdict(retry=(0,), retry_reason=busy())])
    await world.run(intake)
    assert intake.offered[:2] == [made, made[:1]]
    assert sorted(intake.taken) == sorted(made)
