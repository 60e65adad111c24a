"""
Audit-log APIs described in files: where things are, without expressions, conditions or state.

A shipped description is a TOML file in ``vendors``; an operator's file is the same thing. ``load``
reads one and checks it, ``model`` has its tables, ``places`` the notation of places in requests,
replies and records. Only the names of those that are shipped are here: a description is read if a
source names it, and costs nothing else.
"""

from functools import cache
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent / "vendors"
"""Where the shipped descriptions are."""

PAGES: Final = Path(__file__).parent / "pages"
"""One made-up page of each feed: ``okta.json``, ``entra.sign_ins.json``."""

REST: Final = "rest"
"""The type of a source whose description is a file of the operator's."""


@cache
def shipped() -> tuple[str, ...]:
    """Return the names of the shipped descriptions, which are types of source."""
    if not FOLDER.is_dir():
        return ()
    return tuple(sorted(file.stem for file in FOLDER.iterdir() if file.suffix == ".toml"))
