"""The options before the command: the configuration file and the log level."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self, get_args

import typer

import auditrelay.cli.without_rich  # noqa: F401  # before whatever imports httpx or structlog
from auditrelay.config import load
from auditrelay.config.model import Config
from auditrelay.errors import ConfigError
from auditrelay.telemetry.logs import Level, log, setup

_LEVELS: tuple[Level, ...] = get_args(Level)


@dataclass(frozen=True, slots=True)
class Options:
    """The options before the command."""

    config: Path | None
    log_level: str | None

    @classmethod
    def of(cls, context: typer.Context) -> Self:
        """Return the options before the command of *context*."""
        params = context.find_root().params
        return cls(params["config"], params["log_level"])

    def load(self, *, default_level: Level | None = None) -> Config:
        """
        Read the configuration, and set up the log by it and the options.

        *default_level* replaces the level of the file, for commands whose result matters more than
        their log. Raises ConfigError.
        """
        if self.log_level is not None and self.log_level not in _LEVELS:
            raise ConfigError(f"--log-level: {self.log_level!r} is not one of {', '.join(_LEVELS)}")
        config = load(self.config, os.environ)
        level = self.log_level or default_level or config.log.level
        setup(level, config.log.format)
        for warning in config.warnings:
            log.warning("configuration_warning", reason=warning)
        return config
