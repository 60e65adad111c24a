"""
``docs/status.schema.json`` describes what ``status --json`` prints: it is current, and it is true.

It is made from the structs; ``UPDATE_GOLDEN=1 make test TEST="-k schema"`` writes it again.
"""

import ast
import inspect
import json
import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from tests.status.test_golden import GOLDEN

from auditrelay.status import model
from auditrelay.status.model import PeerStatus, Report

SCHEMA = Path(__file__).parents[2] / "docs" / "status.schema.json"
OUTPUTS = sorted([*GOLDEN.glob("*.status.json"), *GOLDEN.glob("*.api.json")])


def schema() -> dict[str, Any]:
    """
    Return the JSON Schema of the report, with the docstrings of fields as descriptions.

    A key is always printed, unless it can be UNSET.
    """
    found = msgspec.json.schema(Report)
    for name, struct in found["$defs"].items():
        fields = msgspec.structs.fields(getattr(model, name))
        struct["required"] = [each.name for each in fields if each.default is not msgspec.UNSET]
        for each in struct["properties"].values():
            each.pop("default", None)
    for name, field, text in docstrings():
        heirs = {each.__name__ for each in PeerStatus.__subclasses__()}
        for each in heirs if name == PeerStatus.__name__ else {name}:
            found["$defs"][each]["properties"][field]["description"] = text
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "auditrelay status --json",
        **found,
    }


def docstrings() -> Iterator[tuple[str, str, str]]:
    """Yield each struct and field that a docstring follows, and that docstring."""
    for struct in ast.parse(inspect.getsource(model)).body:
        if not isinstance(struct, ast.ClassDef):
            continue
        for field, text in pairwise(struct.body):
            match field, text:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(words))),
                ):
                    yield struct.name, name, inspect.cleandoc(words).replace("``", "`")


def test_the_schema_in_the_docs_is_current() -> None:
    text = json.dumps(schema(), indent=2) + "\n"
    if "UPDATE_GOLDEN" in os.environ:
        SCHEMA.write_text(text, "utf-8")
    assert text == SCHEMA.read_text("utf-8")


@pytest.mark.parametrize("path", OUTPUTS, ids=lambda path: path.name)
def test_real_outputs_fit_the_schema_and_have_no_other_keys(path: Path) -> None:
    printed = json.loads(path.read_text("utf-8"))
    jsonschema.validate(printed, json.loads(SCHEMA.read_text("utf-8")))
    again = msgspec.json.decode(path.read_bytes(), type=Report)
    assert json.loads(msgspec.json.encode(again)) == printed


@pytest.mark.parametrize(
    ("key", "value"), [("version", 1), ("sources", [{}]), ("spool", None), ("findings", [{}])]
)
def test_what_is_not_printed_does_not_fit_the_schema(key: str, value: object) -> None:
    printed = json.loads(OUTPUTS[0].read_text("utf-8"))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**printed, key: value}, json.loads(SCHEMA.read_text("utf-8")))
    del printed[key]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(printed, json.loads(SCHEMA.read_text("utf-8")))
