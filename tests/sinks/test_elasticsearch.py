"""Elasticsearch and OpenSearch: where a document goes, and what each item's answer means."""

import base64
import json
import re
import shlex
from collections.abc import AsyncIterator, Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from auditrelay.errors import Refused, Rejected, RelayError, Retryable, TooLarge
from auditrelay.events import AuditEvent
from auditrelay.sandbox.faults import Action, answer, hang, reset, store_then_reset
from auditrelay.sandbox.siems.elastic import KEY_ID, KEY_SECRET, PASSWORD, USERNAME, Elastic
from auditrelay.sinks import Item, Sink, Verdict, elasticsearch
from auditrelay.sinks.elasticsearch.templates import COMPONENT, templates
from auditrelay.telemetry.metrics import Metrics

MakeEvent = Callable[..., AuditEvent]
Items = Callable[[Sink, int], list[Item]]
Batch = Callable[[Sink, Sequence[AuditEvent]], list[Item]]
Make = Callable[..., Sink]

STREAM = "logs-auditrelay.bland-default"


@pytest.fixture
async def elastic() -> AsyncIterator[Elastic]:
    async with Elastic() as double:
        yield double


@pytest.fixture
async def make(elastic: Elastic) -> AsyncIterator[Make]:
    made: list[Sink] = []

    def build(**keys: Any) -> Sink:
        settings = elasticsearch.Settings.model_validate(
            {
                "type": "elasticsearch",
                "urls": [elastic.url],
                "username": USERNAME,
                "password": PASSWORD,
                "timeout": "2s",
                **keys,
            }
        )
        made.append(elasticsearch.build("elastic", settings, Metrics()))
        return made[-1]

    yield build
    for sink in made:
        await sink.close()


def bulk(*results: object) -> Any:
    """Answer the next bulk request with these items."""
    return answer(200, json.dumps({"items": results}).encode())


def item(status: object, kind: str = "", reason: str = "why") -> dict[str, Any]:
    result: dict[str, Any] = {"status": status}
    if kind:
        result["error"] = {"type": kind, "reason": reason}
    return {"create": result}


# --- documents and where they go ----------------------------------------------


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


@pytest.mark.parametrize(
    ("index", "name", "stream"),
    [
        ("logs-{source}-prod", "logs-my_voice__2_-prod", ("logs", "my_voice__2_", "prod")),
        ("audit-{vendor}-%Y.%m", "audit-bland-2026.01", None),
        ("audit-{source}", "audit-my-voice__2_", None),
        ("logs-{vendor}-{source}-x", "logs-bland-my-voice__2_-x", None),
        ("%Y-%m-%d-%H", "2026-01-01-12", None),
        ("{source}", "my-voice__2_", None),
    ],
)
async def test_an_index_is_filled_in_and_the_stream_fields_are_those_of_its_name(
    elastic: Elastic,
    make: Make,
    batch: Batch,
    event: MakeEvent,
    *,
    index: str,
    name: str,
    stream: tuple[str, str, str] | None,
) -> None:
    sink = make(index=index)
    await sink.send(batch(sink, [event(1, source="My-Voice #2|")]))
    assert list(elastic.indices) == [name]
    (document,) = elastic.stored.documents
    if stream is None:
        assert "data_stream" not in document
    else:
        assert tuple(document["data_stream"].values()) == stream


async def test_a_date_in_the_index_is_that_of_the_event(
    elastic: Elastic, make: Make, event: MakeEvent, batch: Batch
) -> None:
    sink = make(index="audit-%Y.%m.%d", format="raw")
    last = 1_767_225_599_999_999  # the last microsecond of 2025
    await sink.send(batch(sink, [event(1, at=last), event(2, at=last + 1)]))
    assert {name: len(each.ids) for name, each in elastic.indices.items()} == {
        "audit-2025.12.31": 1,
        "audit-2026.01.01": 1,
    }


@pytest.mark.parametrize("form", ["cim", "datadog", "ocsf", "raw"])
async def test_any_form_has_the_timestamp_that_a_data_stream_demands(
    elastic: Elastic, make: Make, event: MakeEvent, batch: Batch, form: str
) -> None:
    sink = make(format=form)
    assert await sink.send(batch(sink, [event(1, at=1_767_268_800_123_456)])) == Verdict()
    (document,) = elastic.stored.documents
    assert document["@timestamp"] == "2026-01-01T12:00:00.123456Z"
    assert "data_stream" not in document


