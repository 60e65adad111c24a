"""
Audit-log APIs, and receivers of events, described in files: without expressions or state.

A shipped description is a TOML file, of an API in ``vendors``, of a receiver in ``receivers``; an
operator's file is the same thing. ``load`` reads one of an API and checks it, ``model`` has its
tables, ``places`` the notation of places in requests, replies and records; the package ``receiver``
has the same for receivers. Only the names of those that are shipped are here: a description is read
if a source or sink names it, and costs nothing else.
"""

from functools import cache
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent / "vendors"
"""Where the shipped descriptions of APIs are."""

PAGES: Final = Path(__file__).parent / "pages"
"""One made-up page of each feed: ``okta.json``, ``entra.sign_ins.json``."""

RECEIVERS: Final = Path(__file__).parent / "receivers"
"""Where the shipped descriptions of receivers are."""

REST: Final = "rest"
"""The type of a source whose description is a file of the operator's."""

HTTP: Final = "http"
"""The type of a sink whose description is a file of the operator's."""


@cache
def shipped() -> tuple[str, ...]:
    """Return the names of the shipped descriptions, which are types of source."""
    return _named_in(FOLDER)


@cache
def shipped_receivers() -> tuple[str, ...]:
    """Return the names of the shipped descriptions of receivers, which are types of sink."""
    return _named_in(RECEIVERS)


def _named_in(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        return ()
    return tuple(sorted(file.stem for file in folder.iterdir() if file.suffix == ".toml"))
