"""A sink that acknowledges later: only that is a delivery, and sending does not wait for it."""

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
from auditrelay.deliver.probe import PROBE_FIRST
from auditrelay.errors import Refused, RelayError, Retryable
from auditrelay.sinks import AckId, Item, Limits, Rejection, Verdict

ACK_TIMEOUT = timedelta(minutes=5)
"""For a channel that shall time out. Others have a day: time passes fast in these tests."""

TEN = Limits(10, 10**9)


@dataclass(eq=False)
class ScriptedChannel:
    """A channel: which numbers were *polled*, and which of them it acknowledges."""

    acknowledges: Callable[[Sequence[int]], set[int]] = set
    ack_timeout: timedelta = timedelta(days=1)
    lost: bool = False
    retired: bool = False
    polled: list[list[int]] = field(default_factory=list)
    script: list[RelayError] = field(default_factory=list)

    async def acknowledged(self, numbers: Sequence[int]) -> set[int]:
        assert numbers
        self.polled.append(list(numbers))
        await asyncio.sleep(0)
        if self.script:
            raise self.script.pop(0)
        return self.acknowledges(numbers)

    def retire(self) -> None:
        self.retired = True


@dataclass
class LateAcknowledger(Intake):
    """A sink that accepts everything and acknowledges on the last of its *channels*."""

    channels: list[ScriptedChannel] = field(default_factory=lambda: [ScriptedChannel()])
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    async def send(self, batch: Sequence[Item]) -> Verdict:
        verdict = await super().send(batch)
        if self.channels[-1].retired:
            self.channels.append(replace(self.channels[-1], retired=False, polled=[], script=[]))
        if verdict != Verdict():
            return verdict
        return Verdict(ack_id=AckId(self.channels[-1], next(self.numbers)))

    @property
    def polls(self) -> list[list[int]]:
        return [numbers for channel in self.channels for numbers in channel.polled]


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
    sink = LateAcknowledger(TEN, channels=[ScriptedChannel(nothing)])
    deliverer = world.deliverer(sink)
    async with running(deliverer):
        await eventually(lambda: len(sink.polls) > 3)
        assert await world.backlog() == 25
        assert world.counted("events_delivered_total") == 0
        assert deliverer.condition.last_delivered_at is None
        sink.channels[0].acknowledges = lambda _: {1}
        await eventually(lambda: world.counted("events_delivered_total") == 10)
        (state,) = await world.store.sinks()
        assert (state.position, state.backlog_events) == (0, 15)
        sink.channels[0].acknowledges = set
        await eventually(lambda: world.counted("events_delivered_total") == 25)
    assert await world.backlog() == 0
    assert world.counted("events_possible_duplicate_total") == 0


async def test_pending_acknowledgements_take_no_slot_in_flight(world: World) -> None:
    made = await world.spool(300)
    sink = LateAcknowledger(TEN, channels=[ScriptedChannel(nothing)])
    async with running(world.deliverer(sink, concurrency=1)):
        await eventually(lambda: len(sink.taken) == 300)
        await eventually(lambda: sink.polls and len(sink.polls[-1]) == 30)
        assert len(sink.channels) == 1, "all were polled in one request"
        assert sink.taken == made


async def test_a_sink_is_polled_only_while_a_batch_is_pending_and_ever_less_often(
    world: World, waits: list[float]
) -> None:
    await world.spool(5)
    sink = LateAcknowledger(channels=[ScriptedChannel(nothing)])
    async with running(world.deliverer(sink)):
        await eventually(lambda: len(sink.polls) > 6)
        assert waits[:6] == [1, 2, 4, 8, POLL_MAX, POLL_MAX]
        sink.channels[0].acknowledges = set
        await eventually(lambda: world.counted("events_delivered_total") == 5)
        asked, waited = len(sink.polls), len(waits)
        for _ in range(500):
            await asyncio.sleep(0)
        assert (len(sink.polls), len(waits)) == (asked, waited), (
            "it polls although nothing is pending"
        )


