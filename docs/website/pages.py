"""
Assemble the source of the site from the pages of the repository.

The pages of ``docs`` are written for readers of the repository, too, so their links go to files: to
another page, to a file of the code, to a folder. Here each link becomes what it is on the site.
"""

import json
import re
import shutil
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from os.path import relpath
from pathlib import Path
from typing import Final

from docs.website import configuration, lists, options, outputs

ROOT: Final = Path(__file__).parents[2]
DOCS: Final = ROOT / "docs"
HERE: Final = Path(__file__).parent

OUTSIDE: Final = {
    "SECURITY.md": "security",
    "CONTRIBUTING.md": "contributing",
    "CHANGELOG.md": "changelog",
    "siem/README.md": "siem",
    "interop/README.md": "interop",
    "tests/README.md": "tests",
}
"""Pages that are elsewhere in the repository, and their names on the site."""

FOLDERS: Final = {
    "docs": "index",
    "docs/vendors": "vendors",
    "docs/sinks": "sinks",
    "docs/decisions": "decisions",
    "README.md": "index",
    "config.example.toml": "configuration",
    "src/auditrelay/cli": "options",
    "siem": "siem",
    "interop": "interop",
    "tests": "tests",
}
"""What is linked as a file or folder of the repository, and is a page of the site."""

GENERATED: Final = {
    "configuration": configuration.configuration,
    "options": options.options,
    "json": outputs.json_outputs,
    "vendors": lists.vendors,
    "sinks": lists.sinks,
    "decisions": lists.decisions,
}
"""Pages that are made of the code when the site is built."""

FILES: Final = "files"
"""The page of all files and folders of the repository that pages link to."""

_LINK: Final = re.compile(r"(\]\()([^)\s]+)(\))")
_PICTURE: Final = re.compile(
    r'<picture>\s*<source media="\(prefers-color-scheme: dark\)" srcset="(?P<dark>[^"]+)">\s*'
    r'<img alt="(?P<alt>[^"]*)" src="(?P<light>[^"]+)"[^>]*>\s*</picture>'
)


class BrokenPageError(Exception):
    """A page links to what is not there, is in no part of the navigation, or is in two."""


@dataclass(frozen=True, slots=True)
class Navigation:
    """The parts of the sidebar: their titles and pages; and the pages below a page."""

    parts: Mapping[str, list[str]]
    below: Mapping[str, list[str]]

    def pages(self) -> Iterator[str]:
        """Yield every page of the site but its first one."""
        for pages in (*self.parts.values(), *self.below.values()):
            yield from pages


@cache
def navigation() -> Navigation:
    """Return the navigation; raises BrokenPageError if it is not exactly the pages there are."""
    table = tomllib.loads((HERE / "navigation.toml").read_text("utf-8"))
    there = {*_sources(), *GENERATED, FILES} - {"index"}
    below = {
        page: sorted(each for each in there if fnmatch(each, pattern) and each != page)
        for page, pattern in table["below"].items()
    }
    found = Navigation({part["title"]: part["pages"] for part in table["part"]}, below)
    named = list(found.pages())
    for wrong, said in (
        (there.difference(named), "in no part of docs/website/navigation.toml"),
        (set(named) - there, "in docs/website/navigation.toml, and not there"),
        ({each for each in named if named.count(each) > 1}, "twice in the navigation"),
    ):
        if wrong:
            raise BrokenPageError(f"{', '.join(sorted(wrong))}: {said}")
    return found


def _sources() -> dict[str, Path]:
    """Return the page of each name that is a file, now."""
    pages = {str(path.relative_to(DOCS).with_suffix("")): path for path in DOCS.rglob("*.md")}
    return {**pages, **{name: ROOT / path for path, name in OUTSIDE.items()}}


