"""The built site: links, requests, a browser of a desk and of a phone, accessibility."""

import functools
import json
import shutil
import subprocess
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Final

import pytest
from docs.website import check
from tests.support.browser import Browser

ROOT: Final = Path(__file__).parents[2]
AXE: Final = "axe-core@4.14.1"
STANDARD: Final = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa")
SCREENS: Final = {"desk": (1280, False), "desk, dark": (1280, True), "phone": (390, False)}
SHOWN: Final = (
    "index.html",
    "five-minutes.html",
    "tutorials/splunk.html",
    "moving/filebeat.html",
    "configuration.html",
    "options.html",
    "json.html",
    "metrics.html",
    "status-page.html",
    "vendors.html",
    "vendors/okta.html",
    "sinks/splunk_hec.html",
    "decisions/0001-ledger.html",
    "search.html",
)
"""Pages with everything that a page can have: tables, pictures, code, lists that are folded."""


class Quiet(SimpleHTTPRequestHandler):
    """A server of files that does not write what it was asked."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # its name there
        pass


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Where the site is served, as it would be for readers."""
    handler = functools.partial(Quiet, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def axe() -> str:
    """The script of axe-core, which is not part of the project."""
    folder = ROOT / "build" / "axe"
    script = folder / "node_modules" / "axe-core" / "axe.min.js"
    package = script.parent / "package.json"
    there = package.exists() and json.loads(package.read_text())["version"]
    if there != AXE.partition("@")[2]:
        if shutil.which("npm") is None:
            pytest.skip("there is no npm here to get axe-core with")
        folder.mkdir(parents=True, exist_ok=True)
        options = ("--no-save", "--ignore-scripts", "--no-audit", "--no-fund")
        got = subprocess.run(
            ["npm", "install", "--prefix", str(folder), *options, AXE],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if got.returncode:
            pytest.skip(f"axe-core cannot be had here: {got.stderr.strip().splitlines()[-1:]}")
    return script.read_text("utf-8")


def test_nothing_is_wrong_with_the_html(site: Path) -> None:
    assert list(check.problems(site)) == []


def test_every_page_is_in_the_sidebar_of_some_page(site: Path) -> None:
    linked = set()
    for path in site.rglob("*.html"):
        for link in check.Page(path.read_text("utf-8").partition("</aside>")[0]).links:
            linked.add((path.parent / link.partition("#")[0]).resolve())
    pages = {path for path in site.rglob("*.html") if path.name not in check.NO_PAGES}
    assert pages - linked == set()


@pytest.mark.parametrize("screen", SCREENS)
async def test_pages_complain_of_nothing_and_ask_no_other_host(
    address: str, axe: str, browser: Browser, screen: str
) -> None:
    """And axe-core finds no violation of WCAG 2.2 AA, nor is a page wider than the screen."""
    width, dark = SCREENS[screen]
    run = f"axe.run({{runOnly: {json.dumps(STANDARD)}, resultTypes: ['violations']}})"
    ours = (f"{address}/", "data:")
    found = f"{run}.then(r => r.violations.map(v => [v.id, v.nodes.map(n => n.html)]))"
    wrong: list[Any] = []
    for name in SHOWN:
        async with browser.tab(width=width, height=900, dark=dark) as tab:
            await tab.open(f"{address}/{name}")
            await tab.ask(axe)
            wrong += [(name, violation) for violation in await tab.ask(found)]
            wrong += [(name, line) for line in tab.complaints]
            wrong += [(name, each) for each in tab.requests if not each.startswith(ours)]
            if (wide := await tab.ask("document.documentElement.scrollWidth")) > width:
                wrong.append((name, wide))
    assert wrong == []


async def test_the_search_finds_a_page_without_asking_anyone(
    address: str, browser: Browser
) -> None:
    async with browser.tab() as tab:
        await tab.open(f"{address}/search.html?q=backpressure")
        await tab.until("document.querySelectorAll('#search-results li a').length > 0")
        others = [each for each in tab.requests if not each.startswith((address, "data:"))]
        assert others == []
        assert tab.complaints == []
