"""
Write the pictures of the status page of a running demo: ``make screenshots``.

They are what ``make demo`` shows: five vendors, three SIEMs and their faults. Each is taken on a
light and on a dark screen, one after the other, so numbers may differ by a refresh.
"""

import asyncio
import re
import signal
import sys
from pathlib import Path
from typing import Final

from tests.support.browser import Tab, running

VIEWS: Final = {"demo": (1040, 820), "demo-phone": (390, 900)}
"""The width of each picture, and how much of the page is in it."""

_DEMO: Final = ("-m", "auditrelay", "demo", "--duration", "10m")
_SETTLED: Final = 25.0
"""Seconds of the demo before the first picture: what it begins with is delivered by then."""


async def address(demo: asyncio.subprocess.Process) -> str:
    """Return the address of the status page, which the demo prints."""
    assert demo.stdout is not None
    async with asyncio.timeout(60):
        async for line in demo.stdout:
            if found := re.search(r"http://127\.0\.0\.1:\d+/", line.decode()):
                return found[0]
    raise RuntimeError("the demo has printed no address")


async def drain(stream: asyncio.StreamReader) -> None:
    """Read what the demo goes on printing, so that it never waits for us."""
    async for _ in stream:
        pass


async def shoot(tab: Tab, page: str, path: Path, height: int) -> None:
    """Write a picture of *page* when it is there, and not while the daemon is killed."""
    async with asyncio.timeout(60):
        while True:
            try:
                await tab.open(page)
            except AssertionError:
                await asyncio.sleep(0.5)
                continue
            if await tab.ask("document.querySelectorAll('section').length > 0"):
                break
    await tab.shoot(path, height=height)


async def main(folder: Path) -> None:
    """Run the demo and take every picture."""
    demo = await asyncio.create_subprocess_exec(
        sys.executable, *_DEMO, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        page = await address(demo)
        assert demo.stdout is not None
        draining = asyncio.create_task(drain(demo.stdout))
        await asyncio.sleep(_SETTLED)
        async with running() as browser:
            for name, (width, height) in VIEWS.items():
                for dark in (False, True):
                    async with browser.tab(width=width, height=800, dark=dark) as tab:
                        mode = "dark" if dark else "light"
                        await shoot(tab, page, folder / f"{name}-{mode}.webp", height)
        demo.send_signal(signal.SIGINT)
        await demo.wait()
        await draining
    finally:
        if demo.returncode is None:
            demo.kill()
            await demo.wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