class Site:
    """The pages of the site in the folder *target*, which is made again."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._names = {path: name for name, path in _sources().items()}
        self._made = {DOCS / f"{name}.md": name for name in GENERATED}
        self._linked: dict[Path, set[str]] = {}

    def write(self) -> None:
        """Write every page and what they show and link to."""
        shutil.rmtree(self._target, ignore_errors=True)
        parts = navigation()
        for path, name in self._names.items():
            self._page(name, self.converted(path.read_text("utf-8"), path))
        # The promises stand in the README alone, where tests read them.
        self._append("index", self.converted(lists.guarantees(), ROOT / "README.md"))
        for name, make in GENERATED.items():
            # A generated page is written as if it stood in docs.
            self._page(name, self.converted(make(), DOCS / f"{name}.md"))
        self._page(FILES, "\n".join(self._files()))
        for name, below in parts.below.items():
            self._append(name, _toctree(name, below))
        for title, pages in parts.parts.items():
            self._append("index", _toctree("index", pages, title))
        shutil.copytree(DOCS / "images", self._target / "images")
        static = self._target / "_static"
        static.mkdir()
        shutil.copy(HERE / "style.css", static)
        shutil.copy(HERE / "icon.svg", static)
        shutil.copy(HERE / "conf.py", self._target)
        sidebar = {"parts": parts.parts, "below": parts.below}
        (self._target / "navigation.json").write_text(json.dumps(sidebar), "utf-8")

    def converted(self, text: str, path: Path) -> str:
        """Return the page *text*, which stands at *path*, with links as they are on the site."""
        name = self._names.get(path) or FOLDERS.get(str(path.relative_to(ROOT))) or path.stem
        parts = re.split(r"(^ *```.*?^ *```|^ *~~~.*?^ *~~~)", text, flags=re.MULTILINE | re.DOTALL)
        for number, part in enumerate(parts):
            if number % 2 == 0:
                pictured = _PICTURE.sub(_pictures, part)
                parts[number] = _LINK.sub(
                    lambda found: f"{found[1]}{self._link(found[2], path, name)}{found[3]}",
                    pictured,
                )
        return "".join(parts)

    def _link(self, link: str, path: Path, name: str) -> str:
        """Return what *link* of the page *name*, which stands at *path*, is on the site."""
        if re.match(r"[a-z]+:|#", link):
            return link
        to, _, anchor = link.partition("#")
        target = (path.parent / to).resolve()
        made = self._made.get(target) if path in self._made else None
        if made is None and not target.exists():
            raise BrokenPageError(f"{path.relative_to(ROOT)}: {link} is not there")
        if target.is_relative_to(DOCS / "images"):
            return relpath(target, DOCS / Path(name).parent)
        inside = str(target.relative_to(ROOT))
        page = made or self._names.get(target) or FOLDERS.get(inside)
        if page is None:
            self._linked.setdefault(target, set())
            page, anchor = FILES, _anchor(inside)
        here = relpath(f"{page}.md", Path(name).parent)
        return f"{here}#{anchor}" if anchor else here

    def _files(self) -> Iterator[str]:
        """Yield the page of the files and folders that pages link to, and copy them."""
        yield "# Files"
        yield ""
        yield "Files of the repository that these pages name, as they were when the site was built."
        for target in sorted(self._linked):
            inside = str(target.relative_to(ROOT))
            yield from ("", f"## `{inside}`", "")
            for path in sorted(_within(target)):
                inside = str(path.relative_to(ROOT))
                # A copy of a page is a file here, and no page.
                copy = Path("repository", f"{inside}.txt" if path.suffix == ".md" else inside)
                (self._target / copy).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, self._target / copy)
                yield f"* [`{inside}`]({copy})"
        yield ""

    def _page(self, name: str, text: str) -> None:
        path = self._target / f"{name}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")

    def _append(self, name: str, text: str) -> None:
        with (self._target / f"{name}.md").open("a", encoding="utf-8") as page:
            page.write(text)


def _within(target: Path) -> list[Path]:
    if target.is_file():
        return [target]
    return [
        path
        for path in target.rglob("*")
        if path.is_file() and not {"__pycache__", "target"} & set(path.parts)
    ]


def _anchor(heading: str) -> str:
    """Return what a heading can be linked by, as GitHub and MyST name it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def _pictures(found: re.Match[str]) -> str:
    """Return a picture for a light and one for a dark page, as the theme shows them."""
    alt = found["alt"]
    return f"![{alt}]({found['light']}){{.only-light}}\n![{alt}]({found['dark']}){{.only-dark}}"


def _toctree(name: str, pages: list[str], title: str = "") -> str:
    caption = [f":caption: {title}"] if title else []
    listed = [relpath(page, Path(name).parent) for page in pages]
    return "\n".join(["", "```{toctree}", ":hidden:", *caption, "", *listed, "```", ""])
