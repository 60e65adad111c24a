"""A double of an API that only a description knows, and a source that reads it by that."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tests.contract.described.shapes import Shape, all_shapes, some_shapes
from tests.contract.sources.conftest import Rig
from tests.support.clock import FakeClock
from tests.support.extent import extent, some_of

from auditrelay.descriptions import FOLDER
from auditrelay.descriptions.load import named, read
from auditrelay.descriptions.model import Feed
from auditrelay.descriptions.settings import DescribedSettings, settings_class
from auditrelay.descriptions.vendor import vendor_of
from auditrelay.events.normalize import Normalizer
from auditrelay.events.vendors import Vendor
from auditrelay.sandbox.described import Described
from auditrelay.sources import Source, described
from auditrelay.telemetry.metrics import Metrics
from auditrelay.window import Interval

SHAPES = list(extent(some_shapes, all_shapes)())
"""Those that are tried: in `make test-all` the whole product."""


@cache
def feed_in(file: Path, name: str | None) -> Feed:
    """Return the feed *name* that *file* describes: the same for all tests, as what follows."""
    return (named(file.stem) if file.parent == FOLDER else read(file)).feed(name)


@cache
def _settings_class(file: Path, name: str | None) -> type[DescribedSettings]:
    feed = feed_in(file, name)
    return settings_class(feed, feed.vendor)


@cache
def _vendor(file: Path, name: str | None) -> Vendor:
    return vendor_of(feed_in(file, name))


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
        return _settings_class(*self._described).model_validate(given)

    def build(self, **changes: Any) -> Source:
        """Return a source with those settings."""
        source = described.build("it", self.settings(**changes), Metrics(), self.clock)
        self.sources.append(source)
        return source

    def normalizer(self, source: Source) -> Normalizer:
        """Return the normalizer of the records of *source*."""
        return Normalizer(
            vendor=_vendor(*self._described),
            source="it",
            api_host="h",
            scope=source.scope,
            redact="default",
            tags={},
        )

    @property
    def _described(self) -> tuple[Path, str | None]:
        assert self.feed is not None
        return self.double.description.file, self.feed.name

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
    clock: FakeClock, file: Path, name: str | None = None, page: Path | None = None
) -> AsyncIterator[DescribedRig]:
    """Give a rig of the feed *name* that *file* describes, two hours after a window of a day."""
    now = clock.now()
    window = Interval(now - timedelta(hours=26), now - timedelta(hours=2))
    feed = feed_in(file, name)
    async with Described(file, feed=feed.name, page=page, clock=clock.seconds) as double:
        made = DescribedRig(feed.vendor, double, window, clock, feed=feed)
        yield made
        for source in made.sources:
            await source.close()


@pytest.fixture(scope="session")
def file_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Shape], Path]:
    """Return what writes the description of a shape, once."""
    folder = tmp_path_factory.mktemp("shapes")

    @cache
    def file_of(shape: Shape) -> Path:
        file = folder / f"{shape.name.replace('/', ', ')}.toml"
        file.write_text(shape.text)
        return file

    return file_of


@pytest.fixture(params=SHAPES, ids=[shape.name for shape in SHAPES])
async def rig(
    request: pytest.FixtureRequest, clock: FakeClock, file_of: Callable[[Shape], Path]
) -> AsyncIterator[DescribedRig]:
    """A rig of each shape."""
    async with reading(clock, file_of(request.param)) as made:
        yield made


FEW = some_of(SHAPES, 4)
"""For what depends on the credentials or the refusals more than on the pages."""


@pytest.fixture(params=FEW, ids=[shape.name for shape in FEW])
async def one_of_few(
    request: pytest.FixtureRequest, clock: FakeClock, file_of: Callable[[Shape], Path]
) -> AsyncIterator[DescribedRig]:
    """A rig of every fourth shape."""
    async with reading(clock, file_of(request.param)) as made:
        yield made
