"""Writes the pictures of docs/status-page.md: ``python -m tests.status.shots docs/images``."""

import asyncio
import sys
import tempfile
from pathlib import Path

from tests.status.browser import running
from tests.status.stages import STAGES, staged

from auditrelay.status import StatusPort


async def main(folder: Path) -> None:
    """Shoot every stage, and some of them in the dark or on a phone."""
    async with running() as browser:
        for name in STAGES:
            with tempfile.TemporaryDirectory() as state:
                async with staged(name, Path(state)) as instance:
                    port = StatusPort("127.0.0.1:0", instance)
                    serving = asyncio.create_task(port.serve())
                    views = {"": (1120, False)}
                    if name in ("gap", "sink-down"):
                        views["-dark"] = (1120, True)
                    if name in ("source-held", "long-backlog"):
                        views["-phone"] = (360, False)
                    for suffix, (width, dark) in views.items():
                        async with browser.tab(width=width, height=800, dark=dark) as tab:
                            await tab.open(port.address)
                            await tab.shoot(folder / f"status-{name}{suffix}.png")
                    port.stop()
                    await serving


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
