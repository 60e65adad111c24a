"""Events that are resent after a rollover are deduplicated."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
from tests.sinks.elasticsearch.answers import bulk, item
from tests.support.clock import FakeClock

from auditrelay.errors import Refused, RelayError, Retryable
from auditrelay.events import AuditEvent
from auditrelay.sandbox.faults import answer, hang, reset, store_then_reset
from auditrelay.sandbox.siems.elasticsearch import Elastic
from auditrelay.sinks import Counts, Item, Sink, Verdict
from auditrelay.sinks.elasticsearch import outage

MakeEvent = Callable[..., AuditEvent]
Items = Callable[[Sink, int], list[Item]]
Batch = Callable[[Sink, Sequence[AuditEvent]], list[Item]]
Make = Callable[..., Sink]

STREAM = "logs-auditrelay.bland-default"
NOON = 1_767_268_800
"""The time of event 0; the others happen a second apart."""

DAY = 86_400
FLAVOURS = ["elasticsearch", "opensearch"]


@pytest.fixture(params=FLAVOURS)
async def cluster(request: pytest.FixtureRequest) -> AsyncIterator[Elastic]:
    """A cluster whose first index is created a day before the events happen."""
    async with Elastic(flavour=request.param, clock=lambda: NOON - DAY) as double:
        yield double


def at(cluster: Elastic, now: float) -> None:
    """Set the cluster's clock to *now*."""
    cluster.clock = lambda: now


def requests(cluster: Elastic) -> list[str]:
    """Return the requests to a cluster, except for bulk requests and the version."""
    return [
        each.path.rpartition("/")[2] for each in cluster.seen if each.path not in ("/", "/_bulk")
    ]


