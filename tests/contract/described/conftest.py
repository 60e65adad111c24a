"""A double of an API that only a description knows, and a source that reads it by that."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.contract.described.shapes import Shape, all_shapes, some_shapes
from tests.contract.sources.conftest import Rig
from tests.support.clock import FakeClock

from auditrelay.descriptions.load import read
from auditrelay.descriptions.model import Feed
from auditrelay.descriptions.settings import DescribedSettings, settings_class
from auditrelay.descriptions.vendor import vendor_of
from auditrelay.events.normalize import Normalizer
from auditrelay.sandbox.described import Described
from auditrelay.sources import Source, described
from auditrelay.telemetry.metrics import Metrics
from auditrelay.window import Interval

SHAPES = list(all_shapes() if os.environ.get("ALL_SHAPES") else some_shapes())
"""Those that are tried: with ALL_SHAPES (`make test-all`) the whole product."""


@dataclass
class DescribedRig(Rig):
    """A rig whose double and source have nothing in common but the description of *feed*."""

    double: Described
    feed: Feed | None = None

    def settings(self, **changes: Any) -> DescribedSettings:
        """Return the settings, with *changes*, of a source that reads the double in small pages."""
        assert self.feed is not None
        table = {**self.double.settings(), "timeout": "5s", **changes}
        if self.feed.pages.size is not None:
            table.setdefault("page_size", self.page)
        given = {key: value for key, value in table.items() if value is not None}
        return settings_class(self.feed, self.feed.vendor).model_validate(given)

    def build(self, **changes: Any) -> Source:
        """Return a source with those settings."""
        source = described.build("it", self.settings(**changes), Metrics(), self.clock)
        self.sources.append(source)
        return source

    def normalizer(self, source: Source) -> Normalizer:
        """Return the normalizer of the records of *source*."""
        assert self.feed is not None
        return Normalizer(
            vendor=vendor_of(self.feed),
            source="it",
            api_host="h",
            scope=source.scope,
            redact="default",
            tags={},
        )

    @property
    def turns_pages(self) -> bool:
        """Whether a window may have more than one page."""
        return bool(self.double.description.pages["kind"] != "none")

    @property
    def is_counted(self) -> bool:
        """Whether its pages are counted, so that rows move between them."""
        return self.double.description.pages["kind"] in ("number", "offset")


@asynccontextmanager
async def reading(
    clock: FakeClock, file: Path, feed: Feed, page: Path | None = None
) -> AsyncIterator[DescribedRig]:
    """Give a rig of the *feed* that *file* describes, two hours after a window of a day."""
    now = clock.now()
    window = Interval(now - timedelta(hours=26), now - timedelta(hours=2))
    async with Described(file, feed=feed.name, page=page, clock=clock.seconds) as double:
        made = DescribedRig(feed.vendor, double, window, clock, feed=feed)
        yield made
        for source in made.sources:
            await source.close()


@pytest.fixture(params=SHAPES, ids=[shape.name for shape in SHAPES])
async def rig(
    request: pytest.FixtureRequest, clock: FakeClock, tmp_path: Path
) -> AsyncIterator[DescribedRig]:
    """A rig of each shape."""
    shape: Shape = request.param
    file = tmp_path / "shape.toml"
    file.write_text(shape.text)
    async with reading(clock, file, read(file).feed(None)) as made:
        yield made


FEW = SHAPES if os.environ.get("ALL_SHAPES") else SHAPES[::4]
"""For what depends on the credentials or the refusals more than on the pages."""


@pytest.fixture(params=FEW, ids=[shape.name for shape in FEW])
async def one_of_few(
    request: pytest.FixtureRequest, clock: FakeClock, tmp_path: Path
) -> AsyncIterator[DescribedRig]:
    """A rig of every fourth shape."""
    shape: Shape = request.param
    file = tmp_path / "shape.toml"
    file.write_text(shape.text)
    async with reading(clock, file, read(file).feed(None)) as made:
        yield made
