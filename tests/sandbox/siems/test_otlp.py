"""The double of a receiver of OTLP is faithful: it reads what OpenTelemetry's library writes."""

import base64
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from hypothesis import assume, given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsPartialSuccess,
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs, SeverityNumber
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from auditrelay.sandbox.messages import Request, Response
from auditrelay.sandbox.siems.otlp import API_KEY, HEADER, MEDIA_TYPES, Encoding, Otlp, success
from auditrelay.sandbox.siems.otlp.requests import Undecodable, of_json, of_protobuf

TEXT = st.text(max_size=8)
NAMES = st.lists(st.text(min_size=1, max_size=5), unique=True, max_size=3)
KINDS: dict[str, Callable[[Any], Any]] = {
    "string_value": lambda value: value,
    "bool_value": lambda value: value,
    "int_value": lambda value: value,
    "double_value": lambda value: value,
    "bytes_value": lambda value: base64.b64encode(value).decode(),
}
"""How the double keeps a value of each kind."""
VALUES = {
    "string_value": TEXT,
    "bool_value": st.booleans(),
    "int_value": st.integers(-(2**63), 2**63 - 1),
    "double_value": st.floats(allow_nan=False, allow_infinity=False),
    "bytes_value": st.binary(max_size=8),
}


@st.composite
def values(draw: st.DrawFn) -> tuple[AnyValue, Any]:
    """Return a value, and as what the double keeps it."""
    kind = draw(st.sampled_from([*KINDS, "array_value", "kvlist_value", None]))
    made = AnyValue()
    if kind is None:
        return made, None
    if kind == "array_value":
        pairs = draw(st.lists(values(), max_size=2))
        made.array_value.values.extend(each for each, _ in pairs)
        made.array_value.SetInParent()
        return made, [each for _, each in pairs]
    if kind == "kvlist_value":
        made.kvlist_value.SetInParent()
        listed, kept = draw(attributes())
        made.kvlist_value.values.extend(listed)
        return made, kept
    value = draw(VALUES[kind])
    setattr(made, kind, value)
    return made, KINDS[kind](value)


@st.composite
def attributes(draw: st.DrawFn) -> tuple[list[KeyValue], dict[str, Any]]:
    found, kept = [], {}
    for name in draw(NAMES):
        value, kept[name] = draw(values())
        found.append(KeyValue(key=name, value=value))
    return found, kept


@st.composite
def records(draw: st.DrawFn) -> tuple[LogRecord, dict[str, Any], Any]:
    """Return a record, and what the double keeps of its attributes and its body."""
    listed, kept = draw(attributes())
    body, kept_body = draw(values())
    record = LogRecord(
        time_unix_nano=draw(st.integers(0, 2**64 - 1)),
        observed_time_unix_nano=draw(st.integers(1, 2**64 - 1)),
        severity_number=SeverityNumber.ValueType(draw(st.integers(0, 24))),
        severity_text=draw(TEXT),
        body=body,
        attributes=listed,
        dropped_attributes_count=draw(st.integers(0, 2**32 - 1)),
        flags=draw(st.integers(0, 2**32 - 1)),
        event_name=draw(TEXT),
    )
    return record, kept, kept_body


def request_of(record: LogRecord, name: str = "auditrelay") -> ExportLogsServiceRequest:
    scoped = ScopeLogs(scope=InstrumentationScope(name=name), log_records=[record])
    key = KeyValue(key="service.name", value=AnyValue(string_value="x"))
    group = ResourceLogs(resource=Resource(attributes=[key]), scope_logs=[scoped])
    return ExportLogsServiceRequest(resource_logs=[group])


@given(made=records())
def test_a_record_of_the_library_is_read_in_both_encodings(made: Any) -> None:
    record, attributes, body = made
    request = request_of(record)
    in_json = json_format.MessageToJson(request, use_integers_for_enums=True)
    for [found] in (of_protobuf(request.SerializeToString()), of_json(in_json.encode())):
        assert found.resource == {"service.name": "x"}
        assert found.scope == "auditrelay"
        assert found.attributes == attributes
        assert found.body == body
        assert int(found.fields.get("timeUnixNano", 0)) == record.time_unix_nano
        assert int(found.fields["observedTimeUnixNano"]) == record.observed_time_unix_nano
        assert found.fields.get("eventName", "") == record.event_name
        assert found.fields.get("severityNumber", 0) == record.severity_number
        assert found.fields.get("flags", 0) == record.flags


@given(made=records(), data=st.data())
def test_whatever_the_library_does_not_read_is_refused(made: Any, data: st.DataObject) -> None:
    content = bytearray(request_of(made[0]).SerializeToString())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    for changed in (bytes(content), bytes(content[:cut])):
        try:
            ExportLogsServiceRequest.FromString(changed)
        except DecodeError:
            with pytest.raises(Undecodable):
                of_protobuf(changed)


GOOD = LogRecord(observed_time_unix_nano=1, body=AnyValue(string_value="x"))


