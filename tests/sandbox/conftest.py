"""Shared by the tests of the doubles: a manual clock, and a plain client."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import httpx
import pytest
from tests.support.clock import FakeClock

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOW)


@pytest.fixture
def now() -> datetime:
    return NOW


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    # everything is plain HTTP on loopback: reading the certificates would cost most of a test
    async with httpx.AsyncClient(trust_env=False, timeout=5, verify=False) as client:
        yield client
