"""What each answer means: taken, not taken, unknown; for the batch, for a record, for the sink."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsPartialSuccess,
    ExportLogsServiceResponse,
)
from structlog.testing import capture_logs
from tests.support.clock import FakeClock
from tests.support.daemon import eventually
from tests.support.delivering import World, opened

from auditrelay.deliver.deliverer import Deliverer
from auditrelay.errors import Refused, Rejected, RelayError, Retryable, TooLarge
from auditrelay.events import AuditEvent
from auditrelay.events.reduced import reduced
from auditrelay.sandbox import faults
from auditrelay.sandbox.faults import answer
from auditrelay.sandbox.siems.otlp import Otlp, failed
from auditrelay.sinks import Item, Sink, Verdict, otlp
from auditrelay.telemetry.metrics import Metrics

Make = Callable[..., Sink]
MakeEvent = Callable[..., AuditEvent]
Items = Callable[[Sink, int], list[Item]]

NOON = 1_767_268_800
PROTOBUF = {"Content-Type": "application/x-protobuf"}
JSON = {"Content-Type": "application/json"}
PLAIN = {"Content-Type": "text/plain; charset=utf-8"}


def partial(refused: int, said: str = "") -> bytes:
    inner = ExportLogsPartialSuccess(rejected_log_records=refused, error_message=said)
    content: bytes = ExportLogsServiceResponse(partial_success=inner).SerializeToString()
    return content


def partial_json(refused: object, said: object = "") -> bytes:
    inner = {"rejectedLogRecords": refused, "errorMessage": said}
    return json.dumps({"partialSuccess": inner}).encode()


# --- a success


@pytest.mark.parametrize("encoding", ["protobuf", "json"])
@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (200, b"\x0a\x00", PROTOBUF),  # a Collector
        (200, b'{"partialSuccess":{}}', JSON),  # the same, to JSON
        (200, b"{}", JSON),
        (200, b'{"partialSuccess":null}', JSON),
        (200, partial_json("0"), JSON),
        (200, partial_json(0), JSON),
        (200, b'{"partialSuccess":{"later":1},"more":2}', JSON),
        (200, b"\x12\x01x\x0a\x00", PROTOBUF),  # of a later version
        (200, b"\x0a\x00", PLAIN),
        (200, b"{}", {}),
        (202, b"\x0a\x00", PROTOBUF),
        (204, b"", {}),  # Grafana Loki
    ],
)
async def test_a_success_in_either_encoding_is_taken(
    collector: Otlp,
    make: Make,
    items: Items,
    encoding: str,
    status: int,
    body: bytes,
    headers: dict[str, str],
) -> None:
    sink = make(encoding=encoding)
    collector.fail_batches(answer(status, body, headers, process=True))
    assert await sink.send(items(sink, 2)) == Verdict()
    assert collector.stored.total == 2


async def test_an_empty_body_is_a_success_in_protobuf_and_proves_nothing_in_json(
    collector: Otlp, make: Make, items: Items
) -> None:
    """VictoriaLogs answers so; in JSON it is no answer."""
    collector.fail_batches(faults.empty(200), times=2)
    assert await make().send(items(make(), 2)) == Verdict()
    sink = make(encoding="json")
    with pytest.raises(Refused, match="is not a receiver of OTLP") as caught:
        await sink.send(items(sink, 2))
    assert caught.value.sent


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"OK", PLAIN),
        (b"ok", {}),
        (b"[]", JSON),
        (b'"ok"', JSON),
        (b'{"ok":true}', JSON),
        (b'{"partialSuccess":"ok"}', JSON),
        (b'{"partialSuccess":[]}', JSON),
        (partial_json("two"), JSON),
        (partial_json(1.5), JSON),
        (partial_json(refused=True), JSON),
        (partial_json("-1"), JSON),
        (partial_json(-1), JSON),
        (partial_json(3), JSON),
        (partial(3), PROTOBUF),
        (partial(-1), PROTOBUF),
        (b"\x0a", PROTOBUF),
        (b"\x08\x01", PROTOBUF),
        (b"\x0a\x02\x12\x05", PROTOBUF),
        (b"\x0a\x02\x10\x05", PROTOBUF),
        (b"\x0a\x04\x12\x02\xff\xff", PROTOBUF),
        (b"\x12\x00", {}),
        (b"\x0a\x02\x18\x01", {}),
        (b"{", PROTOBUF),
        (b"\x0a\x00", JSON),
    ],
)
async def test_a_success_in_other_words_holds_the_sink(
    collector: Otlp, make: Make, items: Items, body: bytes, headers: dict[str, str]
) -> None:
    sink = make()
    collector.fail_batches(answer(200, body, headers))
    with pytest.raises(Refused, match="is not a receiver of OTLP") as caught:
        await sink.send(items(sink, 2))
    assert caught.value.sent


@pytest.mark.parametrize(
    ("body", "headers"),
    [(partial(0, "slow\ndown"), PROTOBUF), (partial_json("0", "slow\ndown"), JSON)],
)
async def test_a_warning_comes_with_a_success(
    collector: Otlp, make: Make, items: Items, body: bytes, headers: dict[str, str]
) -> None:
    sink = make()
    collector.fail_batches(answer(200, body, headers))
    [warning] = (await sink.send(items(sink, 2))).warnings
    assert warning.startswith("slow")
    assert warning.isprintable()


# --- a partial success


@pytest.mark.parametrize(
    ("body", "headers"),
    [(partial(2, "no body"), PROTOBUF), (partial_json("2", "no body"), JSON)],
)
async def test_of_a_partial_success_each_is_sent_again_alone(
    collector: Otlp, make: Make, items: Items, body: bytes, headers: dict[str, str]
) -> None:
    sink = make()
    batch = items(sink, 5)
    collector.fail_batches(answer(200, body, headers))
    verdict = await sink.send(batch)
    assert verdict.retry == (0, 1, 2, 3, 4)
    assert verdict.counts.possibly_stored == 3
    assert verdict.retry_reason is None
    assert "refused 2 of 5 records without saying which" in verdict.warnings[0]
    assert "no body" in verdict.warnings[0]
    # Each alone, and no other.
    for left in (4, 3, 2, 1, 0):
        assert (await sink.send(batch[-left - 1 :])).retry == tuple(range(1, left + 1))
    assert collector.stored.uids == [item.uid for item in batch]
    # That was once.
    assert await sink.send(batch) == Verdict()


async def test_events_that_are_not_to_be_alone_go_together_up_to_the_first_that_is(
    collector: Otlp, make: Make, items: Items
) -> None:
    sink = make()
    batch = items(sink, 8)
    collector.fail_batches(answer(200, partial(1), PROTOBUF))
    await sink.send(batch[4:6])
    assert (await sink.send(batch)).retry == (4, 5, 6, 7)
    assert collector.stored.uids == [item.uid for item in batch[:4]]
    assert (await sink.send(batch[4:])).retry == (1, 2, 3)


async def test_one_that_is_refused_alone_is_named_and_the_others_come_next(
    collector: Otlp, make: Make, items: Items
) -> None:
    sink = make()
    batch = items(sink, 3)
    collector.refuses = lambda record: record.attributes["auditrelay.uid"] == batch[0].uid
    assert (await sink.send(batch)).retry == (0, 1, 2)
    verdict = await sink.send(batch)
    [rejection] = verdict.rejected
    assert (rejection.index, rejection.reason, rejection.status) == (0, "partial_success", 200)
    assert "refused 1 of 1 records: 1 records are not valid" in rejection.message
    assert verdict.retry == (1, 2)


async def test_one_that_fails_alone_stays_alone(collector: Otlp, make: Make, items: Items) -> None:
    sink = make()
    batch = items(sink, 2)
    collector.fail_batches(answer(200, partial(1), PROTOBUF))
    await sink.send(batch)
    collector.fail_batches(faults.html(503))
    with pytest.raises(Retryable):
        await sink.send(batch)
    assert (await sink.send(batch)).retry == (1,)


async def test_where_all_are_refused_none_is_stored_and_halves_find_out_why(
    collector: Otlp, make: Make, items: Items
) -> None:
    for mode in ("isolate", "count"):
        sink = make(partial=mode)
        collector.fail_batches(answer(200, partial(4, "too old"), PROTOBUF))
        with pytest.raises(Rejected, match="refused 4 of 4 records: too old") as caught:
            await sink.send(items(sink, 4))
        assert (caught.value.reason, caught.value.status) == ("partial_success", 200)


async def test_those_that_are_refused_may_be_counted_instead(
    collector: Otlp, make: Make, items: Items
) -> None:
    sink = make(partial="count")
    collector.refuse_next(2)
    verdict = await sink.send(items(sink, 5))
    assert (verdict.retry, verdict.rejected, verdict.counts.dropped) == ((), (), 2)
    assert "refused 2 of 5 records, which are counted as dropped" in verdict.warnings[0]
    assert len(collector.seen) == 1


# --- a failure


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize(
    ("status", "error", "sent"),
    [
        (400, Rejected, False),
        (401, Refused, False),
        (403, Refused, True),
        (404, Refused, False),
        (405, Refused, False),
        (408, Retryable, True),
        (413, TooLarge, False),
        (415, Refused, False),
        (422, Rejected, False),
        (429, Retryable, False),
        (500, Retryable, True),
        (501, Retryable, True),
        (502, Retryable, True),
        (503, Retryable, True),
        (504, Retryable, True),
    ],
)
async def test_each_status(
    collector: Otlp,
    make: Make,
    items: Items,
    status: int,
    error: type[RelayError],
    *,
    sent: bool,
    own: bool,
) -> None:
    sink = make()
    said = failed(status, 2, "what it says") if own else answer(status, b"what it says", PLAIN)
    collector.fail_batches(said)
    with pytest.raises(error, match="what it says") as caught:
        await sink.send(items(sink, 2))
    assert type(caught.value) is error
    # The answer of a hop behind a Collector says nothing about other hops.
    is_unknown = sent or (own and error in (Refused, Retryable))
    assert getattr(caught.value, "sent", False) == is_unknown
    passed_on = "a Collector answers so for what it sends to as well" in str(caught.value)
    assert passed_on == (own and error in (Refused, Retryable))


@pytest.mark.parametrize("encoding", ["protobuf", "json"])
async def test_a_body_that_is_too_large_is_halved_whatever_the_status(
    collector: Otlp, make: Make, items: Items, encoding: str
) -> None:
    """A Collector answers 400, as to a body that it cannot read."""
    collector.switches.max_bytes = 4000
    sink = make(encoding=encoding)
    with pytest.raises(TooLarge, match="request body too large") as caught:
        await sink.send(items(sink, 4))
    assert caught.value.status == 400
    assert await sink.send(items(sink, 1)) == Verdict()


async def test_where_not_even_an_empty_request_is_taken_no_event_is_the_cause(
    collector: Otlp, make: Make, items: Items
) -> None:
    collector.switches.terse = True
    sink = make(encoding="json")
    words = r"json encoding isn't supported.*not even a request without records.*check endpoint and"
    with pytest.raises(Refused, match=words) as caught:
        await sink.send(items(sink, 2))
    assert (caught.value.status, caught.value.sent) == (400, False)
    with pytest.raises(Refused, match="not even a request without records"):
        await sink.check()


async def test_a_question_that_is_not_answered_leaves_nothing_stored(
    collector: Otlp, make: Make, items: Items
) -> None:
    sink = make()
    collector.fail_batches(failed(400, 3))
    collector.faults.add(faults.store_then_reset(), when=lambda request: len(request.body) < 100)
    with pytest.raises(Retryable) as caught:
        await sink.send(items(sink, 2))
    assert not caught.value.sent


async def test_a_wait_may_be_given_as_a_date(collector: Otlp, make: Make, items: Items) -> None:
    collector.date = lambda: NOON
    sink = make()
    collector.MISBEHAVIOURS["429 until a date"](collector)
    with pytest.raises(Retryable, match="the rate limit is reached") as caught:
        await sink.send(items(sink, 2))
    assert caught.value.retry_after == 3


# --- check


async def test_check_sends_a_request_without_records(collector: Otlp, make: Make) -> None:
    for encoding in ("protobuf", "json"):
        assert await make(encoding=encoding).check() == f"{collector.url}/v1/logs takes log records"
    assert collector.stored.total == 0
    assert len(collector.seen) == 2


async def test_who_says_nothing_must_refuse_what_is_no_request(collector: Otlp, make: Make) -> None:
    collector.switches.terse = True
    assert "its answers have no words" in await make().check()
    assert collector.answered == {200: 1, 400: 1}
    collector.faults.add(faults.empty(200), times=None)
    with pytest.raises(Refused, match="is not a receiver of OTLP"):
        await make().check()
    collector.faults.clear()
    collector.faults.add(faults.empty(200))
    collector.faults.add(faults.html(502))
    with pytest.raises(Retryable) as caught:
        await make().check()
    assert not caught.value.sent


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"headers": {"X-Api-Key": "wrong-key-1"}}, "401.*Unauthorized.*check headers"),
        ({"headers": {}}, "401.*check headers"),
    ],
)
async def test_check_says_what_is_wrong(
    collector: Otlp, make: Make, keys: dict[str, Any], words: str
) -> None:
    with pytest.raises(Refused, match=words):
        await make(**keys).check()
    assert collector.stored.total == 0


# --- with the delivery loop and the store


@pytest.fixture
def speed() -> float:
    """A second of waiting takes a millisecond."""
    return 1000


@pytest.fixture
async def world(tmp_path: Path, event: MakeEvent, clock: FakeClock) -> AsyncIterator[World]:
    async with opened(tmp_path, event, clock) as world:
        world.metrics = Metrics(sinks=["sink"])
        yield world


async def deliver(world: World, collector: Otlp, **keys: Any) -> None:
    """Deliver until nothing waits."""
    given = {**collector.settings(), "timeout": "2s", "linger": "0s", "compression": "none", **keys}
    settings = otlp.Settings.model_validate(given)
    sink = otlp.build("sink", settings, world.metrics, world.clock)
    deliverer = Deliverer(
        "sink", settings, sink, store=world.store, metrics=world.metrics, clock=world.clock
    )
    task = asyncio.ensure_future(deliverer.keep_delivering())

    async def empty() -> bool:
        if task.done():
            task.result()
        return await world.backlog() == 0

    await eventually(empty)
    task.cancel()
    await asyncio.wait([task])
    await sink.close()


async def test_the_events_that_a_receiver_refuses_are_found_and_the_others_counted(
    collector: Otlp, world: World, event: MakeEvent
) -> None:
    bad = {event(number).uid: number for number in (3, 17)}
    collector.refuses = lambda record: record.attributes["auditrelay.uid"] in bad
    await world.spool(20)
    with capture_logs() as logs:
        await deliver(world, collector, batch_events=20)
    copies = {copy.uid for number in bad.values() if (copy := reduced(event(number), ""))}
    assert sorted(name for name, *_ in world.dead()) == ["17", "3"]
    expected = {event(number).uid for number in range(20)} - bad.keys() | copies
    assert set(collector.stored.by_uid) == expected
    repeated = collector.stored.repeated()
    assert len(repeated) == 18 == world.counted("events_possible_duplicate_total")
    assert set(repeated.values()) == {2}, "one isolation, and no more"
    warned = [line["warnings"] for line in logs if line["event"] == "sink_warned"]
    assert any("refused 2 of 20 records" in words for words in warned)


async def test_a_record_that_only_fails_behind_the_collector_delays_no_other(
    collector: Otlp, world: World, event: MakeEvent
) -> None:
    """A 500 is its word for whatever went wrong behind it: it says nothing about the records."""
    poison = event(3).uid.encode()
    collector.faults.add(failed(500, 13), when=lambda it: poison in it.body, times=None)
    await world.spool(20)
    settings = otlp.Settings.model_validate(
        {**collector.settings(), "linger": "0s", "compression": "none"}
    )
    sink = otlp.build("sink", settings, world.metrics, world.clock)
    deliverer = Deliverer(
        "sink", settings, sink, store=world.store, metrics=world.metrics, clock=world.clock
    )
    task = asyncio.ensure_future(deliverer.keep_delivering())
    await eventually(lambda: len(collector.stored.by_uid) == 19)
    assert not collector.stored.repeated()
    assert world.dead() == []
    collector.faults.clear()
    await eventually(lambda: len(collector.stored.by_uid) == 20)
    task.cancel()
    await asyncio.wait([task])
    await sink.close()


async def test_what_a_fan_out_has_stored_although_it_fails_is_counted(
    collector: Otlp, world: World
) -> None:
    collector.fail_batches(failed(429, 14, process=True))
    await world.spool(5)
    await deliver(world, collector)
    assert len(collector.stored.repeated()) == 5
    assert world.counted("events_possible_duplicate_total") == 5


async def test_a_record_that_is_refused_is_found_by_halves_and_its_copy_arrives(
    collector: Otlp, world: World, event: MakeEvent
) -> None:
    poison = event(3)

    record = json.dumps(bytes(poison.raw).decode())[1:-1].encode()
    collector.faults.add(failed(400, 3), when=lambda it: record in it.body, times=None)
    await world.spool(8)
    await deliver(world, collector)
    copy = reduced(poison, "")
    assert copy is not None
    assert [name for name, *_ in world.dead()] == ["3"]
    expected = {event(n).uid for n in range(8)} - {poison.uid} | {copy.uid}
    assert set(collector.stored.by_uid) == expected
    assert not collector.stored.repeated()
