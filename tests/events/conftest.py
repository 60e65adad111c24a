"""Events to test with, and validators built from the published schemas."""

import json
import re
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import orjson
import pytest

from auditrelay.events import AuditEvent
from auditrelay.events.forms import FORMS
from auditrelay.events.normalize import Normalizer, vendor_named

HERE = Path(__file__).parent
ECS: dict[str, Any] = json.loads((HERE / "schema" / "ecs.json").read_bytes())
ASIM: dict[str, Any] = json.loads((HERE / "schema" / "asim.json").read_bytes())
CIM: dict[str, Any] = json.loads((HERE / "schema" / "cim.json").read_bytes())
FETCHED = 1_795_167_600_123_456  # 2026-11-20T09:40:00.123456Z
OPTIONAL = {"action", "object_attrs", "object_id", "object_size", "src", "status", "user"} | {
    "user_name",
    "vendor_account",
}
"""Fields of CIM that a record may lack; Splunk then shows "unknown"."""
DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def make_normalizer(vendor: str = "bland", **changes: Any) -> Normalizer:
    """Return a normalizer for *vendor* with realistic settings."""
    settings: dict[str, Any] = {
        "vendor": vendor_named(vendor),
        "source": f"acme-{vendor}",
        "api_host": f"api.{vendor}.example",
        "scope": "configured-org",
        "redact": "default",
        "tags": {"team": "voice"},
    }
    return Normalizer(**(settings | changes))


@pytest.fixture
def normalizer() -> Callable[..., Normalizer]:
    return make_normalizer


@pytest.fixture
def fetched() -> int:
    return FETCHED


@pytest.fixture
def one() -> Callable[..., AuditEvent]:
    """Normalize one record, given as text or as a value."""

    def normalize(record: object, vendor: str = "bland", **changes: Any) -> AuditEvent:
        text = record if isinstance(record, bytes) else json.dumps(record).encode()
        [event] = make_normalizer(vendor, **changes)([text], FETCHED)
        return event

    return normalize


def strict_loads(text: bytes) -> Any:
    """Decode JSON as strictly as the strictest receiver: no NaN, no duplicate keys."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        assert len(keys) == len(set(keys)), f"duplicate key: {keys}"
        return dict(pairs)

    return json.loads(text.decode("utf-8"), parse_constant=refuse, object_pairs_hook=unique)


@pytest.fixture
def written() -> Callable[[AuditEvent], dict[str, bytes]]:
    """Render an event in every form, as bytes; each is one line of strict JSON."""

    def write(event: AuditEvent) -> dict[str, bytes]:
        texts = {name: orjson.dumps(render(event)) for name, render in FORMS.items()}
        for text in texts.values():
            strict_loads(text)
            orjson.loads(text)
            assert b"\n" not in text
            assert b"\r" not in text
        return texts

    return write


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value of an ECS document with its dotted name; lists are values."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from leaves(value, f"{path}.{key}" if path else key)
    else:
        yield path, node


def _check_ecs_value(name: str, value: Any, spec: dict[str, Any]) -> None:
    kind = spec["type"]
    if spec.get("array"):
        assert isinstance(value, list), f"{name} must be an array"
    else:
        assert not isinstance(value, list), f"{name} must not be an array"
    for item in value if isinstance(value, list) else [value]:
        if kind == "date":
            assert isinstance(item, str), name
            assert DATE.fullmatch(item), f"{name}: {item}"
        elif kind == "ip":
            ip_address(item)
        elif kind == "long":
            assert type(item) is int, name
        else:
            assert isinstance(item, str), f"{name} is {item!r}"
            assert item, f"{name} is empty"
            if not name.endswith("original"):
                assert len(item.encode()) <= 32_766, name
        if "allowed" in spec and kind == "keyword":
            assert item in spec["allowed"], f"{name}: {item}"


def check_ecs(document: dict[str, Any], vendor: str) -> None:
    """Assert that *document* is valid ECS, and that all other fields are under our names."""
    for name, value in leaves(document):
        root = name.split(".", 1)[0]
        if root in ("auditrelay", vendor):
            continue
        if root == "labels":
            assert isinstance(value, str), name
            assert name.count(".") == 1, name
            continue
        assert name in ECS["fields"], f"{name} is not a field of ECS"
        _check_ecs_value(name, value, ECS["fields"][name])
    event = document["event"]
    assert event["kind"] in ECS["kinds"]
    expected = {kind for name in event.get("category", []) for kind in ECS["categories"][name]}
    assert set(event.get("type", [])) <= expected, f"{event['type']} under {event['category']}"
    assert event.get("outcome", "success") in ECS["outcomes"]
    for ip in document.get("related", {}).get("ip", []):
        ip_address(ip)


def check_cim(found: dict[str, Any]) -> None:
    """Assert that *found* conforms to its CIM model."""
    model = found["cim_model"]
    assert model in ("Change", "Authentication", "Data_Access")
    if "action" in found:
        assert found["action"] in CIM["words"][f"{model}.action"]
    if "status" in found:
        assert found["status"] in CIM["words"]["Change.status"]
    for name, requirement in CIM["fields"][model].items():
        if name in found:
            value = found[name]
            assert isinstance(value, str | list), f"{name} is nested"
            assert value, f"{name} is empty"
        elif requirement == "required":
            assert name in OPTIONAL, f"{name} is missing"
    assert list(found)[-1] == "vendor"


_ASIM_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
_ASIM_TYPES: dict[str, type] = {"string": str, "datetime": str, "int": int, "dynamic": dict}


def check_asim(row: dict[str, Any]) -> None:
    """Assert that *row* is one of its schema, as Sentinel's own tester would find it."""
    columns = ASIM[row["EventSchema"]]
    for name, value in row.items():
        assert name in columns, f"{name} is no column of {row['EventSchema']}"
        column = columns[name]
        assert type(value) is _ASIM_TYPES[column["type"]], name
        assert value not in ("", {}), f"{name} is empty"
        assert value in column.get("values", [value]), f"{name}: {value}"
        if column["type"] == "datetime":
            assert isinstance(value, str)
            assert _ASIM_TIME.fullmatch(value), f"{name}: {value}"
        if "of" in column:
            assert column["of"] in row, f"{name} without {column['of']}"
    for name, column in columns.items():
        assert column["class"] != "Mandatory" or name in row, f"{name} is missing"
        if column.get("of") in row:
            assert name in row, f"{column['of']} without {name}"
    assert re.fullmatch(r"\d+\.\d+(\.\d+)?", row["EventSchemaVersion"])
    if "SrcIpAddr" in row:
        ip_address(row["SrcIpAddr"])
    assert list(row)[-1] == "AdditionalFields"
    assert list(row["AdditionalFields"])[-1] == "record"


@pytest.fixture
def valid_ecs() -> Callable[[dict[str, Any], str], None]:
    return check_ecs


@pytest.fixture
def valid_cim() -> Callable[[dict[str, Any]], None]:
    return check_cim


@pytest.fixture
def valid_asim() -> Callable[[dict[str, Any]], None]:
    return check_asim


@pytest.fixture
def golden() -> Path:
    return HERE / "golden"
