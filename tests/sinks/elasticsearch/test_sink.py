"""Elasticsearch and OpenSearch: what is sent, and what each response means."""

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from tests.sinks.elasticsearch.answers import bulk, item
from tests.support.clock import FakeClock

from auditrelay.errors import Refused, Rejected, RelayError, Retryable, TooLarge
from auditrelay.events import AuditEvent
from auditrelay.sandbox.faults import answer
from auditrelay.sandbox.siems.elasticsearch import Elastic
from auditrelay.sinks import Counts, Item, Sink, Verdict, elasticsearch
from auditrelay.telemetry.metrics import Metrics

MakeEvent = Callable[..., AuditEvent]
Items = Callable[[Sink, int], list[Item]]
Batch = Callable[[Sink, Sequence[AuditEvent]], list[Item]]
Make = Callable[..., Sink]

STREAM = "logs-auditrelay.bland-default"
REQUIRED: dict[str, Any] = {"type": "elasticsearch", "urls": ["https://es.example.com:9200"]}


async def test_an_event_is_created_under_its_uid_in_the_stream_of_its_vendor(
    elastic: Elastic, make: Make, event: MakeEvent, batch: Batch
) -> None:
    sink = make()
    sent = event(1, message="fünf ☃ \u2028")
    assert await sink.send(batch(sink, [sent])) == Verdict()
    ((backing, uid, document),) = elastic.indices[STREAM].documents
    assert (uid, elastic.indices[STREAM].stream) == (sent.uid, True)
    assert backing.startswith(f".ds-{STREAM}-")
    assert document["@timestamp"] == "2026-01-01T12:00:01.000Z"
    assert document["message"] == sent.message
    assert document["data_stream"] == {
        "type": "logs",
        "dataset": "auditrelay.bland",
        "namespace": "default",
    }
    assert document["event"]["dataset"] == document["data_stream"]["dataset"]


@pytest.mark.parametrize("form", ["cim", "datadog", "ocsf", "raw"])
async def test_any_form_has_the_timestamp_that_a_data_stream_requires(
    elastic: Elastic, make: Make, event: MakeEvent, batch: Batch, form: str
) -> None:
    sink = make(format=form)
    assert await sink.send(batch(sink, [event(1, at=1_767_268_800_123_456)])) == Verdict()
    (document,) = elastic.stored.documents
    assert document["@timestamp"] == "2026-01-01T12:00:00.123456Z"
    assert "data_stream" not in document


async def test_events_that_are_already_stored_are_deduplicated_and_counted(
    elastic: Elastic, make: Make, items: Items
) -> None:
    sink = make()
    sent = items(sink, 3)
    await sink.send(sent[:2])
    assert await sink.send(sent) == Verdict(counts=Counts(duplicates=2))
    assert elastic.stored.total == 3


async def test_a_pipeline_is_named_in_the_request(
    elastic: Elastic, make: Make, items: Items
) -> None:
    elastic.switches.pipelines = frozenset({"audit"})
    sink = make(pipeline="audit")
    await sink.send(items(sink, 1))
    assert elastic.seen[-1].query["pipeline"] == "audit"


# --- what an item's status means -------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [
        (400, "document_parsing_exception", "mapping"),
        (400, "mapper_parsing_exception", "mapping"),
        (400, "strict_dynamic_mapping_exception", "mapping"),
        (400, "illegal_argument_exception", "illegal_argument"),
        (400, "max_bytes_length_exceeded_exception", "too_large"),
        (400, "a_new_exception", "status_400"),
        (409, "another_exception", "status_409"),
        (422, "", "status_422"),
    ],
)
async def test_a_refused_document_is_rejected_and_affects_no_other(
    elastic: Elastic, make: Make, items: Items, *, status: int, kind: str, reason: str
) -> None:
    sink = make()
    await sink.send(items(sink, 1))
    elastic.faults.add(bulk(item(201), item(status, kind), item(201)), path="/_bulk")
    verdict = await sink.send(items(sink, 3))
    (rejection,) = verdict.rejected
    assert (rejection.index, rejection.reason, rejection.status) == (1, reason, status)
    why = f"{kind}: why" if kind else "no type: "
    assert rejection.message == f"{status}, {why}"
    assert (verdict.retry, verdict.counts.duplicates) == ((), 0)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (429, "es_rejected_execution_exception"),
        (429, "circuit_breaking_exception"),
        (429, "cluster_block_exception"),
        (500, "exception"),
        (502, ""),
        (503, "unavailable_shards_exception"),
        (504, ""),
        (408, ""),
    ],
)
async def test_a_throttled_item_is_retried_and_the_others_are_delivered(
    elastic: Elastic, make: Make, items: Items, status: int, kind: str
) -> None:
    sink = make()
    await sink.send(items(sink, 1))
    elastic.faults.add(
        bulk(item(status, kind), item(201), item(400), item(status), item(200), item(201)),
        path="/_bulk",
    )
    verdict = await sink.send(items(sink, 6))
    assert verdict.retry == (0, 3)
    assert [each.index for each in verdict.rejected] == [2]
    assert verdict.retry_reason is not None
    assert verdict.retry_reason.reason == f"status_{status}"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (403, "security_exception"),
        (403, "cluster_block_exception"),
        (401, "security_exception"),
        (400, "index_closed_exception"),
        (404, "index_not_found_exception"),
    ],
)
async def test_an_item_error_that_an_operator_must_fix_holds_the_sink(
    elastic: Elastic, make: Make, items: Items, status: int, kind: str
) -> None:
    sink = make()
    await sink.send(items(sink, 1))
    elastic.faults.add(bulk(item(201), item(status, kind)), path="/_bulk")
    with pytest.raises(Refused, match=f"{status}, {kind}: why; check") as caught:
        await sink.send(items(sink, 2))
    assert caught.value.status == status


