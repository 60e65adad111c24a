"""A data collection rule, and sinks that send to it."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from tests.support.clock import FakeClock

from auditrelay.sandbox.siems.azure_logs import AzureLogs
from auditrelay.sinks import Sink, azure_logs
from auditrelay.telemetry.metrics import Metrics

NOON = 1_767_268_800


@pytest.fixture
async def rule() -> AsyncIterator[AzureLogs]:
    async with AzureLogs(clock=lambda: NOON) as double:
        yield double


@pytest.fixture
async def make(rule: AzureLogs, clock: FakeClock) -> AsyncIterator[Callable[..., Sink]]:
    made: list[Sink] = []

    def build(**keys: Any) -> Sink:
        given = {**rule.settings(), "timeout": "10s", **keys}
        settings = azure_logs.Settings.model_validate(
            {key: value for key, value in given.items() if value is not None}
        )
        made.append(azure_logs.build("sentinel", settings, Metrics(), clock))
        return made[-1]

    yield build
    for sink in made:
        await sink.close()
