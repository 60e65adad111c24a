"""The Elasticsearch templates map every field that is sent, each with the right type."""

import json
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from ipaddress import ip_address
from typing import Any

import msgspec
import pytest
from tests.siem.seen import TOP, Seen, Siems

from auditrelay.descriptions import shipped
from auditrelay.events import Actor, AuditEvent, Change, Target
from auditrelay.events.marks import NOT_NORMALIZED
from auditrelay.events.normalize import available
from auditrelay.sinks.elasticsearch.templates import templates

COMPONENT, INDEX = templates(opensearch=False).values()
MAPPINGS: dict[str, Any] = COMPONENT["template"]["mappings"]
ECS: dict[str, Any] = json.loads((TOP / "tests/events/schema/ecs.json").read_bytes())["fields"]
LEAF = {"keyword", "constant_keyword", "match_only_text", "flattened", "date", "ip", "long"} | {
    "boolean",
}
DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def mapped(properties: dict[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Yield every field with an explicit type."""
    for name, field in properties.items():
        here = f"{path}.{name}" if path else name
        if "properties" in field:
            yield from mapped(field["properties"], here)
        else:
            yield here, field["type"]


EXPLICIT = dict(mapped(MAPPINGS["properties"]))


def by_rule(path: str, value: object) -> str | None:
    """Return the type that a dynamic rule gives to a field without an explicit one."""
    kind = {str: "string", dict: "object", bool: "boolean", int: "long"}.get(type(value))
    for rule in MAPPINGS["dynamic_templates"]:
        [body] = rule.values()
        if body.get("match_mapping_type") == kind and fnmatchcase(
            path, body.get("path_match", "*")
        ):
            return str(body["mapping"]["type"])
    return None


def typed(node: Any, path: str = "") -> Iterator[tuple[str, str, Any]]:
    """Yield the fields of a document as the mapping sees them; one without a type is an error."""
    if path and not isinstance(node, list):
        kind = EXPLICIT.get(path)
        if kind == "object":
            kind = None
        elif kind is None and not any(name.startswith(f"{path}.") for name in EXPLICIT):
            kind = by_rule(path, node)
        if kind is not None:
            yield path, kind, node
            return
    if isinstance(node, list):
        for item in node:
            yield from typed(item, path)
    else:
        assert isinstance(node, dict), f"{path} has no type"
        for key, value in node.items():
            yield from typed(value, f"{path}.{key}" if path else key)


def fits(kind: str, value: Any) -> bool:
    """Return whether a field of type *kind* accepts and finds *value*."""
    if kind == "flattened":
        return isinstance(value, dict)
    if kind == "date":
        return DATE.fullmatch(value) is not None
    if kind == "ip":
        return bool(ip_address(value))
    if kind in ("long", "boolean"):
        return type(value) is {"long": int, "boolean": bool}[kind]
    assert kind in LEAF
    return type(value) is str


def full(event: AuditEvent, vendor: str) -> Iterator[AuditEvent]:
    """Yield events that together have every field."""
    everything = msgspec.structs.replace(
        event,
        vendor=vendor,
        kind="member",
        verb="role_change",
        outcome="success",
        actor=Actor("user", "u1", "Dana", "dana@x.example", "203.0.113.7", "curl/8", "oidc"),
        target=Target("thing", "t1", "Thing", "sam@x.example"),
        org_id="o",
        org_name="Org",
        project_id="p",
        project_name="Project",
        privilege="admin",
        changes=(Change("role", '"member"', '"admin"'),),
        reason="asked for",
        native_category="category",
        metadata=msgspec.Raw(b'{"id":1,"nested":{"id":{"id":[1,"2",{"x":null}]}}}'),
        unmapped=msgspec.Raw(b'{"novel":{"a":1.5}}'),
        warnings=("unknown_action",),
        late_by_s=7,
        notice=True,
        backfill=True,
    )
    yield everything
    yield msgspec.structs.replace(everything, kind="group", verb="update")
    yield msgspec.structs.replace(everything, kind="session", verb="impersonate")
    yield msgspec.structs.replace(everything, warnings=(NOT_NORMALIZED,))


@pytest.fixture(scope="module")
def documents(siems: Siems, golden: dict[str, AuditEvent]) -> list[dict[str, Any]]:
    found = [siems.document(event) for event in golden.values()]
    event = next(iter(golden.values()))
    for vendor in (*available(), *shipped()):
        found += [siems.document(each, replayed=True) for each in full(event, vendor)]
    return found


def test_every_field_that_is_sent_has_a_type_that_fits(documents: list[dict[str, Any]]) -> None:
    for document in documents:
        for path, kind, value in typed(document):
            assert fits(kind, value), f"{path} is a {kind}, not {value!r}"


def test_fields_of_a_vendor_without_explicit_mapping_are_typed_by_rules(
    siems: Siems, golden: dict[str, AuditEvent]
) -> None:
    for event in full(next(iter(golden.values())), "newcomer"):
        kinds = {path: kind for path, kind, _ in typed(siems.document(event))}
        assert kinds["newcomer.audit.metadata"] == "flattened"
        assert kinds["newcomer.audit.object_id"] == "keyword"
        assert kinds["newcomer.audit.project.id"] == "keyword"


def test_fields_of_ecs_have_their_type_in_ecs() -> None:
    for path, kind in EXPLICIT.items():
        if ".audit." not in path and path.partition(".")[0] not in ("auditrelay", "labels"):
            assert ECS[path]["type"] == kind, path


def test_no_field_is_mapped_that_is_never_sent(documents: list[dict[str, Any]]) -> None:
    sent = {path for document in documents for path, _, _ in typed(document)}
    assert EXPLICIT.keys() - sent == {"labels"}  # its fields are defined by the operator


def test_every_vendor_is_mapped() -> None:
    vendors = {path.partition(".")[0] for path in EXPLICIT if ".audit." in path}
    assert {*available(), *shipped()} == vendors


def test_the_original_record_is_kept_and_not_indexed() -> None:
    original = MAPPINGS["properties"]["event"]["properties"]["original"]
    assert original == {"type": "keyword", "index": False, "doc_values": False}


def test_the_index_template_has_precedence_over_the_built_in_one_and_names_its_components(
    everything: list[Seen],
) -> None:
    [pattern] = INDEX["index_patterns"]
    assert INDEX["priority"] >= 200
    assert INDEX["data_stream"] == {}
    assert "auditrelay@mappings" in INDEX["composed_of"]
    assert "ecs@mappings" in INDEX["composed_of"]
    # what we do not install ourselves may be missing
    missing = set(INDEX["composed_of"]) - {"auditrelay@mappings"}
    assert set(INDEX["ignore_missing_component_templates"]) == missing
    for seen in everything:
        parts = [
            seen.elastic[f"data_stream.{part}"][0] for part in ("type", "dataset", "namespace")
        ]
        assert fnmatchcase("-".join(parts), pattern)


@pytest.mark.parametrize("document", [{"novel": 1.5}, {"user": {"age": 7}}, {"user": "dana"}])
def test_the_check_sees_a_field_without_a_type(document: dict[str, Any]) -> None:
    with pytest.raises(AssertionError, match="has no type"):
        list(typed(document))
