"""Each detection finds exactly the expected events, of every vendor, in all three SIEMs."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.siem import languages
from tests.siem.languages import Term, matches
from tests.siem.seen import SIEM, Seen, Siems, normalized, read_conf

from auditrelay.events import AuditEvent

GIVING = {"role_change", "permission_change", "create", "update", "replace", "restore"} | {
    "configure",
    "enable",
    "activate",
    "member_add",
}
RIGHTS = {"permission", "role", "scope_set"}
ROLE_CHANGES = {
    *((kind, "role_change") for kind in ("member", "user", "group", "organization")),
    *((kind, "permission_change") for kind in ("member", "user", "group")),
}
NAMES = {
    "api_key_created": "SaaS audit: an API key was created",
    "role_raised": "SaaS audit: a role or right was given or changed",
    "audit_log_deleted": "SaaS audit: an audit log was deleted",
    "data_exported": "SaaS audit: data was exported",
    "sso_changed": "SaaS audit: single sign-on was changed",
    "impersonated": "SaaS audit: a user was impersonated",
}
EVIDENCE = {
    "head_absent": "auditrelay: no head of the evidence for three hours",
    "two_roots": "auditrelay: two roots of one size",
    "new_log": "auditrelay: a log of the evidence that was never seen",
    "alert": "auditrelay: the evidence cannot be sealed, or does not fit",
}
"""What watches the evidence of auditrelay itself, see test_evidence_rules."""


def expected(question: str, event: AuditEvent) -> bool:
    """Return whether *event* should be found for *question*."""
    kind, verb, failed = event.kind, event.verb, event.outcome == "failure"
    given = verb in GIVING if kind in RIGHTS else (kind, verb) in ROLE_CHANGES
    answers = {
        "api_key_created": (kind, verb) == ("api_key", "create") and not failed,
        "role_raised": given and not failed,
        "audit_log_deleted": (kind, verb) == ("audit_log", "delete"),
        "data_exported": verb == "export" and not failed,
        "sso_changed": kind == "sso" and verb not in ("read", "export", "review") and not failed,
        "impersonated": verb == "impersonate" and not failed,
    }
    return answers[question]


def elastic_rules() -> dict[str, dict[str, Any]]:
    lines = (SIEM / "elasticsearch" / "detections.ndjson").read_text("utf-8").splitlines()
    rules = [json.loads(line) for line in lines]
    return {rule["name"]: rule for rule in rules}


def datadog_rule(question: str) -> dict[str, Any]:
    rule: dict[str, Any] = json.loads((SIEM / "datadog" / "rules" / f"{question}.json").read_text())
    return rule


def elastic(question: str) -> list[Term]:
    return languages.kql(elastic_rules()[NAMES[question]]["query"])


def splunk(question: str) -> list[Term]:
    return languages.spl(read_conf("default/savedsearches.conf")[NAMES[question]]["search"])


def datadog(question: str) -> list[Term]:
    [query] = datadog_rule(question)["queries"]
    return languages.datadog(query["query"])


TERMS: dict[str, Callable[[str], list[Term]]] = {
    "elastic": elastic,
    "splunk": splunk,
    "datadog": datadog,
}


@pytest.mark.parametrize("question", NAMES)
@pytest.mark.parametrize("siem", TERMS)
def test_a_detection_finds_exactly_the_expected_events(
    siem: str, question: str, everything: list[Seen]
) -> None:
    terms = TERMS[siem](question)
    found = {id(seen.event) for seen in everything if matches(terms, getattr(seen, siem))}
    right = {id(seen.event) for seen in everything if expected(question, seen.event)}
    assert found == right
    assert right


@pytest.mark.parametrize(
    ("question", "name"),
    [
        ("api_key_created", "cekura/api_key_created"),
        ("api_key_created", "cencori/api_key_created"),
        ("role_raised", "cencori/member_role_changed"),
        ("data_exported", "cencori/audit_log_exported"),
        ("sso_changed", "cencori/sso_enforced_backfilled"),
    ],
)
def test_the_vendors_own_records_are_found(
    question: str, name: str, golden: dict[str, AuditEvent], siems: Siems
) -> None:
    seen = siems.see(golden[name])
    assert matches(elastic(question), seen.elastic)
    assert matches(splunk(question), seen.splunk)
    assert matches(datadog(question), seen.datadog)
    others = NAMES.keys() - {question}
    assert not any(matches(elastic(other), seen.elastic) for other in others)


def test_a_deleted_audit_log_is_found_even_if_the_action_is_unknown(
    siems: Siems,
) -> None:
    record = {"id": "1", "org_id": "o", "event_type": "audit_log.deleted"}
    seen = siems.see(normalized("bland", record))
    assert matches(elastic("audit_log_deleted"), seen.elastic)
    assert matches(splunk("audit_log_deleted"), seen.splunk)
    assert matches(datadog("audit_log_deleted"), seen.datadog)


@pytest.mark.parametrize("question", NAMES)
@pytest.mark.parametrize("siem", TERMS)
def test_a_detection_names_no_field_that_is_never_sent(
    siem: str, question: str, everything: list[Seen]
) -> None:
    sent = {name for seen in everything for name in getattr(seen, siem)}
    assert {term.field for term in TERMS[siem](question)} <= sent


def test_there_is_one_detection_for_each_question() -> None:
    assert set(elastic_rules()) == set(NAMES.values())
    every = {*NAMES.values(), *EVIDENCE.values()}
    assert set(read_conf("default/savedsearches.conf")) == every
    files = {path.stem for path in (SIEM / "datadog" / "rules").iterdir()}
    assert files == set(NAMES)
    assert {datadog_rule(question)["name"] for question in NAMES} == set(NAMES.values())


def test_every_detection_is_disabled_by_default() -> None:
    assert not any(rule["enabled"] for rule in elastic_rules().values())
    assert {each["disabled"] for each in read_conf("default/savedsearches.conf").values()} == {"1"}
    assert not any(datadog_rule(question)["isEnabled"] for question in NAMES)


def test_elastic_rules_have_the_fields_that_an_import_requires() -> None:
    rules = elastic_rules().values()
    assert len({rule["rule_id"] for rule in rules}) == len(NAMES)
    for rule in rules:
        assert rule["type"] == "query"
        assert rule["language"] == "kuery"
        assert rule["severity"] in ("low", "medium", "high", "critical")
        assert 0 <= rule["risk_score"] <= 100
        # by the time of reading, so that late events are found too
        assert rule["timestamp_override"] == "event.created"


@pytest.mark.parametrize(
    ("read", "query"),
    [
        (languages.kql, 'a: "1" or b: "2"'),
        (languages.kql, 'a: "1" and '),
        (languages.kql, "a: 1"),
        (languages.kql, ""),
        (languages.spl, "a=1 OR b=2"),
        (languages.spl, "a>1"),
        (languages.spl, '| tstats count where a="1"'),
        (languages.datadog, "a:1 OR b:2"),
        (languages.datadog, "@a:>5"),
        (languages.datadog, "free text"),
    ],
)
def test_a_query_beyond_the_evaluator_is_an_error(
    read: Callable[[str], list[Term]], query: str
) -> None:
    with pytest.raises(ValueError, match=r"cannot read|finds everything"):
        read(query)
