"""What a replica cannot serve just now, though its configuration has it."""

import asyncio
from collections.abc import Collection, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Final

from auditrelay.clock import Clock
from auditrelay.config.model import Config
from auditrelay.telemetry import humanize

LOOK_EVERY: Final = 10.0
"""Seconds between two looks whether the directories of sources are there."""

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


class Directories:
    """
    Whether the directories of sources that read files are there.

    They are looked at in a thread, except at first: a file server that is away may block for long.
    """

    def __init__(self, config: Config, *, clock: Clock) -> None:
        self.missing = _missing(_directories(config))
        """The sources whose directory was not there when they were looked at last."""
        self._clock = clock
        self._looked = clock.boottime()
        self._looking: asyncio.Future[frozenset[str]] | None = None

    def look(self, config: Config) -> None:
        """Begin to look again, if it is time for that; what was found then is there later."""
        if self._looking is not None:
            if not self._looking.done():
                return
            self.missing, self._looking = self._looking.result(), None
        now = self._clock.boottime()
        if now - self._looked >= LOOK_EVERY:
            self._looked = now
            self._looking = asyncio.get_running_loop().run_in_executor(
                None, _missing, _directories(config)
            )


def _directories(config: Config) -> dict[str, Path]:
    return {
        name: settings.export_directory
        for name, settings in config.sources.items()
        if settings.enabled and settings.export_directory is not None
    }


def _missing(directories: Mapping[str, Path]) -> frozenset[str]:
    return frozenset(name for name, directory in directories.items() if not _is_there(directory))


def _is_there(directory: Path) -> bool:
    try:
        return directory.is_dir()
    except OSError:  # whatever it is, it cannot be read
        return False
