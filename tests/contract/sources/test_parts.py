"""Every source is read in parts in which no record is served much more than once."""

from datetime import timedelta

import pytest
from tests.contract.sources.conftest import Rig

from auditrelay.collect.parts import Budget, PartLength, can_be_cut, in_parts
from auditrelay.collect.walk import walk
from auditrelay.events.page import Page as EventPage
from auditrelay.sources import Page
from auditrelay.window import Interval

PAGES = 60
"""Pages of records in the window: more than a part should have, and than a counted walk may."""


@pytest.mark.parametrize(
    "within", [timedelta(hours=24), timedelta(minutes=10)], ids=["even", "burst"]
)
async def test_a_history_is_served_about_once(rig: Rig, within: timedelta) -> None:
    start = rig.window.start + (rig.window.length - within) * 0.7
    count = PAGES * rig.page
    for number in range(count):
        rig.double.add(start + number * within / count)
    source = rig.build()
    normalize = rig.normalizer(source)
    budget = Budget(counted=50 * rig.page, uncounted=100 * rig.page)
    settings = rig.settings()
    found: set[str] = set()
    served = 0

    def count_page(page: Page, _: EventPage) -> None:
        nonlocal served
        served += len(page.records)

    async def read(part: Interval) -> int:
        shown = 0
        async for events, _, _ in walk(
            source,
            part,
            lambda records: normalize(records, 0),
            budget=budget if can_be_cut(part) else None,
            on_page=count_page,
        ):
            found.update(event.uid for event in events)
            shown += len(events)
        return shown

    await in_parts("it", rig.window, PartLength.of(settings, budget), read)
    assert len(found) == count
    assert served <= 1.1 * count + 2 * rig.page
    assert rig.double.requests <= 1.1 * PAGES + 40
