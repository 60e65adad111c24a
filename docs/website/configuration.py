"""
The reference of the configuration, made of ``config.example.toml``.

Tests see to it that this file has every key with its default; here its comments become tables.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from auditrelay.config.example import example

_HEAD: Final = """\
# Configuration

Every key, with its default and what it is for. `auditrelay init` writes a file to start from,
`auditrelay check --offline` reads one and reports every problem, a line each, and
`auditrelay schema` prints the JSON Schema for an editor.
"""
_HEADER: Final = re.compile(r"\[(.+)\]")
_KEY: Final = re.compile(r"(?P<default># )?(?P<key>\w+) = (?P<value>.+?)(?P<none>  # no default)?")
_RULE: Final = re.compile(r"# -+")


@dataclass
class Table:
    """A table of the file: its name, its type if it is a source or sink, and its keys."""

    name: str
    type: str = ""
    rows: list[tuple[str, str, str]] = field(default_factory=list)
    common: list[tuple[str, str, str]] = field(default_factory=list)
    """The keys that all tables of its kind have: they are shown once."""


def configuration() -> str:
    """Return the page of all keys."""
    head, found = tables(example())
    lines = [
        _HEAD,
        "```text",
        *head,
        "```",
    ]
    for table in found:
        if table.type:
            continue
        lines += ["", f"## {f'`[{table.name}]`' if table.name else 'At the top'}", ""]
        lines += _rows(table.rows)
    for kind, title, page in (
        ("sources", "Sources", "vendors"),
        ("sinks", "Sinks", "sinks"),
    ):
        of_kind = [table for table in found if table.type and table.name.startswith(kind)]
        [common] = [table.common for table in of_kind if table.common]
        lines += ["", f"## {title}", "", f"One table each, `[{kind}.NAME]`. The name is yours.", ""]
        lines += [f"### Of every {title[:-1].lower()}", "", *_rows(common)]
        lines += [
            "",
            f"The others depend on the `type`; of described types see [their pages]({page}.md).",
        ]
        for table in of_kind:
            lines += ["", f'### `type = "{table.type}"`', ""]
            lines += [f"[Its page]({page}/{table.type}.md).", ""]
            lines += _rows(table.rows)
    return "\n".join([*lines, ""])


def tables(text: str) -> tuple[list[str], list[Table]]:
    """Return the head of the example *text*, and its tables."""
    before, _, rest = text.partition("\n\n\n")
    head = [line[2:] for line in before.splitlines()]
    found = [Table("")]
    said: list[str] = []
    common = False
    for line in rest.splitlines():
        if header := _HEADER.fullmatch(line):
            found.append(Table(header[1]))
            said, common = [], False
        elif line.startswith("# The keys from here on exist for every "):
            said, common = [], True
        elif not line or _RULE.fullmatch(line):
            said = []
        elif key := _KEY.fullmatch(line):
            _add(found[-1], key, said, common=common)
            said = []
        elif line.startswith("#"):
            said.append(line.removeprefix("# "))
    return head, found


def _add(table: Table, key: re.Match[str], said: list[str], *, common: bool) -> None:
    if key["key"] == "type" and not key["default"]:
        table.type = key["value"].strip('"')
        return
    default = f"`{key['value']}`"
    if key["none"]:
        default = f"none; such as {default}"
    elif not key["default"]:
        default = f"required; such as {default}"
    (table.common if common else table.rows).append((key["key"], default, " ".join(said)))


def _rows(rows: list[tuple[str, str, str]]) -> Iterator[str]:
    yield "| key | default | meaning |"
    yield "| --- | --- | --- |"
    for key, default, meaning in rows:
        cells = (f"`{key}`", default, _linked(meaning))
        yield f"| {' | '.join(each.replace('|', chr(92) + '|') for each in cells)} |"


def _linked(meaning: str) -> str:
    """Return *meaning* with links to the pages that it names, and as text what looks like HTML."""
    shown = re.sub(r"(<\w+>|\$\{\S+?\}|\*\w+\*)", r"`\1`", meaning)
    return re.sub(r"\bdocs/([\w-]+)\.md", r"[\1](\1.md)", shown)