async def test_a_404_for_every_event_holds_the_sink(
    elastic: Elastic, make: Make, items: Items
) -> None:
    elastic.switches.auto_create = False
    sink = make()
    with pytest.raises(Refused, match="no such index") as caught:
        await sink.send(items(sink, 2))
    assert caught.value.status == 404


async def test_a_pipeline_that_does_not_exist_holds_the_sink(
    elastic: Elastic, make: Make, items: Items
) -> None:
    missing = item(400, "illegal_argument_exception", "pipeline with id [audit] does not exist")
    for sink in (make(pipeline="audit"), make()):  # the index may name a pipeline, too
        elastic.faults.add(bulk(missing), path="/_bulk")
        with pytest.raises(Refused, match=r"pipeline with id \[audit\]"):
            await sink.send(items(sink, 1))


async def test_events_in_the_failure_store_are_delivered_with_a_warning(
    elastic: Elastic, make: Make, event: MakeEvent, batch: Batch
) -> None:
    elastic.switches.failure_store = True
    sink = make(format="raw")
    sent = batch(sink, [event(1)])
    (other,) = batch(sink, [event(2)])
    broken = msgspec.structs.replace(
        other, text=other.text.replace(b'"record":{', b'"record":3,"x":{')
    )
    verdict = await sink.send([*sent, broken])
    assert (verdict.counts.stored_elsewhere, verdict.rejected, verdict.retry) == (1, (), ())
    assert "went to the failure store" in verdict.warnings[0]
    assert elastic.failures.total == 1


# --- responses that prove nothing --------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"[]",
        b'{"errors":false}',
        b'{"errors":false,"items":{}}',
        b'{"errors":false,"items":[]}',
        b'{"items":[{"create":{"status":201}}]}',
        b'{"items":[{"create":{"status":201}},{"create":{"status":201}},{"create":{"status":201}}]}',
        b'{"items":[{"create":{"status":201}},{"create":{"status":"201"}}]}',
        b'{"items":[{"create":{"status":201}},{"create":{"status":true}}]}',
        b'{"items":[{"create":{"status":201}},{"index":{"status":201}}]}',
        b'{"items":[{"create":{"status":201}},null]}',
        b'{"items":[{"create":{"status":201}},{}]}',
    ],
)
async def test_a_response_that_does_not_list_every_event_proves_nothing(
    elastic: Elastic, make: Make, items: Items, body: bytes
) -> None:
    sink = make()
    elastic.faults.add(answer(200, body), path="/_bulk")
    with pytest.raises(Refused, match="the address answers but is not Elasticsearch") as caught:
        await sink.send(items(sink, 2))
    assert caught.value.sent


async def test_fewer_items_than_events_prove_nothing(
    elastic: Elastic, make: Make, items: Items
) -> None:
    elastic.answer_fewer_items(1)
    sink = make()
    sent = items(sink, 3)
    with pytest.raises(Refused):
        await sink.send(sent)
    assert await sink.send(sent) == Verdict(counts=Counts(duplicates=3))


