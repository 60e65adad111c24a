"""The JSON schema of a description file, and what each key means."""

import json
import tomllib
from typing import Any

import jsonschema
import pytest
from tests.descriptions.acme import PARTS, text

from auditrelay.descriptions.schema import json_schema, key_meanings

SCHEMA = json_schema()


def errors(content: str) -> list[str]:
    table: dict[str, Any] = json.loads(json.dumps(tomllib.loads(content), default=str))
    validator = jsonschema.Draft202012Validator(SCHEMA)
    return [error.json_path for error in validator.iter_errors(table)]


def test_a_description_fits_the_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert errors(text()) == []


@pytest.mark.parametrize(
    ("part", "old", "new", "where"),
    [
        ("top", '"acme"', '"Acme"', "$.vendor"),
        ("pages", '"cursor"', '"cursors"', "$.pages.kind"),
        ("pages", "from =", "form =", "$.pages"),
        ("time", "[time]", '[time]\nlongest = "1 day"', "$.time.longest"),
        ("time", "query:since", "query.since", "$.time.start"),
        ("pages", "body:next", "query:next", "$.pages.from"),
        ("auth", '"header"', '"heder"', "$.auth"),
    ],
)
def test_what_is_wrong_does_not_fit(part: str, old: str, new: str, where: str) -> None:
    assert where in errors(text(**{part: PARTS[part].replace(old, new)}))


def test_every_table_of_the_schema_shows_what_its_keys_mean() -> None:
    meanings = key_meanings()
    assert meanings.keys() == {"Table", *SCHEMA["$defs"], "DescriptionFile", "Feed"}
    pages = SCHEMA["$defs"]["Pages"]["properties"]
    assert pages["alone"]["description"] == "Later pages carry the cursor and nothing else."
    assert pages["join"]["description"].startswith("What joins a cursor")
    without = {
        f"{name}.{key}"
        for name, table in SCHEMA["$defs"].items()
        for key, value in table["properties"].items()
        if not {"description", "$ref"} & value.keys()
        and key not in ("kind", "id", "name", "email", "actions")
    }
    assert without == SAID_BY_THEIR_NAMES


SAID_BY_THEIR_NAMES = {
    "ChangePaths.before",
    "ChangePaths.after",
    "EventPaths.org_name",
    "EventPaths.project_id",
    "EventPaths.project_name",
}
