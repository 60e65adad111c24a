"""A sink that refuses every event is held; a few bad events among good ones are dead-lettered."""

from collections.abc import Sequence

import pytest
from structlog.testing import capture_logs
from tests.support.daemon import eventually
from tests.support.delivering import Intake, World, busy, name_of, running

from auditrelay.deliver.circuit_breaker import THRESHOLD, CircuitBreaker
from auditrelay.deliver.deliverer import Deliverer
from auditrelay.deliver.probe import PROBE_FIRST, PROBE_MAX
from auditrelay.errors import Refused, Rejected
from auditrelay.sinks import Item, Limits, Rejection, Verdict

HUNDREDS = Limits(500, 10**9)


@pytest.fixture
def speed() -> float:
    """A second of waiting takes 0.2 ms: these tests wait for minutes."""
    return 5000


def each_refused(items: Sequence[Item]) -> Verdict:
    """Refuse event by event, as Elasticsearch does."""
    return Verdict(
        rejected=tuple(
            Rejection(index, "mapping", "a field is odd", 400) for index in range(len(items))
        )
    )


def whole_refused(_: Sequence[Item]) -> Verdict:
    """Refuse a batch as a whole, as Datadog does."""
    raise Rejected("no such index", reason="status_400", status=400)


def first_refused(items: Sequence[Item]) -> Verdict:
    """Refuse the first and drop the rest, as HEC does."""
    return Verdict(
        rejected=(Rejection(0, "incorrect_index", "Incorrect index (code 7)", 400),),
        retry=tuple(range(1, len(items))),
    )


REFUSALS = [each_refused, whole_refused, first_refused]


def held(deliverer: Deliverer) -> bool:
    return deliverer.condition.held


def reason(breaker: CircuitBreaker) -> str | None:
    return breaker.reason


@pytest.mark.parametrize("refuse", REFUSALS)
@pytest.mark.parametrize("concurrency", [1, 4])
async def test_a_sink_that_refuses_every_event_is_held_with_few_dead_letters(
    world: World, waits: list[float], refuse: object, concurrency: int
) -> None:
    made = await world.spool(3000)
    intake = Intake(HUNDREDS, always=refuse)  # type: ignore[arg-type]  # one of the three
    deliverer = world.deliverer(intake, concurrency=concurrency)
    with capture_logs() as logs:
        async with running(deliverer):
            await eventually(lambda: held(deliverer))
            await eventually(lambda: sum(waits) > 1200)  # twenty minutes of it
            dead = world.dead()
            # Each other batch in flight may have one more under way.
            most = THRESHOLD + sum(waits) / PROBE_MAX + 8 + concurrency - 1
            assert THRESHOLD <= len(dead) <= most
            # It goes on probing meanwhile.
            assert 3000 - len(world.dead()) <= await world.backlog() <= 3000
            assert intake.taken == []
            error = str(deliverer.condition.last_error)
            assert "refuses every event" in error
            assert dead[0][1] in error
            assert "dead-letters list --sink sink" in error
            # The configuration is fixed.
            intake.always = lambda _: Verdict()
            await eventually(lambda: len(intake.taken) + len(world.dead()) == 3000)
            await eventually(lambda: not held(deliverer))
    gone = {name for name, *_ in world.dead()}
    assert len(gone) <= len(dead) + concurrency
    assert sorted(intake.taken) == sorted(set(made) - gone)
    assert [line["event"] for line in logs if line["event"].startswith("sink_")] == [
        "sink_held",
        "sink_released",
    ]


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_what_was_postponed_is_sent_although_no_other_event_comes(
    world: World, concurrency: int
) -> None:
    made = await world.spool(THRESHOLD + 30)
    intake = Intake(Limits(THRESHOLD + 30, 10**9), always=whole_refused)
    deliverer = world.deliverer(intake, concurrency=concurrency)
    async with running(deliverer):
        await eventually(lambda: held(deliverer))
        intake.always = lambda _: Verdict()
        await eventually(lambda: len(intake.taken) + len(world.dead()) == len(made))
        await eventually(lambda: not held(deliverer))
    assert len(world.dead()) <= THRESHOLD + 5


