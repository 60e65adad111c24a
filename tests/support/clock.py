"""
A manual clock, and waits that take no time, or less.

All of auditrelay waits by calling ``http.retry.pause``.
"""

import asyncio
import math
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:  # a child process needs only the other function
    import pytest


Time = TypeVar("Time")


class Clock(Generic[Time]):
    """A clock that moves only when a test moves it; in datetimes, or in seconds."""

    def __init__(self, now: Time) -> None:
        self.now = now

    def __call__(self) -> Time:
        return self.now


def waiting_modules() -> list[ModuleType]:
    """Return the modules in which ``pause`` has to be replaced."""
    loaded = list(sys.modules.items())
    return [
        module
        for name, module in loaded
        if name.startswith("auditrelay.") and "pause" in vars(module)
    ]


def record_waits(monkeypatch: "pytest.MonkeyPatch", speed: float = math.inf) -> list[float]:
    """
    Make all waits *speed* times faster; return the seconds that were waited for.

    A loop that waits without end fails the test.
    """
    waited: list[float] = []
    most = 5000 if math.isinf(speed) else 20_000

    async def pause(seconds: float) -> None:
        waited.append(seconds)
        assert len(waited) < most, "it waits without end"
        await asyncio.sleep(seconds / speed)

    for module in waiting_modules():
        monkeypatch.setattr(module, "pause", pause)
    return waited
