"""Cencori's double and sources that read its dashboard; a folder of exports and its reader."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.sources.cencori.dashboards import SIZE, Connect, make_settings
from tests.sources.cencori.exports import HOUR, NOW, Reader, make_folder
from tests.support.clock import Clock

from auditrelay.http import peer as http
from auditrelay.sandbox.vendors.cencori import Cencori
from auditrelay.sources import cencori
from auditrelay.sources.cencori import dashboard, files
from auditrelay.telemetry.metrics import Metrics
from auditrelay.window import Interval


@pytest.fixture(autouse=True)
def any_year(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tests set the double's clock to any year."""
    monkeypatch.setattr(http, "CLOCK_TOLERANCE", timedelta(days=36500))


@pytest.fixture
def clock(day: Interval) -> Clock[float]:
    return Clock((day.end + HOUR).timestamp())


@pytest.fixture
async def vendor(clock: Clock[float]) -> AsyncIterator[Cencori]:
    async with Cencori(clock=clock) as vendor:
        yield vendor
    assert vendor.failures == []


@pytest.fixture
async def connect(vendor: Cencori) -> AsyncIterator[Connect]:
    made: list[dashboard.Source] = []

    def make(**changes: Any) -> dashboard.Source:
        size = changes.pop("page_size", SIZE)
        keys = {"base_url": vendor.url, "cookie": vendor.cookie, **changes}
        source = cencori.build("labs", make_settings(**keys), Metrics())
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
