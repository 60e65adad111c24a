"""The status page by axe-core, on a desk and on a phone."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.support.browser import Browser
from tests.support.stages import STAGES, staged
from tests.website.axe import violations

from auditrelay.status.port import StatusPort

SCREENS = ((390, False), (1280, True))
"""Widths, and whether it is dark."""

NOW = datetime(2026, 11, 27, 12, 39, 40, tzinfo=UTC)


@pytest.mark.parametrize("name", STAGES)
async def test_the_status_page_can_be_read_by_everyone(
    browser: Browser, axe: str, tmp_path: Path, name: str
) -> None:
    """No violation of WCAG 2.2 AA, and nothing in the console, whatever the page has to show."""
    wrong: list[Any] = []
    async with staged(name, tmp_path, NOW) as instance:
        port = StatusPort("127.0.0.1:0", instance)
        serving = asyncio.create_task(port.serve())
        for width, dark in SCREENS:
            async with browser.tab(width=width, height=900, dark=dark) as tab:
                await tab.open(port.address)
                # The page's own policy forbids scripts of others: axe-core comes by DevTools.
                wrong += [(width, each) for each in await violations(tab, axe)]
                wrong += [(width, line) for line in tab.complaints]
        port.stop()
        await serving
    assert wrong == []
