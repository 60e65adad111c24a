"""An event that alone is refused holds up no other: something in between may dislike its words."""

import asyncio
import math
from collections.abc import Callable, MutableMapping, Sequence
from functools import partial
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.support.daemon import eventually
from tests.support.delivering import Intake, World, name_of, running

from auditrelay.deliver import postponed
from auditrelay.deliver.probe import PROBE_MAX
from auditrelay.errors import Refused, first_of
from auditrelay.sinks import Item, Limits, Verdict


@pytest.fixture
def speed() -> float:
    """Waiting takes no time: these tests wait for hours."""
    return math.inf


def seconds(world: World) -> float:
    """Return for how long the clock of *world* has run."""
    return world.clock.monotonic() - 1000


def set_aside(logs: Sequence[MutableMapping[str, Any]]) -> set[str]:
    """Return the uids of the events that *logs* say were set aside."""
    return {line["uid"] for line in logs if line["event"] == "event_postponed"}


REFUSALS: dict[str, Callable[[], Refused]] = {
    "turned away": lambda: Refused("404", status=404, of_request=True),
    "by a firewall": lambda: Refused("403 by a web page", status=403, sent=True, of_request=True),
    "as a success": lambda: Refused("200 by a web page", status=200, sent=True, of_request=True),
}

refusals = pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)


class Firewall:
    """Stands before a sink, and refuses what has one of *names*; or all, if there are none."""

    def __init__(self, refusal: Callable[[], Refused], *names: str) -> None:
        self.refused = 0
        self.refused_before = 0
        """How many requests it had refused when the last one passed."""
        self._refusal = refusal
        self._names = frozenset(names)

    def __call__(self, items: Sequence[Item]) -> Verdict:
        if not self._names or not self._names.isdisjoint(map(name_of, items)):
            self.refused += 1
            raise self._refusal()
        self.refused_before = self.refused
        return Verdict()


@refusals
@pytest.mark.parametrize("speed", [3000])  # or hours pass while another batch is read
@pytest.mark.parametrize("number", [0, 17, 39])
@pytest.mark.parametrize("concurrency", [1, 4])
async def test_others_overtake_it_and_the_sink_is_held_once(
    world: World, refusal: Callable[[], Refused], number: int, concurrency: int
) -> None:
    made = await world.spool(40)
    firewall = Firewall(refusal, made[number])
    intake = Intake(Limits(20, 10**9), always=firewall)
    deliverer = world.deliverer(intake, concurrency=concurrency)
    with capture_logs() as logs:
        async with running(deliverer):
            await eventually(lambda: len(intake.taken) == 39)
            assert firewall.refused_before < 20
            assert deliverer.condition.up
            made += await world.spool(20, first=40)
            deliverer.wake.set()
            await eventually(lambda: len(intake.taken) == 59)
            await eventually(lambda: intake.offered.count([made[number]]) > 6)
            intake.always = lambda _: Verdict()
            await eventually(lambda: len(intake.taken) == 60)
    assert sorted(intake.taken) == sorted(made)
    assert world.dead() == []
    # Another batch in flight may release the sink once, before the refused one is found.
    assert [line["event"] for line in logs].count("sink_held") <= min(concurrency, 2)
    lines = [line for line in logs if line["event"] == "event_postponed"]
    assert {line["error"] for line in lines} == {str(refusal())}


@refusals
async def test_several_of_one_batch_are_each_found(
    world: World, refusal: Callable[[], Refused]
) -> None:
    made = await world.spool(100)
    firewall = Firewall(refusal, *made[5::20])
    intake = Intake(always=firewall)
    deliverer = world.deliverer(intake)
    async with running(deliverer):
        await eventually(lambda: len(intake.taken) == 95)
        assert firewall.refused_before < 40
        assert deliverer.condition.up
    assert set(made) - set(intake.taken) == set(made[5::20])


