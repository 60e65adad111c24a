"""Cencori's double and sources that read its dashboard; a folder of exports and its reader."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.sources.cencori.dashboards import SIZE, Connect, make_settings
from tests.sources.cencori.exports import HOUR, NOW, Reader, make_folder
from tests.support.clock import FakeClock

from auditrelay.sandbox.vendors.cencori import Cencori
from auditrelay.sources import cencori
from auditrelay.sources.cencori import dashboard, files
from auditrelay.telemetry.metrics import Metrics
from auditrelay.window import Interval


@pytest.fixture
def clock(day: Interval) -> FakeClock:
    return FakeClock(day.end + HOUR)


@pytest.fixture
async def vendor(clock: FakeClock) -> AsyncIterator[Cencori]:
    async with Cencori(clock=clock.seconds) as vendor:
        yield vendor
    assert vendor.failures == []


@pytest.fixture
async def connect(vendor: Cencori, clock: FakeClock) -> AsyncIterator[Connect]:
    made: list[dashboard.Source] = []

    def make(**changes: Any) -> dashboard.Source:
        size = changes.pop("page_size", SIZE)
        keys = {"base_url": vendor.url, "cookie": vendor.cookie, **changes}
        source = cencori.build("labs", make_settings(**keys), Metrics(), clock)
        assert isinstance(source, dashboard.Source)
        source._size = size  # smaller than can be configured: many borders in few rows
        made.append(source)
        return source

    yield make
    for source in made:
        await source.close()


@pytest.fixture
def exporter() -> Cencori:
    return Cencori(clock=NOW.timestamp)


@pytest.fixture
def folder(tmp_path: Path) -> files.ExportFolder:
    return make_folder(tmp_path)


@pytest.fixture
def read() -> Reader:
    return Reader()
