"""The files for Datadog are valid for its own client, and refer to fields that are sent."""

import json
from typing import Any

import pytest
from datadog_api_client.configuration import Configuration
from datadog_api_client.model_utils import validate_and_convert_types
from datadog_api_client.v1.model.logs_pipeline import LogsPipeline
from datadog_api_client.v1.model.monitor import Monitor
from datadog_api_client.v2.model.security_monitoring_standard_rule_create_payload import (
    SecurityMonitoringStandardRuleCreatePayload,
)
from tests.siem.seen import SIEM, Seen

FOLDER = SIEM / "datadog"
PIPELINE = json.loads((FOLDER / "pipeline.json").read_bytes())
RULES = {path.stem: json.loads(path.read_bytes()) for path in (FOLDER / "rules").iterdir()}
EVIDENCE = {path.stem: json.loads(path.read_bytes()) for path in (FOLDER / "evidence").iterdir()}
EVERY = {**RULES, **EVIDENCE}


def read_by_the_client(kind: Any, value: dict[str, Any]) -> Any:
    """Return *value* as parsed by Datadog's own client; unknown keys are an error."""
    read: Any = validate_and_convert_types(  # type: ignore[no-untyped-call]  # it has no types
        value,
        (kind,),
        ["it"],
        True,  # noqa: FBT003  # how the client itself calls it
        True,  # noqa: FBT003  # as above
        Configuration(),  # type: ignore[no-untyped-call]  # as above
    )
    assert not read._unparsed
    assert_known(read, value)
    return read


def assert_known(read: Any, value: dict[str, Any]) -> None:
    """Assert that the client knows every key."""
    model = getattr(read, "_composed_instances", [read])[0]
    assert value.keys() <= set(model.attribute_map.values())


def test_the_pipeline_is_one_that_the_client_knows() -> None:
    pipeline = read_by_the_client(LogsPipeline, PIPELINE)
    for given, processor in zip(PIPELINE["processors"], pipeline.processors, strict=True):
        assert_known(processor, given)


@pytest.mark.parametrize("name", EVERY)
def test_a_rule_is_one_that_the_client_knows(name: str) -> None:
    rule = read_by_the_client(SecurityMonitoringStandardRuleCreatePayload, EVERY[name])
    assert_known(rule.options, EVERY[name]["options"])
    for part in ("queries", "cases"):
        for given, read in zip(EVERY[name][part], rule[part], strict=True):
            assert_known(read, given)


def test_the_monitor_of_the_evidence_is_one_that_the_client_knows() -> None:
    given = json.loads((FOLDER / "evidence_monitor.json").read_bytes())
    monitor = read_by_the_client(Monitor, given)
    assert_known(monitor.options, given["options"])


def test_the_client_reports_unknown_keys() -> None:
    wrong = PIPELINE | {"processors": [{"type": "date-remappr", "sources": ["timestamp"]}]}
    with pytest.raises(AssertionError):
        read_by_the_client(LogsPipeline, wrong)
    for mistake in ({"type": "log_detektion"}, {"enabled": False}):
        with pytest.raises(AssertionError):
            read_by_the_client(
                SecurityMonitoringStandardRuleCreatePayload, RULES["sso_changed"] | mistake
            )


def test_the_pipeline_matches_every_log_and_uses_sent_fields(everything: list[Seen]) -> None:
    assert PIPELINE["filter"] == {"query": "forwarder:auditrelay"}
    assert all(seen.datadog["forwarder"] == ["auditrelay"] for seen in everything)
    sent = {name for seen in everything for name in seen.datadog}
    used = {f"@{name}" for each in PIPELINE["processors"] for name in each["sources"]}
    assert used <= sent | {"@http.useragent"}  # no vendor so far reports a browser


def test_every_facet_is_of_an_attribute_that_is_sent(everything: list[Seen]) -> None:
    facets = json.loads((FOLDER / "facets.json").read_bytes())
    sent = {name for seen in everything for name in seen.datadog}
    paths = [facet["path"] for facet in facets]
    assert len(set(paths)) == len(paths)
    assert {f"@{path}" for path in paths} <= sent
    for rule in RULES.values():
        grouped = {name for query in rule["queries"] for name in query["groupByFields"]}
        assert {name.removeprefix("@") for name in grouped} <= set(paths)
