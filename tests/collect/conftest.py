"""A collector's world, and waits that take no time."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.collecting import World, open_world


@pytest.fixture
def sinks() -> tuple[str, ...]:
    """The sinks that receive what is collected."""
    return ("sink",)


@pytest.fixture
async def world(tmp_path: Path, sinks: tuple[str, ...]) -> AsyncIterator[World]:
    async with open_world(tmp_path, sinks) as world:
        yield world