@pytest.mark.parametrize("fresh", [True, False])
async def test_events_resent_after_a_rollover_are_deduplicated_by_a_search(
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
    assert await again.send(items(again, 4)) == Verdict(counts=Counts(duplicates=3))
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
    assert await sink.send(sent) == Verdict(counts=Counts(duplicates=5))
    assert cluster.stored.total == 5


async def test_the_indices_of_a_verdict_count_the_events_that_were_already_stored(
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
    assert verdict.counts.duplicates == 3


async def test_events_that_happened_after_the_last_rollover_are_not_searched_for(
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
    assert requests(cluster) == ["index.creation_date"]
    # Within the hour by which a vendor's clock may be ahead there is a search.
    just_after = (NOON - 7200 + 3599) * 10**6
    await new.send(batch(new, [event(9, at=just_after)]))
    assert requests(cluster) == ["index.creation_date", "_search"]
    await new.send(batch(new, [event(10, at=just_after + 10**6)]))
    assert requests(cluster) == ["index.creation_date", "_search"]


async def test_a_rollover_is_noticed_in_the_responses_and_nothing_is_requested_twice(
    cluster: Elastic, make: Make, items: Items, clock: FakeClock
) -> None:
    sink = make(urls=[cluster.url])
    for count in (1, 2, 3):
        clock.advance(45)
        await sink.send(items(sink, count))
    # Before there was an index, and once there was one.
    assert requests(cluster) == ["index.creation_date"] * 2
    at(cluster, NOON + DAY)
    cluster.rollover(STREAM)
    fourth = items(sink, 4)[3:]
    await sink.send(fourth)
    assert requests(cluster) == ["index.creation_date"] * 2
    assert await sink.send(items(sink, 5)) == Verdict(counts=Counts(duplicates=4))
    assert requests(cluster) == [*["index.creation_date"] * 3, "_search"]


async def test_a_sink_without_events_for_a_minute_looks_for_a_rollover_before_it_sends(
    cluster: Elastic, make: Make, items: Items, clock: FakeClock
) -> None:
    sink = make(urls=[cluster.url])
    for _ in range(2):
        await sink.send(items(sink, 3))
    at(cluster, NOON + DAY)
    cluster.rollover(STREAM)
    clock.advance(61)
    assert await sink.send(items(sink, 3)) == Verdict(counts=Counts(duplicates=3))


async def test_a_dated_index_deduplicates_an_event_whenever_it_is_resent(
    cluster: Elastic, make: Make, items: Items
) -> None:
    for index in ("audit-{vendor}-%Y.%m", "audit"):
        sink = make(urls=[cluster.url], index=index)
        await sink.send(items(sink, 2))
        at(cluster, NOON + 400 * DAY)
        assert await sink.send(items(sink, 2)) == Verdict(counts=Counts(duplicates=2))
        assert await make(urls=[cluster.url], index=index).send(items(sink, 2)) == Verdict(
            counts=Counts(duplicates=2)
        )
    assert "_search" not in requests(cluster)


async def test_a_dated_name_that_is_a_data_stream_is_searched_as_well(
    cluster: Elastic, make: Make, items: Items
) -> None:
    sink = make(urls=[cluster.url], index="logs-audit-%Y.%m")
    await sink.send(items(sink, 2))
    at(cluster, NOON + DAY)
    cluster.rollover("logs-audit-2026.01")
    assert await make(urls=[cluster.url], index="logs-audit-%Y.%m").send(items(sink, 2)) == Verdict(
        counts=Counts(duplicates=2)
    )


async def test_a_key_that_may_not_search_still_delivers_with_a_warning(
    cluster: Elastic, make: Make, items: Items
) -> None:
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
            assert verdict.counts.duplicates == 2 - count
            assert len(verdict.warnings) == 1
            assert "grant read and view_index_metadata" in verdict.warnings[0]
        assert requests(cluster).count(question) == 1  # each refusal is recorded in an audit log
        cluster.indices.clear()


async def test_an_index_that_cannot_be_searched_causes_a_warning_and_does_not_stop_delivery(
    cluster: Elastic, make: Make, items: Items
) -> None:
    sink = make(urls=[cluster.url])
    await sink.send(items(sink, 2))
    at(cluster, NOON + DAY)
    cluster.rollover(STREAM)
    first = next(iter(cluster.indices[STREAM].backing))
    cluster.switches.unsearchable = frozenset({first})
    verdict = await make(urls=[cluster.url]).send(items(sink, 3))
    assert verdict.counts.duplicates == 0
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
async def test_a_search_that_fails_is_repeated_and_nothing_is_sent_before(
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
    assert await new.send(items(new, 3)) == Verdict(counts=Counts(duplicates=2))


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
async def test_an_unexpected_response_to_a_search_proves_nothing(
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


async def test_an_index_of_unknown_creation_date_is_searched(
    cluster: Elastic, make: Make, items: Items
) -> None:
    sink = make(urls=[cluster.url])
    await sink.send(items(sink, 2))
    cluster.rollover(STREAM)  # before the events: by its date there would be no search
    listed: dict[str, Any] = {name: {"settings": {}} for name in cluster.indices[STREAM].backing}
    cluster.faults.add(
        answer(200, json.dumps(listed).encode()), path=f"/{STREAM}/_settings/index.creation_date"
    )
    assert await make(urls=[cluster.url]).send(items(sink, 2)) == Verdict(
        counts=Counts(duplicates=2)
    )


async def test_a_batch_of_thousands_is_searched_for_in_parts(
    cluster: Elastic, make: Make, items: Items
) -> None:
    sink = make(urls=[cluster.url], timeout="60s")
    sent = items(sink, 2010)
    await sink.send(sent[:2005])
    at(cluster, NOON + DAY)
    cluster.rollover(STREAM)
    again = make(urls=[cluster.url], timeout="60s")
    assert await again.send(sent) == Verdict(counts=Counts(duplicates=2005))
    assert requests(cluster).count("_search") == 3


# --- a search that is down ---------------------------------------------------

FAILURES = {
    "500": answer(500, b""),
    "503": answer(
        503, b'{"error":{"type":"search_phase_execution_exception","reason":"all shards"}}'
    ),
    "429": answer(429, b'{"error":{"type":"circuit_breaking_exception","reason":"too large"}}'),
    "no json": answer(200, b"<html>"),
    "reset": reset(),
}


async def rolled_over(cluster: Elastic, make: Make, items: Items) -> Sink:
    """Return a new sink that must search: two events are in an older index."""
    sink = make(urls=[cluster.url])
    await sink.send(items(sink, 2))
    at(cluster, NOON + DAY)
    cluster.rollover(STREAM)
    return make(urls=[cluster.url])


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("question", ["_search", "index.creation_date"])
async def test_events_are_written_after_three_searches_that_failed_and_counted_as_possible_repeats(
    cluster: Elastic, make: Make, items: Items, clock: FakeClock, failure: str, question: str
) -> None:
    new = await rolled_over(cluster, make, items)
    cluster.faults.add(
        FAILURES[failure], when=lambda request: request.path.endswith(question), times=None
    )
    for _ in range(2):
        with pytest.raises(Retryable):
            await new.send(items(new, 5))
    verdict = await new.send(items(new, 5))
    assert (verdict.rejected, verdict.retry) == ((), ())
    assert verdict.counts == Counts(unsearched=5)
    assert "does not work" in verdict.warnings[0]
    assert set(cluster.stored.by_uid.values()) == {1, 2}
    # While it lasts, no batch waits again.
    before = len(cluster.seen)
    for number in range(10, 13):
        assert (await new.send(items(new, number)[-1:])).counts.unsearched == 1
    assert len(cluster.seen) == before + 3
    # It is tried again after half a minute, once, and recovers.
    clock.advance(31)
    assert (await new.send(items(new, 14)[-1:])).counts.unsearched == 1
    cluster.faults.clear()
    clock.advance(31)
    assert (await new.send(items(new, 5))).counts == Counts(duplicates=5)


async def test_a_search_without_an_answer_holds_a_batch_up_no_longer_than_is_bearable(
    cluster: Elastic, make: Make, items: Items, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outage, "PATIENCE", 0.2)
    new = await rolled_over(cluster, make, items)
    cluster.faults.add(hang(), when=lambda request: request.path.endswith("_search"), times=None)
    async with asyncio.timeout(5):
        assert (await new.send(items(new, 5))).counts == Counts(unsearched=5)
        assert (await new.send(items(new, 6)[-1:])).counts == Counts(unsearched=1)


async def test_failures_that_are_not_in_a_row_do_not_add_up(
    cluster: Elastic, make: Make, items: Items
) -> None:
    new = await rolled_over(cluster, make, items)
    for count in range(3, 8):
        cluster.faults.add(answer(503, b""), path=f"/{STREAM}/_search")
        with pytest.raises(Retryable):
            await new.send(items(new, count))
        assert (await new.send(items(new, count))).counts.unsearched == 0
    assert not cluster.stored.repeated()


async def test_what_a_shard_did_not_answer_for_may_be_a_repeat(
    cluster: Elastic, make: Make, items: Items
) -> None:
    new = await rolled_over(cluster, make, items)
    cluster.switches.unsearchable = frozenset({next(iter(cluster.indices[STREAM].backing))})
    assert (await new.send(items(new, 3))).counts == Counts(unsearched=3)
