"""What the tests of object storage need: batches, a double, and sinks that send to it."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from tests.support.batches import batch, items
from tests.support.clock import FakeClock

from auditrelay.sandbox.siems.object_storage import Bucket
from auditrelay.sinks import object_storage
from auditrelay.sinks.object_storage import Settings, Sink
from auditrelay.telemetry.metrics import Metrics

__all__ = ["batch", "items"]

Make = Callable[..., Sink]


@pytest.fixture
async def bucket(clock: FakeClock) -> AsyncIterator[Bucket]:
    async with Bucket(clock=clock.seconds) as bucket:
        yield bucket


@pytest.fixture
async def make(bucket: Bucket, clock: FakeClock) -> AsyncIterator[Make]:
    """Make sinks with the settings of the double, and others; *environ* is their environment."""
    made: list[Sink] = []

    def build(*, environ: dict[str, str] | None = None, **keys: Any) -> Sink:
        given = {**bucket.settings(), "timeout": "10s", **keys}
        given = {key: value for key, value in given.items() if value is not None}
        settings = Settings.model_validate(given)
        made.append(
            object_storage.Sink("archive", settings, Metrics(), clock, environ=environ or {})
        )
        return made[-1]

    yield build
    for sink in made:
        await sink.close()
