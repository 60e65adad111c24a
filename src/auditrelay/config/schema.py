"""
The JSON Schema of the configuration file, for completion and checks in an editor.

It is pydantic's, assembled from the file's own tables and those of every type of source and sink,
with durations and defaults spelled as in the file.
"""

from datetime import timedelta
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from auditrelay.config.model import SINKS, SOURCES, ConfigFile
from auditrelay.settings.values import format_duration


class _Schema(GenerateJsonSchema):
    """Writes defaults as in the file."""

    def encode_default(self, dft: Any) -> Any:
        """Write a duration as ``5m``, not in ISO 8601."""
        if isinstance(dft, timedelta):
            return format_duration(dft)
        if isinstance(dft, list):
            return [self.encode_default(item) for item in dft]
        return super().encode_default(dft)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of the configuration file."""
    models: list[tuple[str, str, type[BaseModel]]] = [
        (kind, name, members[name])
        for kind, members in (("sources", SOURCES), ("sinks", SINKS))
        for name in members
    ]
    references, definitions = models_json_schema(
        [(ConfigFile, "validation"), *((model, "validation") for _, _, model in models)],
        schema_generator=_Schema,
    )
    defined: dict[str, Any] = definitions["$defs"]

    def take(model: type[BaseModel]) -> dict[str, Any]:
        taken: dict[str, Any] = defined.pop(references[model, "validation"]["$ref"].split("/")[-1])
        return taken

    whole = take(ConfigFile)
    del whole["properties"]["store"]
    for kind in ("sources", "sinks"):
        whole["properties"][kind] = {
            "type": "object",
            "additionalProperties": {
                "oneOf": [{"$ref": f"#/$defs/{of}.{name}"} for of, name, _ in models if of == kind]
            },
        }
    for kind, name, model in models:
        defined[f"{kind}.{name}"] = take(model)
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **whole,
        "title": "auditrelay",
        "description": "The configuration of auditrelay. Every key may also be a variable.",
        "$defs": defined,
    }
    return {key: _without_noise(value) for key, value in schema.items()}


def _without_noise(schema: Any) -> Any:
    """
    Return *schema* without the parts that do not apply to a TOML file.

    These are titles that repeat the key, limits of durations (not valid JSON Schema), and null.
    """
    if isinstance(schema, list):
        return [_without_noise(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {
        key: _without_noise(value)
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
