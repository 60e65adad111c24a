"""A store to deliver from, and time that passes a thousand times as fast."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.clock import FakeClock
from tests.support.delivering import Make, World, opened


@pytest.fixture
def speed() -> float:
    """A second of waiting takes a millisecond."""
    return 1000


@pytest.fixture
async def world(tmp_path: Path, event: Make, clock: FakeClock) -> AsyncIterator[World]:
    async with opened(tmp_path, event, clock) as world:
        yield world