@pytest.mark.parametrize("refuse", REFUSALS)
async def test_bad_events_among_good_ones_are_dead_lettered_at_once(
    world: World, waits: list[float], refuse: object
) -> None:
    made = await world.spool(2000)
    bad = set(made[3::7])

    def judge(items: Sequence[Item]) -> Verdict:
        names = [name_of(item) for item in items]
        if not bad & set(names):
            return Verdict()
        if refuse is whole_refused:
            return whole_refused(items)
        found = [index for index, name in enumerate(names) if name in bad]
        if refuse is each_refused:
            return Verdict(rejected=tuple(Rejection(i, "mapping", "odd", 400) for i in found))
        rejection = Rejection(found[0], "event_blank", "no", 400)
        return Verdict(rejected=(rejection,), retry=tuple(range(found[0] + 1, len(items))))

    intake = Intake(HUNDREDS, always=judge)
    deliverer = await world.run(intake)
    assert {name for name, *_ in world.dead()} == bad
    assert sorted(intake.taken) == sorted(set(made) - bad)
    assert not held(deliverer)
    assert waits == []


async def test_a_long_run_of_bad_events_is_cleared_while_there_are_good_ones(
    world: World, waits: list[float]
) -> None:
    bad = set(await world.spool(700))
    good = await world.spool(100, first=1000)

    def judge(items: Sequence[Item]) -> Verdict:
        return Verdict(
            rejected=tuple(
                Rejection(index, "mapping", "odd", 400)
                for index, item in enumerate(items)
                if name_of(item) in bad
            )
        )

    intake = Intake(Limits(200, 10**9), always=judge)
    deliverer = world.deliverer(intake, concurrency=4)

    async def over() -> bool:
        good.extend(await world.spool(1, first=1000 + len(good)))
        deliverer.wake.set()
        return len(world.dead()) >= 700

    async with running(deliverer):
        await eventually(over)
        assert {name for name, *_ in world.dead()} == bad
        # Alone they would have taken two days.
        assert sum(waits) < 7200
        await eventually(lambda: len(intake.taken) == len(good))
    assert not held(deliverer)


async def test_a_run_of_bad_events_without_a_good_one_is_probed_ever_less_often(
    world: World, waits: list[float]
) -> None:
    await world.spool(THRESHOLD + 9)
    intake = Intake(HUNDREDS, always=each_refused)
    await world.run(intake)
    assert len(world.dead()) == THRESHOLD + 9
    assert waits[:3] == [PROBE_FIRST, 2 * PROBE_FIRST, 4 * PROBE_FIRST]
    assert max(waits) == PROBE_MAX
    assert len(waits) == 9


async def test_rejections_before_sending_do_not_open_the_breaker(
    world: World, waits: list[float]
) -> None:
    await world.spool(1000)

    def ours(items: Sequence[Item]) -> Verdict:
        return Verdict(rejected=tuple(Rejection(i, "too_old", "old") for i in range(len(items))))

    await world.run(Intake(HUNDREDS, always=ours))
    assert len(world.dead()) == 1000
    assert waits == []


