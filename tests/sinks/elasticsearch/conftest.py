"""A cluster, and sinks that send to it."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from tests.support.clock import FakeClock

from auditrelay.sandbox.siems.elasticsearch import PASSWORD, USERNAME, Elastic
from auditrelay.sinks import Sink, elasticsearch
from auditrelay.telemetry.metrics import Metrics

Make = Callable[..., Sink]


@pytest.fixture
async def elastic() -> AsyncIterator[Elastic]:
    async with Elastic() as double:
        yield double


@pytest.fixture
async def make(elastic: Elastic, clock: FakeClock) -> AsyncIterator[Make]:
    made: list[Sink] = []

    def build(**keys: Any) -> Sink:
        settings = elasticsearch.Settings.model_validate(
            {
                "type": "elasticsearch",
                "urls": [elastic.url],
                "username": USERNAME,
                "password": PASSWORD,
                "timeout": "10s",
                **keys,
            }
        )
        made.append(elasticsearch.build("elastic", settings, Metrics(), clock))
        return made[-1]

    yield build
    for sink in made:
        await sink.close()


@pytest.fixture
async def nodes() -> AsyncIterator[list[Elastic]]:
    """Three nodes. They share nothing, so that a test can see which of them has an event."""
    async with Elastic() as one, Elastic() as two, Elastic() as three:
        yield [one, two, three]
