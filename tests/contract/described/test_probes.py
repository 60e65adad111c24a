"""The probes of ``check`` find nothing wrong where vendor and description agree."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from tests.contract.described.conftest import DescribedRig, reading
from tests.contract.described.test_vendors import FEEDS
from tests.support.clock import FakeClock

from auditrelay.cli.probes import Findings, probe
from auditrelay.descriptions import FOLDER, PAGES
from auditrelay.sources import Shows


def _id(param: tuple[str, str | None]) -> str:
    return ":".join(filter(None, param))


@pytest.fixture(params=FEEDS, ids=_id)
async def rig(request: pytest.FixtureRequest, clock: FakeClock) -> AsyncIterator[DescribedRig]:
    """A rig of each feed of each shipped description."""
    name, feed = request.param
    page = PAGES / (f"{name}.{feed}.json" if feed else f"{name}.json")
    async with reading(clock, FOLDER / f"{name}.toml", feed, page) as made:
        yield made


async def probed(rig: DescribedRig, *, thorough: bool) -> Findings:
    assert rig.feed is not None
    # The double has pages of a hundred where the description names no largest one.
    size = None if rig.feed.pages.largest else 100
    settings, source = rig.settings(page_size=size), rig.build(page_size=size)
    now = rig.clock.now()
    assert isinstance(source, Shows)
    return await probe(source, settings, rig.normalizer(source), now, thorough=thorough)


def recent(rig: DescribedRig, count: int) -> None:
    """Add events of the last day that has settled, none of them at the same time as another."""
    newest = rig.clock.now() - rig.settings().settle - timedelta(hours=2)
    for number in range(count):
        rig.double.add(newest - timedelta(minutes=37, seconds=0.25) * number)


async def test_nothing_is_wrong_with_a_busy_account(rig: DescribedRig) -> None:
    recent(rig, 17)
    found = await probed(rig, thorough=False)
    assert rig.feed is not None
    if rig.feed.pages.size is not None:
        assert "page 2 is another page" in found.proved, found
    assert rig.double.requests <= 8
    rig.double.requests = 0
    found = await probed(rig, thorough=True)
    assert rig.double.requests <= 16
    assert {"ids", "stable records"} <= set(found.proved), found
    time = rig.feed.time
    if (time.end is not None or time.text is not None) and time.format != "date":
        assert {"both bounds", "the pages end", "an empty window is empty"} <= set(found.proved)


@pytest.mark.parametrize("rig", FEEDS[::4], ids=_id, indirect=True)
@pytest.mark.parametrize("count", [0, 1])
async def test_nothing_is_wrong_with_a_quiet_account(rig: DescribedRig, count: int) -> None:
    recent(rig, count)
    found = await probed(rig, thorough=True)
    assert any("could not be proved" in note for note in found.notes)