async def test_events_not_acknowledged_in_time_are_resent_and_counted(
    world: World,
) -> None:
    made = await world.spool(40)
    sink = LateAcknowledger(TEN, channels=[ScriptedChannel(nothing, ACK_TIMEOUT)])
    began = world.monotonic()
    deliverer = world.deliverer(sink)
    with capture_logs() as logs:
        async with running(deliverer):
            await eventually(lambda: len(sink.channels) == 2)
            assert world.monotonic() - began >= ACK_TIMEOUT.total_seconds()
            assert world.counted("events_delivered_total") == 0
            await eventually(lambda: world.counted("events_possible_duplicate_total") >= 40)
            assert not is_up(deliverer)
            assert "did not acknowledge" in str(deliverer.condition.last_error)
            # One batch finds out whether the sink acknowledges again.
            before = len(sink.taken)
            sink.channels[-1].acknowledges = nothing
            for _ in range(200):
                await asyncio.sleep(0)
            assert len(sink.taken) - before <= 10
            sink.channels[-1].acknowledges = set
            await eventually(lambda: world.counted("events_delivered_total") == 40)
    assert await world.backlog() == 0
    assert is_up(deliverer)
    assert set(sink.taken) == set(made)
    assert len(sink.taken) - 40 == world.counted("events_possible_duplicate_total")
    assert world.dead() == []
    missed = [line for line in logs if line["event"] == "acknowledgement_missed"]
    assert {line["reason"] for line in missed} == {"ack_timeout"}


async def test_a_sink_that_never_acknowledges_gets_one_batch_every_5_minutes(
    world: World,
) -> None:
    await world.spool(200)
    sink = LateAcknowledger(TEN, channels=[ScriptedChannel(nothing, ACK_TIMEOUT)])
    began = world.monotonic()
    async with running(world.deliverer(sink, concurrency=4)):
        await eventually(lambda: len(sink.taken) >= 250)
        periods = (world.monotonic() - began) / ACK_TIMEOUT.total_seconds()
        assert len(sink.taken) <= 200 + 10 * periods
    assert world.counted("events_delivered_total") == 0
    assert await world.backlog() == 200


async def test_a_lost_channel_is_not_waited_for(world: World, waits: list[float]) -> None:
    made = await world.spool(30)
    sink = LateAcknowledger(TEN, channels=[ScriptedChannel(nothing)])
    deliverer = world.deliverer(sink)
    async with running(deliverer):
        await eventually(lambda: len(sink.taken) == 30)
        sink.channels[0].lost = True
        sink.channels.append(ScriptedChannel())
        await eventually(lambda: world.counted("events_delivered_total") == 30)
    assert sum(waits) < ACK_TIMEOUT.total_seconds()
    assert sink.taken == made + made
    assert world.counted("events_possible_duplicate_total") == 30
    assert is_up(deliverer)


async def test_the_memory_of_pending_batches_is_bounded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.spool(500)
    monkeypatch.setattr(acknowledgements, "MAX_BYTES", 20_000)
    sink = LateAcknowledger(TEN, channels=[ScriptedChannel(nothing)])
    deliverer = world.deliverer(sink, concurrency=3)
    async with running(deliverer):
        await eventually(lambda: len(sink.polls) > 5)
        size = deliverer._pending._size
        assert 20_000 <= size < 20_000 + 3 * 1100
        assert len(sink.taken) == 10 * len(sink.polls[-1]) < 250
        sink.channels[0].acknowledges = set
        await eventually(lambda: world.counted("events_delivered_total") == 500)
    assert deliverer._pending._size == 0


async def test_nothing_is_sent_while_the_poll_is_refused(world: World, waits: list[float]) -> None:
    first = await world.spool(10)
    sink = LateAcknowledger(TEN, channels=[ScriptedChannel(nothing, ACK_TIMEOUT)])
    sink.channels[0].script = [Refused("400: no ack", status=400), *[busy() for _ in range(3)]]
    sink.channels[0].script += [Refused("400: no ack", status=400) for _ in range(4)]
    deliverer = world.deliverer(sink, concurrency=2)
    with capture_logs() as logs:
        async with running(deliverer):
            await eventually(lambda: deliverer.condition.held)
            more = await world.spool(20, first=100)
            deliverer.wake.set()
            await eventually(lambda: len(sink.channels[0].script) == 1)
            assert sink.taken == first
            assert deliverer.condition.last_error == "400: no ack"
            sink.channels[0].acknowledges = set
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


async def test_a_poll_that_fails_is_repeated(world: World) -> None:
    await world.spool(10)
    sink = LateAcknowledger(TEN)
    sink.channels[0].script = [busy(sent=True) for _ in range(5)]
    await world.run(sink)
    assert await world.backlog() == 0
    assert world.counted("events_possible_duplicate_total") == 0


