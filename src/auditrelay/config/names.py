"""The names in a configuration: as variables spell them, and which are allowed."""

import re

PREFIX = "AUDITRELAY_"


def canonical(name: str) -> str:
    """Return the name of a key as an environment variable can spell it."""
    return re.sub("[-.]", "_", name.lower())


NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?", re.ASCII)
