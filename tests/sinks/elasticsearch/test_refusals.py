"""A refusal lies in the document, in the target, or passes; only the first makes a dead letter."""

from collections.abc import Callable, Sequence

import pytest
from tests.sinks.elasticsearch.answers import bulk, item

from auditrelay.errors import Refused
from auditrelay.events import AuditEvent
from auditrelay.sandbox.siems.elasticsearch import Elastic
from auditrelay.sinks import Item, Sink, Verdict
from auditrelay.sinks.elasticsearch.refusals import Refusal

MakeEvent = Callable[..., AuditEvent]
Items = Callable[[Sink, int], list[Item]]
Batch = Callable[[Sink, Sequence[AuditEvent]], list[Item]]
Make = Callable[..., Sink]

ILLEGAL = "illegal_argument_exception"
OF_THE_TARGET = [
    (400, "validation_exception", "Validation Failed: 1: this action would add [2] shards, but"),
    (400, ILLEGAL, "Validation Failed: 1: this action would add [2] total shards, but this"),
    (400, ILLEGAL, "Limit of total fields [1000] has been exceeded while adding new fields [1]"),
    (400, "document_parsing_exception", "[1:9] failed to parse: Limit of total fields [1000]"),
    (
        400,
        ILLEGAL,
        "no write index is defined for alias [audit]. The write index may be explicitly",
    ),
    (400, ILLEGAL, "Alias [audit] has more than one index associated with it [[a, b]]"),
    (400, ILLEGAL, "pipeline with id [audit] does not exist"),
    (400, ILLEGAL, "only write ops with an op_type of create are allowed in data streams"),
    (400, ILLEGAL, "no matching index template found for data stream [logs-a-b]"),
    (400, ILLEGAL, "Number of documents in the index can't exceed [2147483519]"),
    (400, ILLEGAL, "index [audit] is a frozen index"),
    (400, "index_closed_exception", "closed"),
    (400, "invalid_index_name_exception", "Invalid index name [Audit], must be lowercase"),
    (400, "invalid_alias_name_exception", "Invalid alias name"),
    (400, "resource_already_exists_exception", "index [audit] already exists"),
    (400, "routing_missing_exception", "routing is required for [audit]/[1]"),
    (403, "cluster_block_exception", "index [audit] blocked by: [FORBIDDEN/8/index write (api)];"),
    (403, "index_create_block_exception", "blocked by: [FORBIDDEN/10/cluster create-index blocked"),
    (403, "security_exception", "action [indices:data/write/bulk[s]] is unauthorized"),
    (404, "index_not_found_exception", "no such index [audit] and [action.auto_create_index]"),
    (404, "index_not_found_exception", "[require_alias] request flag is [true] and [a] is not an"),
    (404, "whatever", ""),
    (401, "", ""),
]
OF_THE_DOCUMENT = [
    (400, "document_parsing_exception", "[1:9] failed to parse field [a] of type [long]"),
    (400, "mapper_parsing_exception", "failed to parse"),
    (400, "strict_dynamic_mapping_exception", "[1:9] mapping set to strict, dynamic introduction"),
    (400, ILLEGAL, "mapper [a] cannot be changed from type [long] to [text]"),
    (400, ILLEGAL, "Document contains at least one immense term in field=[a]"),
    (400, ILLEGAL, "Limit of mapping depth [20] has been exceeded due to object field [a]"),
    (400, ILLEGAL, "data stream timestamp field [@timestamp] is missing"),
    (400, ILLEGAL, "unable to convert [no write index is defined for alias] to integer"),
    (400, "document_parsing_exception", "failed to parse field [a]: 'Validation Failed: 1: this'"),
    (400, "script_exception", "runtime error"),
    (400, "max_bytes_length_exceeded_exception", "bytes can be at most 32766 in length"),
    (400, "", ""),
    (413, "", ""),
    (422, "whatever", "pipeline"),
]


@pytest.mark.parametrize(("status", "kind", "reason"), OF_THE_TARGET)
async def test_what_no_document_can_cause_holds_the_sink_and_makes_no_dead_letter(
    elastic: Elastic, make: Make, items: Items, status: int, kind: str, reason: str
) -> None:
    sink = make()
    sent = items(sink, 3)
    elastic.faults.add(bulk(item(201), item(status, kind, reason), item(201)), path="/_bulk")
    with pytest.raises(Refused) as caught:
        await sink.send(sent)
    assert caught.value.status == status
    assert reason[:40] in str(caught.value)
    assert (await sink.send(sent)).rejected == ()
    assert elastic.stored.total == 3


@pytest.mark.parametrize(("status", "kind", "reason"), OF_THE_DOCUMENT)
async def test_what_a_document_can_cause_rejects_it_alone(
    elastic: Elastic, make: Make, items: Items, status: int, kind: str, reason: str
) -> None:
    sink = make()
    elastic.faults.add(bulk(item(201), item(status, kind, reason), item(201)), path="/_bulk")
    (rejection,) = (await sink.send(items(sink, 3))).rejected
    assert (rejection.index, rejection.status) == (1, status)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 524])
@pytest.mark.parametrize("kind", ["cluster_block_exception", "validation_exception", ""])
def test_what_may_pass_by_itself_is_neither(status: int, kind: str) -> None:
    assert Refusal(status, kind, "pipeline with id [a] does not exist").cause == "pressure"


async def test_a_rejection_names_the_index_that_refused(
    elastic: Elastic, make: Make, event: MakeEvent, batch: Batch
) -> None:
    sink = make(index="audit-{vendor}")
    bad = item(400, "document_parsing_exception")
    elastic.faults.add(bulk(bad, bad), path="/_bulk")
    sent = batch(sink, [event(1), event(2, vendor="jitsudo")])
    assert [each.target for each in (await sink.send(sent)).rejected] == [
        "audit-bland",
        "audit-jitsudo",
    ]


async def test_at_the_shard_limit_events_wait_and_all_are_written_once_there_is_room(
    elastic: Elastic, make: Make, event: MakeEvent, batch: Batch
) -> None:
    elastic.switches.shard_limit = 1
    sink = make()
    there = batch(sink, [event(number) for number in range(3)])
    assert await sink.send(there) == Verdict()
    mixed = batch(
        sink, [event(number, vendor=("bland", "jitsudo")[number % 2]) for number in range(3, 9)]
    )
    for _ in range(3):
        with pytest.raises(Refused, match="maximum normal shards open"):
            await sink.send(mixed)
    elastic.switches.shard_limit = 1000
    verdict = await sink.send(mixed)
    assert (verdict.rejected, verdict.retry) == ((), ())
    assert elastic.stored.total == 9
    assert not elastic.stored.repeated()
