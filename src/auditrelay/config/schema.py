"""
The JSON Schema of the configuration file, for completion and checks in an editor.

It is pydantic's, assembled from the file's own tables and those of every type of source and sink,
with durations and defaults spelled as in the file.
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from auditrelay.config.model import SINKS, SOURCES, ConfigFile
from auditrelay.descriptions.receiver.settings import http_settings
from auditrelay.descriptions.settings import rest_settings
from auditrelay.settings.json_schema import DIALECT, TomlSchema, without_noise


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of the configuration file."""
    models: list[tuple[str, str, type[BaseModel]]] = [
        *(("sources", name, settings) for name, settings in SOURCES.items()),
        *(("sources", name, SOURCES.of(name, {}, Path())) for name in SOURCES.shipped),
        ("sources", SOURCES.OWN, rest_settings()),
        *(("sinks", name, settings) for name, settings in SINKS.items()),
        *(("sinks", name, SINKS.of(name, {}, Path())) for name in SINKS.shipped),
        ("sinks", SINKS.OWN, http_settings()),
    ]
    references, definitions = models_json_schema(
        [(ConfigFile, "validation"), *((model, "validation") for _, _, model in models)],
        schema_generator=TomlSchema,
    )
    defined: dict[str, Any] = definitions["$defs"]

    def take(model: type[BaseModel]) -> dict[str, Any]:
        taken: dict[str, Any] = defined.pop(references[model, "validation"]["$ref"].split("/")[-1])
        return taken

    whole = take(ConfigFile)
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
        "$schema": DIALECT,
        **whole,
        "title": "auditrelay",
        "description": "The configuration of auditrelay. Every key may also be a variable.",
        "$defs": defined,
    }
    return {key: without_noise(value) for key, value in schema.items()}
