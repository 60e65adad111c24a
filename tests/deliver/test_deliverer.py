"""Delivery to one sink: the verdict on each event becomes position and dead letters, exactly."""

import asyncio
import gc
import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from tests.support.clock import FakeClock
from tests.support.daemon import eventually
from tests.support.delivering import Intake, Make, World, busy, name_of, opened, running
from tests.support.stores import counted

from auditrelay.deliver.deliverer import Deliverer
from auditrelay.deliver.probe import PROBE_FIRST, PROBE_MAX
from auditrelay.errors import Refused, Rejected, Retryable, TooLarge
from auditrelay.sinks import Item, Limits, Rejection, Verdict
from auditrelay.store import Reached


@pytest.fixture
def speed() -> float:
    """Waiting takes no time: the clock shows the sum of the waits."""
    return math.inf


# --- verdicts


async def test_every_event_is_accepted_once_and_in_order(world: World) -> None:
    made = await world.spool(25)
    intake = Intake(limits=Limits(10, 10**9))
    await world.run(intake)
    assert intake.taken == made
    assert [len(batch) for batch in intake.offered] == [10, 10, 5]
    assert await world.backlog() == 0
    assert world.counted("events_delivered_total") == 25


async def test_only_the_events_that_are_to_be_retried_are_resent(
    world: World, waits: list[float]
) -> None:
    made = await world.spool(6)
    intake = Intake(script=[Verdict(retry=(1, 4), retry_reason=busy(retry_after=7.0)), busy()])
    await world.run(intake)
    assert intake.offered == [made, [made[1], made[4]], [made[1], made[4]]]
    assert sorted(intake.taken) == made
    assert waits[0] >= 7
    assert world.dead() == []


async def test_a_retry_without_a_reason_is_sent_at_once(world: World, waits: list[float]) -> None:
    made = await world.spool(4)
    await world.run(intake := Intake(script=[Verdict(retry=(2, 3))]))
    assert intake.offered == [made, made[2:]]
    assert waits == []


async def test_a_rejected_event_is_a_dead_letter_and_nothing_else_is(world: World) -> None:
    made = await world.spool(5)
    rejection = Rejection(2, "mapping", "a field is odd", 400)
    with capture_logs() as logs:
        await world.run(intake := Intake(script=[busy(), Verdict(rejected=(rejection,))]))
    assert sorted(intake.taken) == [name for name in made if name != made[2]]
    assert world.dead() == [(made[2], "mapping", 400, 2)]
    assert await world.backlog() == 0
    assert world.counted("dead_letters_total") == 1
    (line,) = [line for line in logs if line["event"] == "event_dead_lettered"]
    assert (line["reason"], line["status"]) == ("mapping", 400)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Rejected("no", reason="status_400", status=400), "status_400"),
        (TooLarge("too large", reason="status_413", status=413), "too_large"),
    ],
)
async def test_one_bad_event_among_1000_costs_one_dead_letter_and_few_requests(
    world: World, error: Rejected, reason: str
) -> None:
    made = await world.spool(1000)
    bad = made[617]

    def judge(batch: Sequence[Item]) -> Verdict:
        if any(name_of(item) == bad for item in batch):
            raise error
        return Verdict()

    intake = Intake(always=judge)
    await world.run(intake)
    assert sorted(intake.taken) == sorted(set(made) - {bad})
    assert world.dead() == [(bad, reason, error.status, 1)]
    assert len(intake.offered) <= 2 * math.ceil(math.log2(1000)) + 1
    assert await world.backlog() == 0


# --- a sink that refuses


async def test_a_403_holds_the_sink_and_drops_nothing(world: World, waits: list[float]) -> None:
    made = await world.spool(30)
    refusals = 9
    intake = Intake(
        limits=Limits(10, 10**9),
        script=[Refused("403: no right", status=403) for _ in range(refusals)],
        checks=[Refused("403: no right", status=403) for _ in range(refusals)],
    )
    with capture_logs() as logs:
        deliverer = await world.run(intake, concurrency=3)
    assert sorted(intake.taken) == sorted(made)
    assert world.dead() == []
    assert [line["event"] for line in logs if line["event"].startswith("sink_")] == [
        "sink_held",
        "sink_released",
    ]
    assert waits[0] == PROBE_FIRST
    assert max(waits) == PROBE_MAX
    assert (deliverer.condition.held, deliverer.condition.up) == (False, True)


