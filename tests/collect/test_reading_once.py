"""Polls, resweeps, backfills and ``verify`` size their windows alike: nothing is read twice."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from itertools import product

import pytest
from tests.support.collecting import DAY, HOUR, NOON, World
from tests.support.extent import extent

from auditrelay.collect.backfill import Backfiller
from auditrelay.collect.parts import Budget, PartLength
from auditrelay.collect.verify import Verifier
from auditrelay.sources import Page
from auditrelay.window import Interval

PAGE = 10
EVENTS = 4_000
BUDGET = Budget(counted=500, uncounted=500)
MONTH = Interval(NOON - 29 * DAY, NOON - DAY)


class History:
    """The vendor of *world* with EVENTS events *within* a span: newest first, and no total."""

    def __init__(self, world: World, within: Interval) -> None:
        self.served = 0
        self.requests = 0
        times = [within.end - (number + 1) * within.length / EVENTS for number in range(EVENTS)]
        self._records = [
            (
                at,
                b'{"id":"%d","event_type":"auth.logout","created_at":"%b"}'
                % (number, at.isoformat().encode()),
            )
            for number, at in enumerate(times)
        ]
        world.vendor.walk_instead = self._walk

    async def _walk(self, window: Interval) -> AsyncGenerator[Page]:
        found = [record for at, record in self._records if window.start <= at < window.end]
        for first in range(0, max(1, len(found)), PAGE):
            part = found[first : first + PAGE]
            self.served += len(part)
            self.requests += 1
            yield Page(part, last=first + PAGE >= len(found))


async def poll(world: World, history: History) -> None:
    await world.collector(initial_lookback="29d").poll()


async def resweep(world: World, history: History) -> None:
    await poll(world, history)
    history.served = history.requests = 0
    # A delay that was never resweept: all of it is read.
    await world.collector(initial_lookback="29d", resweep=["12h"]).resweeper.run()


def backfilling(*, dry_run: bool = False, sinks: tuple[str, ...] = ()) -> "Read":
    async def read(world: World, history: History) -> None:
        async def silent(_: object) -> None: ...

        filling = Backfiller(
            world.collector(),
            world.store,
            span=MONTH,
            sinks=sinks,
            clock=world.clock,
            on_progress=silent,
        )
        if dry_run:
            await filling.count(concurrency=1)
        else:
            await filling.run(concurrency=1, newest_first=False)

    return read


async def compare(world: World, history: History) -> None:
    async def silent(_: object) -> None: ...

    await Verifier(
        world.collector(),
        world.store,
        span=MONTH,
        sinks=["sink"],
        searchable={},
        repair=False,
        clock=world.clock,
        on_progress=silent,
    ).run()


Read = Callable[[World, History], Awaitable[None]]


READS: dict[str, Read] = {
    "poll": poll,
    "resweep": resweep,
    "backfill": backfilling(),
    "dry run": backfilling(dry_run=True),
    "resend": backfilling(sinks=("sink",)),
    "verify": compare,
}
SPANS = {"even": MONTH, "burst": Interval(NOON - 11.7 * DAY, NOON - 11.7 * DAY + 2 * HOUR)}


@pytest.mark.parametrize(
    ("read", "span"),
    [*product(READS, ["burst"]), *product(extent(["poll", "backfill"], list(READS)), ["even"])],
)
async def test_a_vendor_without_a_total_serves_each_record_about_once(
    world: World, monkeypatch: pytest.MonkeyPatch, read: str, span: str
) -> None:
    of = PartLength.of
    monkeypatch.setattr(PartLength, "of", lambda settings, _: of(settings, BUDGET))
    history = History(world, SPANS[span])
    await READS[read](world, history)
    assert EVENTS <= history.served <= 1.1 * EVENTS
    assert history.requests <= 1.1 * EVENTS / PAGE + 40
