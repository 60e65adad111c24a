"""`schema` prints the JSON schema of the configuration file."""

import json

import pytest

from auditrelay.cli.schema import schema
from auditrelay.config.schema import json_schema


def test_schema_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    schema()
    assert json.loads(capsys.readouterr().out) == json_schema()