def changed(**keys: Any) -> LogRecord:
    record = LogRecord()
    record.CopyFrom(GOOD)
    record.MergeFrom(LogRecord(**keys))
    return record


KEY = KeyValue(key="a", value=AnyValue(string_value="x"))


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (changed(trace_id=b"x" * 15), "traceId has 15 bytes"),
        (changed(span_id=b"x" * 9), "spanId has 9 bytes"),
        (changed(severity_number=25), "severityNumber is not one of"),
        (changed(attributes=[KEY, KEY]), "'a' of a record is there twice"),
        (changed(attributes=[KeyValue(value=AnyValue(string_value="x"))]), "has no key"),
        (LogRecord(body=AnyValue(string_value="x")), "has no observedTimeUnixNano"),
    ],
)
def test_what_a_receiver_may_refuse_is_refused(record: LogRecord, words: str) -> None:
    with pytest.raises(Undecodable, match=words):
        of_protobuf(request_of(record).SerializeToString())
    assert of_protobuf(
        request_of(changed(trace_id=b"x" * 16, span_id=b"y" * 8)).SerializeToString()
    )


JSON = '{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"observedTimeUnixNano":"1",%s}]}]}]}'


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ('"timeUnixNano":1', "timeUnixNano is not a fixed64"),
        ('"timeUnixNano":"x"', "timeUnixNano is not a fixed64"),
        ('"timeUnixNano":"18446744073709551616"', "timeUnixNano is not a fixed64"),
        ('"time_unix_nano":"1"', "LogRecord has no key 'time_unix_nano'"),
        ('"severityNumber":"INFO"', "severityNumber is not a enum"),
        ('"body":"x"', "body is not an object"),
        ('"body":{"stringValue":1}', "stringValue is not a string"),
        ('"body":{"stringValue":"x","intValue":"1"}', "a value has two kinds"),
        ('"body":{"intValue":1}', "intValue is not a int64"),
        ('"attributes":{}', "attributes is not a list"),
        ('"traceId":"AAAA"', "traceId has 2 bytes"),
        ('"traceId":"eA=="', "traceId is not in hex"),
        ('"flags":1,"flags":1', "a key is there twice"),
        ('"body":{"doubleValue":NaN}', "NaN is not JSON"),
    ],
)
def test_json_is_what_the_specification_says(fields: str, words: str) -> None:
    with pytest.raises(Undecodable, match=words):
        of_json((JSON % fields).encode())


def ask(
    double: Otlp,
    body: bytes = b"",
    kind: str = "application/x-protobuf",
    method: str = "POST",
    path: str = "/v1/logs",
    **headers: str,
) -> Response:
    given = {HEADER.lower(): API_KEY, "content-type": kind, **headers}
    return double.respond(Request(1, method, path, path, {}, given, body, 0.0))


@pytest.mark.parametrize(
    ("keys", "status", "body"),
    [
        ({}, 200, b"\x0a\x00"),
        ({"body": b"\x0a\x00"}, 200, b"\x0a\x00"),
        ({"body": b"{}", "kind": "application/json"}, 200, b'{"partialSuccess": {}}'),
        ({"kind": "text/plain"}, 415, b"415 unsupported media type, supported: [application/json"),
        ({"method": "GET"}, 405, b"405 method not allowed, supported: [POST]"),
        ({"path": "/x"}, 404, b"404 page not found"),
        ({"content-encoding": "br"}, 400, b"\x08\x03\x12"),
        ({"body": b"\xff"}, 400, b"\x08\x03\x12"),
        ({"body": b"{", "kind": "application/json"}, 400, b'{"code": 3, "message": '),
        ({HEADER.lower(): "other"}, 401, b"Unauthorized"),
    ],
)
def test_it_answers_as_a_collector_was_seen_to_answer(
    keys: dict[str, Any], status: int, body: bytes
) -> None:
    reply = ask(Otlp(), **keys)
    assert (reply.status, reply.body[: len(body)]) == (status, body)


@given(refused=st.integers(0, 2**31), said=TEXT)
@pytest.mark.parametrize("encoding", ["protobuf", "json"])
def test_its_answers_are_those_of_the_protocol(encoding: Encoding, refused: int, said: str) -> None:
    assume("\x00" not in said)
    reply = success(encoding, refused, said)
    assert MEDIA_TYPES[reply.headers["Content-Type"]] == encoding
    if encoding == "json":
        answer = json_format.Parse(reply.body, ExportLogsServiceResponse())
    else:
        answer = ExportLogsServiceResponse.FromString(reply.body)
    assert answer.partial_success.rejected_log_records == refused
    assert answer.partial_success.error_message == said


def test_its_failures_are_those_of_the_protocol() -> None:
    reply = ask(Otlp(), b"\xff")
    # A google.rpc.Status has a number and a text in the same places.
    status = ExportLogsPartialSuccess.FromString(reply.body)
    assert (status.rejected_log_records, status.error_message) == (3, "a number ends too early")
