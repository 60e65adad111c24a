"""
Write the screenshots of docs/status-page.md: ``python -m tests.support.shots docs/images``.

Those of a running demo are ``demo_shots``'.

``pngquant --ext .png --force docs/images/status-*.png`` makes them a quarter as large.
"""

import asyncio
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tests.support.browser import running
from tests.support.stages import SINKS, SOURCES, STAGES, Stage, staged
from tests.support.stores import seal

from auditrelay.settings.reserved import ALERTS
from auditrelay.status.port import StatusPort

NOW: Final = datetime(2026, 11, 27, 12, 39, 40, tzinfo=UTC)
"""Always the same, so that a picture only differs where the page does."""


async def sealed(instance: Stage) -> None:
    """Seal the evidence of *instance*; sinks that are up to date have taken the head, too."""
    sinks = [sink.name for sink in (await instance.status()).sinks if not sink.backlog_events]
    for sink in SINKS:
        await instance.store.start_sink(sink, [*SOURCES, ALERTS])
    await seal(instance.store)
    end = await instance.store.end_of_spool("")
    for sink in sinks:
        await instance.store.settle(sink, [(end - 1, end)])


async def main(folder: Path) -> None:
    """Shoot every stage, one of them in dark mode and one on a small screen."""
    async with running() as browser:
        for name in STAGES:
            with tempfile.TemporaryDirectory() as state:
                async with staged(name, Path(state), NOW) as instance:
                    await sealed(instance)
                    port = StatusPort("127.0.0.1:0", instance)
                    serving = asyncio.create_task(port.serve())
                    views: dict[str, tuple[int, int | None]] = {"": (1040, None)}
                    if name == "source-held":
                        views["-phone"] = (360, 1000)
                    for suffix, (width, height) in views.items():
                        dark = name == "sink-down"
                        async with browser.tab(width=width, height=800, dark=dark) as tab:
                            await tab.open(port.address)
                            path = folder / f"status-{name}{suffix}.png"
                            await tab.shoot(path, height=height)
                    port.stop()
                    await serving


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
