"""A store to deliver from, and time that passes a thousand times as fast."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.delivering import Make, World, opened


@pytest.fixture
def speed() -> float:
    """A second of waiting takes a millisecond."""
    return 1000


@pytest.fixture
async def world(
    tmp_path: Path, event: Make, waits: list[float], speed: float
) -> AsyncIterator[World]:
    del waits  # only its effect is needed
    async with opened(tmp_path, event, lambda: time.monotonic() * speed) as world:
        yield world
