"""
The JSON Schema of a description file, for completion and checks in an editor.

It is pydantic's, of the tables in ``model``; what a key means is said by the text below it there.
"""

import ast
import inspect
import re
from typing import Any

from auditrelay.descriptions import model
from auditrelay.descriptions.model import DescriptionFile, Table
from auditrelay.settings.json_schema import DIALECT, TomlSchema, without_noise


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a description file."""
    schema = DescriptionFile.model_json_schema(schema_generator=TomlSchema)
    meanings = key_meanings()
    for name, table in {**schema["$defs"], DescriptionFile.__name__: schema}.items():
        for key, meaning in meanings[name].items():
            table["properties"][key].setdefault("description", meaning)
    shown = {key: without_noise(value) for key, value in schema.items()}
    return {
        "$schema": DIALECT,
        **shown,
        "title": "auditrelay description",
        "description": "An audit-log API, described in a file (docs/descriptions.md).",
    }


def key_meanings() -> dict[str, dict[str, str]]:
    """Return by the name of each table its keys, as they are written, and what each one means."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(model)).body:
        table = getattr(model, node.name, None) if isinstance(node, ast.ClassDef) else None
        if not isinstance(node, ast.ClassDef) or not issubclass(table or object, Table):
            continue
        texts = _texts_below(node)
        for base in node.bases:
            texts = {**(found.get(ast.unparse(base)) or {}), **texts}
        found[node.name] = texts
    return found


def _texts_below(table: ast.ClassDef) -> dict[str, str]:
    """Return the text that stands below each key of *table*, if there is one."""
    found: dict[str, str] = {}
    key = ""
    for line in table.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            key = line.target.id.rstrip("_")
        elif key and isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant):
            found[key] = re.sub(r"``|\*(?=\w)|(?<=\w)\*", "", str(line.value.value))
            key = ""
        else:
            key = ""
    return found
