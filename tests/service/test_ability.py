"""What a replica cannot serve just now: by its clock, and by the directories that are there."""

import asyncio
from datetime import timedelta
from pathlib import Path
from threading import Event

import pytest
from tests.support.clock import FakeClock

from auditrelay.config import load
from auditrelay.config.model import Config
from auditrelay.service.ability import LOOK_EVERY, Directories, unable

SETTINGS = """
state_dir = "{folder}/state"
[sources.slow]
type = "bland"
api_key = "key-one"
settle = "5m"
[sources.quick]
type = "bland"
api_key = "key-two"
settle = "0s"
[sources.files]
type = "cencori"
mode = "files"
directory = "{folder}/exports"
settle = "1h"
[sources.off]
type = "bland"
enabled = false
api_key = "key-three"
[sinks.out]
type = "file"
path = "{folder}/out.jsonl"
"""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    path = tmp_path / "c.toml"
    path.touch(mode=0o600)
    path.write_text(SETTINGS.format(folder=tmp_path))
    return load(path, {"HOME": str(tmp_path)})


@pytest.mark.parametrize(
    ("seconds", "unserved"),
    [
        (60, []),
        (61, ["quick"]),
        (-61, ["quick"]),
        (5 * 60 + 60, ["quick"]),
        (5 * 60 + 61, ["slow", "quick"]),
        (-5 * 60 - 61, ["slow", "quick"]),
    ],
)
def test_a_source_is_not_served_with_a_clock_that_is_off_by_more_than_settle_and_a_minute(
    config: Config, seconds: int, unserved: list[str]
) -> None:
    found = unable(config, offset=timedelta(seconds=seconds), missing=())
    assert list(found) == [f"source {name}" for name in unserved]
    for why in found.values():
        assert ("behind" if seconds > 0 else "ahead of") in why


async def test_a_source_whose_directory_is_not_there_is_not_served(
    config: Config, tmp_path: Path, clock: FakeClock
) -> None:
    of = Directories(config, clock=clock)
    assert of.missing == {"files"}
    (why,) = unable(config, offset=timedelta(), missing=of.missing).items()
    assert why == ("source files", f"its directory {tmp_path}/exports is not there")
    (tmp_path / "exports").mkdir()
    clock.advance(LOOK_EVERY - 1)
    for _ in range(3):
        of.look(config)
        await asyncio.sleep(0.01)
    assert of.missing == {"files"}  # it has not looked again yet
    clock.advance(1)
    of.look(config)
    async with asyncio.timeout(10):
        while of.missing:
            await asyncio.sleep(0.01)
            of.look(config)


async def test_a_directory_that_blocks_delays_nothing(
    config: Config, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    of, begun, over = Directories(config, clock=clock), Event(), Event()
    looks = []

    def block(path: Path) -> bool:
        looks.append(path)
        begun.set()
        return over.wait(10)

    monkeypatch.setattr(Path, "is_dir", block)
    for _ in range(5):
        clock.advance(LOOK_EVERY)
        of.look(config)  # it returns, and starts nothing while the first one lasts
        await asyncio.sleep(0)
    assert await asyncio.to_thread(begun.wait, 10)
    assert of.missing == {"files"}
    assert len(looks) == 1
    over.set()
    async with asyncio.timeout(10):
        while of.missing:
            await asyncio.sleep(0.01)
            of.look(config)
