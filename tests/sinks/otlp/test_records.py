"""Log records as the protocol has them, read with the library of OpenTelemetry."""

import gzip
import json
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from tests.support.corpus import VENDORS, events_of

from auditrelay.events import Actor, AuditEvent
from auditrelay.events.forms import FORMS
from auditrelay.events.page import Page
from auditrelay.sandbox.siems.otlp import Otlp
from auditrelay.sinks import Item, Sink
from auditrelay.sinks.otlp.records import ENCODINGS, grouped

Make = Callable[..., Sink]
MakeEvent = Callable[..., AuditEvent]
Batch = Callable[[Sink, Sequence[AuditEvent]], list[Item]]

BOTH = pytest.mark.parametrize("encoding", ENCODINGS)


def request_of(encoding: str, events: Sequence[AuditEvent]) -> ExportLogsServiceRequest:
    """Return the request with *events*, whose bodies are their messages."""
    page = Page.of(events)
    how = ENCODINGS[encoding]
    bodies = [event.message.encode() for event in events]
    records = [(resource, record) for record, resource in how.records(page, bodies)]
    content = b"".join(how.pieces(grouped(records)))
    request = ExportLogsServiceRequest()
    if encoding == "protobuf":
        request.ParseFromString(content)
    else:
        json_format.Parse(content, request)
    return request


def plain(attributes: Sequence[KeyValue]) -> dict[str, str]:
    found = {each.key: each.value.string_value for each in attributes}
    assert len(found) == len(attributes), "each once"
    return found


@BOTH
def test_a_record_says_what_when_and_who(event: MakeEvent, encoding: str) -> None:
    actor = Actor("user", "u1", "Dana", "dana@acme.example", "192.0.2.7", "curl/8", None, None)
    made = event(1, actor=actor, tags=(("team", "x"), ("env", "prod")))
    [group] = request_of(encoding, [made]).resource_logs
    assert plain(group.resource.attributes) == {
        "service.name": "Bland AI",
        "auditrelay.source": "voice",
        "deployment.environment.name": "prod",
    }
    [scoped] = group.scope_logs
    assert scoped.scope.name == "auditrelay"
    [record] = scoped.log_records
    assert record.time_unix_nano == made.at * 1000
    assert record.observed_time_unix_nano == made.fetched * 1000
    assert (record.severity_number, record.severity_text) == (9, "INFO")
    assert record.event_name == "audit.bland.pathway.updated"
    assert record.body == AnyValue(string_value=made.message)
    assert plain(record.attributes) == {
        "auditrelay.uid": made.uid,
        "user.id": "u1",
        "user.name": "Dana",
        "user.email": "dana@acme.example",
        "client.address": "192.0.2.7",
        "user_agent.original": "curl/8",
    }
    assert (record.trace_id, record.span_id, record.flags) == (b"", b"", 0)


@BOTH
@pytest.mark.parametrize(
    ("outcome", "severity"),
    [
        ("success", (9, "INFO")),
        ("failure", (13, "WARN")),
        ("unknown", (9, "INFO")),
        (None, (9, "INFO")),
    ],
)
def test_a_failure_is_a_warning(
    event: MakeEvent, encoding: str, outcome: str | None, severity: tuple[int, str]
) -> None:
    [group] = request_of(encoding, [event(1, outcome=outcome)]).resource_logs
    [record] = group.scope_logs[0].log_records
    assert (record.severity_number, record.severity_text) == severity


@BOTH
def test_records_stand_together_by_their_resource(event: MakeEvent, encoding: str) -> None:
    events = [event(n, source=f"s{n % 2}", native_action=f"a{n % 3}") for n in range(12)]
    groups = request_of(encoding, events).resource_logs
    assert [plain(each.resource.attributes)["auditrelay.source"] for each in groups] == ["s0", "s1"]
    for remainder, group in enumerate(groups):
        bodies = [each.body.string_value for each in group.scope_logs[0].log_records]
        assert bodies == [each.message for each in events[remainder::2]]


