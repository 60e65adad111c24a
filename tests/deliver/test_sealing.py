"""
Every event is in one object, and no object is written twice: whatever fails, and however often.

The bucket is in memory: it keeps each object, counts how often it was written, and answers as the
test wants it, also falsely. A kill is a task that is cancelled, and a new deliverer on the same
store.
"""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from tests.support.clock import FakeClock
from tests.support.daemon import eventually
from tests.support.delivering import Intake, World, busy, opened, running
from tests.support.shared_state import take
from tests.support.states import InDatabase, on_postgres
from tests.support.stores import NOON
from tests.support.stores import opened as opened_store

from auditrelay.deliver.deliverer import Deliverer
from auditrelay.deliver.sealing import SealedSink
from auditrelay.errors import (
    Fenced,
    Refused,
    Rejected,
    RelayError,
    Retryable,
    StoreFull,
    TooLarge,
)
from auditrelay.events import AuditEvent
from auditrelay.events.page import Page
from auditrelay.settings import SinkSettings
from auditrelay.sinks import Counts, Item, Limits, Part, Sealing, digest_of
from auditrelay.store.progress import Range
from auditrelay.store.seals import Seal
from auditrelay.store.sql.store import SqlStore
from auditrelay.telemetry.metrics import Metrics

MakeEvent = Callable[..., AuditEvent]


@dataclass
class Fault:
    """What one PUT comes to: whether it is *stored*, and what is raised, or whether it hangs."""

    error: RelayError | None = None
    stored: bool = False


