"""What is unfit is rejected without being sent, whatever becomes of the rest of its batch."""

import pytest
from tests.conftest import make_event
from tests.support.batches import item
from tests.support.delivering import Intake, World, busy

from auditrelay.deliver.send import send_fit
from auditrelay.errors import Retryable
from auditrelay.sinks import Item, Limits, Rejection, Rendered, Verdict


def batch_of(sizes: list[int], limits: Limits) -> list[Item]:
    """Return an item of each of *sizes* bytes."""
    return [
        item(place, make_event(place), Rendered((b'{"id":"%d"}' % place).ljust(size)), limits)
        for place, size in enumerate(sizes)
    ]


async def test_the_indices_of_a_verdict_count_the_events_that_were_not_sent() -> None:
    intake = Intake(
        Limits(10, 1000, event_bytes=20),
        script=[Verdict(rejected=(Rejection(1, "mapping", "odd", 400),), retry=(2, 3))],
    )
    verdict = await send_fit(intake, batch_of([21, 12, 20, 30, 12, 12], intake.limits))
    assert intake.offered == [["1", "2", "4", "5"]]
    assert verdict.rejected == (
        Rejection(0, "too_large", "21 bytes; the limit is 20"),
        Rejection(3, "too_large", "30 bytes; the limit is 20"),
        Rejection(2, "mapping", "odd", 400),
    )
    assert verdict.retry == (4, 5)


async def test_a_batch_of_unfit_events_is_not_sent() -> None:
    intake = Intake(Limits(10, 1000, event_bytes=20))
    verdict = await send_fit(intake, batch_of([30, 40], intake.limits))
    assert intake.offered == []
    assert [each.index for each in verdict.rejected] == [0, 1]


async def test_the_failure_of_a_batch_is_that_of_the_sink() -> None:
    intake = Intake(Limits(10, 1000, event_bytes=20), script=[busy()])
    with pytest.raises(Retryable):
        await send_fit(intake, batch_of([30, 12], intake.limits))


async def test_an_oversized_event_becomes_a_dead_letter_and_the_others_are_delivered(
    world: World,
) -> None:
    made = await world.spool(12)
    size = len(make_event(9).raw)
    intake = Intake(Limits(100, 10**9, event_bytes=size))
    await world.run(intake)
    assert intake.taken == made[:10]
    # Even the reduced copies are too large here: then there is no copy of the copies.
    copied = [make_event(number).uid for number in (10, 11)]
    assert world.dead() == [(name, "too_large", None, 1) for name in [*made[10:], *copied]]
    assert world.counted("dead_letters_total") == 4
    assert await world.backlog() == 0
