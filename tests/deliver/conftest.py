"""A store to deliver from, and time that passes a thousand times as fast."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.delivering import Make, World, opened

SPEED = 1000


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let a second of waiting take a millisecond; return what was waited for."""
    waited: list[float] = []

    async def shortly(seconds: float) -> None:
        waited.append(seconds)
        assert len(waited) < 20_000, "it waits for ever"
        await asyncio.sleep(seconds / SPEED)

    for module in ("http.retry", "deliver.deliverer"):
        monkeypatch.setattr(f"auditrelay.{module}.pause", shortly)
    return waited


@pytest.fixture
async def world(tmp_path: Path, event: Make, waits: list[float]) -> AsyncIterator[World]:
    async with opened(tmp_path, event, lambda: time.monotonic() * SPEED) as world:
        yield world
