"""Batches: what is read from the spool, in which order, and where a batch is cut."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any
from unittest import mock

import msgspec
import pytest
from tests.support.clock import FakeClock
from tests.support.delivering import Intake, Make, World, busy

from auditrelay.deliver import batches as batches_module
from auditrelay.deliver.batches import Batches, ranges_of
from auditrelay.events import AuditEvent
from auditrelay.events.page import Page
from auditrelay.sinks import Item, Limits, Rendered, Verdict
from auditrelay.window import micros


async def test_a_batch_is_as_large_as_the_limits_allow_and_no_larger(
    world: World, event: Make
) -> None:
    made = await world.spool(30)
    size = len(bytes(event(10).raw)) + 1
    intake = Intake(limits=Limits(100, 5 * size))
    await world.run(intake)
    assert intake.taken == made
    # numbers below ten are a byte shorter; the rest fits exactly five times
    assert {len(batch) for batch in intake.offered[2:-1]} == {5}


async def test_an_event_larger_than_a_batch_goes_alone(world: World) -> None:
    made = await world.spool(3)
    await world.run(intake := Intake(limits=Limits(100, 5)))
    assert intake.offered == [[name] for name in made]


# --- reading the spool


TEN = Limits(10, 10**9)


def batches_of(world: World, limits: Limits = TEN) -> Batches:
    return Batches("sink", Intake(limits=limits), world.store)


async def spool_pages(world: World, count: int) -> None:
    """Spool *count* pages of ten events: a page is read as a whole."""
    for page in range(count):
        await world.spool(10, first=10 * page)


def positions(batch: Sequence[Item]) -> list[int]:
    return [item.position for item in batch]


async def test_a_read_ends_with_a_full_batch_or_with_the_spool(world: World) -> None:
    await world.spool(15)
    batches = batches_of(world)
    assert (await batches.fill(), batches.ready) == (True, True)
    assert positions(batches.cut(0)) == [*range(10)]
    assert (await batches.fill(), batches.ready) == (False, True)
    assert positions(batches.cut(0)) == [*range(10, 15)]
    assert (await batches.fill(), batches.ready) == (False, False)
    assert batches.cut(0) == []


async def test_a_spool_that_had_nothing_more_is_read_again_only_when_it_has_changed(
    world: World,
) -> None:
    await world.spool(1)
    batches = batches_of(world)
    with mock.patch.object(world.store, "read", wraps=world.store.read) as read:
        for _ in range(3):
            assert not await batches.fill()
        assert positions(batches.cut(0)) == [0]
        await world.spool(1, first=1)
        assert (await batches.fill(), batches.ready) == (False, False)
        assert read.await_count == 1, "one that finds it, and that there is nothing more"
        batches.spool_changed()
        assert (await batches.fill(), batches.ready) == (False, True)


async def test_no_more_bytes_are_read_ahead_than_allowed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await spool_pages(world, 2)
    batches = batches_of(world)
    for _ in range(2):
        await batches.fill()
        batches.cut(0)
    monkeypatch.setattr(batches_module, "READ_AHEAD_BYTES", 1)
    batches.resend([(2, 4), (12, 14)])
    for expected in ([2, 3], [12, 13]):
        assert await batches.fill(), "what was cut no longer counts"
        assert positions(batches.cut(0)) == expected
    assert not await batches.fill()


async def test_a_few_events_of_a_page_count_as_few(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await spool_pages(world, 1)
    batches = batches_of(world)
    await batches.fill()
    [whole] = await world.store.reread("sink", (0, 10), 10)
    batches.cut(0)
    monkeypatch.setattr(batches_module, "READ_AHEAD_BYTES", whole.size)
    batches.resend((place, place + 1) for place in range(0, 10, 2))
    assert not await batches.fill()
    assert positions(batches.cut(0)) == [*range(0, 10, 2)], "one batch"


async def test_events_of_other_sinks_are_skipped(world: World) -> None:
    await world.spool(3)
    await world.spool(4, first=100, source="calls")
    await world.spool(2, first=200)
    batches = batches_of(world)
    assert not await batches.fill()
    assert positions(batches.cut(0)) == [0, 1, 2, 7, 8]


async def test_what_is_resent_comes_before_new_events(world: World) -> None:
    await spool_pages(world, 3)
    batches = batches_of(world)
    await batches.fill()
    batches.cut(0)
    batches.resend([(2, 5), (7, 8)])
    assert await batches.fill()
    assert positions(batches.cut(0)) == [2, 3, 4, 7, *range(10, 16)]


async def test_a_range_that_exceeds_a_batch_is_resent_in_several(world: World) -> None:
    await spool_pages(world, 4)
    batches = batches_of(world)
    for _ in range(3):
        await batches.fill()
        batches.cut(0)
    batches.resend([(0, 25), (27, 28)])
    resent = []
    for _ in range(3):
        await batches.fill()
        resent.append(positions(batches.cut(0)))
    assert resent == [[*range(10)], [*range(10, 20)], [*range(20, 25), 27, *range(30, 34)]]


async def test_what_is_done_by_now_is_not_resent(world: World) -> None:
    await world.spool(20)
    batches = batches_of(world)
    await batches.fill()
    batches.cut(0)
    await world.store.settle("sink", [(0, 10)])
    batches.resend([(0, 10)])
    await batches.fill()
    assert positions(batches.cut(0)) == [*range(10, 20)]
    await world.store.settle("sink", [(10, 20)])
    batches.resend([(10, 20)])
    async with asyncio.timeout(5):
        assert not await batches.fill(), "the spool has nothing more"


async def test_what_is_postponed_comes_after_everything_that_waits(world: World) -> None:
    await world.spool(15)
    batches = batches_of(world)
    await batches.fill()
    first = batches.cut(0)
    batches.postpone(first[3:5])
    batches.postpone(first[8:9])
    assert not await batches.fill(), "the postponed ones do not fill it"
    assert positions(batches.cut(0)) == [*range(10, 15)], "they are not mixed with others"
    assert batches.next_comes_again
    assert positions(batches.cut(0)) == [3, 4, 8]
    batches.postpone(first[:1])
    batches.postponed_wait = True
    assert not await batches.fill()
    assert not batches.ready
    batches.resend_postponed()
    await world.spool(1, first=15)
    batches.spool_changed()
    assert not await batches.fill()
    assert positions(batches.cut(0)) == [15]
    assert positions(batches.cut(0)) == [0]


async def test_what_is_no_longer_postponed_after_a_read_is_not_overlooked(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.spool(3)
    batches = batches_of(world)
    await batches.fill()
    batches.postpone(batches.cut(0))
    batches.spool_changed()
    read = world.store.read

    async def meanwhile(*args: Any) -> Any:
        pages = await read(*args)
        batches.resend_postponed()  # the sink has accepted an event
        return pages

    monkeypatch.setattr(world.store, "read", meanwhile)
    assert (await batches.fill(), batches.ready) == (False, True)
    assert positions(batches.cut(0)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("size", "cut"),
    [
        (20, 1),  # the event and its overhead fit exactly
        (19, 1),  # a single one goes alone, whatever its size
        (40, 2),
        (59, 2),
        (60, 3),
    ],
)
async def test_the_overhead_of_each_event_counts(
    world: World, size: int, cut: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.spool(5)
    intake = Intake(limits=Limits(10, size, overhead=5))
    monkeypatch.setattr(intake, "rendered", lambda *_: Rendered(b"x" * 15))
    batches = Batches("sink", intake, world.store)
    await batches.fill()
    assert len(batches.cut(0)) == cut


class Dated(Intake):
    """A sink whose texts contain the time of sending, and are right for a second."""

    def rendered(self, event: AuditEvent, now: int) -> Rendered:
        text = super().rendered(event, now).text.replace(b"{", b'{"sent":%d,' % now)
        age = now - event.at
        return Rendered(text, ages=(age, age + 1_000_000))


def times(batch: Sequence[Item]) -> list[int]:
    return [json.loads(item.text)["sent"] for item in batch]


async def test_an_item_is_rendered_again_at_an_age_for_which_its_text_is_wrong(
    world: World,
) -> None:
    await spool_pages(world, 2)
    batches = Batches("sink", Dated(limits=Limits(10, 10**9)), world.store)
    await batches.fill()
    first = batches.cut(5)
    await batches.fill()
    second = batches.cut(1_000_000)
    batch = [second[3], first[7], *first[1:4], second[0]]
    assert await batches.renew(batch, 1_000_005) is batch, "still right"
    renewed = await batches.renew(batch, 2_000_000)
    assert positions(renewed) == positions(batch)
    assert [item.uid for item in renewed] == [item.uid for item in batch]
    assert times(renewed) == [1_000_000, *[2_000_000] * 4, 1_000_000]
    assert times(await batches.renew(renewed, 1)) == [1] * 6, "the clock was set back"


async def test_an_event_that_is_retried_is_sent_with_what_is_true_then(world: World) -> None:
    await world.spool(3)
    clock = FakeClock()
    sent: list[list[int]] = []
    expected = []

    def answer(batch: Sequence[Item]) -> Verdict:
        sent.append(times(batch))
        expected.append([micros(clock.now())] * len(batch))
        clock.advance(3600)
        return Verdict(retry=(0, 1), retry_reason=busy()) if len(sent) < 3 else Verdict()

    await world.run(Dated(always=answer), clock=clock)
    assert sent == expected
    assert list(map(len, sent)) == [3, 2, 2]


class Thrice(Intake):
    """A sink whose texts are three times as long as the records; it counts how often it renders."""

    count = 0

    def rendered(self, event: AuditEvent, now: int) -> Rendered:
        self.count += 1
        return Rendered(bytes(event.raw) * 3)


async def test_what_did_not_fit_into_a_batch_is_not_rendered_again(world: World) -> None:
    await world.spool(90, first=10)
    size = len(event_text(world)) * 3 + 1
    sink = Thrice(limits=Limits(100, 7 * size))
    batches = Batches("sink", sink, world.store)
    await batches.fill()
    cut = []
    while batches.ready:
        cut.append(positions(batches.cut(0)))
        ahead = sink.count - sum(map(len, cut))
        assert ahead <= 2 * 7, "what waits rendered is bounded, like a batch, by bytes"
    assert cut == [[*range(start, min(start + 7, 90))] for start in range(0, 90, 7)]
    assert sink.count == 90


def event_text(world: World) -> bytes:
    return bytes(world.event(10).raw)


async def test_what_did_not_fit_is_rendered_again_once_it_is_wrong(world: World) -> None:
    await world.spool(10, first=10)
    size = len(event_text(world)) + len(b'"sent":1000000,') + 1
    batches = Batches("sink", Dated(limits=Limits(100, 3 * size)), world.store)
    await batches.fill()
    assert times(batches.cut(1_000_000)) == [1_000_000] * 3
    assert times(batches.cut(1_500_000)) == [1_000_000, 1_500_000, 1_500_000]
    assert times(batches.cut(9_000_000)) == [9_000_000] * 3


async def test_little_is_read_ahead_of_events_that_are_large(world: World) -> None:
    """Deflated they are small: a megabyte of one letter is a kilobyte in the spool."""
    for number in range(5):
        raw = msgspec.Raw(b'{"id":%d,"filler":"%s"}' % (number, b"x" * (3 << 20)))
        await world.store.add("voice", Page.of([world.event(number, raw=raw)]))
    batches = batches_of(world)
    assert await batches.fill()
    assert positions(batches.cut(0)) == [0, 1, 2]


def test_consecutive_positions_share_a_range() -> None:
    assert ranges_of([]) == []
    assert ranges_of([4]) == [(4, 5)]
    assert ranges_of([1, 2, 3, 7, 8, 10, 9]) == [(1, 4), (7, 9), (10, 11), (9, 10)]


async def test_what_has_grown_by_waiting_is_sent_within_the_limits(world: World) -> None:
    """An event that is rendered again may be longer, as a restamped log is."""
    hour = 3600 * 10**6
    sizes = []

    class Growing(Intake):
        def rendered(self, event: AuditEvent, now: int) -> Rendered:
            if now - event.at < hour:
                return Rendered(bytes(event.raw), ages=(-(10**15), hour))
            return Rendered(bytes(event.raw) + b" " * 90, "restamped")

        async def send(self, batch: Sequence[Item]) -> Verdict:
            sizes.append(sum(len(item.text) + self.limits.overhead for item in batch))
            return await super().send(batch)

    def down(_: Sequence[Item]) -> Verdict:
        clock.advance(7200)
        raise busy()

    clock = FakeClock()
    intake = Growing(limits=Limits(1000, 2000))
    intake.script = [down]
    await world.spool(100)
    await world.run(intake, clock=clock)
    assert max(sizes) <= 2000
    assert len(intake.taken) == 100