@pytest.mark.parametrize(
    "results",
    [
        [{}],
        [{"failure_store": "used"}],
        [{"failure_store": "not_enabled"}],
        [{"failure_store": 3}],
        [{"failure_store": None, "_index": None}],
        [{"_index": ".ds-new-000002"}],
        [{"status": 200}],
        [{"status": 201.0}],
        [{"status": True}],
        [{"status": None}],
        [{"status": 409, "error": {"type": "version_conflict_engine_exception"}}],
        [{"status": 409}],
        [{"status": 429}],
        [{"status": 400, "error": {"type": "mapper_parsing_exception", "reason": "odd"}}],
        [{}, {}],
        [],
        [[]],
        [None],
    ],
)
@pytest.mark.parametrize("errors", [True, False])
async def test_a_quick_look_at_a_response_finds_what_a_careful_one_finds(
    elastic: Elastic,
    make: Make,
    items: Items,
    monkeypatch: pytest.MonkeyPatch,
    results: list[Any],
    errors: bool,
) -> None:
    sink = make()
    sent = items(sink, 3)
    stored = {"status": 201, "_index": ".ds-x-000001"}
    listed = [stored, *[stored | each if isinstance(each, dict) else each for each in results]]
    body = {"errors": errors, "items": [{"create": each} for each in [*listed, stored]]}
    outcomes: list[object] = []
    for quick in (True, False):
        if not quick:
            monkeypatch.setattr(elasticsearch, "_all_stored", lambda *_: None)
        elastic.faults.add(answer(200, json.dumps(body).encode()), path="/_bulk")
        try:
            outcomes.append(replace(await sink.send(sent), retry_reason=None))
        except RelayError as error:
            outcomes.append((type(error), str(error)))
    assert outcomes[0] == outcomes[1]


async def test_a_response_without_errors_is_not_decoded_event_by_event(
    elastic: Elastic, make: Make, items: Items, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = make()
    await sink.send(items(sink, 1))
    monkeypatch.setattr(elasticsearch, "_results", pytest.fail)
    assert await sink.send(items(sink, 100)[1:]) == Verdict()


@pytest.mark.parametrize("spaces", [b'{"errors" : false , "items" : [%b]}', b'{"items":[%b]}'])
async def test_the_items_decide_and_not_the_errors_flag(
    elastic: Elastic, make: Make, items: Items, spaces: bytes
) -> None:
    sink = make()
    body = spaces % b'{"create" : {"status" : 400, "error" : {"type" : "x"}}}'
    elastic.faults.add(answer(200, body), path="/_bulk")
    assert len((await sink.send(items(sink, 1))).rejected) == 1


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (400, b'{"error":{"type":"t","reason":"malformed"},"status":400}', Rejected),
        (400, b"<html>The plain HTTP request was sent to HTTPS port</html>", Refused),
        (400, b'{"error":"no handler found for uri [/_bulk]","status":400}', Refused),
        (401, b"Unauthorized", Refused),
        (403, b'{"error":{"type":"security_exception","reason":"no"}}', Refused),
        (404, b"", Refused),
        (405, b"", Refused),
        (406, b'{"error":"Content-Type header is not supported"}', Refused),
        (415, b"", Refused),
        (413, b"", TooLarge),
        (429, b"", Retryable),
        (503, b"", Retryable),
    ],
)
async def test_each_status_of_a_whole_request_has_its_error(
    elastic: Elastic,
    make: Make,
    items: Items,
    *,
    status: int,
    body: bytes,
    error: type[RelayError],
) -> None:
    sink = make()
    elastic.faults.add(answer(status, body), path="/_bulk", times=2)
    with pytest.raises(error) as caught:
        await sink.send(items(sink, 2))
    assert type(caught.value) is error


@pytest.mark.parametrize(
    ("status", "body", "sent"),
    [
        (429, b'{"error":{"type":"circuit_breaking_exception","reason":"Data too large"}}', False),
        (503, b'{"error":{"type":"cluster_block_exception","reason":"no master"}}', False),
        (500, b'{"error":{"type":"null_pointer_exception","reason":"x"}}', True),
        (504, b'{"error":{"type":"timeout","reason":"x"}}', True),
        (502, b"<html>", True),
    ],
)
async def test_only_the_clusters_own_words_prove_that_nothing_was_stored(
    elastic: Elastic, make: Make, items: Items, status: int, body: bytes, *, sent: bool
) -> None:
    sink = make()
    elastic.faults.add(answer(status, body), path="/_bulk")
    with pytest.raises(Retryable) as caught:
        await sink.send(items(sink, 2))
    assert caught.value.sent is sent


