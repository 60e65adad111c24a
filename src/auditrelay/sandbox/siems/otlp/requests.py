"""
Read a request with log records, in protobuf or JSON, strictly.

Both encodings are read to the same plain values, named as in JSON. Where a Collector is lenient and
the specification is not, this is not either: an unknown field or key, a time as a number in JSON,
an attribute that is there twice, a record without the time at which it was observed.
"""

import base64
import binascii
import json
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple


class Undecodable(Exception):  # an answer, not a bug of ours
    """A request is not what the protocol says; the text says why."""


class Field(NamedTuple):
    """A field of a message: its name in JSON, its kind, and whether there may be several."""

    name: str
    kind: str
    repeated: bool = False


MESSAGES: dict[str, dict[int, Field]] = {
    "Request": {1: Field("resourceLogs", "ResourceLogs", repeated=True)},
    "ResourceLogs": {
        1: Field("resource", "Resource"),
        2: Field("scopeLogs", "ScopeLogs", repeated=True),
        3: Field("schemaUrl", "string"),
    },
    "Resource": {
        1: Field("attributes", "KeyValue", repeated=True),
        2: Field("droppedAttributesCount", "uint32"),
    },
    "ScopeLogs": {
        1: Field("scope", "Scope"),
        2: Field("logRecords", "LogRecord", repeated=True),
        3: Field("schemaUrl", "string"),
    },
    "Scope": {
        1: Field("name", "string"),
        2: Field("version", "string"),
        3: Field("attributes", "KeyValue", repeated=True),
        4: Field("droppedAttributesCount", "uint32"),
    },
    "LogRecord": {
        1: Field("timeUnixNano", "fixed64"),
        2: Field("severityNumber", "enum"),
        3: Field("severityText", "string"),
        5: Field("body", "AnyValue"),
        6: Field("attributes", "KeyValue", repeated=True),
        7: Field("droppedAttributesCount", "uint32"),
        8: Field("flags", "fixed32"),
        9: Field("traceId", "id"),
        10: Field("spanId", "id"),
        11: Field("observedTimeUnixNano", "fixed64"),
        12: Field("eventName", "string"),
    },
    "KeyValue": {1: Field("key", "string"), 2: Field("value", "AnyValue")},
    "AnyValue": {
        1: Field("stringValue", "string"),
        2: Field("boolValue", "bool"),
        3: Field("intValue", "int64"),
        4: Field("doubleValue", "double"),
        5: Field("arrayValue", "ArrayValue"),
        6: Field("kvlistValue", "KeyValueList"),
        7: Field("bytesValue", "bytes"),
    },
    "ArrayValue": {1: Field("values", "AnyValue", repeated=True)},
    "KeyValueList": {1: Field("values", "KeyValue", repeated=True)},
}
"""The messages of opentelemetry/proto/logs/v1/logs.proto, by the numbers of their fields."""

_WIRE_TYPES = {
    **dict.fromkeys(("uint32", "enum", "bool", "int64"), 0),
    **dict.fromkeys(("fixed64", "double"), 1),
    "fixed32": 5,
}
"""How a kind is written; what is not here has a length."""
_ID_BYTES = {"traceId": 16, "spanId": 8}
_BITS = {"uint32": 32, "enum": 31, "int64": 64, "fixed64": 64, "fixed32": 32}
_MOST_LEVELS = 100


class LogRecord(NamedTuple):
    """A record as it is stored: what its resource and its scope are, and its own fields."""

    resource: dict[str, Any]
    """The attributes."""
    scope: str
    attributes: dict[str, Any]
    body: Any
    fields: dict[str, Any]
    """All others, by their names in JSON."""


def of_protobuf(body: bytes) -> list[LogRecord]:
    """Return the records of a request in protobuf. Raises Undecodable."""
    return list(_records(_protobuf(body, "Request", 0)))


def of_json(body: bytes) -> list[LogRecord]:
    """Return the records of a request in JSON. Raises Undecodable."""
    try:
        request = json.loads(body, parse_constant=_no_constant, object_pairs_hook=_no_twins)
    except (ValueError, RecursionError) as error:
        raise Undecodable(f"it is not JSON: {error}") from error
    return list(_records(_json(request, "Request", "request")))


# -- protobuf


def _protobuf(body: bytes, kind: str, level: int) -> dict[str, Any]:
    """Return the message *kind* in *body*."""
    if level > _MOST_LEVELS:
        raise Undecodable("it is nested too deeply")
    known, message, at = MESSAGES[kind], dict[str, Any](), 0
    while at < len(body):
        tag, at = _varint(body, at)
        field = known.get(tag >> 3)
        if field is None:
            raise Undecodable(f"{kind} has no field {tag >> 3}")
        if tag & 7 != _WIRE_TYPES.get(field.kind, 2):
            raise Undecodable(f"{kind}.{field.name} is not written as {tag & 7}")
        value, at = _value(body, at, field, level)
        if field.repeated:
            message.setdefault(field.name, []).append(value)
        elif field.name in message:
            raise Undecodable(f"{kind}.{field.name} is there twice")
        else:
            message[field.name] = value
    return message


def _value(body: bytes, at: int, field: Field, level: int) -> tuple[Any, int]:
    """Return the value of *field* at *at*, and where it ends."""
    how = _WIRE_TYPES.get(field.kind, 2)
    if how == 0:
        value, at = _varint(body, at)
        return _number(value, field), at
    size, at = (8, at) if how == 1 else (4, at) if how == 5 else _varint(body, at)
    content = body[at : at + size]
    if len(content) < size:
        raise Undecodable(f"{field.name} ends too early")
    return _content(content, field, level), at + size


