"""That an event is stored already does not say that it is this one."""

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from auditrelay.errors import Retryable
from auditrelay.events import AuditEvent
from auditrelay.sandbox.faults import answer, store_then_reset
from auditrelay.sandbox.siems.elasticsearch import Elastic
from auditrelay.sinks import Counts, Item, Sink

MakeEvent = Callable[..., AuditEvent]
Batch = Callable[[Sink, Sequence[AuditEvent]], list[Item]]
Make = Callable[..., Sink]


def shown(event: AuditEvent, raw: str) -> AuditEvent:
    """Return *event* as made of another record under the same id."""
    digest = hashlib.sha256(raw.encode()).hexdigest()
    return msgspec.structs.replace(event, raw=msgspec.Raw(raw.encode()), raw_sha256=digest)


@pytest.fixture
def two(event: MakeEvent) -> list[AuditEvent]:
    return [shown(event(n), json.dumps({"id": n, "who": "dana"})) for n in range(2)]


async def test_another_record_under_a_known_uid_is_counted_and_warned_of(
    elastic: Elastic, make: Make, two: list[AuditEvent], batch: Batch
) -> None:
    for sink in (make(), make()):
        await sink.send(batch(sink, two))
        other = shown(two[1], json.dumps({"id": 1, "who": "sam"}))
        verdict = await sink.send(batch(sink, [two[0], other]))
        assert verdict.counts == Counts(duplicates=2, changed=1)
        assert "with other content" in verdict.warnings[0]
    assert elastic.stored.total == 2


async def test_the_same_record_otherwise_written_is_no_change(
    elastic: Elastic, make: Make, two: list[AuditEvent], batch: Batch
) -> None:
    sink = make()
    await sink.send(batch(sink, two))
    other = shown(two[1], '{"who" : "dana", "id":1.0}')
    assert (await sink.send(batch(sink, [other]))).counts == Counts(duplicates=1)
    assert elastic.stored.total == 2


async def test_a_batch_that_meets_itself_asks_nothing(
    elastic: Elastic, make: Make, two: list[AuditEvent], batch: Batch
) -> None:
    sink = make()
    elastic.faults.add(store_then_reset(), path="/_bulk")
    with pytest.raises(Retryable):
        await sink.send(batch(sink, two))
    assert (await sink.send(batch(sink, two))).counts == Counts(duplicates=2)
    assert "/_mget" not in {each.path for each in elastic.seen}


async def test_only_events_that_were_there_are_asked_about_and_only_for_their_digests(
    elastic: Elastic, make: Make, event: MakeEvent, two: list[AuditEvent], batch: Batch
) -> None:
    first = make()
    await first.send(batch(first, two))
    asked: list[Any] = []

    def remember(request: Any) -> bool:
        asked.append(request)
        return False

    elastic.faults.add(answer(500), path="/_mget", when=remember)
    sink = make()
    await sink.send(batch(sink, [event(7), *two, event(8)]))
    [request] = asked
    docs = json.loads(request.body)["docs"]
    assert [(doc["_id"], doc["_source"]) for doc in docs] == [
        (each.uid, ["event.hash"]) for each in two
    ]


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
async def test_a_cluster_that_cannot_be_asked_holds_up_nothing(
    elastic: Elastic, make: Make, two: list[AuditEvent], batch: Batch, status: int
) -> None:
    first = make()
    await first.send(batch(first, two))
    elastic.faults.add(answer(status, b"{}"), path="/_mget", times=None)
    for _ in range(5):
        sink = make()
        assert (await sink.send(batch(sink, two))).counts == Counts(duplicates=2)


@pytest.mark.parametrize(
    "body", [b"[]", b"{}", b'{"docs":3}', b'{"docs":[null,{"_id":3,"_source":{"event":[]}}]}']
)
async def test_an_odd_answer_says_nothing(
    elastic: Elastic, make: Make, two: list[AuditEvent], batch: Batch, body: bytes
) -> None:
    first = make()
    await first.send(batch(first, two))
    elastic.faults.add(answer(200, body), path="/_mget")
    sink = make()
    assert (await sink.send(batch(sink, two))).counts == Counts(duplicates=2)
