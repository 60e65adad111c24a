"""Fixtures for described sources: a scripted vendor, and sources that are closed."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from tests.support import scripted as support
from tests.support.clock import FakeClock
from tests.support.scripted import Answer, Scripted

from auditrelay.descriptions.model import Feed
from auditrelay.errors import RelayError
from auditrelay.sources import Page, Source
from auditrelay.window import Interval

Serve = Callable[..., Awaitable[Scripted]]
Connect = Callable[..., Source]


@pytest.fixture
async def serve(clock: FakeClock) -> AsyncIterator[Serve]:
    """Start a vendor that answers from a script."""
    async with AsyncExitStack() as stack:

        async def start(*script: Answer) -> Scripted:
            return await stack.enter_async_context(Scripted(*script, clock=clock.seconds))

        yield start


@pytest.fixture
async def connect(clock: FakeClock) -> AsyncIterator[Connect]:
    """Make a source of a feed that asks a vendor."""
    sources: list[Source] = []

    def make(vendor: Scripted, feed: Feed | None = None, **keys: Any) -> Source:
        keys.setdefault("base_url", vendor.url)
        url = keys.pop("base_url")
        sources.append(support.source(feed or support.feed(), url, clock, **keys))
        return sources[-1]

    yield make
    for source in sources:
        await source.close()


@pytest.fixture
def failing(day: Interval) -> Callable[..., Awaitable[tuple[list[Page], RelayError]]]:
    """Walk until the walk fails; return what it showed by then, and the error."""

    async def walk(
        source: Source, window: Interval = day, **how: bool
    ) -> tuple[list[Page], RelayError]:
        pages: list[Page] = []
        try:
            async for page in source.walk(window, **how):
                pages.append(page)  # noqa: PERF401  # kept if the next one fails
        except RelayError as error:
            return pages, error
        raise AssertionError("the walk did not fail")

    return walk
