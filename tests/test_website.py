"""
What `make docs` makes of the pages, without building HTML; `make docs-test` looks at that.

Every page has its place, every link becomes one of the site, and what is generated of the code is
all there.
"""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from docs.website import check, configuration, options, outputs, pages
from tests.test_docs import COMMANDS

from auditrelay.collect.verify import VerifyReport
from auditrelay.config.example import example

ROOT = Path(__file__).parents[1]


# --- pages ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("website") / "source"
    pages.Site(folder).write()
    return folder


def test_every_page_of_the_documentation_is_on_the_site(source: Path) -> None:
    written = {str(path.relative_to(source)) for path in source.rglob("*.md")}
    ours = {str(path.relative_to(pages.DOCS)) for path in pages.DOCS.rglob("*.md")}
    assert ours < written
    assert {"security.md", "siem.md", "configuration.md", "options.md", "json.md"} < written
    named = [*pages.navigation().pages(), "index"]
    assert sorted(f"{name}.md" for name in named) == sorted(written)


def test_a_page_that_is_in_no_part_of_the_navigation_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pages.navigation.cache_clear()
    there = pages._sources()
    monkeypatch.setattr(pages, "_sources", lambda: {**there, "orphan": ROOT / "README.md"})
    with pytest.raises(pages.BrokenPageError, match="orphan: in no part of"):
        pages.navigation()
    monkeypatch.setattr(pages, "_sources", lambda: {k: v for k, v in there.items() if k != "run"})
    with pytest.raises(pages.BrokenPageError, match=r"run: in docs/website/navigation\.toml, and"):
        pages.navigation()
    pages.navigation.cache_clear()


@pytest.mark.parametrize(
    ("link", "becomes"),
    [
        ("metrics.md", "../metrics.md"),
        ("../docs/metrics.md#x", "../metrics.md#x"),
        ("../SECURITY.md", "../security.md"),
        ("../siem/README.md#splunk", "../siem.md#splunk"),
        ("vendors", "../vendors.md"),
        ("../README.md#what-it-guarantees", "../index.md#what-it-guarantees"),
        ("../config.example.toml", "../configuration.md"),
        ("../monitoring", "../files.md#monitoring"),
        ("../src/auditrelay/errors.py", "../files.md#srcauditrelayerrorspy"),
        ("images/demo-dark.webp", "../images/demo-dark.webp"),
        ("https://example.com/x.md", "https://example.com/x.md"),
        ("#here", "#here"),
    ],
)
def test_a_link_becomes_what_it_is_on_the_site(link: str, becomes: str, tmp_path: Path) -> None:
    site = pages.Site(tmp_path / "site")
    path = pages.DOCS / "tutorials" / "splunk.md"
    # As if the page stood in docs, so that links are as short as on most pages.
    site._names[pages.DOCS / "x.md"] = "tutorials/x"
    assert path in site._names
    assert site.converted(f"a [b]({link}) c", pages.DOCS / "x.md") == f"a [b]({becomes}) c"


def test_a_link_to_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    site = pages.Site(tmp_path / "site")
    with pytest.raises(pages.BrokenPageError, match=r"docs/run\.md: nowhere\.md is not there"):
        site.converted("[a](nowhere.md)", pages.DOCS / "run.md")


def test_code_is_left_as_it_is_and_a_picture_has_two_forms(tmp_path: Path) -> None:
    site = pages.Site(tmp_path / "site")
    code = "```\n[a](nowhere.md)\n```\n"
    assert site.converted(code, pages.DOCS / "run.md") == code
    picture = (ROOT / "README.md").read_text("utf-8")
    shown = site.converted(picture, ROOT / "README.md")
    assert "](images/demo-light.webp){.only-light}" in shown
    assert "](images/demo-dark.webp){.only-dark}" in shown


def test_pictures_are_small() -> None:
    for path in (pages.DOCS / "images").iterdir():
        assert path.stat().st_size < 150_000, path


# --- what is generated ---------------------------------------------------------------------------


def test_the_configuration_page_has_every_key_of_the_example(source: Path) -> None:
    page = (source / "configuration.md").read_text("utf-8")
    keys = set(re.findall(r"^(?:# )?(\w+) = ", example(), re.MULTILINE)) - {"type"}
    assert len(keys) > 60
    assert {key for key in keys if f"| `{key}` |" not in page} == set()
    _, tables = configuration.tables(example())
    for table in tables:
        for key, default, meaning in [*table.rows, *table.common]:
            assert default.count("`") == 2, key
            assert meaning or table.type, key


def test_the_command_line_has_every_option_of_every_command() -> None:
    page = options.options()
    for path, command in COMMANDS.items():
        section = page.partition(f"\n## `{path}`\n")[2].partition("\n## ")[0]
        assert section, path
        for parameter in command.params:
            for name in parameter.opts if parameter.param_type_name == "option" else ():
                assert re.search(rf"^\| `[^`]*{re.escape(name)}\b", section, re.MULTILINE), name


def test_the_json_page_has_every_key_of_the_outputs() -> None:
    page = outputs.json_outputs()
    schema: Any = msgspec.json.schema(VerifyReport)
    status = json.loads((pages.DOCS / "status.schema.json").read_text("utf-8"))
    for each in (schema, status):
        for struct in each["$defs"].values():
            for key in struct["properties"]:
                assert f"| `{key}` |" in page, key
    assert '"deleted_at_source"' in page  # of coverage
    assert '"native_id"' in page  # of dead letters


# --- the HTML ------------------------------------------------------------------------------------

GOOD = '<html><body id="top"><a href="b.html#there">b</a><img src="data:x"></body></html>'
B = '<html><h1 id="there"></h1><a href="a/c.html">c</a><a href="https://example.com">x</a></html>'
C = '<html><a href="../index.html#top">a</a><link rel="stylesheet" href="../s.css"></html>'


def site(folder: Path, **changed: str) -> list[str]:
    """Return what is wrong with a site of three pages and a style, with files *changed*."""
    texts = {"index.html": GOOD, "b.html": B, "a/c.html": C, "s.css": "a {}", **changed}
    (folder / "a").mkdir()
    for name, text in texts.items():
        (folder / name).write_text(text, "utf-8")
    return list(check.problems(folder))


def test_a_site_without_a_problem_has_none(tmp_path: Path) -> None:
    assert site(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("b.html", B.replace("a/c.html", "a/d.html"), "links to a/d.html, which is not there"),
        ("b.html", B.replace("there", "here"), "links to b.html#there, and there is no such"),
        ("b.html", B.replace("a/c.html", "index.html"), "a/c.html: no page links to it"),
        ("s.css", "a { background: url(https://cdn.example.com/x.png) }", "s.css: loads https:"),
        ("s.css", '@import "//fonts.example.com/x.css";', "s.css: loads //fonts"),
        ("b.html", f"{B}<script src='https://cdn.example.com/x.js'></script>", "loads https:"),
        ("b.html", f"{B}<link rel=preconnect href='https://cdn.example.com'>", "loads https:"),
        ("b.html", f"{B}<img srcset='x.png 1x, //cdn.example.com/y.png 2x'>", "loads //cdn"),
        ("b.html", f"{B}<style>@font-face {{ src: url(http://x.example) }}</style>", "loads http:"),
        ("b.html", f"{B}<p style='background: url(http://x.example/y)'>", "loads http:"),
        ("b.html", f"{B}<img src='gone.png'>", "loads gone.png, which is not there"),
    ],
)
def test_a_problem_of_a_site_is_found(name: str, text: str, problem: str, tmp_path: Path) -> None:
    found = site(tmp_path, **{name: text})
    assert any(problem in each for each in found), found
