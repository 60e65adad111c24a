"""
Write the screenshots of docs/status-page.md: ``python -m tests.support.shots docs/images``.

``pngquant --ext .png --force docs/images/status-*.png`` makes them a quarter as large.
"""

import asyncio
import sys
import tempfile
from pathlib import Path

from tests.support.browser import running
from tests.support.stages import STAGES, staged

from auditrelay.status.port import StatusPort


async def main(folder: Path) -> None:
    """Shoot every stage, one of them in dark mode and one on a small screen."""
    async with running() as browser:
        for name in STAGES:
            with tempfile.TemporaryDirectory() as state:
                async with staged(name, Path(state)) as instance:
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
