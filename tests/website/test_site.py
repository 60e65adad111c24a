"""The built site: links, requests, a browser of a desk and of a phone, accessibility."""

import functools
import re
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Final

import pytest
from docs.website import check
from tests.support.browser import Browser
from tests.website.axe import violations

EVERYTHING: Final = (
    "index.html",
    "five-minutes.html",
    "tutorials/splunk.html",
    "configuration.html",
    "json.html",
    "status-page.html",
    "vendors/okta.html",
    "sinks/splunk_hec.html",
    "decisions.html",
    "search.html",
)
"""Pages with all that a page can have: tables, pictures, code, lists that are folded."""

SCREENS: Final = {
    "desk": (1280, False, EVERYTHING),
    "phone": (390, False, EVERYTHING),
    "dark": (1280, True, ("index.html", "json.html", "status-page.html")),
}
"""Width, colours, and the pages that are looked at."""


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


def test_nothing_is_wrong_with_the_html(site: Path) -> None:
    assert list(check.problems(site)) == []


def test_every_page_is_in_the_sidebar_of_some_page(site: Path) -> None:
    linked = set()
    for path in site.rglob("*.html"):
        sidebar = path.read_text("utf-8").partition("</aside>")[0]
        # What precedes it has links to the neighbours of a page alone.
        tree = sidebar.partition('class="sidebar-tree"')[2]
        for link in re.findall(r'href="([^"#]+)', tree):
            linked.add((path.parent / link).resolve())
    pages = {path for path in site.rglob("*.html") if path.name not in check.NO_PAGES}
    assert pages - linked == {site / "index.html"}


@pytest.mark.parametrize("screen", SCREENS)
async def test_pages_complain_of_nothing_and_ask_no_other_host(
    address: str, axe: str, browser: Browser, screen: str
) -> None:
    """And axe-core finds no violation of WCAG 2.2 AA, nor is a page wider than the screen."""
    width, dark, names = SCREENS[screen]
    wrong: list[Any] = []
    for name in names:
        async with browser.tab(width=width, height=900, dark=dark) as tab:
            await tab.open(f"{address}/{name}")
            wrong += [(name, each) for each in await violations(tab, axe)]
            wrong += [(name, line) for line in tab.complaints]
            ours = (f"{address}/", "data:")
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
