"""What a shell offers for a word that was begun, where words are names: vendors, sources, sinks."""

import os
from collections.abc import Callable, Iterable
from typing import Final

VARIABLE: Final = "_AUDITRELAY_COMPLETE"
"""Set by a shell that asks; ``source_bash`` and the like print what makes it ask."""


def begin() -> None:
    """Make typer answer, if a shell asks. No other command pays for the import."""
    if VARIABLE in os.environ:
        # typer calls it only where it may also write into the files of the shell.
        from typer.completion import completion_init  # type: ignore[attr-defined]  # noqa: PLC0415

        completion_init()


def names(known: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Return what offers those of the names *known* that begin with what was typed."""

    def offer(incomplete: str) -> list[str]:
        return [name for name in known() if name.startswith(incomplete)]

    return offer
