"""Which template a cluster would use, and how the mapping of an index conflicts with ours."""

from dataclasses import astuple
from typing import Any

import pytest

from auditrelay.sinks.elasticsearch.templates import (
    COMPONENT,
    TemplateMatch,
    mapping_conflicts,
    templates,
)


def listed(name: str, pattern: str, priority: int | None = None, **more: Any) -> dict[str, Any]:
    template: dict[str, Any] = {"index_patterns": [pattern], **more}
    if priority is not None:
        template["priority"] = priority
    return {"name": name, "index_template": template}


LOGS = listed("logs", "logs-*-*", 100, data_stream={"hidden": False}, composed_of=["ecs@mappings"])
OURS = listed("ours", "logs-auditrelay.*-*", 200, data_stream={}, composed_of=[COMPONENT])
PLAIN = listed("plain", "audit-*", composed_of=[COMPONENT])
ALL = listed("all", "*")


@pytest.mark.parametrize(
    ("index", "candidates", "found"),
    [
        ("logs-auditrelay.x-default", [LOGS, OURS], ("ours", True, True)),
        ("logs-auditrelay.x-default", [OURS, LOGS], ("ours", True, True)),
        ("logs-auditrelay.x-default", [LOGS], ("logs", True, False)),
        ("logs-auditrelay.x-default", [ALL, LOGS], ("logs", True, False)),
        ("audit-2026", [LOGS, OURS, PLAIN], ("plain", False, True)),
        ("audit-2026", [LOGS, OURS], None),
        ("audit", [PLAIN, ALL], ("all", False, False)),
        ("audit", [], None),
    ],
)
def test_the_template_with_the_highest_priority_is_used(
    index: str, candidates: list[dict[str, Any]], found: tuple[str, bool, bool] | None
) -> None:
    match = TemplateMatch.of(index, candidates)
    assert (None if match is None else astuple(match)) == found


@pytest.mark.parametrize(
    "odd", [{}, {"name": "x"}, {"name": "x", "index_template": None}, {"index_template": {}}]
)
def test_an_empty_template_matches_nothing(odd: dict[str, Any]) -> None:
    assert TemplateMatch.of("audit", [odd]) is None


@pytest.mark.parametrize("opensearch", [True, False])
def test_our_own_template_has_no_conflicts(*, opensearch: bool) -> None:
    component = templates(opensearch=opensearch)[f"/_component_template/{COMPONENT}"]
    assert mapping_conflicts(component["template"]["mappings"]["properties"]) == []


@pytest.mark.parametrize(
    ("properties", "conflicts"),
    [
        ({"source": {"properties": {"ip": {"type": "keyword"}}}}, ["source.ip is keyword, not ip"]),
        ({"@timestamp": {"type": "date_nanos"}}, []),
        ({"message": {"type": "text"}}, []),
        ({"event": {"properties": {"id": {"type": "wildcard"}}}}, []),
        (
            {"event": {"properties": {"kind": {"type": "text"}}}},
            ["event.kind is text, not keyword"],
        ),
        ({"event": {"type": "object", "properties": {}}}, []),
        ({"of_another": {"type": "long"}}, []),
        ({"event": "nonsense", "source": {"type": 7}}, []),
    ],
)
def test_only_types_that_a_search_treats_differently_conflict(
    properties: dict[str, Any], conflicts: list[str]
) -> None:
    assert mapping_conflicts(properties) == conflicts