async def test_an_open_breaker_survives_a_restart_which_begins_with_one_event(
    world: World,
) -> None:
    await world.spool(1000)
    first = world.deliverer(Intake(HUNDREDS, always=each_refused))
    async with running(first):
        await eventually(lambda: held(first))
        await eventually(lambda: len(world.dead()) >= THRESHOLD)
    await world.store.settle("sink", [])  # waits for the writes in progress
    before = len(world.dead())
    (state,) = await world.store.sinks()
    for _ in range(3):
        intake = Intake(HUNDREDS, always=each_refused)
        again = world.deliverer(intake, attempts=3)
        again.restore(state.condition)
        assert held(again)
        await again.probe_until_up()
        assert held(again), "a check proves nothing about events"
        again.finish()
        with pytest.raises(ExceptionGroup) as group:
            await again.keep_delivering()
        assert group.group_contains(Refused, match="refuses every event")
        assert [len(batch) for batch in intake.offered] == [1]
    assert len(world.dead()) == before + 3
    fixed = world.deliverer(intake := Intake(HUNDREDS))
    fixed.restore(state.condition)
    fixed.finish()
    await fixed.keep_delivering()
    assert not held(fixed)
    assert len(intake.taken) == 1000 - before - 3


async def test_a_run_that_has_to_end_stops_at_an_open_breaker_and_keeps_the_rest(
    world: World,
) -> None:
    await world.spool(1000)
    with pytest.raises(ExceptionGroup) as group:
        await world.run(Intake(HUNDREDS, always=each_refused), attempts=3)
    assert group.group_contains(Refused, match="refuses every event")
    assert len(world.dead()) == THRESHOLD
    assert await world.backlog() == 1000, "each of the dead has a reduced copy"


async def test_other_failures_do_not_close_an_open_breaker(
    world: World, waits: list[float]
) -> None:
    await world.spool(400)
    intake = Intake(HUNDREDS, always=each_refused)
    deliverer = world.deliverer(intake)
    async with running(deliverer):
        await eventually(lambda: held(deliverer))
        intake.script = [busy(), busy(), Refused("403", status=403), busy()]
        await eventually(lambda: not intake.script)
        await eventually(lambda: held(deliverer))
        offered, dead = len(intake.offered), len(world.dead())
        await eventually(lambda: len(intake.offered) > offered + 3)
        assert len(world.dead()) <= dead + 6


def test_refusals_are_counted_by_reason_and_an_accepted_event_closes_the_breaker() -> None:
    breaker = CircuitBreaker()
    one, other = (Rejection(0, kind, "", 400) for kind in ("one", "other"))
    for _ in range(THRESHOLD - 1):
        assert breaker.failure([one, other]) == [one, other]
    assert reason(breaker) is None
    assert not breaker.success([None])
    assert breaker.failure([one] * 250) == [one] * THRESHOLD
    assert reason(breaker) == "one"
    ours = Rejection(0, "too_large", "")
    assert breaker.failure([one, ours]) == [ours]
    assert breaker.failure([one], probe=True) == [one]
    assert breaker.success([None])
    assert reason(breaker) is None
    assert breaker.failure([one] * 3) == [one] * 3


def test_what_is_refused_for_one_target_is_counted_whatever_others_accept() -> None:
    breaker = CircuitBreaker()
    shut = Rejection(0, "shards", "no more shards", 400, "shut")
    for _ in range(THRESHOLD):
        assert not breaker.success(["well"])
        breaker.failure([shut], accepted={"well"})
    assert (breaker.reason, breaker.target) == ("shards", "shut")
    assert breaker.failure([shut], accepted={"well"}) == []
    bad = Rejection(1, "mapping", "odd", 400, "well")
    assert breaker.failure([shut, bad], accepted={"well"}) == [bad]
    assert "every event for shut" in str(breaker.error("siem", [shut]))
    assert not breaker.success(["well"])
    assert breaker.is_open
    assert breaker.success(["shut"])
    assert not breaker.is_open


def test_refusals_beside_an_accepted_event_of_the_same_target_are_of_the_events() -> None:
    breaker = CircuitBreaker()
    bad = Rejection(0, "mapping", "odd", 400, "one")
    anywhere = Rejection(0, "mapping", "odd", 400)
    for _ in range(3 * THRESHOLD):
        breaker.success(["one"])
        assert breaker.failure([bad, anywhere], accepted={"one"}) == [bad, anywhere]
    assert not breaker.is_open
