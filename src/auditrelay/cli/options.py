"""What stands before the command: the configuration file, and how much to log."""

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from auditrelay.errors import ConfigError

if TYPE_CHECKING:  # reading the configuration is not for every command
    from auditrelay.config.model import Config

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
        with _without("rich", "pygments"):
            from auditrelay.config import load  # noqa: PLC0415  # as above
            from auditrelay.telemetry import logs as telemetry  # noqa: PLC0415  # help should not wait for it

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


@contextlib.contextmanager
def _without(*packages: str) -> Iterator[None]:
    """
    Let no import in the block find *packages*, unless they are loaded already.

    httpx (for a command line of its own) and structlog (for coloured tracebacks) take rich along
    wherever it is installed, and typer installs it: 4 MB and a tenth of a second in a service that
    paints nothing. Both do without; a command that prints a table imports rich later, as ever.
    """
    hidden = [name for name in packages if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # documented: it cannot be imported
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