async def test_a_stop_polls_once_more_and_hands_the_rest_back(world: World) -> None:
    made = await world.spool(30)
    sink = LateAcknowledger(TEN, channels=[ScriptedChannel(nothing)])
    deliverer = world.deliverer(sink)
    with capture_logs() as logs:
        async with running(deliverer):
            await eventually(lambda: len(sink.taken) == 30)
            sink.channels[0].acknowledges = lambda _: {0, 2}
            deliverer.stop()
            async with asyncio.timeout(5):
                await deliverer.drain()
    assert await world.backlog() == 10
    assert world.counted("events_possible_duplicate_total") == 10
    (line,) = [line for line in logs if line["event"] == "acknowledgement_missed"]
    assert (line["events"], line["reason"]) == (10, "stop")
    await world.run(second := LateAcknowledger(TEN))
    assert second.taken == made[10:20]


async def test_a_stop_does_not_wait_for_a_sink_that_does_not_answer(world: World) -> None:
    await world.spool(10)
    sink = LateAcknowledger(TEN, channels=[ScriptedChannel(nothing)])
    deliverer = world.deliverer(sink)
    async with running(deliverer):
        await eventually(lambda: len(sink.taken) == 10)
        sink.channels[0].script = [Refused("403", status=403) for _ in range(100)]
        deliverer.stop()
        async with asyncio.timeout(5):
            await deliverer.drain()
    assert await world.backlog() == 10


async def test_a_crash_before_the_acknowledgement_resends(world: World) -> None:
    made = await world.spool(30)
    sink = LateAcknowledger(TEN, channels=[ScriptedChannel(lambda numbers: {1} & set(numbers))])
    async with running(world.deliverer(sink)):
        await eventually(lambda: world.counted("events_delivered_total") == 10)
    await world.run(second := LateAcknowledger(TEN))
    assert second.taken == made[:10] + made[20:]
    assert await world.backlog() == 0


async def test_a_run_that_has_to_end_waits_for_acknowledgements_and_fails_without(
    world: World,
) -> None:
    await world.spool(30)
    slow = iter(range(4))
    sink = LateAcknowledger(
        TEN, channels=[ScriptedChannel(lambda n: set() if next(slow, None) is not None else set(n))]
    )
    await world.run(sink, attempts=3)
    assert await world.backlog() == 0
    await world.spool(10, first=100)
    for failure, script in ((Retryable, []), (Refused, [Refused("400", status=400)])):
        channel = ScriptedChannel(nothing, ACK_TIMEOUT, script=[*script])
        with pytest.raises(ExceptionGroup) as group:
            await world.run(LateAcknowledger(TEN, channels=[channel]), attempts=3)
        assert group.group_contains(failure)
        assert await world.backlog() == 10


async def test_a_bad_event_is_a_dead_letter_and_the_rest_of_its_batch_still_has_to_be_acknowledged(
    world: World,
) -> None:
    made = await world.spool(10)
    sink = LateAcknowledger(TEN, channels=[ScriptedChannel(nothing)])
    sink.script = [
        Verdict(
            rejected=(Rejection(4, "event_blank", "no", 400),),
            retry=(5, 6, 7, 8, 9, 0, 1, 2, 3),
            possibly_stored=4,
        )
    ]
    async with running(world.deliverer(sink)):
        await eventually(lambda: sink.polls)
        assert [name for name, *_ in world.dead()] == [made[4]]
        assert await world.backlog() == 9
        sink.channels[0].acknowledges = set
        await eventually(lambda: world.counted("events_delivered_total") == 9)
    assert sink.offered == [made, made[5:] + made[:4]]
    assert world.counted("events_possible_duplicate_total") == 4
    assert await world.backlog() == 0


async def test_a_late_response_does_not_settle_a_batch_that_was_given_up(world: World) -> None:
    made = await world.spool(10)
    asked = asyncio.Event()
    answer = asyncio.Event()

    class Slow(ScriptedChannel):
        async def acknowledged(self, numbers: Sequence[int]) -> set[int]:
            self.polled.append(list(numbers))
            asked.set()
            await answer.wait()
            raise Retryable("timeout", reason="timeout", sent=True)

    sink = LateAcknowledger(TEN, channels=[Slow(ack_timeout=timedelta(0))])
    async with running(world.deliverer(sink)):
        await asked.wait()
        sink.channels.append(ScriptedChannel())
        answer.set()
        await eventually(lambda: world.counted("events_delivered_total") == 10)
    assert sink.taken == made * 2
    assert world.counted("events_possible_duplicate_total") == 10
