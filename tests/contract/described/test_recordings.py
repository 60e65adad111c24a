"""What is recorded of a source replays, and identifies no one."""

import json
import shutil
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from tests.contract.described.conftest import DescribedRig, reading
from tests.contract.described.test_vendors import FEEDS
from tests.support.clock import FakeClock

from auditrelay.cli.description.conversations import EVENTS, conversations
from auditrelay.cli.description.recording import record, write
from auditrelay.cli.description.replay import events_text, run
from auditrelay.descriptions import FOLDER, PAGES
from auditrelay.descriptions.load import read


@pytest.fixture(params=FEEDS, ids=[f"{name}:{feed}" if feed else name for name, feed in FEEDS])
async def rig(request: pytest.FixtureRequest, clock: FakeClock) -> AsyncIterator[DescribedRig]:
    """A rig of each feed of each shipped description."""
    name, feed = request.param
    page = PAGES / (f"{name}.{feed}.json" if feed else f"{name}.json")
    async with reading(clock, FOLDER / f"{name}.toml", feed, page) as made:
        yield made


async def test_a_recording_replays_and_identifies_no_one(rig: DescribedRig, tmp_path: Path) -> None:
    assert rig.feed is not None
    size = None if rig.feed.pages.largest else 100
    settings = rig.settings(page_size=size)
    newest = rig.clock.now() - settings.settle - timedelta(minutes=5)
    for number in range(5):
        rig.double.add(newest - timedelta(minutes=7) * number)
    recorded = await record("it", settings, rig.clock)
    examples = tmp_path / "examples"
    write(recorded, examples)
    file = tmp_path / f"{rig.feed.vendor}.toml"
    name = rig.feed.vendor
    text = (FOLDER / f"{name}.toml").read_text("utf-8")
    file.write_text(
        text.replace(f'vendor = "{name}"', f'vendor = "{name}"\nreplaces = "{name}"', 1)
    )
    [conversation] = conversations(file)
    replayed = await run(read(file), conversation)
    assert not [each for each in replayed.problems if EVENTS not in each], replayed.problems
    events = json.loads(events_text(replayed.events))
    assert len(events) >= 2
    whole = "".join(each.read_text("utf-8") for each in conversation.folder.iterdir())
    for secret in rig.double.description.secrets.values():
        assert secret not in whole
    for event in await rig.events():
        for party in (event.actor, event.target):
            assert not party.email or party.email not in whole
        assert not event.actor.ip or event.actor.ip not in whole
    shutil.rmtree(examples)
