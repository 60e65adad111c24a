"""
What every sink makes of odd answers, over sockets, with the delivery loop and the store.

A success that proves nothing, a proxy that only resets, a gateway that answers for a product that
has stored, an event that the product refuses: nothing is lost, nothing is sent again without limit,
and what may be twice is counted.
"""

import asyncio
import contextlib
import gzip
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.support.clock import FakeClock
from tests.support.daemon import eventually
from tests.support.delivering import World, opened
from tests.support.rigs import RIGS

from auditrelay.deliver.deliverer import Deliverer
from auditrelay.events import AuditEvent
from auditrelay.events.reduced import reduced
from auditrelay.sandbox import Intake, faults
from auditrelay.sandbox.faults import Action
from auditrelay.sandbox.messages import Request
from auditrelay.sandbox.server import Refusing
from auditrelay.sinks import Sink
from auditrelay.telemetry.metrics import Metrics

MakeEvent = Callable[..., AuditEvent]

PLAIN = {name: rig for name, rig in RIGS.items() if rig.variant is None}
MOST = 100
"""Events of a batch: together several times as large as what the proxy lets through."""
REPEATING = [name for name, rig in PLAIN.items() if not rig.deduplicates]


@pytest.fixture
def speed() -> float:
    """A second of waiting takes a millisecond."""
    return 1000


@dataclass
class Scene:
    """Events in the spool, a sink and its double."""

    world: World
    double: Intake
    deliverer: Deliverer
    sink: Sink
    posts: list[int]

    async def until_held(self) -> None:
        await eventually(lambda: self.deliverer.condition.held)


@pytest.fixture
async def scene(
    request: pytest.FixtureRequest, tmp_path: Path, event: MakeEvent, clock: FakeClock
) -> AsyncIterator[Scene]:
    rig = PLAIN[request.param]
    async with opened(tmp_path, event, clock) as world, rig.double() as double:
        metrics = world.metrics = Metrics(sinks=["sink"])
        keys = {"batch_events": MOST, "timeout": "2s", "compression": "none"}
        settings, sink = rig.build(double, metrics, clock, **keys)
        deliverer = Deliverer(
            "sink", settings, sink, store=world.store, metrics=metrics, clock=clock
        )
        scene = Scene(world, double, deliverer, sink, [])
        uids = [world.event(number).uid.encode() for number in range(MOST)]

        def count(request: Request) -> None:
            scene.posts.append(sum(uid in request.body for uid in uids))

        double.on_request = count
        task = asyncio.ensure_future(deliverer.keep_delivering())
        yield scene
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await sink.close()


every_sink = pytest.mark.parametrize("scene", PLAIN, indirect=True)
every_repeating_sink = pytest.mark.parametrize("scene", REPEATING, indirect=True)


def words(status: int, body: bytes, kind: str = "text/plain") -> Action:
    return faults.answer(status, body, {"Content-Type": kind}, process=True)


# --- a success that proves nothing


LOGIN = words(200, b"<!DOCTYPE html><html><title>Sign in</title></html>", "text/html")
OTHER_WORDS = [
    words(200, b"OK"),
    words(200, b""),
    words(200, b"{}"),
    words(200, b'{"text":"Success"}', "application/json"),
    words(200, b'{"text":"Success","code":"0"}', "application/json"),
    words(200, b"[]"),
    words(201, b'{"text":"Success","code":0}'),
    words(204, b""),
    LOGIN,
    faults.answer(200, gzip.compress(b"x" * 100)[:-12], process=True),
    faults.answer(200, gzip.compress(b"x" * 100)[:-9] + b"damaged!!", process=True),
    faults.answer(200, gzip.compress(b" " * 40 * 2**20), process=True),
]


@every_repeating_sink
@pytest.mark.parametrize("action", OTHER_WORDS)
async def test_a_success_in_other_words_is_one_send_and_then_done_or_held(
    scene: Scene, action: Action, waits: list[float]
) -> None:
    scene.double.faults.add(action, times=None)
    await scene.world.spool(5)
    scene.deliverer.wake.set()

    async def over() -> bool:
        return scene.deliverer.condition.held or await scene.world.backlog() == 0

    await eventually(over)
    await eventually(lambda: sum(waits) > 100 or not scene.deliverer.condition.held)
    assert scene.double.stored.total == 5, "sent once"
    assert [posts for posts in scene.posts if posts] == [5]
    if not scene.deliverer.condition.held:
        return  # Datadog: any 2xx but a web page
    assert "the address answers but is not" in str(scene.deliverer.condition.last_error)
    assert scene.world.counted("events_possible_duplicate_total") == 5
    scene.double.faults.clear()
    await eventually(lambda: not scene.deliverer.condition.held)

    async def empty() -> bool:
        return await scene.world.backlog() == 0

    await eventually(empty)
    assert [posts for posts in scene.posts if posts] == [5, 1, 4]


