"""Polling for acknowledgements: how often, and what is resent when none comes."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import pytest
from structlog.testing import capture_logs
from tests.deliver.late_acknowledger import (
    ACK_TIMEOUT,
    TEN,
    LateAcknowledger,
    ScriptedChannel,
    is_up,
    nothing,
)
from tests.support.daemon import eventually
from tests.support.delivering import World, busy, running

from auditrelay.deliver.acknowledgement_poller import POLL_MAX
from auditrelay.deliver.probe import PROBE_FIRST
from auditrelay.errors import Refused, Retryable


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
    began = world.clock.monotonic()
    deliverer = world.deliverer(sink)
    with capture_logs() as logs:
        async with running(deliverer):
            await eventually(lambda: len(sink.channels) == 2)
            assert world.clock.monotonic() - began >= ACK_TIMEOUT.total_seconds()
            assert world.counted("events_delivered_total") == 0
            await eventually(lambda: world.counted("events_possible_duplicate_total") >= 40)
            assert not is_up(deliverer)
            assert "did not acknowledge" in str(deliverer.condition.last_error)
            # One event finds out whether the sink acknowledges again.
            before = len(sink.taken)
            sink.channels[-1].acknowledges = nothing
            for _ in range(200):
                await asyncio.sleep(0)
            assert len(sink.taken) - before <= 1
            await eventually(lambda: len(sink.channels) > 6)
            assert len(sink.taken) <= 40 + len(sink.channels)
            sink.channels[-1].acknowledges = set
            await eventually(lambda: world.counted("events_delivered_total") == 40)
    assert await world.backlog() == 0
    assert is_up(deliverer)
    assert set(sink.taken) == set(made)
    assert len(sink.taken) - 40 == world.counted("events_possible_duplicate_total")
    assert world.dead() == []
    missed = [line for line in logs if line["event"] == "acknowledgement_missed"]
    assert {line["reason"] for line in missed} == {"ack_timeout"}


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