async def test_while_a_sink_is_held_one_batch_probes_and_the_others_wait(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.spool(40)
    in_flight = most = 0
    waiting = asyncio.Event()

    async def sleep(_: float) -> None:
        await waiting.wait()

    monkeypatch.setattr(world.clock, "sleep", sleep)

    async def refuse(_: Sequence[Item]) -> Verdict:
        nonlocal in_flight, most
        in_flight += 1
        most = max(most, in_flight)
        await asyncio.sleep(0)
        in_flight -= 1
        raise Refused("401", status=401)

    intake = Intake(limits=Limits(10, 10**9), always=refuse)
    deliverer = world.deliverer(intake, concurrency=4)
    task = asyncio.ensure_future(deliverer.keep_delivering())
    await eventually(lambda: deliverer.condition.held)
    for _ in range(200):
        await asyncio.sleep(0)
    asked = len(intake.offered)
    assert asked <= 4
    waiting.set()
    most = 0
    await eventually(lambda: len(intake.offered) >= asked + 20)
    assert most == 1
    task.cancel()
    await asyncio.wait([task])
    assert await world.backlog() == 40


async def test_a_run_that_has_to_end_gives_up_an_unavailable_sink_and_keeps_its_events(
    world: World,
) -> None:
    made = await world.spool(5)
    intake = Intake(always=lambda _: (_ for _ in ()).throw(busy()))
    with pytest.raises(ExceptionGroup) as group:
        await world.run(intake, attempts=3)
    assert group.group_contains(Retryable)
    assert intake.offered == [made] * 3
    assert await world.backlog() == 5


@pytest.mark.parametrize(
    "verdict",
    [
        Verdict(retry=(1, 3), retry_reason=Retryable("busy", reason="status_503")),
        Verdict(retry=(1, 3)),
    ],
)
async def test_events_that_the_sink_has_not_accepted_survive_a_crash(
    world: World, verdict: Verdict
) -> None:
    made = await world.spool(5)
    down = Intake(script=[verdict], always=lambda _: (_ for _ in ()).throw(busy()))
    with pytest.raises(ExceptionGroup):
        await world.run(down, attempts=2)
    assert down.taken == [made[0], made[2], made[4]]
    assert await world.backlog() == 2
    (state,) = await world.store.sinks()
    assert state.position == 1
    await world.run(up := Intake())
    assert up.taken == [made[1], made[3]]


# --- several in flight


async def test_a_crash_resends_only_what_was_in_flight(world: World) -> None:
    made = await world.spool(50)
    gates: dict[str, asyncio.Event] = {}

    async def gated(batch: Sequence[Item]) -> Verdict:
        gate = gates[name_of(batch[0])] = asyncio.Event()
        await gate.wait()
        return Verdict()

    intake = Intake(limits=Limits(10, 10**9), always=gated)
    deliverer = world.deliverer(intake, concurrency=5)
    task = asyncio.ensure_future(deliverer.keep_delivering())
    await eventually(lambda: len(gates) == 5)
    for first in (made[30], made[10]):  # the fourth batch is answered first, then the second
        gates[first].set()

    async def both_delivered() -> bool:
        return await world.backlog() == 30

    await eventually(both_delivered)
    (state,) = await world.store.sinks()
    assert state.position == 0, "the position has passed an event that was not delivered"
    task.cancel()
    await asyncio.wait([task])
    second = Intake(limits=Limits(100, 10**9))
    await world.run(second)
    assert sorted(second.taken) == sorted([*made[:10], *made[20:30], *made[40:]])
    assert await world.backlog() == 0


async def test_a_slow_sink_does_not_delay_another(world: World) -> None:
    await world.store.start_sink("slow", ["voice"])
    made = await world.spool(20)

    async def never(_: Sequence[Item]) -> Verdict:
        await asyncio.Event().wait()
        raise AssertionError

    slow = world.deliverer(Intake(always=never), name="slow")
    stuck = asyncio.ensure_future(slow.keep_delivering())
    await world.run(intake := Intake())
    assert intake.taken == made
    assert (await world.backlog(), await world.backlog("slow")) == (0, 20)
    stuck.cancel()
    await asyncio.wait([stuck])


async def test_a_sink_gets_the_events_of_its_sources_only(world: World) -> None:
    made = await world.spool(3)
    await world.spool(3, first=100, source="calls")
    made += await world.spool(3, first=200)
    await world.run(intake := Intake())
    assert intake.taken == made
    (state,) = await world.store.sinks()
    assert state.position == 9


async def test_an_unavailable_sink_gets_fewer_concurrent_requests(world: World) -> None:
    made = await world.spool(200)
    flying = answered = 0
    most = {"first": 0, "late": 0, "down": 0, "recovered": 0}

    async def count(_: Sequence[Item]) -> Verdict:
        nonlocal flying, answered
        flying += 1
        asked = len(intake.offered)
        phase = "first" if asked <= 8 else "down" if asked <= 40 else "recovered"
        if phase == "down" and answered < 8:
            phase = "late"  # the others of the first eight are still in flight
        most[phase] = max(most[phase], flying)
        # Longer than a verdict takes to be stored, which has a place among the requests meanwhile.
        await asyncio.sleep(0.02 if phase == "recovered" else 0.001)
        flying -= 1
        answered += 1
        if phase != "recovered":
            raise busy()
        return Verdict()

    intake = Intake(limits=Limits(1, 10**9), always=count)
    await world.run(intake, concurrency=8)
    assert sorted(intake.taken) == sorted(made)
    assert (most["first"], most["down"], most["recovered"]) == (8, 1, 8)


async def test_a_stop_waits_until_the_verdict_of_an_answered_request_is_stored(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.spool(5)
    note = world.store.save_condition

    async def slowly(*args: Any) -> None:
        deliverer.stop()
        for _ in range(50):
            await asyncio.sleep(0)
        await note(*args)

    monkeypatch.setattr(world.store, "save_condition", slowly)
    intake = Intake(script=[Verdict(rejected=(Rejection(0, "mapping", "odd", 400),))])
    deliverer = world.deliverer(intake)
    task = asyncio.ensure_future(deliverer.keep_delivering())
    await eventually(lambda: intake.taken)
    async with asyncio.timeout(10):
        await deliverer.drain()
    task.cancel()
    await asyncio.wait([task])
    assert await world.backlog() == 1, "only the reduced copy is to be sent"
    assert len(world.dead()) == 1


async def test_what_is_spooled_during_the_last_read_is_delivered_before_the_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command without a service spools, and ends the delivery while the spool is read."""
    read = world.store.read
    intake = Intake()
    deliverer = world.deliverer(intake)
    made: list[str] = []

    async def read_before_that(*args: Any) -> Any:
        pages = await read(*args)
        if not made:
            made.extend(await world.spool(1))
            deliverer.wake.set()
            deliverer.finish()
        return pages

    monkeypatch.setattr(world.store, "read", read_before_that)
    async with asyncio.timeout(10):
        await deliverer.keep_delivering()
    assert intake.taken == made


async def test_what_waits_for_other_parts_of_the_sink_is_delivered_before_the_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = world.store.read
    made = await world.spool(1)
    deliverer = world.deliverer(intake := Intake())
    held_back = asyncio.Event()

    async def read_later(*args: Any) -> Any:
        if not held_back.is_set():
            held_back.set()
            return [], Reached((0,), at_end=False)
        return await read(*args)

    monkeypatch.setattr(world.store, "read", read_later)
    deliverer.finish()
    task = asyncio.ensure_future(deliverer.keep_delivering())
    async with asyncio.timeout(10):
        await held_back.wait()
        await asyncio.sleep(0)
        assert not task.done()
        deliverer.wake.set()  # as each pulse does
        await task
    assert intake.taken == made


# --- batches


async def test_a_batch_waits_to_fill_and_not_longer(world: World, waits: list[float]) -> None:
    made = await world.spool(2)
    deliverer = world.deliverer(intake := Intake(), linger="3s")
    task = asyncio.ensure_future(deliverer.keep_delivering())
    await eventually(lambda: intake.taken)
    more = await world.spool(1, first=10)
    deliverer.wake.set()
    await eventually(lambda: len(intake.taken) == 3)
    assert intake.offered == [made, more]
    assert waits == [3.0, 3.0]
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.parametrize("linger", ["0s", "3s"])
async def test_one_event_costs_two_writes_and_no_read_of_the_disk(
    world: World, linger: str
) -> None:
    deliverer = world.deliverer(intake := Intake(), linger=linger)
    async with running(deliverer):
        await world.spool(1)
        deliverer.wake.set()
        await eventually(lambda: len(intake.taken) == 1 and deliverer.worked_at is None)
        for number in range(1, 4):
            with counted(world.store) as calls:
                await world.spool(1, first=number)
                deliverer.wake.set()
                await eventually(lambda: len(intake.taken) == number + 1)  # noqa: B023  # now
                await eventually(lambda: calls["write settle"] == 1)  # now
            assert calls == {"write add": 1, "write settle": 1}


@pytest.mark.parametrize("moment", ["before the read", "after the read"])
@pytest.mark.parametrize("count", [1, 20])
@pytest.mark.parametrize("finishing", [False, True])
async def test_an_event_that_comes_during_a_read_of_the_spool_is_not_overlooked(
    world: World, monkeypatch: pytest.MonkeyPatch, moment: str, count: int, *, finishing: bool
) -> None:
    """Nothing wakes the loop later: each event is announced as soon as it is in the spool."""
    made: list[str] = []
    read = world.store.read

    async def come() -> None:
        if len(made) < count:
            made.extend(await world.spool(1, first=len(made)))
            deliverer.wake.set()
            if finishing and len(made) == count:
                deliverer.finish()

    async def meanwhile(*args: Any) -> Any:
        if moment == "before the read":
            await come()
        pages = await read(*args)
        if moment == "after the read":
            await come()
        return pages

    monkeypatch.setattr(world.store, "read", meanwhile)
    deliverer = world.deliverer(intake := Intake(limits=Limits(3, 10**9)), concurrency=2)
    task = asyncio.ensure_future(deliverer.keep_delivering())
    await eventually(lambda: len(intake.taken) == count)
    assert sorted(intake.taken) == sorted(made)
    if finishing:
        async with asyncio.timeout(5):
            await task
    task.cancel()
    await asyncio.wait([task])


class StoppedClock(FakeClock):
    """A clock on which a wait ends when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.wait_is_over = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        await self.wait_is_over.wait()


async def spool_one_by_one(world: World, deliverer: Deliverer, count: int) -> list[str]:
    made = []
    for number in range(count):
        made += await world.spool(1, first=number)
        deliverer.wake.set()
        await eventually(lambda: not deliverer.wake.is_set())
    return made


async def test_a_batch_that_becomes_full_does_not_wait_longer(world: World) -> None:
    clock = StoppedClock()
    deliverer = world.deliverer(intake := Intake(Limits(3, 10**9)), linger="3s", clock=clock)
    async with running(deliverer):
        made = await spool_one_by_one(world, deliverer, 3)
        await eventually(lambda: intake.taken)
        assert intake.offered == [made]
        assert clock.waits == [3.0]


async def test_no_event_waits_longer_because_others_follow_it(world: World) -> None:
    clock = StoppedClock()
    deliverer = world.deliverer(intake := Intake(), linger="3s", clock=clock)
    async with running(deliverer):
        made = await spool_one_by_one(world, deliverer, 3)
        assert clock.waits == [3.0]
        assert not intake.taken
        clock.wait_is_over.set()
        await eventually(lambda: intake.taken)
        assert intake.offered == [made]


async def test_what_waits_for_a_full_batch_is_sent_at_the_end(world: World) -> None:
    clock = StoppedClock()
    deliverer = world.deliverer(intake := Intake(), linger="3s", clock=clock)
    made = await world.spool(2)
    task = asyncio.ensure_future(deliverer.keep_delivering())
    await eventually(lambda: clock.waits)
    deliverer.finish()
    async with asyncio.timeout(5):
        await task
    assert intake.offered == [made]


async def test_a_sent_batch_is_not_kept_in_memory(world: World) -> None:
    def kept() -> list[Item]:
        items = [each for each in gc.get_objects() if isinstance(each, Item)]
        return [item for item in items if name_of(item) in made]

    deliverer = world.deliverer(intake := Intake(), linger="0s")
    made = await world.spool(50, first=900_000)  # no other test has these
    async with running(deliverer):
        await eventually(lambda: len(intake.taken) == 50)
        await eventually(lambda: not kept())


async def test_a_full_batch_does_not_wait(world: World, waits: list[float]) -> None:
    await world.spool(20)
    intake = Intake(limits=Limits(10, 10**9))
    await world.run(intake, linger="3s")
    assert waits == []


# --- the disk


# --- any verdict

verdicts = st.lists(
    st.sampled_from(["taken", "retry", "wait", "bad", "busy", "no", "refuse"]),
    max_size=25,
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(verdicts, st.randoms(use_true_random=False), st.integers(1, 4), st.integers(1, 8))
async def test_whatever_a_sink_answers_each_event_is_accepted_or_a_dead_letter(
    tmp_path_factory: pytest.TempPathFactory,
    event: Make,
    answers: list[str],
    luck: Any,
    concurrency: int,
    batch: int,
) -> None:
    script = iter(answers)

    def answer(items: Sequence[Item]) -> Verdict:
        found = next(script, "taken")
        some = tuple(index for index in range(len(items)) if luck.random() < 0.5)
        match found:
            case "busy":
                raise busy(sent=luck.random() < 0.5)
            case "no":
                raise Rejected("no", reason="status_400", status=400)
            case "refuse":
                raise Refused("403", status=403)
            case "retry":
                return Verdict(retry=some)
            case "wait":
                return Verdict(retry=some, retry_reason=busy())
            case "bad":
                return Verdict(rejected=tuple(Rejection(i, "mapping", "odd", 400) for i in some))
        return Verdict()

    async with opened(tmp_path_factory.mktemp("state"), event, FakeClock()) as world:
        made = await world.spool(20)
        intake = Intake(limits=Limits(batch, 10**9), always=answer)
        await world.run(intake, concurrency=concurrency)
        dead = [name for name, *_ in world.dead()]
        assert sorted([*intake.taken, *dead]) == sorted(made)
        assert await world.backlog() == 0
        assert len(intake.reduced) == len(set(intake.reduced)) == len(dead)
        (state,) = await world.store.sinks()
        assert state.position == 20 + len(dead)