@pytest.mark.parametrize("concurrency", [1, 4])
@refusals
async def test_many_side_by_side_do_not_hold_up_the_others_one_by_one(
    world: World, refusal: Callable[[], Refused], concurrency: int
) -> None:
    made = await world.spool(400)
    bad = made[50:100]
    intake = Intake(Limits(50, 10**9), always=Firewall(refusal, *bad))
    async with running(world.deliverer(intake, concurrency=concurrency)):
        await eventually(lambda: len(intake.taken) == 350)
        assert len(intake.offered) < 250
    assert set(made) - set(intake.taken) == set(bad)


@pytest.mark.parametrize("speed", [10_000])
@refusals
async def test_those_that_are_known_hold_nothing_when_they_are_refused_again(
    world: World, refusal: Callable[[], Refused]
) -> None:
    bad = await world.spool(10)
    intake = Intake(always=Firewall(refusal, *bad))
    deliverer = world.deliverer(intake)
    with capture_logs() as logs:
        async with running(deliverer):
            await eventually(lambda: len(set_aside(logs)) == 10)
            made = await world.spool(1, first=10)
            deliverer.wake.set()
            await eventually(lambda: intake.taken == made)
            logs.clear()
            since = seconds(world)
            await eventually(lambda: seconds(world) > since + 3 * 3600)
    assert len(set_aside(logs)) == 10
    assert "sink_held" not in [line["event"] for line in logs]


@refusals
async def test_a_sink_that_refuses_all_but_its_check_is_held_and_drops_nothing(
    world: World, refusal: Callable[[], Refused]
) -> None:
    made = await world.spool(200)
    intake = Intake(Limits(10, 10**9), always=Firewall(refusal))
    deliverer = world.deliverer(intake, concurrency=4)
    with capture_logs() as logs:
        async with running(deliverer):
            await eventually(lambda: seconds(world) > 3600)
            assert deliverer.condition.held
            since = seconds(world)
            assert 0 < len(set_aside(logs)) <= 20 + 4 + since / PROBE_MAX
            assert len(intake.offered) < 500
            intake.always = lambda _: Verdict()
            await eventually(lambda: len(intake.taken) == 200)
            assert seconds(world) < since + 3700
            await eventually(lambda: not deliverer.condition.held)
    assert sorted(intake.taken) == sorted(made)
    assert world.dead() == []


async def test_what_may_be_stored_is_sent_no_more_than_once_an_hour_at_last(world: World) -> None:
    await world.spool(40)
    times: list[float] = []

    def judge(_: Sequence[Item]) -> Verdict:
        times.append(seconds(world) / 3600)
        raise Refused("200, and no word of the product", status=200, sent=True)

    intake = Intake(always=judge)
    async with running(world.deliverer(intake)):
        await eventually(lambda: seconds(world) > 20 * 3600)
    assert [len(each) for each in intake.offered] == [40, *[1] * (len(times) - 1)]
    assert sum(2 <= each < 20 for each in times) <= 18
    assert sum(each < 1 for each in times) > 5


async def test_in_a_run_that_has_to_end_the_refusal_is_raised(world: World) -> None:
    made = await world.spool(4)
    intake = Intake(always=Firewall(REFUSALS["turned away"], made[2]))
    with pytest.raises(ExceptionGroup) as caught:
        await world.run(intake, attempts=3)
    assert isinstance(first_of(caught.value), Refused)
    assert await world.backlog() == 4


@pytest.mark.parametrize("speed", [300])
@pytest.mark.parametrize("concurrency", [1, 8])
@refusals
async def test_a_burst_of_them_at_the_head_holds_up_what_comes_behind_for_seconds(
    world: World, refusal: Callable[[], Refused], concurrency: int
) -> None:
    made = await world.spool(100)
    intake = Intake(always=Firewall(refusal, *made[:15]))
    async with running(world.deliverer(intake, concurrency=concurrency)):
        await eventually(lambda: len(intake.taken) == 85)
        assert seconds(world) < 900  # two hours, if each delayed the next one


