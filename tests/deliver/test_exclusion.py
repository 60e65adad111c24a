"""What a sink's ``exclude`` leaves out is not sent, and is settled with what lies around it."""

import random
from collections.abc import Sequence
from unittest import mock

import msgspec
import pytest
from tests.support.delivering import Intake, Make, World, name_of
from tests.support.states import state_in

from auditrelay.errors import Rejected, Retryable
from auditrelay.events.page import Page
from auditrelay.sinks import Item, Limits, Rejection, Verdict
from auditrelay.store.sql.evidence import facts_of

TALK = {"kind": "session", "verb": "create", "native_action": "call.started"}


async def spool(world: World, kinds: str, *, first: int = 0) -> list[str]:
    """Spool a page with an event for each letter: of a session (s), or another one; return all."""
    made = [
        msgspec.structs.replace(world.event(first + n), **(TALK if kind == "s" else {}))
        for n, kind in enumerate(kinds)
    ]
    await world.store.add("voice", Page.of(made))
    return [str(each.native_id) for each in made]


def excluded(world: World) -> dict[str, list[list[int]]]:
    """Return by glob the places that the evidence says were not sent."""
    with state_in(world.state).raw() as db:
        return {
            fact.body["glob"]: fact.body["places"]
            for fact in facts_of(db, "sink sink")
            if fact.body["fact"] == "excluded"
        }


@pytest.mark.parametrize("glob", ["session.create", "session.*", "call.started", "call.*", "*.cr*"])
async def test_what_fits_a_glob_is_not_sent_and_nothing_waits_for_it(
    glob: str, world: World
) -> None:
    made = await spool(world, "ossoos")
    await world.run(intake := Intake(), exclude=["nothing.fits", glob])
    assert intake.taken == [made[0], made[3], made[4]]
    assert await world.backlog() == 0
    assert excluded(world) == {glob: [[1, 2], [5, 1]]}
    assert world.counted("events_delivered_total") == 3
    assert world.counted("events_excluded_total") == 3
    text = world.metrics.render()[0].decode()
    assert f'events_excluded_by_glob_total{{glob="{glob}",sink="sink"}} 3.0' in text
    assert 'events_excluded_by_glob_total{glob="nothing.fits",sink="sink"} 0.0' in text


async def test_events_of_auditrelay_itself_are_sent(world: World, event: Make) -> None:
    gap = msgspec.structs.replace(event(0), **TALK, notice=True)
    await world.store.add("voice", Page.of([gap, event(1)]))
    await world.run(intake := Intake(), exclude=["*"])
    assert intake.taken == ["0"]


async def test_pages_of_which_nothing_is_left_are_settled_without_a_request(world: World) -> None:
    for page in range(3):
        await spool(world, "sss", first=3 * page)
    await world.run(intake := Intake(), exclude=["session.*"])
    assert not intake.offered
    assert await world.backlog() == 0
    assert excluded(world) == {"session.*": [[0, 9]]}
    assert world.counted("events_excluded_total") == 9


async def test_a_batch_and_what_is_excluded_around_it_are_one_transaction(world: World) -> None:
    made = await spool(world, "sosososs")
    with mock.patch.object(world.store, "settle", wraps=world.store.settle) as settle:
        await world.run(intake := Intake(), exclude=["session.*"])
    assert intake.offered == [[made[1], made[3], made[5]]]
    assert settle.await_count == 1


async def test_what_is_excluded_is_read_again_after_a_crash(world: World) -> None:
    made = await spool(world, "sos")
    down = Intake(always=lambda _: Verdict(retry=(0,), retry_reason=Retryable("no", reason="503")))
    with pytest.RaisesGroup(Retryable):
        await world.run(down, exclude=["session.*"], attempts=1)
    assert await world.backlog() == 3
    assert not excluded(world)
    await world.run(intake := Intake())
    assert intake.taken == made, "nothing is excluded any more"


async def test_what_was_excluded_is_not_sent_when_the_glob_is_gone(world: World) -> None:
    made = await spool(world, "sos")
    await world.run(Intake(), exclude=["session.*"])
    made += await spool(world, "sos", first=3)
    await world.run(intake := Intake())
    assert intake.taken == made[3:]


async def test_every_event_is_excluded_or_delivered_or_dead_whatever_happens(
    world: World,
) -> None:
    dice = random.Random(20)
    kinds = [dice.choice(("so", "s", "o", "sso")) for _ in range(30)]
    pages = ["".join(dice.choice(each) for _ in range(dice.randrange(1, 20))) for each in kinds]
    made = [name for n, page in enumerate(pages) for name in await spool(world, page, first=20 * n)]
    sent = [name for name, kind in zip(made, "".join(pages), strict=True) if kind == "o"]
    refused = set(sent[::7])

    def answer(batch: Sequence[Item]) -> Verdict:
        chance = dice.random()
        if chance < 0.2:
            raise Retryable("no", reason="503")
        if chance < 0.3 and len(batch) > 1:
            raise Rejected("one of them", reason="invalid")
        bad = [n for n, item in enumerate(batch) if name_of(item) in refused]
        retry = [n for n in range(len(batch)) if n not in bad and dice.random() < 0.2]
        return Verdict(
            rejected=tuple(Rejection(n, "invalid", "no", 400) for n in bad), retry=tuple(retry)
        )

    intake = Intake(always=answer, limits=Limits(25, 10**9))
    await world.run(intake, exclude=["session.*"], concurrency=3)
    assert sorted(intake.taken) == sorted(set(sent) - refused)
    assert {name for name, *_ in world.dead()} == refused
    places = [n for pair in excluded(world)["session.*"] for n in range(pair[0], sum(pair))]
    assert places == [n for n, kind in enumerate("".join(pages)) if kind == "s"]
    assert world.counted("events_excluded_total") == len(places)
    assert await world.backlog() == 0
