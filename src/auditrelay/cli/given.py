"""What stands before the command: the configuration file, and how much to log."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from auditrelay.errors import ConfigError

if TYPE_CHECKING:  # reading the configuration is not for every command
    from auditrelay.config import Config

_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class Given:
    """The options before the command."""

    config: Path | None
    log_level: str | None

    def load(self, *, default_level: str | None = None) -> "Config":
        """
        Read the configuration, and set up the log as it and the options say.

        *default_level* is for commands whose result matters more than their log. Raises
        ConfigError.
        """
        from auditrelay import telemetry  # noqa: PLC0415  # help should not wait for it
        from auditrelay.config import load  # noqa: PLC0415  # as above

        if self.log_level is not None and self.log_level not in _LEVELS:
            raise ConfigError(f"--log-level: {self.log_level!r} is none of {', '.join(_LEVELS)}")
        config = load(self.config, os.environ)
        level = self.log_level or default_level or config.log.level
        telemetry.setup(
            cast('Literal["debug", "info", "warning", "error"]', level), config.log.format
        )
        for warning in config.warnings:
            telemetry.log.warning("configuration_warning", reason=warning)
        return config
