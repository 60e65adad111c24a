"""A sink that acknowledges later: only that is a delivery, and sending does not wait for it."""

import pytest
from tests.deliver.late_acknowledger import (
    ACK_TIMEOUT,
    TEN,
    LateAcknowledger,
    ScriptedChannel,
    nothing,
)
from tests.support.daemon import eventually
from tests.support.delivering import World, running

from auditrelay.deliver import acknowledgements
from auditrelay.sinks import Counts, Item, Rejection, Verdict


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


@pytest.mark.slow
async def test_a_sink_that_never_acknowledges_gets_one_batch_every_5_minutes(
    world: World,
) -> None:
    await world.spool(200)
    sink = LateAcknowledger(TEN, channels=[ScriptedChannel(nothing, ACK_TIMEOUT)])
    began = world.clock.monotonic()
    async with running(world.deliverer(sink, concurrency=4)):
        await eventually(lambda: len(sink.taken) >= 250)
        periods = (world.clock.monotonic() - began) / ACK_TIMEOUT.total_seconds()
        assert len(sink.taken) <= 200 + 10 * periods
    assert world.counted("events_delivered_total") == 0
    assert await world.backlog() == 200


async def test_the_memory_of_pending_batches_is_bounded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.spool(500)
    monkeypatch.setattr(acknowledgements, "MAX_BYTES", 20_000)
    sink = LateAcknowledger(TEN, channels=[ScriptedChannel(nothing)])
    deliverer = world.deliverer(sink, concurrency=3)
    async with running(deliverer):
        await eventually(lambda: deliverer._pending.full)
        polls = len(sink.polls)
        await eventually(lambda: len(sink.polls) > polls + 5)
        size = deliverer._pending._size
        assert 20_000 <= size < 20_000 + 3 * 1100
        assert len(sink.taken) == 10 * len(sink.polls[-1]) < 250
        sink.channels[0].acknowledges = set
        await eventually(lambda: world.counted("events_delivered_total") == 500)
    assert deliverer._pending._size == 0


async def test_a_crash_before_the_acknowledgement_resends(world: World) -> None:
    made = await world.spool(30)
    sink = LateAcknowledger(TEN, channels=[ScriptedChannel(lambda numbers: {1} & set(numbers))])
    async with running(world.deliverer(sink)):
        await eventually(lambda: world.counted("events_delivered_total") == 10)
    await world.run(second := LateAcknowledger(TEN))
    assert second.taken == made[:10] + made[20:]
    assert await world.backlog() == 0


async def test_a_bad_event_is_a_dead_letter_and_the_rest_of_its_batch_still_has_to_be_acknowledged(
    world: World,
) -> None:
    made = await world.spool(10)
    sink = LateAcknowledger(TEN, channels=[ScriptedChannel(nothing)])
    sink.script = [
        Verdict(
            rejected=(Rejection(4, "event_blank", "no", 400),),
            retry=(5, 6, 7, 8, 9, 0, 1, 2, 3),
            counts=Counts(possibly_stored=4),
        )
    ]
    async with running(world.deliverer(sink)):
        await eventually(lambda: sink.polls)
        assert [name for name, *_ in world.dead()] == [made[4]]
        assert await world.backlog() == 9 + 1, "and a reduced copy of it"
        sink.channels[0].acknowledges = set
        await eventually(lambda: world.counted("events_delivered_total") == 9 + 1)
    assert sink.offered == [made, made[5:] + made[:4]]
    assert len(sink.reduced) == 1
    assert world.counted("events_possible_duplicate_total") == 4
    assert await world.backlog() == 0


def test_the_times_of_a_sent_batch_are_kept_by_source() -> None:
    sources = ["voice", "voice", "calls", "voice"]
    items = [Item(at, "uid", name, at, b"") for at, name in enumerate(sources)]
    sent = acknowledgements.SentBatch.of(items, 0.0)
    assert {name: list(times) for name, times in sent.occurred.items()} == {
        "voice": [0, 1, 3],
        "calls": [2],
    }
    assert sent.ranges == [(0, 4)]
