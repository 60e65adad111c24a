"""Fixtures for the tests of sources: no waiting, and a whole walk at once."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from tests.support.clock import FakeClock

from auditrelay.sources import Page, Source
from auditrelay.window import Interval

START = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def day() -> Interval:
    return Interval(START, START + timedelta(days=1))


@pytest.fixture
def clock(day: Interval) -> FakeClock:
    """A clock an hour after the window, of the double and of the source."""
    return FakeClock(day.end + timedelta(hours=1))


@pytest.fixture
def walk(day: Interval) -> Callable[..., object]:
    async def every_page(source: Source, window: Interval = day) -> list[Page]:
        return [page async for page in source.walk(window)]

    return every_page
