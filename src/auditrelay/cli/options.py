"""What every command gets: the options before it, and the clock."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self, get_args

import typer

import auditrelay.cli.without_rich  # noqa: F401  # before whatever imports httpx or structlog
from auditrelay.clock import Clock
from auditrelay.config import load
from auditrelay.config.model import Config
from auditrelay.errors import ConfigError
from auditrelay.telemetry.logs import Level, log, setup

_LEVELS: tuple[Level, ...] = get_args(Level)


@dataclass(frozen=True, slots=True)
class Options:
    """The options before the command, and the clock for all that it does."""

    config: Path | None
    log_level: str | None
    clock: Clock

    @classmethod
    def of(cls, context: typer.Context) -> Self:
        """
        Return the options before the command of *context*.

        The clock is the object of the context, which a test passes; else it is built here.
        """
        root = context.find_root()
        return cls(root.params["config"], root.params["log_level"], root.ensure_object(Clock))

    def load(self, *, default_level: Level | None = None, warn: bool = True) -> Config:
        """
        Read the configuration, and set up the log by it and the options.

        *default_level* replaces the level of the file, for commands whose result matters more than
        their log. Without *warn* the caller shows the warnings of the configuration itself. Raises
        ConfigError.
        """
        given = self.log_level and self.level()  # before the file is read: it costs nothing
        config = load(self.config, os.environ)
        setup(given or default_level or config.log.level, config.log.format)
        for warning in config.warnings if warn else ():
            log.warning("configuration_warning", reason=warning)
        return config

    def level(self, default: Level = "info") -> Level:
        """Return the level of the log by the options, else *default*. Raises ConfigError."""
        if self.log_level is None:
            return default
        for level in _LEVELS:
            if level == self.log_level:
                return level
        raise ConfigError(f"--log-level: {self.log_level!r} is not one of {', '.join(_LEVELS)}")
