"""
Imports httpx and structlog without rich; it has to come before anything else that imports them.

httpx (for a command line of its own) and structlog (for coloured tracebacks) take rich along
wherever it is installed, and typer installs it: 4 MB and a tenth of a second in a service without
terminal output. Both do without. A command that prints tables imports rich itself.
"""

import contextlib
import importlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def _hidden(*packages: str) -> Iterator[None]:
    """Let no import in the block find *packages*, unless they are loaded already."""
    hidden = [name for name in packages if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # documented: it cannot be imported
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


with _hidden("rich", "pygments"):
    importlib.import_module("httpx")
    importlib.import_module("structlog")
