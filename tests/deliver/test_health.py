"""The health of a sink: down or held, since when and why, across restarts and without events."""

from collections.abc import Sequence
from datetime import timedelta

from structlog.testing import capture_logs
from tests.support.clock import FakeClock
from tests.support.delivering import NOON, Intake, World, busy

from auditrelay.deliver.deliverer import Deliverer
from auditrelay.deliver.probe import PROBE_FIRST
from auditrelay.errors import Refused, RelayError, Retryable
from auditrelay.sinks import Item, Verdict
from auditrelay.store.conditions import SinkCondition


async def test_since_when_a_sink_is_down_or_held_survives_failures_restarts_and_recovery(
    world: World,
) -> None:
    await world.spool(1)
    clock, hour = FakeClock(NOON), timedelta(hours=1)
    failures = [
        Retryable("503", reason="status_503"),
        Retryable("late", reason="timeout"),
        Refused("403", status=403),
        Refused("404", status=404),
    ]
    seen: list[tuple[str | None, str | None]] = []

    async def run(*script: RelayError, restarted: bool = False) -> Deliverer:
        intake = Intake(script=list(script))
        deliverer = world.deliverer(intake, clock=clock)
        if restarted:
            (state,) = await world.store.sinks()
            deliverer.restore(state.condition)
        deliverer.finish()
        send = intake.send

        async def watched(batch: Sequence[Item]) -> Verdict:
            try:
                return await send(batch)
            finally:
                seen.append((deliverer.condition.since, deliverer.condition.error_code))
                clock.set(NOON + len(seen) * hour)

        intake.send = watched  # type: ignore[method-assign]  # to look before each response
        await deliverer.keep_delivering()
        return deliverer

    deliverer = await run(*failures)
    first, second, third = (NOON + number * hour for number in (1, 3, 5))
    assert seen == [
        (None, None),
        (first.isoformat(), "status_503"),
        (first.isoformat(), "timeout"),
        (second.isoformat(), "status_403"),
        (second.isoformat(), "status_404"),
    ]
    assert (deliverer.condition.since, deliverer.condition.error_code) == (third.isoformat(), None)

    await world.store.save_condition(
        "sink", "sink", SinkCondition(held=True, since=second.isoformat())
    )
    await world.spool(1, first=1)
    await run(Refused("403", status=403), restarted=True)
    assert seen[-2:] == [(second.isoformat(), None), (second.isoformat(), "status_403")]


async def test_a_sink_without_events_that_refuses_is_held_and_probed_until_it_recovers(
    world: World, waits: list[float]
) -> None:
    intake = Intake(checks=[Refused("403", status=403), busy(), Refused("403", status=403)])
    deliverer = world.deliverer(intake)
    with capture_logs() as logs:
        await deliverer.probe_until_up()
    assert deliverer.worked_once
    assert [line["event"] for line in logs] == ["sink_held", "sink_held", "sink_released"]
    assert waits == [PROBE_FIRST, 2 * PROBE_FIRST, 4 * PROBE_FIRST]


async def test_the_probe_ends_once_there_are_events_to_deliver(world: World) -> None:
    await world.spool(1)
    intake = Intake(checks=[Refused("403", status=403)])
    deliverer = await world.run(intake)
    await deliverer.probe_until_up()
    assert not deliverer.condition.held
    assert intake.asked == 1
