"""What other pages say at one place: the lists of vendors, sinks and decisions, the promises."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]


def guarantees() -> str:
    """Return the README's section of that name."""
    section = "\n## What it guarantees\n"
    _, _, rest = (ROOT / "README.md").read_text("utf-8").partition(section)
    return section + rest.partition("\n## ")[0]


def vendors() -> str:
    """Return the page of all sources, with the README's table."""
    return _listed(
        "Vendors",
        "Each has a page with its configuration, the rights that its key needs, what its log "
        "leaves out, and what its documentation leaves open. An API that is not here: [add your "
        "vendor](add-your-vendor.md).",
        "Sources",
    )


def sinks() -> str:
    """Return the page of all sinks, with the README's table."""
    return _listed(
        "Sinks",
        "The page of each has its configuration, the rights that it needs, where its events go, "
        "and how to count none twice. A product that is not here: [add your "
        "receiver](add-your-receiver.md).",
        "Sinks",
    )


def decisions() -> str:
    """Return the page of all decisions."""
    lines = [
        "# Decisions",
        "",
        "Choices that were questioned, or will be: context, decision, status, consequences.",
        "",
    ]
    for path in sorted((ROOT / "docs" / "decisions").glob("*.md")):
        title = path.read_text("utf-8").partition("\n")[0].removeprefix("# ")
        lines.append(f"* [{title}](decisions/{path.name})")
    return "\n".join([*lines, ""])


def _listed(title: str, about: str, section: str) -> str:
    return "\n".join([f"# {title}", "", about, "", *_table(section), ""])


def _table(section: str) -> Iterator[str]:
    """Yield the table of the README's *section*, with links as from docs."""
    readme = (ROOT / "README.md").read_text("utf-8")
    _, _, rest = readme.partition(f"\n## {section}\n")
    for line in rest.partition("\n## ")[0].splitlines():
        if line.startswith("|"):
            yield re.sub(r"\]\(docs/", "](", line)
