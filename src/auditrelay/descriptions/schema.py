"""
The JSON Schema of descriptions, for completion and checks in an editor.

It is pydantic's, of the tables in ``model``; what a key means is said by the text below it there.
"""

import ast
import inspect
import re
from types import ModuleType
from typing import Any

from auditrelay.descriptions import model
from auditrelay.descriptions.model import DescriptionFile, Table
from auditrelay.descriptions.receiver import model as receiver_model
from auditrelay.descriptions.receiver.model import ReceiverFile
from auditrelay.settings.json_schema import DIALECT, TomlSchema, without_noise


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a description of an API."""
    about = "An audit-log API, described in a file (docs/descriptions.md)."
    return _schema(DescriptionFile, model, "auditrelay description", about)


def receiver_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a description of a receiver."""
    about = "A receiver of events, described in a file (docs/receivers.md)."
    return _schema(ReceiverFile, receiver_model, "auditrelay receiver", about)


def _schema(file: type[Table], module: ModuleType, title: str, about: str) -> dict[str, Any]:
    schema = file.model_json_schema(schema_generator=TomlSchema)
    meanings = key_meanings(module)
    for name, table in {**schema["$defs"], file.__name__: schema}.items():
        for key, meaning in meanings[name].items():
            table["properties"][key].setdefault("description", meaning)
    shown = {key: without_noise(value) for key, value in schema.items()}
    return {
        "$schema": DIALECT,
        **shown,
        "title": title,
        "description": about,
    }


def key_meanings(module: ModuleType = model) -> dict[str, dict[str, str]]:
    """
    Return by the name of each table its keys, as they are written, and what each one means.

    The tables are those of the *module*.
    """
    found: dict[str, dict[str, str]] = {} if module is model else key_meanings()
    for node in ast.parse(inspect.getsource(module)).body:
        table = getattr(module, node.name, None) if isinstance(node, ast.ClassDef) else None
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
