"""Thousands of events that a sink refuses delay the others by less than a minute."""

from collections.abc import Callable, Sequence

import pytest
from tests.deliver.test_circuit_breaker import each_refused, first_refused
from tests.support.daemon import eventually
from tests.support.delivering import Intake, World, name_of, running
from tests.support.extent import extent

from auditrelay.deliver.circuit_breaker import THRESHOLD
from auditrelay.deliver.delivery import SAMPLES
from auditrelay.errors import Rejected
from auditrelay.sinks import Item, Limits, Rejection, Verdict

Refuse = Callable[[Sequence[Item], set[str]], Verdict]
BAD = extent(2000, 5000)


@pytest.fixture
def speed() -> float:
    """Waits take their real time: what waits for one is too late for these tests."""
    return 1


def each(items: Sequence[Item], bad: set[str]) -> Verdict:
    """Refuse event by event, as Elasticsearch does."""
    refused = [index for index, item in enumerate(items) if name_of(item) in bad]
    return Verdict(rejected=tuple(Rejection(index, "mapping", "odd", 400) for index in refused))


def whole(items: Sequence[Item], bad: set[str]) -> Verdict:
    """Refuse a batch as a whole, as Datadog does."""
    if bad.intersection(map(name_of, items)):
        raise Rejected("odd", reason="status_400", status=400)
    return Verdict()


def first(items: Sequence[Item], bad: set[str]) -> Verdict:
    """Refuse the first and drop the rest, as HEC does."""
    refused = next((index for index, item in enumerate(items) if name_of(item) in bad), None)
    if refused is None:
        return Verdict()
    return Verdict(
        rejected=(Rejection(refused, "invalid_fields", "odd", 400),),
        retry=tuple(range(refused + 1, len(items))),
    )


@pytest.mark.parametrize("refuse", [each, whole, first])
@pytest.mark.parametrize("concurrency", [1, 4])
async def test_events_behind_thousands_of_refused_ones_come_through_in_less_than_a_minute(
    world: World, refuse: Refuse, concurrency: int
) -> None:
    bad = set(await world.spool(BAD))
    good = await world.spool(100, first=BAD)
    intake = Intake(Limits(1000, 10**9), always=lambda items: refuse(items, bad))
    deliverer = world.deliverer(intake, concurrency=concurrency)
    async with running(deliverer):
        await eventually(lambda: set(good) <= set(intake.taken))
        assert len(intake.offered) < 3 * THRESHOLD * concurrency + 12 * SAMPLES
        # More good ones come while the others are still being refused.
        for number in range(3):
            before = len(intake.offered)
            made = await world.spool(10, first=BAD + 1000 * (1 + number))
            deliverer.wake.set()
            await eventually(lambda made=made: set(made) <= set(intake.taken))  # type: ignore[misc]  # mypy cannot infer a lambda's defaults
            assert len(intake.offered) - before < 3 * THRESHOLD * concurrency + 12 * SAMPLES
    assert {name for name, *_ in world.dead()} <= bad


@pytest.mark.parametrize("speed", [20])  # a breaker may open twice on the way: a minute of probes
@pytest.mark.parametrize("refuse", [each, whole, first])
async def test_good_events_among_as_many_refused_ones_come_through(
    world: World, refuse: Refuse
) -> None:
    bad = set(await world.spool(500))
    mixed = await world.spool(400, first=1000)
    bad.update(mixed[::2])
    intake = Intake(Limits(100, 10**9), always=lambda items: refuse(items, bad))
    async with running(world.deliverer(intake)):
        await eventually(lambda: set(mixed[1::2]) <= set(intake.taken))


async def test_while_the_breaker_is_open_what_was_not_tried_yet_does_not_wait_for_a_probe(
    world: World,
) -> None:
    bad = set(await world.spool(300))
    intake = Intake(Limits(100, 10**9), always=lambda items: each(items, bad))
    deliverer = world.deliverer(intake)
    async with running(deliverer):
        await eventually(lambda: deliverer.condition.held)
        await eventually(lambda: len(intake.offered) >= 3)
        offered = len(intake.offered)
        good = await world.spool(5, first=1000)
        deliverer.wake.set()
        await eventually(lambda: set(good) <= set(intake.taken))
        tried = next(n for n, batch in enumerate(intake.offered) if not bad.issuperset(batch))
        assert tried - offered <= 3


@pytest.mark.parametrize("refuse", [each_refused, first_refused])
async def test_new_events_of_a_sink_that_refuses_all_are_tried_and_kept(
    world: World, refuse: Callable[[Sequence[Item]], Verdict]
) -> None:
    await world.spool(300)
    intake = Intake(Limits(100, 10**9), always=refuse)
    deliverer = world.deliverer(intake)
    async with running(deliverer):
        await eventually(lambda: deliverer.condition.held)
        for number in range(40):
            (made,) = await world.spool(1, first=1000 + number)
            deliverer.wake.set()
            await eventually(lambda made=made: [made] in intake.offered)  # type: ignore[misc]  # mypy cannot infer a lambda's defaults
        dead = {name for name, *_ in world.dead()}
    assert not [name for name in dead if int(name) >= 1000]
    assert intake.taken == []
