"""The rules that watch the evidence find heads and alerts of it, and nothing else."""

import json
import re
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from datadog_api_client.v1.model.monitor import Monitor
from datadog_api_client.v2.model.security_monitoring_standard_rule_create_payload import (
    SecurityMonitoringStandardRuleCreatePayload,
)
from tests.siem import languages
from tests.siem.languages import Fields, flat, gathered, matches
from tests.siem.seen import SIEM, Siems, read_conf
from tests.siem.test_datadog import assert_known, read_by_the_client
from tests.siem.test_detections import EVIDENCE
from tests.support.batches import rendered

from auditrelay.events import AuditEvent
from auditrelay.events.notices import alert_event, sealed_event
from auditrelay.evidence.heads import Head

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HEAD = Head("7346c92ec83c0c19152a6840060797e1", 40_007, bytes(range(32)))
ROOT = HEAD.root.hex()
DATADOG = {
    path.stem: json.loads(path.read_bytes()) for path in (SIEM / "datadog" / "evidence").iterdir()
}
MONITOR = json.loads((SIEM / "datadog" / "evidence_monitor.json").read_bytes())


@pytest.fixture(scope="module")
def sealed() -> AuditEvent:
    return sealed_event(
        source="auditrelay",
        uid=HEAD.uid,
        head=HEAD.word,
        log=HEAD.log,
        size=HEAD.size,
        root=HEAD.root,
        before=None,
        sources={},
        sinks={},
        now=NOW,
    )


def alert(code: str, *, over: bool = False) -> AuditEvent:
    return alert_event(
        source="auditrelay", code=code, about="evidence", what="", todo="", over=over, now=NOW
    )


def own(siems: Siems, event: AuditEvent) -> tuple[Fields, Fields, Fields]:
    """Return an event of auditrelay itself as the three see it; Splunk without the add-on."""
    envelope = orjson.loads(rendered(siems.splunk, event, event.at).text)
    splunk = {"sourcetype": [envelope["sourcetype"]], **gathered(flat(envelope["event"]))}
    log = siems.log(event)
    tags = {
        name: [value] for name, _, value in (t.partition(":") for t in log["ddtags"].split(","))
    }
    attributes = gathered((f"@{name}", value) for name, value in flat(log))
    return gathered(flat(siems.document(event))), splunk, attributes | tags


def elastic() -> dict[str, dict[str, Any]]:
    lines = (SIEM / "elasticsearch" / "evidence.ndjson").read_text("utf-8").splitlines()
    return {rule["name"]: rule for rule in map(json.loads, lines)}


def test_there_is_one_rule_for_each_question_in_each_siem() -> None:
    names = set(EVIDENCE.values())
    assert set(elastic()) == names
    assert names <= set(read_conf("default/savedsearches.conf"))
    assert {rule["name"] for rule in DATADOG.values()} | {MONITOR["name"]} == names
    assert not any(rule["enabled"] for rule in elastic().values())
    assert not any(rule["isEnabled"] for rule in DATADOG.values())


@pytest.mark.parametrize("question", ["head_absent", "two_roots", "new_log"])
def test_a_rule_about_heads_finds_heads_alone(
    question: str, siems: Siems, sealed: AuditEvent
) -> None:
    rule = elastic()[EVIDENCE[question]]
    search = read_conf("default/savedsearches.conf")[EVIDENCE[question]]["search"]
    query = (
        re.fullmatch(
            r'logs\("(.+)"\)\.index\("\*"\)\.rollup\("count"\)\.last\("3h"\) < 1', MONITOR["query"]
        )
        if question == "head_absent"
        else re.fullmatch("(.+)", DATADOG[question]["queries"][0]["query"])
    )
    assert query is not None
    where = re.match(
        r'FROM logs-auditrelay\.auditrelay-\* \| WHERE ([\w.]+) == ("[^"]+")', rule["query"]
    )
    assert where is not None
    terms = (
        languages.kql(f"{where[1]}: {where[2]}"),
        languages.spl(search),
        languages.datadog(query[1]),
    )
    for each, fields in zip(terms, own(siems, sealed), strict=True):
        assert matches(each, fields)
    for each, fields in zip(terms, own(siems, alert("evidence")), strict=True):
        assert not matches(each, fields)


def test_the_parts_of_a_head_are_read_out_of_its_message(siems: Siems, sealed: AuditEvent) -> None:
    document, splunk, datadog = own(siems, sealed)
    parts = (HEAD.log, str(HEAD.size), ROOT)
    for question in ("two_roots", "new_log"):
        pattern = re.search(r'DISSECT message "(.+?)" \|', elastic()[EVIDENCE[question]]["query"])
        search = read_conf("default/savedsearches.conf")[EVIDENCE[question]]["search"]
        rex = re.search(r'rex field=description "(.+?)"', search)
        assert pattern is not None
        assert rex is not None
        # DISSECT takes the shortest text up to the next literal.
        read = "".join(
            ".*?"
            if name == "%{}"
            else f"(?P<{name[2:-1]}>.*?)"
            if name[0] == "%"
            else re.escape(name)
            for name in re.findall(r"%\{\w*\}|[^%]+", pattern[1])
        )
        found = re.fullmatch(read, document["message"][0])
        assert found is not None
        assert found.group("log", "size", "root") == parts
        inner = re.search(rex[1].replace("(?<", "(?P<"), splunk["description"][0])
        assert inner is not None
        assert inner.group("log", "size", "root") == parts
    [query] = DATADOG["two_roots"]["queries"]
    named = [*query["groupByFields"], *query["distinctFields"]]
    assert [datadog[name] for name in named] == [[part] for part in parts]
    assert datadog[DATADOG["new_log"]["queries"][0]["metrics"][0]] == [HEAD.log]


@pytest.mark.parametrize("code", ["evidence", "evidence_broken"])
def test_an_alert_of_the_evidence_is_found_and_no_other(siems: Siems, code: str) -> None:
    name = EVIDENCE["alert"]
    terms = (
        languages.kql(elastic()[name]["query"]),
        languages.spl(read_conf("default/savedsearches.conf")[name]["search"]),
        languages.datadog(DATADOG["alert"]["queries"][0]["query"]),
    )
    for each, fields in zip(terms, own(siems, alert(code)), strict=True):
        assert matches(each, fields)
    for other in (alert(code, over=True), alert("sink_held")):
        for each, fields in zip(terms, own(siems, other), strict=True):
            assert not matches(each, fields)


def test_datadogs_own_client_knows_the_rules_and_the_monitor() -> None:
    for rule in DATADOG.values():
        read = read_by_the_client(SecurityMonitoringStandardRuleCreatePayload, rule)
        assert_known(read.options, rule["options"])
        for part in ("queries", "cases"):
            for given, each in zip(rule[part], read[part], strict=True):
                assert_known(each, given)
    assert_known(read_by_the_client(Monitor, MONITOR).options, MONITOR["options"])