async def test_a_refused_document_is_not_shown_in_the_reason(
    elastic: Elastic, make: Make, event: MakeEvent, batch: Batch
) -> None:
    sink = make(format="raw")
    first, second = batch(sink, [event(1), event(2)])
    broken = msgspec.structs.replace(
        second, text=second.text.replace(b'"record":{', b'"record":"hush","x":{')
    )
    (rejection,) = (await sink.send([first, broken])).rejected
    assert "hush" not in rejection.message
    elastic.switches.version = "8.17.9"
    (rejection,) = (await make(format="raw").send([first, broken])).rejected
    assert len(rejection.message) <= 300


# --- the parameters of a request ----------------------------------------


@pytest.mark.parametrize(
    ("number", "hides"),
    [("8.17.9", False), ("8.18.0", True), ("9.0.0", True), ("10.1.0", True), ("7.10.2", False)],
)
async def test_only_a_cluster_with_the_parameter_is_asked_to_hide_documents(
    elastic: Elastic, make: Make, items: Items, number: str, *, hides: bool
) -> None:
    elastic.switches.version = number
    sink = make()
    for _ in range(3):
        await sink.send(items(sink, 1))
    requests = [each for each in elastic.seen if each.path == "/"]
    assert len(requests) == 1
    assert elastic.seen[-1].query.get("include_source_on_error") == ("false" if hides else None)


async def test_opensearch_gets_no_parameter_of_elasticsearch(make: Make, items: Items) -> None:
    async with Elastic(flavour="opensearch", switches=None) as opensearch:
        opensearch.switches.version = "9.9.9"
        sink = make(urls=[opensearch.url])
        assert await sink.send(items(sink, 2)) == Verdict()
        assert opensearch.stored.total == 2
        assert opensearch.answered[400] == 0
        assert "cannot be checked" in await sink.check()


@pytest.mark.parametrize("status", [400, 403, 404, 405])
async def test_a_key_that_may_not_read_the_version_can_still_write(
    elastic: Elastic, make: Make, items: Items, status: int
) -> None:
    elastic.faults.add(answer(status), method="GET", path="/")
    sink = make()
    assert await sink.send(items(sink, 1)) == Verdict()


async def test_a_version_that_cannot_be_read_holds_up_three_batches_at_most(
    elastic: Elastic, make: Make, items: Items, clock: FakeClock
) -> None:
    elastic.faults.add(answer(503, b""), method="GET", path="/", times=None)
    sink = make()
    for _ in range(2):
        with pytest.raises(Retryable):
            await sink.send(items(sink, 1))
    assert await sink.send(items(sink, 2)) == Verdict()
    assert "include_source_on_error" not in elastic.seen[-1].query
    elastic.faults.clear()
    clock.advance(31)
    await sink.send(items(sink, 3))
    assert elastic.seen[-1].query["include_source_on_error"] == "false"


async def test_a_node_that_refuses_the_parameter_loses_nothing(
    elastic: Elastic, make: Make, items: Items
) -> None:
    unknown = b'{"error":{"type":"illegal_argument_exception","reason":"unrecognized parameter"}}'
    elastic.faults.add(
        answer(400, unknown),
        path="/_bulk",
        when=lambda request: "include_source_on_error" in request.query,
        times=None,
    )
    sink = make()
    assert await sink.send(items(sink, 1)) == Verdict()
    assert await sink.send(items(sink, 1)) == Verdict(counts=Counts(duplicates=1))
    requests = elastic.requests
    assert await sink.send(items(sink, 1)) == Verdict(counts=Counts(duplicates=1))
    assert elastic.requests == requests + 1


def test_the_search_for_an_event_can_be_copied_to_a_shell(event: MakeEvent) -> None:
    def lines(**keys: Any) -> Sequence[str]:
        settings = elasticsearch.Settings.model_validate({**REQUIRED, **keys})
        return elasticsearch.build("elastic", settings, Metrics(), FakeClock()).query(event(1).uid)

    uid = event(1).uid
    kql, curl = lines(username="o'brien", password="hush", index="audit-{vendor}-%Y.%m")
    assert kql == f'KQL: _id : "{uid}"'
    where = f"https://es.example.com:9200/audit-*-*.*/_search?q=_id:{uid}"
    assert shlex.split(curl) == ["curl", "-sS", "-u", "o'brien", where]
    _, curl = lines(api_key="hush")
    assert "Authorization: ApiKey $API_KEY" in shlex.split(curl)
    assert "hush" not in curl
