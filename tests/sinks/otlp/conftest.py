"""A receiver of log records, and sinks that send to it."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from tests.support.clock import FakeClock

from auditrelay.sandbox.siems.otlp import Otlp
from auditrelay.sinks import Sink, otlp
from auditrelay.telemetry.metrics import Metrics

NOON = 1_767_268_800


@pytest.fixture
async def collector() -> AsyncIterator[Otlp]:
    async with Otlp(clock=lambda: NOON) as double:
        yield double


@pytest.fixture
async def make(collector: Otlp, clock: FakeClock) -> AsyncIterator[Callable[..., Sink]]:
    made: list[Sink] = []

    def build(**keys: Any) -> Sink:
        given = {**collector.settings(), "timeout": "10s", **keys}
        settings = otlp.Settings.model_validate(given)
        made.append(otlp.build("collector", settings, Metrics(), clock))
        return made[-1]

    yield build
    for sink in made:
        await sink.close()