@dataclass
class Bucket(Intake, Sealing):
    """Objects by name. *faults* answer the next PUTs, *outcome* those after them."""

    deduplicates: bool = True
    objects: dict[str, list[str]] = field(default_factory=dict)
    written: Counter[str] = field(default_factory=Counter)
    puts: list[tuple[str, int, bool]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    outcome: Callable[[Sequence[Item]], Fault] = lambda _: Fault()
    sealed: list[list[Seal]] = field(default_factory=list)
    look_at: Callable[[], Any] | None = None
    stay: Callable[[], Any] | None = None
    """What is awaited once a PUT is stored, before it is answered."""
    readable: bool = True
    looked: list[str] = field(default_factory=list)

    def parts(self, batch: Sequence[Item], log: str, now: datetime) -> list[Part]:
        assert log
        by_source: dict[str, list[int]] = {}
        for index, item in enumerate(batch):
            by_source.setdefault(item.source, []).append(index)
        return [
            Part(
                f"{source}/{now:%H%M%S%f}/{batch[indices[0]].position}-"
                f"{digest_of([batch[index] for index in indices])[:8]}",
                indices,
            )
            for source, indices in by_source.items()
        ]

    async def put(self, batch: Sequence[Item], name: str, *, again: bool) -> Counts:
        self.puts.append((name, len(batch), again))
        if self.look_at is not None:
            await self.look_at()
        fault = self.faults.pop(0) if self.faults else self.outcome(batch)
        if fault.stored or fault.error is None:
            if name in self.objects:
                if fault.error is None:
                    assert self.objects[name] == [item.uid for item in batch]
                    return Counts(duplicates=len(batch))
            else:
                self.objects[name] = [item.uid for item in batch]
                self.written[name] += 1
            if self.stay is not None:
                await self.stay()
        if fault.error is not None:
            raise fault.error
        return Counts()

    async def holds(self, name: str, digest: str) -> bool:
        self.looked.append(name)
        if not self.readable:
            raise Retryable("may not read", reason="unproven", sent=True)
        return name in self.objects

    @property
    def uids(self) -> Counter[str]:
        return Counter(uid for uids in self.objects.values() for uid in uids)


def unknown() -> Retryable:
    return Retryable("reset", reason="reset", sent=True)


@pytest.fixture
async def world(tmp_path: Path, event: MakeEvent, clock: FakeClock) -> AsyncIterator[World]:
    async with opened(tmp_path, event, clock) as world:
        await world.store.start_sink("sink", ["voice", "calls"])
        yield world


def once(world: World, bucket: Bucket, count: int, *, first: int = 0) -> None:
    """Assert that each of the events is in one object."""
    uids = {world.event(first + number).uid for number in range(count)}
    assert bucket.uids == Counter(uids)
    assert set(bucket.written.values()) <= {1}


async def seals(world: World) -> list[Seal]:
    return list((await world.store.batch_seals("sink")).all)


# --- the seal itself


async def test_a_batch_is_sealed_before_it_is_sent(world: World) -> None:
    seen: list[list[Seal]] = []

    async def look() -> None:
        seen.append(await seals(world))

    bucket = Bucket(look_at=look)
    await world.spool(5)
    await world.run(bucket)
    [[seal]] = seen
    assert (seal.events, seal.name) == (5, bucket.puts[0][0])
    assert seal.digest == digest_of_uids(world, range(5))
    assert await seals(world) == [], "it is settled"
    once(world, bucket, 5)


def digest_of_uids(world: World, numbers: range) -> str:
    items = [Item(0, world.event(number).uid, "", 0, b"") for number in numbers]
    return digest_of(items)


async def test_each_source_of_a_batch_is_a_part_with_a_seal_of_its_own(world: World) -> None:
    bucket = Bucket()
    await world.spool(3)
    await world.spool(2, first=3, source="calls")
    await world.run(bucket)
    assert sorted(size for _, size, _ in bucket.puts) == [2, 3]
    assert bucket.puts[0][0].startswith("voice/")


async def test_nothing_is_sent_while_no_seal_can_be_written(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = Bucket()
    full, write = 2, world.store.seal_batches

    async def seal_batches(sink: str, new: Sequence[Seal]) -> Any:
        nonlocal full
        assert not bucket.puts
        if full:
            full -= 1
            raise StoreFull("no room")
        return await write(sink, new)

    monkeypatch.setattr(world.store, "seal_batches", seal_batches)
    await world.spool(5)
    await world.run(bucket)
    assert not full
    once(world, bucket, 5)


# --- after a kill


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("batch_events", [2, 3, 100])
async def test_a_sealed_batch_is_finished_first_and_exactly_as_it_was_cut(
    world: World, batch_events: int, *, stored: bool
) -> None:
    bucket = Bucket(limits=Limits(4, 10**9))
    arrived = asyncio.Event()

    async def hang() -> None:
        arrived.set()
        await asyncio.Event().wait()

    # The process dies before it is stored, or before it has recorded that it is.
    bucket.look_at, bucket.stay = (None, hang) if stored else (hang, None)
    await world.spool(10)
    deliverer = world.deliverer(bucket)
    async with running(deliverer):
        await arrived.wait()
    name, size, again = bucket.puts[0]
    assert (size, again) == (4, False)
    assert len(bucket.objects) == int(stored)
    bucket.look_at = bucket.stay = None
    bucket.puts.clear()
    bucket.limits = Limits(batch_events, 10**9)
    world.clock.advance(3600)
    await world.run(bucket)
    assert bucket.puts[0] == (name, 4, True)
    once(world, bucket, 10)


async def test_what_is_excluded_now_is_sent_if_it_was_sealed_before(world: World) -> None:
    """It may be stored already, and an object is whole or not there."""
    lost = Bucket(readable=False, outcome=lambda _: Fault(unknown(), stored=True))
    await world.spool(4)
    async with running(world.deliverer(lost)):
        await eventually(lambda: bool(lost.puts))
    name = lost.puts[0][0]
    await world.spool(3, first=4)
    bucket = Bucket(objects=lost.objects, written=lost.written)
    await world.run(bucket, exclude=["*"])
    assert bucket.puts == [(name, 4, True)]
    once(world, bucket, 4)
    assert world.counted("events_excluded_total") == 3
    assert await world.backlog() == 0


async def test_other_batches_are_sent_while_a_sealed_one_fails(world: World) -> None:
    bucket = Bucket(limits=Limits(4, 10**9), faults=[Fault(unknown(), stored=True)])
    await world.spool(4)
    async with running(world.deliverer(bucket)):
        await eventually(lambda: bool(bucket.puts))
    name = bucket.puts[0][0]
    await world.spool(8, first=4)
    first = set(bucket.objects[name])

    def failing(batch: Sequence[Item]) -> Fault:
        return Fault(unknown() if {item.uid for item in batch} & first else None)

    bucket.outcome = failing
    bucket.faults.clear()
    deliverer = world.deliverer(bucket, concurrency=2)
    async with running(deliverer):
        await eventually(lambda: len(bucket.objects) == 3)
    assert len(bucket.uids) == 12
    assert {each for each, _, again in bucket.puts if again} == {name}


async def test_a_batch_of_which_events_were_removed_meanwhile_is_looked_up(world: World) -> None:
    """The object is there, with all of them: what is left of it in the spool is delivered."""
    bucket = Bucket(readable=False, outcome=lambda _: Fault(unknown(), stored=True))
    await world.spool(6)
    async with running(world.deliverer(bucket)):
        await eventually(lambda: bool(bucket.puts))
    [seal] = await seals(world)
    await world.store.settle("sink", [(seal.places[0][0], seal.places[0][0] + 2)])
    bucket.outcome, bucket.readable = lambda _: Fault(), True
    bucket.puts.clear()
    bucket.looked.clear()
    await world.run(bucket)
    assert (bucket.puts, bucket.looked) == ([], [seal.name])
    assert await world.backlog() == 0
    once(world, bucket, 6)


async def test_the_order_in_which_events_come_again_makes_no_other_batch(world: World) -> None:
    """An event that was set aside comes behind later ones, and is read before them."""
    bucket = Bucket()
    await world.spool(3)
    [page], _ = await world.store.read("sink", None, 10)
    items = Item.of_page(range(3), page.events, bucket.render(page.events, 0), bucket.limits)
    bucket.faults = [Fault(unknown(), stored=True)]
    for batch in ([items[2], items[0], items[1]], items):
        sealed = SealedSink("sink", bucket, bucket, store=world.store, clock=world.clock)
        with contextlib.suppress(Retryable):
            verdict = await sealed.send(batch)
    assert verdict.counts.duplicates == 3
    assert (len(bucket.puts), bucket.looked) == (2, [])
    assert list(bucket.written.values()) == [1]


async def test_a_verdict_names_the_events_as_they_came(world: World) -> None:
    bucket = Bucket()
    await world.spool(2)
    await world.spool(1, first=2, source="calls")
    pages, _ = await world.store.read("sink", None, 10)
    one, two, other = (
        item
        for page in pages
        for item in Item.of_page(
            range(page.first, page.first + len(page.events)),
            page.events,
            bucket.render(page.events, 0),
            bucket.limits,
        )
    )
    sealed = SealedSink("sink", bucket, bucket, store=world.store, clock=world.clock)
    bucket.faults = [Fault(), Fault(busy())]
    verdict = await sealed.send([other, two, one])
    assert verdict.retry == (0,)


# --- made smaller


@pytest.mark.parametrize("error", [TooLarge("413", reason="too_large", status=413)])
async def test_a_refused_batch_gets_a_seal_for_each_half_without_looking(
    world: World, error: Rejected
) -> None:
    bucket = Bucket()
    bucket.outcome = lambda batch: Fault(error if len(batch) > 3 else None)
    await world.spool(10)
    await world.run(bucket)
    assert [size for _, size, _ in bucket.puts] == [10, 5, 2, 3, 5, 2, 3]
    assert bucket.looked == []
    once(world, bucket, 10)


@pytest.mark.parametrize("stored", [True, False])
async def test_what_is_refused_after_it_may_have_been_stored_is_looked_up(
    world: World, *, stored: bool
) -> None:
    """It is no dead letter if it is there."""
    refused = Fault(Rejected("a firewall", reason="status_400", status=400))
    bucket = Bucket(faults=[Fault(unknown(), stored=stored), refused])
    await world.spool(1)
    await world.run(bucket)
    assert [name for name, *_ in world.dead()] == ([] if stored else ["0"])
    assert bucket.looked == [bucket.puts[0][0]]
    assert bucket.uids[world.event(0).uid] == (1 if stored else 0)


async def test_what_breaks_off_again_and_again_is_made_smaller_once_it_is_not_there(
    world: World,
) -> None:
    bucket = Bucket()
    bucket.outcome = lambda batch: Fault(unknown() if len(batch) > 3 else None)
    await world.spool(4)
    await world.run(bucket)
    assert [size for _, size, _ in bucket.puts] == [4, 4, 4, 2, 2]
    assert bucket.looked == [bucket.puts[0][0]]
    once(world, bucket, 4)


async def test_what_breaks_off_again_and_again_is_not_sent_smaller_if_it_is_there(
    world: World,
) -> None:
    bucket = Bucket()
    bucket.faults = [Fault(unknown(), stored=True), *[Fault(unknown())] * 2]
    await world.spool(4)
    await world.run(bucket)
    assert [size for _, size, _ in bucket.puts] == [4, 4, 4]
    once(world, bucket, 4)


async def test_what_cannot_be_looked_up_is_sent_whole_for_ever(world: World) -> None:
    bucket = Bucket(readable=False)
    bucket.faults = [Fault(unknown(), stored=True), *[Fault(unknown())] * 4]
    await world.spool(4)
    async with running(world.deliverer(bucket)):
        await eventually(lambda: len(bucket.looked) > 5)
    assert {size for _, size, _ in bucket.puts} == {4}
    assert len(bucket.objects) == 1


async def test_what_one_part_is_refused_does_not_repeat_the_others(world: World) -> None:
    bucket = Bucket()
    refused = Refused("no right", status=403, sent=True)
    bucket.faults = [Fault(), Fault(refused), Fault(refused)]
    await world.spool(3)
    await world.spool(2, first=3, source="calls")
    deliverer = world.deliverer(bucket)
    deliverer.finish()
    async with asyncio.timeout(90):
        await deliverer.keep_delivering()
    assert [size for _, size, _ in bucket.puts] == [3, 2, 2, 2]
    assert not deliverer.condition.unproven, "sent again it is stored once"
    once(world, bucket, 5)


# --- whatever happens


@pytest.mark.parametrize("seed", range(40))
async def test_every_event_is_in_one_object_through_faults_and_kills(
    world: World, seed: int
) -> None:
    rng = random.Random(seed)
    bucket = Bucket()
    kinds: list[Callable[[], Fault]] = [
        Fault,
        lambda: Fault(unknown()),
        lambda: Fault(unknown(), stored=True),
        lambda: Fault(busy()),
        lambda: Fault(TooLarge("413", reason="too_large", status=413)),
        lambda: Fault(Refused("403", status=403)),
        lambda: Fault(Refused("403 of a proxy", status=403, sent=True), stored=True),
    ]
    made = 0

    async def pause() -> None:
        for _ in range(rng.randrange(4)):
            await asyncio.sleep(0)

    bucket.look_at = pause
    bucket.outcome = lambda _: rng.choice(kinds)()
    for _ in range(12):
        count = rng.randrange(12)
        await world.spool(count, first=made, source=rng.choice(["voice", "calls"]))
        made += count
        bucket.limits = Limits(rng.choice([1, 3, 5, 50]), 10**9)
        world.clock.advance(1)
        async with running(world.deliverer(bucket, concurrency=rng.choice([1, 2, 4]))):
            for _ in range(rng.randrange(60)):
                await asyncio.sleep(0)
    bucket.outcome = lambda _: Fault()
    bucket.faults.clear()
    await world.run(bucket)
    dead = {name for name, *_ in world.dead()}
    uids = {world.event(number).uid for number in range(made) if str(number) not in dead}
    assert bucket.uids.keys() >= uids
    assert max(bucket.uids.values()) == 1
    assert set(bucket.written.values()) == {1}


# --- places


@pytest.mark.parametrize(
    ("mine", "other", "shared"),
    [
        (((0, 3),), ((3, 5),), False),
        (((0, 3),), ((2, 5),), True),
        (((0, 1), (4, 5)), ((1, 4),), False),
        (((0, 1), (4, 5)), ((1, 5),), True),
        (((0, 10),), ((4, 5),), True),
        (((4, 5),), ((0, 10),), True),
    ],
)
def test_seals_share_places_or_not(
    mine: tuple[Range, ...], other: tuple[Range, ...], *, shared: bool
) -> None:
    one, two = Seal("a", "", mine), Seal("b", "", other)
    assert one.shares_places(two) == two.shares_places(one) == shared


def test_the_sealed_sink_is_a_sink_in_all_else(world: World) -> None:
    bucket = Bucket()
    sealed = SealedSink("sink", bucket, bucket, store=world.store, clock=world.clock)
    now = world.clock.now()
    assert sealed.limits is bucket.limits
    assert sealed.deduplicates
    assert sealed.query("u") == bucket.query("u")
    assert sealed.backfill_notice(now, now, now) is None


# --- replicas


@on_postgres
async def test_a_replica_that_takes_over_finishes_what_the_other_one_still_sends(
    state: InDatabase, event: MakeEvent, clock: FakeClock
) -> None:
    """The PUT of the first replica arrives last: it finds the object, and creates none."""
    one, two = await opened_store(state), await opened_store(state)
    await one.start_source("voice", NOON)
    await one.start_sink("sink", ["voice"])
    await one.add("voice", Page.of([event(number) for number in range(10)]))
    arrived, late = asyncio.Event(), asyncio.Event()
    bucket = Bucket(limits=Limits(4, 10**9))

    async def hang() -> None:
        if not arrived.is_set():
            arrived.set()
            await late.wait()

    bucket.look_at = hang
    first = deliverer_of(bucket, one.under(take(state.url, "sink sink")), clock)
    sending = asyncio.ensure_future(first.keep_delivering())
    await arrived.wait()
    bucket.limits = Limits(3, 10**9)  # it has another configuration
    second = deliverer_of(bucket, two.under(take(state.url, "sink sink")), clock)
    second.finish()
    async with asyncio.timeout(90):
        await second.keep_delivering()
    late.set()
    with pytest.raises(ExceptionGroup) as caught:
        await sending
    assert caught.group_contains(Fenced)
    assert bucket.uids == Counter(event(number).uid for number in range(10))
    assert set(bucket.written.values()) == {1}
    assert [again for _, _, again in bucket.puts][:2] == [False, True]
    await one.close()
    await two.close()


def deliverer_of(bucket: Bucket, store: SqlStore, clock: FakeClock) -> Deliverer:
    keys = {"type": "test", "format": "raw", "linger": "0s", "concurrency": 1}
    return Deliverer(
        "sink",
        SinkSettings.model_validate(keys),
        bucket,
        store=store,
        metrics=Metrics(sinks=["sink"]),
        clock=clock,
    )
