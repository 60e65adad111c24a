"""A sink that acknowledges later: only that counts, and waiting for it holds nobody up."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest
from structlog.testing import capture_logs
from tests.support.daemon import eventually
from tests.support.delivering import Intake, World, busy

from auditrelay.deliver import acknowledgements
from auditrelay.deliver.acknowledgement_poller import POLL_MAX
from auditrelay.deliver.deliverer import Deliverer
from auditrelay.deliver.probe_lock import PROBE_FIRST
from auditrelay.errors import Refused, RelayError, Retryable
from auditrelay.sinks import AckId, Item, Limits, Rejection, Verdict

ACK_TIMEOUT = timedelta(minutes=5)
"""Of a channel whose time shall run out. Others have all day: time passes fast here."""

TEN = Limits(10, 10**9, 10**9)


@dataclass(eq=False)
class Line:
    """A channel: what it was *asked*, and what it tells."""

    tell: Callable[[Sequence[int]], set[int]] = set
    ack_timeout: timedelta = timedelta(days=1)
    lost: bool = False
    retired: bool = False
    asked: list[list[int]] = field(default_factory=list)
    script: list[RelayError] = field(default_factory=list)

    async def acknowledged(self, numbers: Sequence[int]) -> set[int]:
        assert numbers
        self.asked.append(list(numbers))
        await asyncio.sleep(0)
        if self.script:
            raise self.script.pop(0)
        return self.tell(numbers)

    def retire(self) -> None:
        self.retired = True


@dataclass
class Later(Intake):
    """A sink that takes everything and acknowledges on the last of its *lines*."""

    lines: list[Line] = field(default_factory=lambda: [Line()])
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    async def send(self, batch: Sequence[Item]) -> Verdict:
        verdict = await super().send(batch)
        if self.lines[-1].retired:
            self.lines.append(replace(self.lines[-1], retired=False, asked=[], script=[]))
        if verdict != Verdict():
            return verdict
        return Verdict(ack_id=AckId(self.lines[-1], next(self.numbers)))

    @property
    def questions(self) -> list[list[int]]:
        return [numbers for line in self.lines for numbers in line.asked]


def is_up(deliverer: Deliverer) -> bool:
    return deliverer.condition.up


def nothing(_: Sequence[int]) -> set[int]:
    return set()


@contextlib.asynccontextmanager
async def running(deliverer: Deliverer) -> AsyncIterator[None]:
    """Deliver for the length of a ``with`` block, then die as by kill -9."""
    task = asyncio.ensure_future(deliverer.keep_delivering())
    try:
        yield
    finally:
        if task.done():
            task.result()
        task.cancel()
        await asyncio.wait([task])


async def test_the_position_moves_on_the_acknowledgement_and_not_before(world: World) -> None:
    await world.spool(25)
    sink = Later(TEN, lines=[Line(nothing)])
    deliverer = world.deliverer(sink)
    async with running(deliverer):
        await eventually(lambda: len(sink.questions) > 3)
        assert await world.backlog() == 25
        assert world.counted("events_delivered_total") == 0
        assert deliverer.condition.last_delivered_at is None
        sink.lines[0].tell = lambda _: {1}
        await eventually(lambda: world.counted("events_delivered_total") == 10)
        (state,) = await world.store.sinks()
        assert (state.position, state.backlog_events) == (0, 15)
        sink.lines[0].tell = set
        await eventually(lambda: world.counted("events_delivered_total") == 25)
    assert await world.backlog() == 0
    assert world.counted("events_possible_duplicate_total") == 0


async def test_waiting_for_acknowledgements_takes_no_place_in_flight(world: World) -> None:
    made = await world.spool(300)
    sink = Later(TEN, lines=[Line(nothing)])
    async with running(world.deliverer(sink, concurrency=1)):
        await eventually(lambda: len(sink.taken) == 300)
        await eventually(lambda: sink.questions and len(sink.questions[-1]) == 30)
        assert len(sink.lines) == 1, "all were asked about in one question"
        assert sink.taken == made


async def test_a_sink_is_asked_only_while_something_waits_and_ever_more_slowly(
    world: World, waits: list[float]
) -> None:
    await world.spool(5)
    sink = Later(lines=[Line(nothing)])
    async with running(world.deliverer(sink)):
        await eventually(lambda: len(sink.questions) > 6)
        assert waits[:6] == [1, 2, 4, 8, POLL_MAX, POLL_MAX]
        sink.lines[0].tell = set
        await eventually(lambda: world.counted("events_delivered_total") == 5)
        asked, waited = len(sink.questions), len(waits)
        for _ in range(500):
            await asyncio.sleep(0)
        assert (len(sink.questions), len(waits)) == (asked, waited), "it wakes up for nothing"


async def test_what_is_not_acknowledged_in_time_is_sent_again_and_counted(
    world: World,
) -> None:
    made = await world.spool(40)
    sink = Later(TEN, lines=[Line(nothing, ACK_TIMEOUT)])
    began = world.monotonic()
    deliverer = world.deliverer(sink)
    with capture_logs() as logs:
        async with running(deliverer):
            await eventually(lambda: len(sink.lines) == 2)
            assert world.monotonic() - began >= ACK_TIMEOUT.total_seconds()
            assert world.counted("events_delivered_total") == 0
            await eventually(lambda: world.counted("events_possible_duplicate_total") >= 40)
            assert not is_up(deliverer)
            assert "did not acknowledge" in str(deliverer.condition.last_error)
            # One batch shall show whether anything is acknowledged again.
            before = len(sink.taken)
            sink.lines[-1].tell = nothing
            for _ in range(200):
                await asyncio.sleep(0)
            assert len(sink.taken) - before <= 10
            sink.lines[-1].tell = set
            await eventually(lambda: world.counted("events_delivered_total") == 40)
    assert await world.backlog() == 0
    assert is_up(deliverer)
    assert set(sink.taken) == set(made)
    assert len(sink.taken) - 40 == world.counted("events_possible_duplicate_total")
    assert world.dead() == []
    missed = [line for line in logs if line["event"] == "acknowledgement_missed"]
    assert {line["reason"] for line in missed} == {"ack_timeout"}


async def test_a_sink_that_never_acknowledges_gets_a_batch_in_5_minutes_and_no_more(
    world: World,
) -> None:
    await world.spool(200)
    sink = Later(TEN, lines=[Line(nothing, ACK_TIMEOUT)])
    began = world.monotonic()
    async with running(world.deliverer(sink, concurrency=4)):
        await eventually(lambda: len(sink.taken) >= 250)
        periods = (world.monotonic() - began) / ACK_TIMEOUT.total_seconds()
        assert len(sink.taken) <= 200 + 10 * periods
    assert world.counted("events_delivered_total") == 0
    assert await world.backlog() == 200


async def test_a_lost_channel_is_not_waited_for(world: World, waits: list[float]) -> None:
    made = await world.spool(30)
    sink = Later(TEN, lines=[Line(nothing)])
    deliverer = world.deliverer(sink)
    async with running(deliverer):
        await eventually(lambda: len(sink.taken) == 30)
        sink.lines[0].lost = True
        sink.lines.append(Line())
        await eventually(lambda: world.counted("events_delivered_total") == 30)
    assert sum(waits) < ACK_TIMEOUT.total_seconds()
    assert sink.taken == made + made
    assert world.counted("events_possible_duplicate_total") == 30
    assert is_up(deliverer)


async def test_what_waits_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.spool(500)
    monkeypatch.setattr(acknowledgements, "MAX_BYTES", 20_000)
    sink = Later(TEN, lines=[Line(nothing)])
    deliverer = world.deliverer(sink, concurrency=3)
    async with running(deliverer):
        await eventually(lambda: len(sink.questions) > 5)
        size = deliverer._pending._size
        assert 20_000 <= size < 20_000 + 3 * 1100
        assert len(sink.taken) == 10 * len(sink.questions[-1]) < 250
        sink.lines[0].tell = set
        await eventually(lambda: world.counted("events_delivered_total") == 500)
    assert deliverer._pending._size == 0


async def test_while_the_question_is_refused_nothing_is_sent(
    world: World, waits: list[float]
) -> None:
    first = await world.spool(10)
    sink = Later(TEN, lines=[Line(nothing, ACK_TIMEOUT)])
    sink.lines[0].script = [Refused("400: no ack", status=400), *[busy() for _ in range(3)]]
    sink.lines[0].script += [Refused("400: no ack", status=400) for _ in range(4)]
    deliverer = world.deliverer(sink, concurrency=2)
    with capture_logs() as logs:
        async with running(deliverer):
            await eventually(lambda: deliverer.condition.held)
            more = await world.spool(20, first=100)
            deliverer.wake.set()
            await eventually(lambda: len(sink.lines[0].script) == 1)
            assert sink.taken == first
            assert deliverer.condition.last_error == "400: no ack"
            sink.lines[0].tell = set
            await eventually(lambda: world.counted("events_delivered_total") == 30)
    assert sorted(sink.taken) == sorted(first + more)
    assert world.counted("events_possible_duplicate_total") == 0
    assert sum(waits) > ACK_TIMEOUT.total_seconds(), (
        "its time is over, and yet it was not sent again"
    )
    assert waits[1] >= PROBE_FIRST
    assert [line["event"] for line in logs if line["event"].startswith("sink_")] == [
        "sink_held",
        "sink_released",
    ]


async def test_a_question_that_cannot_be_asked_is_asked_again(world: World) -> None:
    await world.spool(10)
    sink = Later(TEN)
    sink.lines[0].script = [busy(sent=True) for _ in range(5)]
    await world.run(sink)
    assert await world.backlog() == 0
    assert world.counted("events_possible_duplicate_total") == 0


async def test_a_stop_asks_once_more_and_hands_the_rest_back(world: World) -> None:
    made = await world.spool(30)
    sink = Later(TEN, lines=[Line(nothing)])
    deliverer = world.deliverer(sink)
    with capture_logs() as logs:
        async with running(deliverer):
            await eventually(lambda: len(sink.taken) == 30)
            sink.lines[0].tell = lambda _: {0, 2}
            deliverer.stop()
            async with asyncio.timeout(5):
                await deliverer.drain()
    assert await world.backlog() == 10
    assert world.counted("events_possible_duplicate_total") == 10
    (line,) = [line for line in logs if line["event"] == "acknowledgement_missed"]
    assert (line["events"], line["reason"]) == (10, "stop")
    await world.run(second := Later(TEN))
    assert second.taken == made[10:20]


async def test_a_stop_does_not_wait_for_a_sink_that_does_not_answer(world: World) -> None:
    await world.spool(10)
    sink = Later(TEN, lines=[Line(nothing)])
    deliverer = world.deliverer(sink)
    async with running(deliverer):
        await eventually(lambda: len(sink.taken) == 10)
        sink.lines[0].script = [Refused("403", status=403) for _ in range(100)]
        deliverer.stop()
        async with asyncio.timeout(5):
            await deliverer.drain()
    assert await world.backlog() == 10


async def test_dying_between_taking_and_acknowledging_sends_again(world: World) -> None:
    made = await world.spool(30)
    sink = Later(TEN, lines=[Line(lambda numbers: {1} & set(numbers))])
    async with running(world.deliverer(sink)):
        await eventually(lambda: world.counted("events_delivered_total") == 10)
    await world.run(second := Later(TEN))
    assert second.taken == made[:10] + made[20:]
    assert await world.backlog() == 0


async def test_a_run_that_shall_end_waits_for_acknowledgements_and_fails_without(
    world: World,
) -> None:
    await world.spool(30)
    slow = iter(range(4))
    sink = Later(TEN, lines=[Line(lambda n: set() if next(slow, None) is not None else set(n))])
    await world.run(sink, attempts=3)
    assert await world.backlog() == 0
    await world.spool(10, first=100)
    for trouble, script in ((Retryable, []), (Refused, [Refused("400", status=400)])):
        line = Line(nothing, ACK_TIMEOUT, script=[*script])
        with pytest.raises(ExceptionGroup) as group:
            await world.run(Later(TEN, lines=[line]), attempts=3)
        assert group.group_contains(trouble)
        assert await world.backlog() == 10


async def test_a_bad_event_is_a_dead_letter_and_what_comes_with_it_still_has_to_be_acknowledged(
    world: World,
) -> None:
    made = await world.spool(10)
    sink = Later(TEN, lines=[Line(nothing)])
    sink.script = [
        Verdict(
            rejected=(Rejection(4, "event_blank", "no", 400),),
            retry=(5, 6, 7, 8, 9, 0, 1, 2, 3),
            possibly_stored=4,
        )
    ]
    async with running(world.deliverer(sink)):
        await eventually(lambda: sink.questions)
        assert [name for name, *_ in world.dead()] == [made[4]]
        assert await world.backlog() == 9
        sink.lines[0].tell = set
        await eventually(lambda: world.counted("events_delivered_total") == 9)
    assert sink.offered == [made, made[5:] + made[:4]]
    assert world.counted("events_possible_duplicate_total") == 4
    assert await world.backlog() == 0


async def test_a_late_answer_does_not_settle_what_was_given_up(world: World) -> None:
    made = await world.spool(10)
    asked = asyncio.Event()
    answer = asyncio.Event()

    class Slow(Line):
        async def acknowledged(self, numbers: Sequence[int]) -> set[int]:
            self.asked.append(list(numbers))
            asked.set()
            await answer.wait()
            raise Retryable("timeout", reason="timeout", sent=True)

    sink = Later(TEN, lines=[Slow(ack_timeout=timedelta(0))])
    async with running(world.deliverer(sink)):
        await asked.wait()
        sink.lines.append(Line())
        answer.set()
        await eventually(lambda: world.counted("events_delivered_total") == 10)
    assert sink.taken == made * 2
    assert world.counted("events_possible_duplicate_total") == 10