@BOTH
@pytest.mark.parametrize(
    "at", [-1, -62_135_596_800_000_000, 2**64 // 1000 + 1, 253_402_300_799_000_000]
)
def test_a_time_that_the_protocol_cannot_say_is_unknown(
    event: MakeEvent, encoding: str, at: int
) -> None:
    [group] = request_of(encoding, [event(1, at=at)]).resource_logs
    assert group.scope_logs[0].log_records[0].time_unix_nano == 0


@BOTH
def test_a_name_is_cut_where_receivers_cut_it_and_odd_texts_arrive(
    event: MakeEvent, encoding: str
) -> None:
    odd = 'ü ☃ \U0001f600 "q" \\ \x00 %s'
    made = event(1, native_action=odd * 50, actor=Actor("user", odd, name=odd), message=odd)
    [group] = request_of(encoding, [made]).resource_logs
    [record] = group.scope_logs[0].log_records
    assert record.event_name == f"audit.bland.{odd * 50}"[:256]
    assert plain(record.attributes)["user.name"] == record.body.string_value == odd


@BOTH
@pytest.mark.parametrize("size", [0, 1, 126, 127, 128, 129, 16_383, 16_384, 70_000, 2_097_152])
def test_a_body_of_any_size_is_read_again(event: MakeEvent, encoding: str, size: int) -> None:
    [group] = request_of(encoding, [event(1, message="x" * size)]).resource_logs
    assert group.scope_logs[0].log_records[0].body.string_value == "x" * size


@pytest.mark.parametrize("vendor", VENDORS)
def test_both_encodings_say_the_same_of_every_vendors_events(vendor: str) -> None:
    events = [msgspec.structs.replace(each, message="x") for each in list(events_of(vendor))[:200]]
    assert request_of("protobuf", events) == request_of("json", events)


@BOTH
@pytest.mark.parametrize("compression", ["gzip", "none"])
@pytest.mark.parametrize("form", sorted(FORMS))
async def test_the_body_of_a_record_is_the_event_in_its_form(
    collector: Otlp,
    make: Make,
    event: MakeEvent,
    batch: Batch,
    form: str,
    encoding: str,
    compression: str,
) -> None:
    sent: list[Any] = []
    collector.on_request = sent.append
    sink = make(format=form, encoding=encoding, compression=compression)
    await sink.send(batch(sink, [event(1)]))
    [request] = sent
    assert request.path == "/v1/logs"
    content = gzip.decompress(request.body) if compression == "gzip" else request.body
    if encoding == "protobuf":
        assert request.headers["content-type"] == "application/x-protobuf"
        decoded = ExportLogsServiceRequest.FromString(content)
    else:
        assert request.headers["content-type"] == "application/json"
        decoded = json_format.Parse(content, ExportLogsServiceRequest())
    body: Any = decoded.resource_logs[0].scope_logs[0].log_records[0].body.string_value
    assert json.loads(body) == collector.stored.documents[0]["body"]
    assert event(1).uid in body


@BOTH
async def test_a_full_request_is_as_large_as_configured(
    collector: Otlp, make: Make, items: Callable[[Sink, int], list[Item]], encoding: str
) -> None:
    sink = make(encoding=encoding, compression="none", batch_bytes=100_000)
    full, size = [], 0
    for item in items(sink, sink.limits.events):
        size += len(item.text) + sink.limits.overhead
        if size > sink.limits.bytes:
            break
        full.append(item)
    await sink.send(full)
    assert 90_000 < collector.seen[-1].body_bytes <= 100_000


@BOTH
async def test_a_record_that_no_receiver_takes_is_not_sent(
    make: Make, event: MakeEvent, batch: Batch, encoding: str
) -> None:
    sink = make(encoding=encoding)
    [fits, too_large] = batch(sink, [event(1), event(2, message="x" * 20 * 2**20)])
    assert fits.unfit is None
    assert too_large.unfit is not None
    assert too_large.unfit.reason == "too_large"