async def test_what_was_sent_before_is_recognised_and_counted(
    elastic: Elastic, make: Make, items: Items
) -> None:
    sink = make()
    sent = items(sink, 3)
    await sink.send(sent[:2])
    assert await sink.send(sent) == Verdict(duplicates=2)
    assert elastic.stored.total == 3


async def test_a_pipeline_is_named_in_the_request(
    elastic: Elastic, make: Make, items: Items
) -> None:
    elastic.switches.pipelines = frozenset({"audit"})
    sink = make(pipeline="audit")
    await sink.send(items(sink, 1))
    assert elastic.seen[-1].query["pipeline"] == "audit"


# --- sent again after a rollover ----------------------------------------------


class Clock:
    """The cluster's clock: when its indices are made."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


NOON = 1_767_268_800
"""The time of event 0; the others happen a second apart."""

DAY = 86_400
FLAVOURS = ["elasticsearch", "opensearch"]


@pytest.fixture(params=FLAVOURS)
async def cluster(request: pytest.FixtureRequest) -> AsyncIterator[Elastic]:
    """A cluster whose first index is made a day before the events happen."""
    async with Elastic(flavour=request.param, clock=Clock(NOON - DAY)) as double:
        yield double


def at(cluster: Elastic, now: float) -> None:
    """Let it be *now* for the cluster."""
    assert isinstance(cluster.clock, Clock)
    cluster.clock.now = now


def asked(cluster: Elastic) -> list[str]:
    """Return what a cluster was asked, but for bulk requests and who it is."""
    return [
        each.path.rpartition("/")[2] for each in cluster.seen if each.path not in ("/", "/_bulk")
    ]


@pytest.mark.parametrize("fresh", [True, False])
async def test_what_is_sent_again_after_a_rollover_is_recognised_by_asking(
    cluster: Elastic, make: Make, items: Items, *, fresh: bool
) -> None:
    sink = make(urls=[cluster.url])
    await sink.send(items(sink, 3))
    at(cluster, NOON + DAY)
    cluster.rollover(STREAM)
    # A new process, or one that has had a batch of unknown outcome in between.
    again = make(urls=[cluster.url]) if fresh else sink
    if not fresh:
        cluster.faults.add(answer(503, b""), path="/_bulk")
        with pytest.raises(Retryable):
            await again.send(items(again, 4))
    assert await again.send(items(again, 4)) == Verdict(duplicates=3)
    assert not cluster.stored.repeated()
    assert cluster.stored.total == 4
    assert cluster.answered[400] == 0


async def test_a_batch_whose_outcome_is_unknown_is_stored_once_although_the_stream_rolls_over(
    cluster: Elastic, make: Make, items: Items
) -> None:
    sink = make(urls=[cluster.url])
    await sink.send(items(sink, 1))
    sent = items(sink, 5)
    cluster.faults.add(store_then_reset(), path="/_bulk")
    with pytest.raises(Retryable) as caught:
        await sink.send(sent)
    assert caught.value.sent
    at(cluster, NOON + 60)
    cluster.rollover(STREAM)
    assert await sink.send(sent) == Verdict(duplicates=5)
    assert cluster.stored.total == 5


async def test_a_verdict_that_names_the_new_ones_only_is_about_the_whole_batch(
    cluster: Elastic, make: Make, items: Items
) -> None:
    sink = make(urls=[cluster.url])
    sent = items(sink, 6)
    await sink.send([sent[0], sent[2], sent[4]])
    at(cluster, NOON + DAY)
    cluster.rollover(STREAM)
    new = make(urls=[cluster.url])
    cluster.faults.add(bulk(item(429, "x"), item(400, "y"), item(201)), path="/_bulk")
    verdict = await new.send(sent)
    assert verdict.retry == (1,)
    assert [each.index for each in verdict.rejected] == [3]
    assert verdict.duplicates == 3


async def test_nobody_is_asked_about_events_that_happened_after_the_last_rollover(
    cluster: Elastic, make: Make, items: Items, event: MakeEvent, batch: Batch
) -> None:
    sink = make(urls=[cluster.url])
    await sink.send(items(sink, 1))
    at(cluster, NOON - 7200)
    cluster.rollover(STREAM)
    new = make(urls=[cluster.url])
    cluster.seen.clear()
    for _ in range(3):
        await new.send(items(new, 2))
    assert asked(cluster) == ["index.creation_date"]
    # Within the hour by which a vendor's clock may be ahead it is asked.
    just_after = (NOON - 7200 + 3599) * 10**6
    await new.send(batch(new, [event(9, at=just_after)]))
    assert asked(cluster) == ["index.creation_date", "_search"]
    await new.send(batch(new, [event(10, at=just_after + 10**6)]))
    assert asked(cluster) == ["index.creation_date", "_search"]


async def test_a_rollover_is_noticed_by_the_answers_and_otherwise_nothing_is_asked_twice(
    cluster: Elastic, make: Make, items: Items, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr("auditrelay.sinks.elasticsearch.duplicates.time", clock)
    sink = make(urls=[cluster.url])
    for count in (1, 2, 3):
        now += 45
        await sink.send(items(sink, count))
    # Before there was anything, and when there was.
    assert asked(cluster) == ["index.creation_date"] * 2
    at(cluster, NOON + DAY)
    cluster.rollover(STREAM)
    fourth = items(sink, 4)[3:]
    await sink.send(fourth)
    assert asked(cluster) == ["index.creation_date"] * 2
    assert await sink.send(items(sink, 5)) == Verdict(duplicates=4)
    assert asked(cluster) == [*["index.creation_date"] * 3, "_search"]


async def test_a_sink_that_was_quiet_for_a_minute_asks_before_it_sends(
    cluster: Elastic, make: Make, items: Items, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr("auditrelay.sinks.elasticsearch.duplicates.time", clock)
    sink = make(urls=[cluster.url])
    for _ in range(2):
        await sink.send(items(sink, 3))
    at(cluster, NOON + DAY)
    cluster.rollover(STREAM)
    now += 61
    assert await sink.send(items(sink, 3)) == Verdict(duplicates=3)


async def test_a_dated_index_recognises_an_event_whenever_it_is_sent_again(
    cluster: Elastic, make: Make, items: Items
) -> None:
    for index in ("audit-{vendor}-%Y.%m", "audit"):
        sink = make(urls=[cluster.url], index=index)
        await sink.send(items(sink, 2))
        at(cluster, NOON + 400 * DAY)
        assert await sink.send(items(sink, 2)) == Verdict(duplicates=2)
        assert await make(urls=[cluster.url], index=index).send(items(sink, 2)) == Verdict(
            duplicates=2
        )
    assert "_search" not in asked(cluster)


async def test_a_dated_name_that_is_a_data_stream_is_asked_as_well(
    cluster: Elastic, make: Make, items: Items
) -> None:
    sink = make(urls=[cluster.url], index="logs-audit-%Y.%m")
    await sink.send(items(sink, 2))
    at(cluster, NOON + DAY)
    cluster.rollover("logs-audit-2026.01")
    assert await make(urls=[cluster.url], index="logs-audit-%Y.%m").send(items(sink, 2)) == Verdict(
        duplicates=2
    )


async def test_a_key_that_may_not_read_still_delivers_and_says_what_that_costs(
    cluster: Elastic, make: Make, items: Items, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(monotonic=lambda: 10_000.0)
    monkeypatch.setattr("auditrelay.sinks.elasticsearch.duplicates.time", clock)
    for missing, question in (("view_index_metadata", "index.creation_date"), ("read", "_search")):
        cluster.switches.missing_privileges = frozenset({missing})
        sink = make(urls=[cluster.url])
        await sink.send(items(sink, 2))
        at(cluster, NOON + DAY)
        cluster.rollover(STREAM)
        new = make(urls=[cluster.url])
        cluster.seen.clear()
        for count in (2, 0):
            verdict = await new.send(items(new, 2))
            assert (verdict.rejected, verdict.retry) == ((), ())
            assert verdict.duplicates == 2 - count
            assert len(verdict.warnings) == 1
            assert "grant read and view_index_metadata" in verdict.warnings[0]
        assert asked(cluster).count(question) == 1  # each refusal stands in an audit log
        cluster.indices.clear()


async def test_an_index_that_cannot_be_searched_costs_a_warning_and_not_the_delivery(
    cluster: Elastic, make: Make, items: Items
) -> None:
    sink = make(urls=[cluster.url])
    await sink.send(items(sink, 2))
    at(cluster, NOON + DAY)
    cluster.rollover(STREAM)
    first = next(iter(cluster.indices[STREAM].backing))
    cluster.switches.unsearchable = frozenset({first})
    verdict = await make(urls=[cluster.url]).send(items(sink, 3))
    assert verdict.duplicates == 0
    assert "may be stored twice" in verdict.warnings[0]


@pytest.mark.parametrize("question", ["index.creation_date", "_search"])
@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (401, b"", Refused),
        (429, b"", Retryable),
        (500, b"", Retryable),
        (503, b"", Retryable),
        (302, b"", Refused),
        (200, b"<html>", Retryable),
        (200, b"[]", Retryable),
    ],
)
async def test_a_question_that_is_not_answered_for_now_is_asked_again_and_nothing_is_sent(
    cluster: Elastic,
    make: Make,
    items: Items,
    *,
    question: str,
    status: int,
    body: bytes,
    error: type[RelayError],
) -> None:
    sink = make(urls=[cluster.url])
    await sink.send(items(sink, 2))
    at(cluster, NOON + DAY)
    cluster.rollover(STREAM)
    new = make(urls=[cluster.url])
    cluster.faults.add(
        answer(status, body), when=lambda request: request.path.endswith(question), times=1
    )
    with pytest.raises(error):
        await new.send(items(new, 3))
    assert cluster.stored.total == 2
    assert await new.send(items(new, 3)) == Verdict(duplicates=2)


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"timed_out":false,"hits":{"hits":[]}}',
        b'{"timed_out":false,"_shards":{"failed":0},"hits":{"hits":[{}]}}',
        b'{"timed_out":false,"_shards":{"failed":0},"hits":{"hits":3}}',
        b'{"timed_out":false,"_shards":[],"hits":{"hits":[]}}',
    ],
)
async def test_an_answer_that_is_no_searchs_proves_nothing(
    cluster: Elastic, make: Make, items: Items, body: bytes
) -> None:
    sink = make(urls=[cluster.url])
    await sink.send(items(sink, 2))
    at(cluster, NOON + DAY)
    cluster.rollover(STREAM)
    new = make(urls=[cluster.url])
    cluster.faults.add(answer(200, body), path=f"/{STREAM}/_search")
    with pytest.raises(Retryable) as caught:
        await new.send(items(new, 2))
    assert caught.value.reason == "bad_reply"


async def test_an_index_that_does_not_say_when_it_was_made_is_searched(
    cluster: Elastic, make: Make, items: Items
) -> None:
    sink = make(urls=[cluster.url])
    await sink.send(items(sink, 2))
    cluster.rollover(STREAM)  # before the events: by its date nobody would be asked
    listed: dict[str, Any] = {name: {"settings": {}} for name in cluster.indices[STREAM].backing}
    cluster.faults.add(
        answer(200, json.dumps(listed).encode()), path=f"/{STREAM}/_settings/index.creation_date"
    )
    assert await make(urls=[cluster.url]).send(items(sink, 2)) == Verdict(duplicates=2)


async def test_a_batch_of_thousands_is_asked_about_in_parts(
    cluster: Elastic, make: Make, items: Items
) -> None:
    sink = make(urls=[cluster.url], timeout="60s")
    sent = items(sink, 2010)
    await sink.send(sent[:2005])
    at(cluster, NOON + DAY)
    cluster.rollover(STREAM)
    again = make(urls=[cluster.url], timeout="60s")
    assert await again.send(sent) == Verdict(duplicates=2005)
    assert asked(cluster).count("_search") == 3


# --- what an item's status means ----------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [
        (400, "document_parsing_exception", "mapping"),
        (400, "mapper_parsing_exception", "mapping"),
        (400, "strict_dynamic_mapping_exception", "mapping"),
        (400, "illegal_argument_exception", "illegal_argument"),
        (400, "max_bytes_length_exceeded_exception", "too_large"),
        (400, "a_new_exception", "status_400"),
        (404, "index_not_found_exception", "status_404"),
        (409, "another_exception", "status_409"),
        (422, "", "status_422"),
    ],
)
async def test_a_document_that_is_refused_is_rejected_and_costs_no_other(
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
    assert (verdict.retry, verdict.duplicates) == ((), 0)


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
async def test_an_item_under_pressure_goes_again_and_the_others_are_done(
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
    assert verdict.because is not None
    assert verdict.because.reason == f"status_{status}"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (403, "security_exception"),
        (403, "cluster_block_exception"),
        (401, "security_exception"),
        (400, "index_closed_exception"),
    ],
)
async def test_an_item_that_an_operator_must_mend_holds_the_sink(
    elastic: Elastic, make: Make, items: Items, status: int, kind: str
) -> None:
    sink = make()
    await sink.send(items(sink, 1))
    elastic.faults.add(bulk(item(201), item(status, kind)), path="/_bulk")
    with pytest.raises(Refused, match=f"{status}, {kind}: why; check") as caught:
        await sink.send(items(sink, 2))
    assert caught.value.status == status


async def test_an_index_that_exists_for_no_event_holds_the_sink(
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
    sink = make(pipeline="audit")
    elastic.faults.add(bulk(missing), path="/_bulk")
    with pytest.raises(Refused, match=r"pipeline with id \[audit\]"):
        await sink.send(items(sink, 1))
    other = make()
    elastic.faults.add(bulk(missing), path="/_bulk")
    assert len((await other.send(items(other, 1))).rejected) == 1


async def test_what_went_to_the_failure_store_is_delivered_and_told(
    elastic: Elastic, make: Make, event: MakeEvent, batch: Batch
) -> None:
    elastic.switches.failure_store = True
    sink = make(format="raw")
    sent = batch(sink, [event(1)])
    broken = Item(
        1, event(2), batch(sink, [event(2)])[0].text.replace(b'"record":{', b'"record":3,"x":{')
    )
    verdict = await sink.send([*sent, broken])
    assert (verdict.diverted, verdict.rejected, verdict.retry) == (1, (), ())
    assert "went to the failure store" in verdict.warnings[0]
    assert elastic.failures.total == 1


# --- answers that prove nothing ------------------------------------------------


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
async def test_an_answer_that_does_not_name_every_event_proves_nothing(
    elastic: Elastic, make: Make, items: Items, body: bytes
) -> None:
    sink = make()
    elastic.faults.add(answer(200, body), path="/_bulk")
    with pytest.raises(Retryable) as caught:
        await sink.send(items(sink, 2))
    assert (caught.value.reason, caught.value.sent) == ("bad_reply", True)


async def test_fewer_items_than_events_prove_nothing(
    elastic: Elastic, make: Make, items: Items
) -> None:
    elastic.answer_fewer_items(1)
    sink = make()
    sent = items(sink, 3)
    with pytest.raises(Retryable):
        await sink.send(sent)
    assert await sink.send(sent) == Verdict(duplicates=3)


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
async def test_a_request_that_is_refused_as_a_whole_says_what_to_do(
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


async def test_a_refused_document_is_not_shown_in_the_reason(
    elastic: Elastic, make: Make, event: MakeEvent, batch: Batch
) -> None:
    sink = make(format="raw")
    first, second = batch(sink, [event(1), event(2)])
    broken = Item(1, second.event, second.text.replace(b'"record":{', b'"record":"hush","x":{'))
    (rejection,) = (await sink.send([first, broken])).rejected
    assert "hush" not in rejection.message
    elastic.switches.version = "8.17.9"
    (rejection,) = (await make(format="raw").send([first, broken])).rejected
    assert len(rejection.message) <= 300


# --- the cluster ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "hides"),
    [("8.17.9", False), ("8.18.0", True), ("9.0.0", True), ("10.1.0", True), ("7.10.2", False)],
)
async def test_only_a_cluster_that_knows_it_is_asked_to_hide_documents(
    elastic: Elastic, make: Make, items: Items, number: str, *, hides: bool
) -> None:
    elastic.switches.version = number
    sink = make()
    for _ in range(3):
        await sink.send(items(sink, 1))
    asked = [each for each in elastic.seen if each.path == "/"]
    assert len(asked) == 1
    assert elastic.seen[-1].query.get("include_source_on_error") == ("false" if hides else None)


async def test_opensearch_gets_no_parameter_that_it_does_not_know(make: Make, items: Items) -> None:
    async with Elastic(flavour="opensearch", switches=None) as opensearch:
        opensearch.switches.version = "9.9.9"
        sink = make(urls=[opensearch.url])
        assert await sink.send(items(sink, 2)) == Verdict()
        assert opensearch.stored.total == 2
        assert opensearch.answered[400] == 0
        assert "it cannot be asked" in await sink.check()


@pytest.mark.parametrize("status", [400, 403, 404, 405])
async def test_a_key_or_a_proxy_that_may_not_ask_who_the_cluster_is_can_still_write(
    elastic: Elastic, make: Make, items: Items, status: int
) -> None:
    elastic.faults.add(answer(status), method="GET", path="/")
    sink = make()
    assert await sink.send(items(sink, 1)) == Verdict()


async def test_a_node_that_does_not_know_the_parameter_after_all_costs_nothing(
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
    assert await sink.send(items(sink, 1)) == Verdict(duplicates=1)
    requests = elastic.requests
    assert await sink.send(items(sink, 1)) == Verdict(duplicates=1)
    assert elastic.requests == requests + 1


async def test_the_next_node_is_asked_when_one_cannot_be_reached(
    elastic: Elastic, make: Make, items: Items
) -> None:
    async with Elastic() as gone:
        dead = gone.url
    sink = make(urls=[dead, elastic.url])
    assert await sink.send(items(sink, 1)) == Verdict()
    assert await sink.send(items(sink, 2)) == Verdict(duplicates=1)
    assert isinstance(sink, elasticsearch.Sink)
    assert sink._cluster.url == elastic.url  # the dead one is not tried again each time
    with pytest.raises(Retryable) as caught:
        await make(urls=[dead, dead]).send(items(sink, 1))
    assert (caught.value.reason, caught.value.sent) == ("connect", False)


@pytest.fixture
async def nodes() -> AsyncIterator[list[Elastic]]:
    """Three nodes. They share nothing, so that it shows which of them has taken an event."""
    async with Elastic() as one, Elastic() as two, Elastic() as three:
        yield [one, two, three]


async def test_a_dead_node_is_passed_over_and_found_again(
    nodes: list[Elastic], make: Make, items: Items
) -> None:
    one, two, _ = nodes
    sink = make(urls=[one.url, two.url])
    await sink.send(items(sink, 1))
    assert (one.stored.total, two.stored.total) == (1, 0)
    await one.stop()
    await sink.send(items(sink, 2))
    assert two.stored.total == 2
    await two.stop()
    for _ in range(3):
        with pytest.raises(Retryable) as caught:
            await sink.send(items(sink, 2))
        assert (caught.value.reason, caught.value.sent) == ("connect", False)
    await one.start()
    await sink.send(items(sink, 3))
    assert one.stored.total == 3


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_a_node_in_trouble_is_passed_over_at_once(
    nodes: list[Elastic], make: Make, items: Items, status: int
) -> None:
    one, two, three = nodes
    sink = make(urls=[each.url for each in nodes])
    for node in (one, two):
        node.faults.add(answer(status, b"<html>"), times=None)
    await sink.send(items(sink, 2))
    assert [each.stored.total for each in nodes] == [0, 0, 2]
    requests = one.requests + two.requests
    await sink.send(items(sink, 3))
    assert three.stored.total == 3
    assert one.requests + two.requests == requests  # they are not asked first each time


async def test_when_every_node_is_in_trouble_each_is_asked_once_and_then_it_is_waited(
    nodes: list[Elastic], make: Make, items: Items
) -> None:
    sink = make(urls=[each.url for each in nodes])
    await sink.send(items(sink, 1))
    for node in nodes:
        node.faults.add(answer(503, b"", {"Retry-After": "7"}), times=None)
        node.seen.clear()
    with pytest.raises(Retryable) as caught:
        await sink.send(items(sink, 1))
    assert (caught.value.reason, caught.value.retry_after) == ("status_503", 7.0)
    assert [len(each.seen) for each in nodes] == [1, 1, 1]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 429, 500])
async def test_what_every_node_would_say_is_asked_of_one_alone(
    nodes: list[Elastic], make: Make, items: Items, status: int
) -> None:
    one, two, _ = nodes
    sink = make(urls=[one.url, two.url])
    one.faults.add(answer(status, b"{}"), path="/_bulk", times=None)
    with pytest.raises(RelayError, match="/_bulk"):
        await sink.send(items(sink, 1))
    assert two.requests == 0


@pytest.mark.parametrize("trouble", [hang(), reset()])
async def test_a_node_that_does_not_answer_is_left_for_the_next_attempt(
    nodes: list[Elastic], make: Make, items: Items, trouble: Action
) -> None:
    one, two, _ = nodes
    sink = make(urls=[one.url, two.url], timeout="300ms")
    await sink.send(items(sink, 1))
    one.faults.add(trouble, path="/_bulk", times=None)
    with pytest.raises(Retryable) as caught:
        await sink.send(items(sink, 2))
    assert caught.value.sent
    await sink.send(items(sink, 2))
    assert two.stored.total == 2


async def test_check_asks_every_node_and_tells_which_do_not_answer(
    nodes: list[Elastic], make: Make
) -> None:
    one, two, three = nodes
    sink = make(urls=[each.url for each in nodes])
    assert "no use for now" not in await sink.check()
    await one.stop()
    two.faults.add(answer(503, b""), path="/")
    said = await sink.check()
    assert said.startswith(three.url)
    assert f"no use for now: no connection for GET {one.url}/" in said
    assert f"no use for now: 503 from GET {two.url}/" in said
    await two.stop()
    await three.stop()
    with pytest.raises(Retryable):
        await sink.check()


async def test_check_refuses_nodes_of_different_clusters(nodes: list[Elastic], make: Make) -> None:
    one, two, _ = nodes
    two.uuid = "another"
    with pytest.raises(Refused, match=f"{one.url} and {two.url} are nodes of different clusters"):
        await make(urls=[one.url, two.url]).check()
    two.uuid = "_na_"  # one that has not joined yet
    await make(urls=[one.url, two.url]).check()


async def test_each_way_to_log_in_works(elastic: Elastic, make: Make, items: Items) -> None:
    pair = f"{KEY_ID}:{KEY_SECRET}"
    for key in (pair, base64.b64encode(pair.encode()).decode()):
        sink = make(api_key=key, username=None, password=None)
        await sink.send(items(sink, 1))
    elastic.security = False
    sink = make(username=None, password=None)
    await sink.send(items(sink, 1))
    assert "authorization" not in elastic.seen[-1].headers


# --- check -----------------------------------------------------------------------


async def test_check_proves_the_right_to_write_and_stores_nothing(
    elastic: Elastic, make: Make
) -> None:
    said = await make(index="audit-{vendor}-%Y.%m").check()
    assert re.search(r"audit-\*-\*\.\* can be written to;", said)
    elastic.switches.missing_privileges = frozenset({"auto_configure"})
    assert "must exist" in await make().check()
    elastic.switches.missing_privileges = frozenset({"create_doc"})
    elastic.switches.missing_privileges = frozenset({"create_doc"})
    with pytest.raises(Refused, match=r"create_doc"):
        await make().check()
    assert elastic.stored.total == 0


async def test_check_refuses_wrong_credentials_and_what_is_no_cluster(
    elastic: Elastic, make: Make
) -> None:
    with pytest.raises(Refused, match="401"):
        await make(password="wrong").check()
    elastic.faults.add(answer(200, b"<html></html>"), path="/")
    with pytest.raises(Retryable, match="not a cluster's"):
        await make().check()


READABLE = "is recognised, after a rollover by a search in the older indices"
UNREADABLE = "is recognised until the next rollover, after that it is stored twice"


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize(
    ("index", "missing", "said"),
    [
        (None, (), READABLE),
        (None, ("read",), UNREADABLE),
        (None, ("view_index_metadata",), UNREADABLE),
        ("audit-{vendor}-%Y.%m", (), "is recognised at any time"),
        ("audit-{vendor}-%Y.%m", ("read", "view_index_metadata"), "is recognised at any time"),
        ("audit-%Y", ("manage_index_templates",), "is recognised at any time"),
        ("logs-audit-%Y.%m", (), READABLE),  # a data stream, whatever its name says
        ("logs-audit-%Y.%m", ("manage_index_templates",), READABLE),
        ("logs-audit-%Y.%m", ("read", "manage_index_templates"), UNREADABLE),
        ("logs-audit-%Y.%m", ("read",), UNREADABLE),
        ("audit", (), READABLE),
    ],
)
async def test_check_says_until_when_an_event_that_is_sent_again_is_recognised(
    make: Make, *, flavour: Any, index: str | None, missing: tuple[str, ...], said: str
) -> None:
    async with Elastic(flavour=flavour) as cluster:
        cluster.switches.missing_privileges = frozenset(missing)
        keys = {} if index is None else {"index": index}
        assert said in await make(urls=[cluster.url], **keys).check()
        assert cluster.answered[400] == (1 if flavour == "opensearch" else 0)  # _has_privileges
        assert not cluster.indices


@pytest.mark.parametrize("flavour", FLAVOURS)
async def test_check_says_which_template_an_index_would_have(make: Make, *, flavour: Any) -> None:
    async with Elastic(flavour=flavour) as cluster:

        async def said(**keys: Any) -> str:
            return await make(urls=[cluster.url], **keys).check()

        ours = f"{COMPONENT} is not in it"
        before = await said()
        assert "data stream by the template logs;" in before
        assert ours in before
        cluster.switches.streams = ()
        assert "no template makes it a data stream" in await said()
        assert "no template fits it, so that field types are guessed" in await said(index="audit")
        for path, body in templates(opensearch=flavour == "opensearch").items():
            cluster.templates[path.lstrip("/")] = body
        after = await said()
        assert "data stream by the template logs-auditrelay" in after
        assert ours not in after
        assert ours in await said(index="audit-%Y")
        assert ours not in await said(index="audit-%Y", format="raw")
        cluster.templates["_index_template/audit"] = {
            "index_patterns": ["audit-*"],
            "composed_of": [COMPONENT],
        }
        dated = await said(index="audit-%Y")
        assert "; index by the template audit" in dated
        assert ours not in dated
        cluster.switches.missing_privileges = frozenset({"manage_index_templates"})
        assert "cannot be asked with this key" in await said()
        cluster.switches.streams = ("logs-*-*",)
        cluster.rollover(cluster.make_stream(STREAM))
        assert "; data stream by the template logs" in await said()
        cluster.switches.missing_privileges |= {"view_index_metadata"}
        assert "cannot be asked with this key" in await said()


async def test_check_says_which_fields_are_mapped_otherwise_in_an_index_that_is_there(
    elastic: Elastic, make: Make, items: Items
) -> None:
    sink = make(index="audit")
    await sink.send(items(sink, 1))
    said = await sink.check()
    assert "mapped otherwise in audit: tags is text, not keyword, " in said
    assert re.search(r"and \d+ more$", said)
    assert "mapped otherwise" not in await make(index="audit", format="raw").check()
    elastic.templates["_index_template/audit"] = {
        "index_patterns": ["audit"],
        "composed_of": [COMPONENT],
    }
    assert "mapped otherwise" not in await sink.check()


async def test_check_looks_at_the_newest_index_of_a_stream_only(
    elastic: Elastic, make: Make
) -> None:
    wrong = {"mappings": {"properties": {"source": {"properties": {"ip": {"type": "keyword"}}}}}}
    right = {"mappings": {"properties": {"source": {"properties": {"ip": {"type": "ip"}}}}}}
    old, new = (f".ds-{STREAM}-2026.0{month}.01-00000{month}" for month in (1, 2))
    mapping = "/logs-auditrelay.*-default/_mapping"
    for shown, expected in (
        ({new: right, old: wrong}, False),
        ({new: wrong, old: right}, True),
        ({new: {}, old: {"mappings": {}}}, False),
    ):
        elastic.faults.add(answer(200, json.dumps(shown).encode()), path=mapping)
        said = await make().check()
        assert (f"mapped otherwise in {new}: source.ip is keyword, not ip" in said) is expected


def test_the_search_for_an_event_is_a_line_to_copy(event: MakeEvent) -> None:
    def lines(**keys: Any) -> Sequence[str]:
        settings = elasticsearch.Settings.model_validate({**REQUIRED, **keys})
        return elasticsearch.build("elastic", settings, Metrics()).query(event(1))

    uid = event(1).uid
    kql, curl = lines(username="o'brien", password="hush", index="audit-{vendor}-%Y.%m")
    assert kql == f'KQL: _id : "{uid}"'
    where = f"https://es.example.com:9200/audit-*-*.*/_search?q=_id:{uid}"
    assert shlex.split(curl) == ["curl", "-sS", "-u", "o'brien", where]
    _, curl = lines(api_key="hush")
    assert "Authorization: ApiKey $API_KEY" in shlex.split(curl)
    assert "hush" not in curl


# --- settings --------------------------------------------------------------------

REQUIRED: dict[str, Any] = {"type": "elasticsearch", "urls": ["https://es.example.com:9200"]}


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"urls": []}, "at least 1 item"),
        ({"urls": ["https://a.example.com", "http://b.example.com"]}, r"urls\[1\]: plain http"),
        ({"api_key": "k", "username": "u", "password": "p"}, "excludes username and password"),
        ({"username": "u"}, "username and password go together"),
        ({"username": "a:b", "password": "p"}, "must not hold a colon"),
        ({"index": "Audit"}, "no capital letters"),
        ({"index": "audit-{tenant}"}, "{tenant} is unknown: only {vendor} and {source} exist"),
        ({"index": "audit-%y"}, "%y is unknown: only %Y, %m"),
        ({"index": "audit-%"}, "% is unknown"),
        ({"index": "audit logs"}, "must not hold ' '"),
        ({"index": "audit-{vendor"}, "must not hold '{'"),
        ({"index": "-audit"}, "starts with a letter or a digit"),
        ({"index": ""}, "starts with a letter or a digit"),
        ({"index": "a" * 256}, "at most 255 bytes"),
        ({"batch_bytes": "101MiB"}, "less than or equal to 104857600"),
    ],
)
def test_a_wrong_setting_says_what_is_wrong(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        elasticsearch.Settings.model_validate({**REQUIRED, **keys})


def test_urls_may_be_words_between_commas() -> None:
    urls = elasticsearch.Settings.model_validate(
        {**REQUIRED, "urls": "https://a.example.com, https://b.example.com/es/"}
    ).urls
    assert urls == ["https://a.example.com", "https://b.example.com/es"]
