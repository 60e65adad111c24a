"""What is to be imported into Kibana has the form that Kibana's documentation says."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from tests.siem.seen import SIEM

FILES = sorted((SIEM / "elasticsearch").glob("*.ndjson"))
SCHEMA = json.loads((Path(__file__).parent / "kibana_rule.json").read_text("utf-8"))
VALID = jsonschema.Draft202012Validator(SCHEMA)

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def rules(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


EVERY = [rule for path in FILES for rule in rules(path)]


def test_the_schema_is_one_and_there_are_rules() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert {path.name for path in FILES} == {"detections.ndjson", "evidence.ndjson"}
    assert len(EVERY) == 10


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_is_a_rule_a_line_and_ends_with_a_line_end(path: Path) -> None:
    text = path.read_text("utf-8")
    assert text.endswith("}\n")
    assert "\n\n" not in text


@pytest.mark.parametrize("rule", EVERY, ids=lambda rule: rule["rule_id"])
def test_a_rule_has_the_form_that_is_imported(rule: dict[str, Any]) -> None:
    assert [error.message for error in VALID.iter_errors(rule)] == []
    # One that is enabled would run as soon as it is imported.
    assert rule["enabled"] is False
    # As Kibana divides the scores: common_attributes.schema.yaml, RiskScore.
    low, high = {"medium": (22, 47), "high": (48, 73), "critical": (74, 100)}[rule["severity"]]
    assert low <= rule["risk_score"] <= high
    # Each run looks back further than to the run before it.
    back, every = rule["from"].removeprefix("now-"), rule["interval"]
    assert int(back[:-1]) * SECONDS[back[-1]] > int(every[:-1]) * SECONDS[every[-1]]


def test_no_two_rules_have_one_name_or_one_id() -> None:
    for key in ("rule_id", "name"):
        assert len({rule[key] for rule in EVERY}) == len(EVERY)


@pytest.mark.parametrize(
    "mistake",
    [
        {"severity": "severe"},
        {"risk_score": 101},
        {"interval": "5 minutes"},
        {"from": "6h"},
        {"langauge": "kuery"},
        {"index": []},
        {"type": "esql"},
        {"query": ""},
    ],
    ids=str,
)
def test_a_mistake_would_be_found(mistake: dict[str, Any]) -> None:
    assert list(VALID.iter_errors(EVERY[0] | mistake))