@every_repeating_sink
async def test_a_login_page_holds_every_sink_and_its_check_finds_it(scene: Scene) -> None:
    scene.double.faults.add(LOGIN, times=None)
    await scene.world.spool(5)
    scene.deliverer.wake.set()
    await scene.until_held()
    assert "a web page, such as a login" in str(scene.deliverer.condition.last_error)
    with pytest.raises(Exception, match="is not"):
        await scene.sink.check()


# --- too large for something in between


@every_sink
@pytest.mark.parametrize("how", Refusing.__args__)  # type: ignore[attr-defined]  # of a Literal
async def test_what_a_proxy_does_not_let_through_gets_smaller_until_it_passes(
    scene: Scene, how: Refusing
) -> None:
    scene.double.proxy_limit = 20_000, how
    made = await scene.world.spool(MOST)
    scene.deliverer.wake.set()

    async def empty() -> bool:
        return await scene.world.backlog() == 0

    await eventually(empty)
    assert max(scene.posts) < MOST, "it was never too large"
    stored = scene.double.stored
    assert set(stored.by_uid) == {scene.world.event(int(name)).uid for name in made}
    assert not stored.repeated()
    assert scene.world.dead() == []


# --- gateways


@every_sink
@pytest.mark.parametrize("status", [403, 408, 499, 502, 503, 504, 520, 524, 529])
async def test_a_gateway_that_answers_for_a_batch_that_was_stored_is_counted(
    scene: Scene, status: int
) -> None:
    scene.double.fail_batches(faults.html(status, process=True))
    await scene.world.spool(5)
    scene.deliverer.wake.set()

    async def empty() -> bool:
        return await scene.world.backlog() == 0

    await eventually(empty)
    repeated = sum(count - 1 for count in scene.double.stored.by_uid.values())
    assert repeated <= scene.world.counted("events_possible_duplicate_total")
    assert bool(repeated) == (not scene.sink.deduplicates)


# --- a firewall that dislikes a word in one event


@every_sink
@pytest.mark.parametrize("status", [200, 400, 403, 406])
async def test_an_event_that_something_in_between_refuses_holds_up_no_other(
    scene: Scene, status: int
) -> None:
    bad = scene.world.event(7).uid.encode()
    scene.double.faults.add(faults.html(status), when=lambda each: bad in each.body, times=None)
    await scene.world.spool(20)
    scene.deliverer.wake.set()

    async def all_others() -> bool:
        return await scene.world.backlog() == 1

    await eventually(all_others)
    assert scene.world.dead() == []
    assert bad.decode() not in scene.double.stored.by_uid
    scene.double.faults.clear()

    async def empty() -> bool:
        return await scene.world.backlog() == 0

    await eventually(empty)
    assert not scene.double.stored.repeated()


# --- an event that the product refuses


@every_sink
async def test_a_refused_event_arrives_reduced_and_stays_whole_among_the_dead_letters(
    scene: Scene,
) -> None:
    poison = scene.world.event(3)

    def has_poison(request: Request) -> bool:
        record = bytes(poison.raw)
        escaped = json.dumps(record.decode())[1:-1].encode()
        return record in request.body or escaped in request.body

    refusal: Any = faults.answer(
        400, b'{"text":"Invalid","code":6,"errors":[{"detail":"no"}],"error":{"type":"t"}}'
    )
    scene.double.faults.add(refusal, when=has_poison, times=None)
    made = await scene.world.spool(8)
    scene.deliverer.wake.set()

    async def empty() -> bool:
        return await scene.world.backlog() == 0

    await eventually(empty)
    copy = reduced(poison, "")
    assert copy is not None
    expected = {scene.world.event(int(name)).uid for name in made} - {poison.uid} | {copy.uid}
    assert set(scene.double.stored.by_uid) == expected
    assert not scene.double.stored.repeated()
    assert [name for name, *_ in scene.world.dead()] == ["3"]
    assert scene.world.counted("events_reduced_total") == 1
    (document,) = [
        each
        for each, uid in zip(scene.double.stored.documents, scene.double.stored.uids, strict=True)
        if uid == copy.uid
    ]
    assert poison.uid in str(document), "it names the refused one"
    assert bytes(poison.raw).decode() not in str(document)
