"""What fails in the same way again and again is made smaller; what fails alone is overtaken."""

from collections.abc import Sequence

import pytest
from tests.support.daemon import eventually
from tests.support.delivering import Intake, World, busy, name_of, running

from auditrelay.deliver.batch_size import GROWS_AFTER, BatchSize
from auditrelay.errors import Retryable
from auditrelay.sinks import Item, Limits, Verdict


@pytest.fixture
def speed() -> float:
    """A second of waiting takes 0.2 ms: these tests wait for minutes."""
    return 5000


def size(items: Sequence[Item]) -> int:
    return sum(len(item.text) for item in items)


def broken() -> Retryable:
    return Retryable("reset", reason="reset", sent=True, while_sending=True)


def passes_below(limit: int) -> Intake:
    """Return a sink behind something that resets every request of more than *limit* bytes."""

    def judge(items: Sequence[Item]) -> Verdict:
        if size(items) > limit:
            raise broken()
        return Verdict()

    return Intake(Limits(400, 10**9), always=judge)


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_batches_that_only_reset_get_smaller_until_they_pass(
    world: World, waits: list[float], concurrency: int
) -> None:
    made = await world.spool(400)
    intake = passes_below(2000)
    await world.run(intake, concurrency=concurrency)
    assert sorted(intake.taken) == sorted(made)
    assert world.dead() == []
    assert sum(waits) < 60
    assert len(intake.offered) < 60


async def test_what_is_known_to_be_too_large_is_not_tried_with_every_batch(world: World) -> None:
    await world.spool(400)
    intake = passes_below(2000)
    deliverer = world.deliverer(intake)
    async with running(deliverer):
        await eventually(lambda: len(intake.taken) == 400)
        failed = len(intake.offered)
        await world.spool(400, first=400)
        deliverer.wake.set()
        await eventually(lambda: len(intake.taken) == 800)
    assert len(intake.offered) - failed < 60


@pytest.mark.parametrize(
    "failure",
    [busy(), Retryable("no connection", reason="connect"), Retryable("429", reason="status_429")],
)
async def test_a_sink_that_is_busy_or_gone_gets_its_batches_whole(
    world: World, failure: Retryable
) -> None:
    made = await world.spool(40)
    intake = Intake(script=[failure] * 9)
    await world.run(intake)
    assert intake.offered == [made] * 10


async def test_after_an_outage_batches_are_soon_whole_again(world: World) -> None:
    await world.spool(2000)
    intake = Intake(Limits(100, 10**9), script=[broken()] * 12)
    await world.run(intake)
    assert len(intake.taken) == 2000
    assert len(intake.offered) < 12 + 20 + 20


async def test_an_event_that_fails_alone_is_overtaken_and_not_lost(
    world: World, waits: list[float]
) -> None:
    made = await world.spool(40)
    poison = made[3]
    waited: list[float] = []  # in all, whenever a batch was taken

    def judge(items: Sequence[Item]) -> Verdict:
        if poison in map(name_of, items):
            raise broken()
        waited.append(sum(waits))
        return Verdict()

    intake = Intake(always=judge)
    deliverer = world.deliverer(intake)
    async with running(deliverer):
        await eventually(lambda: len(intake.taken) == 39)
        assert waited[-1] < 120
        await eventually(lambda: intake.offered.count([poison]) > 6)
        assert await world.backlog() == 1
        made += await world.spool(1, first=40)
        deliverer.wake.set()
        await eventually(lambda: intake.taken[-1:] == made[-1:])
        intake.always = lambda _: Verdict()
        await eventually(lambda: len(intake.taken) == 41)
    assert sorted(intake.taken) == sorted(made)
    assert world.dead() == []


async def test_an_event_that_has_failed_alone_for_weeks_comes_again_after_an_hour(
    world: World, waits: list[float]
) -> None:
    deliverer = world.deliverer(Intake())
    async with deliverer._postponed as postponed:
        for _ in range(1100):
            postponed.set_aside(Item(1, "uid", "voice", 0, b"{}"), broken())
        await eventually(lambda: len(waits) == 1100)
    assert waits[:8] == [30, 60, 120, 240, 480, 960, 1920, 3600]
    assert waits[-1] == 3600


async def test_while_its_check_fails_too_it_is_the_sink_and_nothing_is_overtaken(
    world: World, waits: list[float]
) -> None:
    made = await world.spool(8)
    intake = Intake(always=lambda _: (_ for _ in ()).throw(broken()), checks=[busy()] * 10_000)
    async with running(world.deliverer(intake)):
        await eventually(lambda: sum(waits) > 1200)
    # Three times the whole, once each half, three times the event: then its check alone is made.
    assert intake.offered[3:8] == [made[:4], made[:2], *[made[:1]] * 3]
    assert intake.asked > len(intake.offered) + 10
    assert all(each == made[:1] for each in intake.offered[8:])  # one an hour


# --- the size, by itself


def after(*passed: int) -> int | None:
    """Return the most bytes after failures, and after requests of these sizes *passed*."""
    batch = BatchSize()
    batch.passed(10, 0, 1000)
    batch.failed(800, 0)
    batch.failed(900, 0)  # in flight at the time
    batch.failed(400, 0)
    for size in passed:
        batch.passed(size, 0, 1000)
    return batch.most


def test_a_size_is_halved_and_doubles_again_with_what_passes() -> None:
    assert BatchSize().most is None
    assert after() == 200
    assert after(200) == after(200, 100) == 400
    assert after(200, 400, 800) is None


def test_what_fails_after_less_has_passed_is_not_tried_for_a_while() -> None:
    batch = BatchSize()
    batch.failed(800, 0)
    batch.passed(400, 0, 10_000)
    batch.failed(700, 0)
    mosts = [batch.most]
    for now in (GROWS_AFTER - 1, GROWS_AFTER):
        batch.passed(350, now, 10_000)
        mosts.append(batch.most)
    assert mosts == [350, 350, 700]