@pytest.mark.parametrize("concurrency", [4, 16])
@pytest.mark.parametrize("earlier", [False, True])
@refusals
async def test_batches_in_flight_that_are_refused_together_blame_no_event(
    world: World, refusal: Callable[[], Refused], concurrency: int, earlier: bool
) -> None:
    made = await world.spool(10)
    intake = Intake(Limits(10, 10**9))
    deliverer = world.deliverer(intake, concurrency=concurrency)
    with capture_logs() as logs:
        async with running(deliverer):
            if earlier:
                intake.script = [refusal(), refusal()]
            await eventually(lambda: len(intake.taken) == 10)
            logs.clear()
            counted = world.counted("events_possible_duplicate_total")
            both = asyncio.Event()
            waiting = 0

            async def judge(_: Sequence[Item]) -> Verdict:
                nonlocal waiting
                if both.is_set():
                    return Verdict()
                waiting += 1
                if waiting == concurrency:
                    both.set()
                await both.wait()
                raise refusal()

            intake.always = judge
            before = len(intake.offered)
            made += await world.spool(10 * concurrency, first=10)
            deliverer.wake.set()
            await eventually(lambda: len(intake.taken) == 10 + 10 * concurrency)
    assert sorted(intake.taken) == sorted(made)
    assert set_aside(logs) == set()
    sent_in_vain = sum(map(len, intake.offered[before:])) - 10 * concurrency
    more = world.counted("events_possible_duplicate_total") - counted
    assert more == (sent_in_vain if refusal().sent else 0)


@refusals
async def test_while_everything_is_refused_no_event_is_given_up(
    world: World, refusal: Callable[[], Refused]
) -> None:
    await world.spool(5)
    intake = Intake(always=Firewall(refusal))
    async with running(world.deliverer(intake)):
        await eventually(lambda: seconds(world) > 60 * 3600)
        assert await world.backlog() == 5
    assert world.dead() == []


async def test_however_many_are_known_they_hold_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postponed, "MOST_SET_ASIDE", 20)
    made = await world.spool(200)
    bad = made[::10]
    intake = Intake(always=Firewall(REFUSALS["by a firewall"], *bad))
    deliverer = world.deliverer(intake)
    async with running(deliverer):
        await eventually(lambda: len(intake.taken) == 180)
        for number in range(200, 205):
            times = intake.offered.count([bad[0]])
            await eventually(partial(_is_offered_more, intake, bad[0], times))
            [new] = await world.spool(1, first=number)
            deliverer.wake.set()
            await eventually(partial(intake.taken.__contains__, new))
            assert not deliverer.condition.held


def _is_offered_more(intake: Intake, name: str, times: int) -> bool:
    return intake.offered.count([name]) > times


@pytest.mark.parametrize("sent", [False, True])
@pytest.mark.parametrize("status", [401, 403])
async def test_what_the_sink_itself_refuses_holds_it_and_is_of_no_event(
    world: World, status: int, sent: bool
) -> None:
    """A target that is closed, say: the sink's check may succeed all the same."""
    made = await world.spool(40)
    firewall = Firewall(lambda: Refused("closed", status=status, sent=sent), made[7])
    intake = Intake(Limits(20, 10**9), always=firewall)
    deliverer = world.deliverer(intake)
    with capture_logs() as logs:
        async with running(deliverer):
            await eventually(lambda: seconds(world) > 3 * 3600)
            assert deliverer.condition.held
            assert set_aside(logs) == set()
            intake.always = lambda _: Verdict()
            await eventually(lambda: len(intake.taken) == 40)
    assert sorted(intake.taken) == sorted(made)


async def test_a_run_that_ends_leaves_the_sink_held_however_many_batches_are_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first refusal ends the run, and with it the writes that the others wait for."""
    await world.spool(4)
    save = world.store.save_condition
    slow = iter([True])

    async def save_condition(*words: Any) -> None:
        if next(slow, False):
            await asyncio.sleep(0.2)
        await save(*words)

    monkeypatch.setattr(world.store, "save_condition", save_condition)
    intake = Intake(Limits(1, 10**9), always=Firewall(REFUSALS["turned away"]))
    with pytest.RaisesGroup(Refused):
        await world.run(intake, attempts=1, concurrency=2)
    (sink,) = [each for each in await world.store.sinks() if each.name == "sink"]
    assert sink.condition.held
