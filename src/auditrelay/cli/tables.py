"""Tables on stdout: names are never cut, and what reads a pipe gets a row a line."""

import sys

from rich.console import Console
from rich.table import Table

_UNLIMITED = 10_000


def console() -> Console:
    """Return stdout: as wide as the terminal, or without a limit if it is none, for ``grep``."""
    return Console(width=None if sys.stdout.isatty() else _UNLIMITED)


def table(*names: str, others: tuple[str, ...]) -> Table:
    """Return a table without rows; the columns *names* are never wrapped, the *others* may be."""
    found = Table()
    for header in names:
        found.add_column(header, no_wrap=True)
    for header in others:
        found.add_column(header, overflow="fold")
    return found