def _content(content: bytes, field: Field, level: int) -> Any:  # noqa: PLR0911  # a kind each
    match field.kind:
        case "string":
            try:
                return content.decode("utf-8")
            except UnicodeDecodeError as error:
                raise Undecodable(f"{field.name} is not UTF-8") from error
        case "bytes":
            return base64.b64encode(content).decode()
        case "id":
            return _id(content, field)
        case "double":
            return struct.unpack("<d", content)[0]
        case "fixed64":
            return struct.unpack("<Q", content)[0]
        case "fixed32":
            return struct.unpack("<I", content)[0]
    return _protobuf(content, field.kind, level + 1)


def _number(value: int, field: Field) -> int | bool:
    if field.kind == "bool":
        return bool(value)
    if field.kind == "int64":
        return value - 2**64 if value >= 2**63 else value
    if value >> _BITS[field.kind]:
        raise Undecodable(f"{field.name} is too large")
    return value


def _varint(body: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(body):
            raise Undecodable("a number ends too early")
        byte = body[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80 and value < 2**64:
            return value, at
        if byte < 0x80:
            break
    raise Undecodable("a number has more than 64 bits")


def _id(content: bytes, field: Field) -> str:
    if len(content) not in (0, _ID_BYTES[field.name]):
        raise Undecodable(f"{field.name} has {len(content)} bytes")
    return content.hex()


# -- JSON


def _json(value: Any, kind: str, name: str) -> dict[str, Any]:
    """Return the message *kind* in a *value* of JSON."""
    if not isinstance(value, dict):
        raise Undecodable(f"{name} is not an object")
    known, message = {field.name: field for field in MESSAGES[kind].values()}, {}
    for key, each in value.items():
        field = known.get(key)
        if field is None:
            raise Undecodable(f"{kind} has no key {key!r}")
        if not field.repeated:
            message[key] = _json_value(each, field)
        elif isinstance(each, list):
            message[key] = [_json_value(one, field) for one in each]
        else:
            raise Undecodable(f"{key} is not a list")
    return message


def _json_value(value: Any, field: Field) -> Any:
    if field.kind in MESSAGES:
        return _json(value, field.kind, field.name)
    good: Any
    match field.kind:
        case "string":
            good = value if isinstance(value, str) and _is_unicode(value) else None
        case "bool":
            good = value if isinstance(value, bool) else None
        case "double":
            good = value if type(value) in (int, float) else None
        case "bytes":
            good = value if isinstance(value, str) and _is_base64(value) else None
        case "id":
            return _hex_id(value, field)
        case "int64":
            good = _integer(value, -(2**63), 2**63)
        case "fixed64":
            good = _integer(value, 0, 2**64)
        case _:
            small = type(value) is int and 0 <= value < 1 << _BITS[field.kind]
            good = value if small else None
    if good is None:
        raise Undecodable(f"{field.name} is not a {field.kind}: {value!r:.60}")
    return good


def _integer(value: Any, least: int, above: int) -> int | None:
    """Return a number of 64 bits, which is a text in JSON."""
    if not isinstance(value, str) or not value.lstrip("-").isdigit() or len(value) > 20:
        return None
    number = int(value)
    return number if least <= number < above else None


def _hex_id(value: Any, field: Field) -> str:
    try:
        return _id(bytes.fromhex(value), field)
    except (TypeError, ValueError) as error:
        raise Undecodable(f"{field.name} is not in hex") from error


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False
    return True


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) != len(found := dict(pairs)):
        raise ValueError("a key is there twice")
    return found


# -- what both have in common


def _records(request: dict[str, Any]) -> Iterator[LogRecord]:
    """Yield the records of a decoded *request*. Raises Undecodable for what none may be."""
    for group in request.get("resourceLogs", ()):
        resource = _attributes(group.get("resource", {}).get("attributes", ()), "a resource")
        for scoped in group.get("scopeLogs", ()):
            scope = scoped.get("scope", {}).get("name", "")
            for fields in scoped.get("logRecords", ()):
                yield _record(resource, scope, dict(fields))


def _record(resource: dict[str, Any], scope: str, fields: dict[str, Any]) -> LogRecord:
    attributes = _attributes(fields.pop("attributes", ()), "a record")
    body = _any(fields.pop("body", {}))
    if not fields.get("observedTimeUnixNano"):
        raise Undecodable("a record has no observedTimeUnixNano")
    if not 0 <= fields.get("severityNumber", 0) <= 24:
        raise Undecodable("severityNumber is not one of 0 to 24")
    return LogRecord(resource, scope, attributes, body, fields)


def _attributes(listed: Any, where: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for each in listed:
        key = each.get("key", "")
        if not key:
            raise Undecodable(f"an attribute of {where} has no key")
        if key in found:
            raise Undecodable(f"the attribute {key!r} of {where} is there twice")
        found[key] = _any(each.get("value", {}))
    return found


def _any(value: dict[str, Any]) -> Any:
    """Return an ``AnyValue`` as a plain one; one without a value is None."""
    if len(value) > 1:
        raise Undecodable("a value has two kinds")
    for kind, each in value.items():
        if kind == "arrayValue":
            return [_any(one) for one in each.get("values", ())]
        if kind == "kvlistValue":
            return _attributes(each.get("values", ()), "a value")
        return each
    return None
