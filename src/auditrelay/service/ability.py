"""What a replica cannot serve just now, though its configuration has it."""

from collections.abc import Collection, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Final

from auditrelay.config.model import Config
from auditrelay.telemetry import humanize

_MARGIN: Final = timedelta(minutes=1)
"""How much the clocks may differ in addition to what a source's settle allows for."""


def unable(config: Config, *, offset: timedelta, missing: Collection[str]) -> dict[str, str]:
    """
    Return by unit why it cannot be served with *config*. Pure.

    *offset* is how much later it is by the clock of the database. A clock that is off by more than
    the settle of a source and a minute would read time as complete that has yet to come, or be
    refused by what other replicas have entered. *missing* are the sources whose directory is not
    there.
    """
    reasons = {}
    for name, settings in config.sources.items():
        if not settings.enabled:
            continue
        if name in missing:
            reasons[f"source {name}"] = f"its directory {settings.export_directory} is not there"
        elif abs(offset) > settings.settle + _MARGIN:
            how = "behind" if offset > timedelta(0) else "ahead of"
            off = humanize.span(abs(offset).total_seconds())
            reasons[f"source {name}"] = f"our clock is {off} {how} that of the database"
    return reasons


def directories(config: Config) -> dict[str, Path]:
    """Return the directory of each source that reads files."""
    return {
        name: settings.export_directory
        for name, settings in config.sources.items()
        if settings.enabled and settings.export_directory is not None
    }


def missing(directories: Mapping[str, Path]) -> frozenset[str]:
    """Return the sources of *directories* whose directory is not there; it may block for long."""
    return frozenset(name for name, directory in directories.items() if not _is_there(directory))


def _is_there(directory: Path) -> bool:
    try:
        return directory.is_dir()
    except OSError:  # whatever it is, it cannot be read
        return False
