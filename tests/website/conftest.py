"""The site that `make docs` has built, and tutorials that are followed word by word."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.browser import CHROMIUM, NO_CHROMIUM, Browser, running
from tests.website.axe import script

HERE = Path(__file__).parent
SITE = HERE.parents[1] / "build" / "website" / "html"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test here starts a process, or looks at what one has built."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.process)


@pytest.fixture(scope="session")
def site() -> Path:
    """The folder of the built site."""
    if not (SITE / "index.html").exists():
        pytest.skip("there is no site in build/website/html: make docs builds one")
    return SITE


@pytest.fixture(scope="session")
def axe() -> str:
    """The script of axe-core."""
    return script()


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """A browser of the test's own."""
    if CHROMIUM is None:
        pytest.skip(NO_CHROMIUM)
    async with running() as started:
        yield started
