"""The names in a configuration: as variables spell them, which are allowed, which was meant."""

import difflib
import re
from collections.abc import Iterable

PREFIX = "AUDITRELAY_"


def canonical(name: str) -> str:
    """Return the name of a key as an environment variable can spell it."""
    return re.sub("[-.]", "_", name.lower())


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean X?" with the name of *known* closest to *name*, or an empty text."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?", re.ASCII)
