"""
Any reply whatever: what it costs is that request, and an error that the program expects.

Each test asks the double of one peer hundreds of times, over a socket, and most replies are changed
at random. The seed is printed when the tests begin; FUZZ_SEED repeats a run, FUZZ_REPLIES makes it
longer: `make fuzz`, and more than 20,000 in the gate for a change.
"""

import os
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from importlib import import_module
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from tests.contract.described.conftest import reading
from tests.fuzz.odd_replies import OddReplies
from tests.fuzz.test_service import PAIRS
from tests.support.batches import NOON
from tests.support.clock import FakeClock
from tests.support.rigs import RIGS

from auditrelay.collect.walk import walk
from auditrelay.descriptions import FOLDER, PAGES
from auditrelay.descriptions.load import named
from auditrelay.errors import RelayError
from auditrelay.events import AuditEvent
from auditrelay.events.forms import FORMS
from auditrelay.events.normalize import Normalizer, vendor_named
from auditrelay.sandbox import vendors
from auditrelay.sinks import Item, Sink, Verdict
from auditrelay.sources import Source
from auditrelay.telemetry.metrics import Metrics
from auditrelay.window import Interval

pytestmark = pytest.mark.slow

SEED = int(os.environ["FUZZ_SEED"])
DESCRIBED = ("duo", "okta", "stripe", "twilio", "zoom")
"""Each with another way to the next page, or to be let in: one has a server for tokens."""

PEERS = len(vendors.available()) + len(DESCRIBED) + len(RIGS)
REPLIES = int(os.environ.get("FUZZ_REPLIES", "4200")) // PEERS
"""Replies of each peer."""

RECORDS = 40
"""On so many pages that a walk goes on for a while, and few enough that a reply costs little."""

DAY = timedelta(days=1)


@pytest.fixture
def odd(request: pytest.FixtureRequest) -> Iterator[OddReplies]:
    made = OddReplies(hash((SEED, len(request.node.name), sum(request.node.name.encode()))))
    yield made
    request.node.add_report_section(
        "call", "fuzzing", f"FUZZ_SEED={SEED}; the last changed reply: {made.last}"[:3000]
    )


@pytest.mark.parametrize("kind", vendors.available())
async def test_a_vendor_may_answer_anything(kind: str, odd: OddReplies) -> None:
    asked, forms = 0, cycle(FORMS)
    while asked < REPLIES:
        clock = FakeClock()
        window = Interval(clock.now() - 2 * DAY, clock.now() - DAY)
        async with vendors.available()[kind](clock=clock.seconds) as double:
            double.fill(RECORDS, window.start, window.end)
            module = import_module(f"auditrelay.sources.{kind}")
            table = {**double.settings(), "page_size": max(5, double.MIN_PAGE_SIZE)}
            settings = module.Settings.model_validate({**table, "timeout": "100ms"})
            source: Source = module.build("it", settings, Metrics(), clock)
            normalizer = Normalizer.of(
                "it", settings, vendor=vendor_named(settings.type), scope=source.scope
            )
            odd.play_at(double)
            for _ in range(40):
                clock.waits.clear()
                await _read(source, normalizer, window, forms)
            asked += double.requests
            double.faults.clear()
            await source.close()
    assert asked >= REPLIES


@pytest.mark.parametrize("name", DESCRIBED)
async def test_a_described_vendor_may_answer_anything(name: str, odd: OddReplies) -> None:
    feed = next(iter(named(name).feeds), None)
    page = PAGES / (f"{name}.{feed}.json" if feed else f"{name}.json")
    asked, forms = 0, cycle(FORMS)
    while asked < REPLIES:
        clock, file = FakeClock(), FOLDER / f"{name}.toml"
        async with reading(clock, file, feed, page) as rig:
            rig.fill(RECORDS)
            source = rig.build(timeout="100ms")
            odd.play_at(rig.double)
            if rig.double.identity.server is not None:
                odd.play_at(rig.double.identity.server, share=0.5)
            for _ in range(40):
                clock.waits.clear()
                clock.advance(3600)  # no quota is waited for any longer
                await _read(source, rig.normalizer(source), rig.window, forms)
            asked += rig.double.requests
            rig.double.faults.clear()
    assert asked >= REPLIES


async def _read(
    source: Source, normalizer: Normalizer, window: Interval, forms: Iterator[str]
) -> None:
    """Read *window* as a poll does, and render what comes; only expected errors may be raised."""
    try:
        async for identified, _, _ in walk(
            source, window, lambda records, *twins: normalizer.identify(records, NOON, *twins)
        ):
            for event in identified.page():
                FORMS[next(forms)](event)
    except RelayError as error:
        assert str(error).isprintable()  # noqa: PT017  # any of them is right


@pytest.mark.parametrize("name", RIGS)
async def test_a_sink_may_answer_anything(
    name: str,
    odd: OddReplies,
    event: Callable[..., AuditEvent],
    batch: Callable[..., list[Item]],
) -> None:
    asked = 0
    while asked < REPLIES:
        clock, rig = FakeClock(), RIGS[name]
        async with rig.double() as double:
            _, sink = rig.build(double, Metrics(), clock, timeout="100ms")
            odd.play_at(double)
            for number in range(150):
                clock.waits.clear()
                await _send(sink, batch(sink, [event(3 * number + each) for each in range(3)]))
                if number % 10 == 0:
                    await _expecting_errors(sink.check())
            asked += double.requests
            double.faults.clear()
            await sink.close()
    assert asked >= REPLIES


async def _send(sink: Sink, items: list[Item]) -> None:
    verdict: Verdict | None = await _expecting_errors(sink.send(items))
    if verdict is None:
        return
    rejected = [each.index for each in verdict.rejected]
    assert len({*rejected, *verdict.retry}) == len(rejected) + len(verdict.retry)
    assert {*rejected, *verdict.retry} <= set(range(len(items)))
    if verdict.ack_id is not None:
        channel, number = verdict.ack_id.channel, verdict.ack_id.number
        acknowledged = await _expecting_errors(channel.acknowledged([number]))
        assert acknowledged is None or acknowledged <= {number}


async def _expecting_errors(work: Any) -> Any:
    """Return the result of *work*, None if it raises an error that the program expects."""
    try:
        return await work
    except RelayError as error:
        assert str(error).isprintable()  # noqa: PT017  # any of them is right
        return None


def test_the_gate_asks_for_enough_replies() -> None:
    gate = (Path(__file__).parents[2] / ".ci/run").read_text("utf-8")
    [(replies, seconds)] = re.findall(r"make fuzz FUZZ=(\d+) FUZZ_SECONDS=(\d+)", gate)
    assert int(replies) // PEERS * PEERS > 20_000
    assert int(seconds) * len(PAIRS) >= 60
