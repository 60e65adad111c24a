"""What became of events: in the store first, then in metrics and log."""

from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.support.delivering import Intake, World, busy

from auditrelay.sinks import Limits, Rejection, Verdict


@pytest.mark.parametrize(
    ("sent", "deduplicates", "counted"), [(True, False, 5), (True, True, 0), (False, False, 0)]
)
async def test_only_events_that_may_be_stored_twice_are_counted_as_possible_duplicates(
    world: World, *, sent: bool, deduplicates: bool, counted: int
) -> None:
    await world.spool(5)
    intake = Intake(script=[busy(sent=sent)], deduplicates=deduplicates)
    await world.run(intake)
    assert world.counted("events_possible_duplicate_total") == counted


async def test_nothing_is_counted_before_it_is_stored(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await world.spool(3)
    settle, counted = world.store.settle, list[float]()

    async def watched(*args: Any, **kwargs: Any) -> Any:
        counted.append(world.counted("events_delivered_total"))
        counted.append(world.counted("dead_letters_total"))
        return await settle(*args, **kwargs)

    monkeypatch.setattr(world.store, "settle", watched)
    intake = Intake(script=[Verdict(rejected=(Rejection(1, "mapping", "odd", 400),))])
    with capture_logs() as logs:
        await world.run(intake)
    assert counted[:2] == [0, 0]
    assert counted[2:] == [2, 1], "then the reduced copy"
    assert world.counted("events_delivered_total") == 3
    assert world.counted("events_reduced_total") == 1
    assert world.counted("dead_letters_total") == 1
    (line,) = [line for line in logs if line["event"] == "event_dead_lettered"]
    assert (line["reason"], line["status"]) == ("mapping", 400)
    assert [name for name, *_ in world.dead()] == [made[1]]


async def test_a_warning_of_a_sink_is_logged_when_it_changes(world: World) -> None:
    await world.spool(5)
    given = [("slow",), ("slow",), ("slow", "odd"), (), ("slow",)]
    intake = Intake(limits=Limits(1, 10**9), script=[Verdict(warnings=each) for each in given])
    with capture_logs() as logs:
        await world.run(intake)
    lines = [line["warnings"] for line in logs if line["event"] == "sink_warned"]
    assert lines == ["slow", "slow; odd", "slow"]
