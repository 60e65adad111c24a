"""
The settings of Sphinx for the site: `make docs`.

Every page and link was checked by the assembler before (``pages.py``), and the HTML is checked
afterwards (``check.py``); what Sphinx itself warns of is an error as well (`--fail-on-warning`).
"""

import json
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

project = "auditrelay"
author = "the auditrelay authors"
html_title = "auditrelay"

extensions = ["myst_parser"]
exclude_patterns = ["repository"]  # files that are linked, among them pages of other places
myst_heading_anchors = 6  # as GitHub names them, so that one link is right in both places
myst_enable_extensions = ["attrs_inline"]  # pictures for a light and a dark page
suppress_warnings = [
    "myst.header",  # a page may begin below its title, as on GitHub
    "misc.highlighting_failure",  # what is shown of a file is not always a whole one
]

html_theme = "furo"
html_favicon = "_static/icon.svg"
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
html_show_sourcelink = False
highlight_language = "none"
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"

_WIDE = re.compile(r'<pre\b|<div class="table-wrapper[^"]*"')

NAVIGATION = json.loads((Path(__file__).parent / "navigation.json").read_text("utf-8"))


def setup(app: Any) -> None:
    """Let the sidebar be ours."""
    app.connect("html-page-context", _sidebar, priority=100)  # before the theme's


def _sidebar(app: Any, name: str, _template: str, context: dict[str, Any], _tree: Any) -> None:
    """
    Give the theme a sidebar of the parts and their pages; a list is open on its own pages only.

    Sphinx would copy the tables of contents of all pages into each one: most of the time of a
    build, and of the weight of a page.
    """
    context["toctree"] = lambda **_: "".join(_parts(app, name))
    if "body" in context:
        # What is wider than a phone is scrolled; without a mouse that needs the focus.
        context["body"] = _WIDE.sub(r'\g<0> tabindex="0"', context["body"])


def _parts(app: Any, name: str) -> Iterator[str]:
    for title, pages in NAVIGATION["parts"].items():
        yield f'<p class="caption"><span class="caption-text">{title}</span></p><ul>'
        for page in pages:
            below = NAVIGATION["below"].get(page, [])
            inside = name == page or name in below
            yield _entry(app, name, page, 1, current=inside)
            if inside and below:
                yield "<ul>"
                for each in below:
                    yield f"{_entry(app, name, each, 2, current=name == each)}</li>"
                yield "</ul>"
            yield "</li>"
        yield "</ul>"


def _entry(app: Any, name: str, page: str, level: int, *, current: bool) -> str:
    classes = f"toctree-l{level}{' current' if current else ''}"
    link = "current reference internal" if name == page else "reference internal"
    address = "#" if name == page else app.builder.get_relative_uri(name, page)
    title = escape(app.env.titles[page].astext())
    return f'<li class="{classes}"><a class="{link}" href="{address}">{title}</a>'
