"""
Check the HTML of the site: ``python -m docs.website.check FOLDER`` (`make docs`).

No link leads nowhere, no page is out of reach of the first one, and nothing is loaded from another
host. It looks at what a browser gets, so it does not matter which program has made it.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

LOADED: Final = {
    ("audio", "src"),
    ("embed", "src"),
    ("form", "action"),
    ("iframe", "src"),
    ("img", "src"),
    ("img", "srcset"),
    ("input", "src"),
    ("link", "href"),
    ("object", "data"),
    ("script", "src"),
    ("source", "src"),
    ("source", "srcset"),
    ("track", "src"),
    ("video", "poster"),
    ("video", "src"),
}
"""What a browser asks for by itself, or sends to."""

_IN_STYLES: Final = re.compile(r"""(?:url\(\s*|@import\s+)["']?([^"')\s]+)""")
NO_PAGES: Final = {"search.html", "genindex.html"}
"""What the site has beside the pages: it is reached by a form, or not at all."""


class Page(HTMLParser):
    """What a page links, what it loads, and what of it can be linked."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self._in_style = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take note of an element."""
        self._in_style = tag == "style"
        for name, value in attrs:
            if value is None:
                continue
            if name in ("id", "name"):
                self.anchors.add(value)
            elif (tag, name) == ("a", "href"):
                self.links.append(value)
            elif (tag, name) in LOADED:
                self.loads += value.split()[:1] if name != "srcset" else _candidates(value)
            elif name == "style":
                self.loads += _IN_STYLES.findall(value)

    def handle_data(self, data: str) -> None:
        """Take note of what a style loads."""
        if self._in_style:
            self.loads += _IN_STYLES.findall(data)


def _candidates(srcset: str) -> list[str]:
    return [each.split()[0] for each in srcset.split(",") if each.strip()]


def problems(folder: Path) -> Iterator[str]:
    """Yield what is wrong with the site in *folder*, a line each."""
    pages = {path: Page(path.read_text("utf-8")) for path in sorted(folder.rglob("*.html"))}
    reached = {folder / "index.html"}
    todo = [*reached]
    while todo:
        path = todo.pop()
        for link in pages[path].links:
            target = _target(path, link)
            if target in pages and target not in reached:
                reached.add(target)
                todo.append(target)
    for path, page in pages.items():
        name = path.relative_to(folder)
        yield from (f"{name}: {what}" for what in _of_page(path, page, pages))
        if path not in reached and name.name not in NO_PAGES:
            yield f"{name}: no page links to it"
    for path in sorted(folder.rglob("*.css")):
        for loaded in _IN_STYLES.findall(path.read_text("utf-8")):
            if _elsewhere(loaded):
                yield f"{path.relative_to(folder)}: loads {loaded}"


def _of_page(path: Path, page: Page, pages: Mapping[Path, Page]) -> Iterator[str]:
    for loaded in page.loads:
        if _elsewhere(loaded):
            yield f"loads {loaded}"
        elif not loaded.startswith("data:") and not _target(path, loaded).exists():
            yield f"loads {loaded}, which is not there"
    for link in dict.fromkeys(page.links):
        if urlsplit(link).scheme or _elsewhere(link):
            continue
        target = _target(path, link)
        anchor = unquote(urlsplit(link).fragment)
        if not target.exists():
            yield f"links to {link}, which is not there"
        elif anchor and target in pages and anchor not in pages[target].anchors:
            yield f"links to {link}, and there is no such heading"


def _elsewhere(address: str) -> bool:
    return address.startswith("//") or urlsplit(address).scheme in ("http", "https")


def _target(path: Path, link: str) -> Path:
    inside = unquote(urlsplit(link).path)
    return (path.parent / inside).resolve() if inside else path


if __name__ == "__main__":
    found = list(problems(Path(sys.argv[1]).resolve()))
    if found:
        sys.exit("\n".join(found))
