"""Every source is read in parts in which no record is served much more than once."""

from datetime import timedelta

import pytest
from tests.contract.sources.conftest import Rig
from tests.support.collecting import answering, refuse_to_give_up
from tests.support.extent import extent

from auditrelay.collect.parts import Budget, PartLength, in_parts
from auditrelay.collect.walk import walk
from auditrelay.events.page import Page as EventPage
from auditrelay.sources import Page
from auditrelay.window import Interval


# A walk may have 50 or, without a total, 100.
@pytest.mark.parametrize("pages", extent([120], [60, 120, 300]))
@pytest.mark.parametrize(
    "within", [timedelta(hours=24), timedelta(minutes=10)], ids=["even", "burst"]
)
async def test_a_history_is_served_about_once(rig: Rig, within: timedelta, pages: int) -> None:
    start = rig.window.start + (rig.window.length - within) * 0.7
    count = pages * rig.page
    for number in range(count):
        rig.double.add(start + number * within / count)
    await rig.pages()
    full = rig.double.requests  # one walk of everything
    source = rig.build()
    normalize = rig.normalizer(source)
    budget = Budget(counted=50 * rig.page, uncounted=100 * rig.page)
    settings = rig.settings()
    found: set[str] = set()
    served = 0

    def count_page(page: Page, _: EventPage) -> None:
        nonlocal served
        served += len(page.records)

    async def read(part: Interval, budget: Budget | None, *, finely: bool) -> int:
        shown = 0
        async for events, _, _ in walk(
            source,
            part,
            lambda records: normalize(records, 0),
            budget=budget,
            on_page=count_page,
        ):
            found.update(event.uid for event in events)
            shown += len(events)
        return shown

    await in_parts(
        "it",
        rig.window,
        PartLength.of(settings, budget),
        read,
        answers=answering,
        give_up=refuse_to_give_up,
    )
    assert len(found) == count
    assert served <= 1.1 * count + 2 * rig.page
    assert rig.double.requests - full <= 1.1 * full + 40
