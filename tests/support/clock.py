"""Waiting that takes no time: everything in auditrelay waits by ``http.retry.pause``."""

import asyncio
import math
import sys

import pytest


def record_waits(monkeypatch: pytest.MonkeyPatch, speed: float = math.inf) -> list[float]:
    """
    Let waiting pass *speed* times as fast; return the seconds that were waited for.

    A loop that waits without end fails the test.
    """
    waited: list[float] = []
    most = 1000 if math.isinf(speed) else 20_000

    async def shortly(seconds: float) -> None:
        waited.append(seconds)
        assert len(waited) < most, "it waits without end"
        await asyncio.sleep(seconds / speed)

    for name, module in list(sys.modules.items()):
        if name.startswith("auditrelay.") and "pause" in vars(module):
            monkeypatch.setattr(module, "pause", shortly)
    return waited
