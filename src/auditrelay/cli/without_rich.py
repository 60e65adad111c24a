"""
Import httpx and structlog without rich; this module must be imported before any other use of them.

httpx (for its own command line) and structlog (for coloured tracebacks) import rich if it is
installed, and typer installs it: 4 MB and a tenth of a second in a service without terminal output.
Both work without it, and without click. A command that prints tables imports rich itself.
"""

import contextlib
import importlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def _hidden(*packages: str) -> Iterator[None]:
    """Make imports of *packages* fail in the block, unless they are loaded already."""
    hidden = [name for name in packages if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # documented: it cannot be imported
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


with _hidden("rich", "pygments", "click"):
    importlib.import_module("httpx")
    importlib.import_module("structlog")
