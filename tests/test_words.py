"""One word for one idea: words that stand nowhere, and words of the glossary that are used."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WHERE = (
    "src",
    "tests",
    "docs",
    "benchmarks",
    "interop",
    "siem",
    "monitoring",
    "kubernetes",
    "systemd",
    "changelog.d",
    ".github",
)
KINDS = {".py", ".md", ".toml", ".yaml", ".yml", ".json", ".js", ".css", ".conf", ".service", ""}

REFUSED = {
    "told": "reported, shown, passed; say who does it",
    "nobody": "no one is rarely meant: name what does not happen",
    "somebody": "the operator, the vendor, another process",
    "whoever": "the caller, the reader, the operator",
    "anew": "again, from the start",
    "nought": "0, zero",
    "fares": "health, state",
    "faring": "health, state",
    "fared": "health, state",
    "heed": "record, apply",
    "mend": "fix",
    "mended": "fixed",
    "parcel": "file",
    "parcels": "files",
    "leftover": "orphaned",
    "flood": "circuit breaker",
}
"""Words that a reader has to translate, and what to write instead."""

ELSEWHERE = {
    "second look": "resweep",
    "looked at again": "reswept",
    "left over": "orphaned",
}
"""Second names of an idea that has one."""

STORED = re.compile(
    r"create table parcel \(|from parcel where|into parcel values"
    r'|"parcel"|"told"|"flood"|^ *flood="mapping",$'
)
"""
Names in states and exports that exist: the table of export files and the fact about one, the sinks
that have taken a head, the reason of an open breaker.
"""

PATTERN = re.compile(
    "|".join(rf"(?<![a-z]){each.replace(' ', '[ _]')}(?![a-z])" for each in (*REFUSED, *ELSEWHERE)),
    re.IGNORECASE,
)


def texts() -> Iterator[tuple[Path, str]]:
    """Yield every text that we wrote: code, tests, documents, what operators install."""
    paths = [path for path in ROOT.iterdir() if path.is_file()]
    for folder in WHERE:
        paths += (ROOT / folder).rglob("*")
    for path in sorted(paths):
        if path.suffix not in KINDS or not path.is_file() or path == Path(__file__):
            continue
        if "golden" in path.parts or "__pycache__" in path.parts or "target" in path.parts:
            continue
        yield path, path.read_text("utf-8", errors="replace")


def found(text: str) -> list[str]:
    lowered = text.lower().replace("_", " ")
    if not any(each in lowered for each in (*REFUSED, *ELSEWHERE)):
        return []  # most texts; the pattern takes its time
    return [
        f"{number}: {line.strip()[:90]}"
        for number, line in enumerate(text.splitlines(), 1)
        if PATTERN.search(line) and not STORED.search(line)
    ]


def test_words_that_a_reader_has_to_translate_stand_nowhere() -> None:
    hits = {str(path.relative_to(ROOT)): lines for path, text in texts() if (lines := found(text))}
    assert not hits, "\n".join(
        f"{path}:{line}" for path, lines in hits.items() for line in lines[:5]
    )


@pytest.mark.parametrize(
    "text",
    ["it is told", "_told", "TOLD = 1", "is_told_twice", "Nobody", "second_look", "a second look"],
)
def test_each_spelling_is_found(text: str) -> None:
    assert found(text)


@pytest.mark.parametrize("text", ["retold", "toldyou", "mendable", "a second looker"])
def test_parts_of_other_words_are_not(text: str) -> None:
    assert not found(text)


def test_the_words_of_the_glossary_are_words_of_the_code() -> None:
    glossary = (ROOT / "docs" / "glossary.md").read_text("utf-8")
    terms = [
        term.strip("`")
        for row in re.findall(r"^\| (\*\*.*?) \|", glossary, re.MULTILINE)
        for term in re.findall(r"\*\*(.+?)\*\*", row)
    ]
    assert len(terms) > 40
    code = "\n".join(path.read_text("utf-8") for path in (ROOT / "src").rglob("*.py")).lower()
    missing = [term for term in terms if not re.search(term.replace(" ", "[ _-]?"), code)]
    assert not missing
