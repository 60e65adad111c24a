"""
The variables as nested tables, by pydantic-settings.

Nothing else needs pydantic-settings, so only an instance that sets a variable imports this module.
"""

import json
from collections.abc import Mapping
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict

from auditrelay.config.model import ConfigFile
from auditrelay.config.names import PREFIX


class _File(ConfigFile, BaseSettings):
    """The keys of the file, with the names of their variables. It is never instantiated."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__")


class Variables(EnvSettingsSource):
    """The variables as nested tables of texts, for the settings to parse."""

    def __init__(
        self, environ: Mapping[str, str], variables: Mapping[tuple[str, ...], str]
    ) -> None:
        super().__init__(_File)
        # By path, spelled as in the file, and a table before its own keys.
        self.env_vars = {
            PREFIX.lower() + "__".join(path): environ[variables[path]] for path in sorted(variables)
        }

    def decode_complex_value(
        self,
        _name: str,
        field: FieldInfo | None,  # noqa: ARG002  # pydantic-settings passes it by name or position
        value: Any,
    ) -> Any:
        """Parse a whole table that is given as JSON. Leave all other values as they are."""
        try:
            table = json.loads(value)
        except ValueError:
            table = None
        return table if isinstance(table, dict) else value
