"""The JSON Schema of TOML files: durations and defaults are spelled as in the file."""

from datetime import timedelta
from typing import Any, Final

from pydantic.json_schema import GenerateJsonSchema

from auditrelay.settings.values import format_duration

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


class TomlSchema(GenerateJsonSchema):
    """Writes defaults as in the file."""

    def encode_default(self, dft: Any) -> Any:
        """Write a duration as ``5m``, not in ISO 8601."""
        if isinstance(dft, timedelta):
            return format_duration(dft)
        if isinstance(dft, list):
            return [self.encode_default(item) for item in dft]
        return super().encode_default(dft)


def without_noise(schema: Any) -> Any:
    """
    Return *schema* without the parts that do not apply to a TOML file.

    These are titles that repeat the key, limits of durations (not valid JSON Schema), and null.
    """
    if isinstance(schema, list):
        return [without_noise(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {
        key: without_noise(value)
        for key, value in schema.items()
        if not (key in ("title", "gt", "ge", "lt", "le") and isinstance(value, str))
        and not (key == "default" and value is None)
    }
    choices = kept.get("anyOf", [])
    if {"type": "null"} in choices:
        choices.remove({"type": "null"})
        if len(choices) == 1:
            kept |= kept.pop("anyOf")[0]
    return kept
