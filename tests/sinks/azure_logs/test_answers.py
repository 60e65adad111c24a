"""What each answer means: taken, not taken, unknown; for the batch, for a row, for the sink."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.clock import FakeClock
from tests.support.daemon import eventually
from tests.support.delivering import World, opened

from auditrelay.deliver.deliverer import Deliverer
from auditrelay.errors import Refused, Rejected, RelayError, Retryable, TooLarge
from auditrelay.events import AuditEvent
from auditrelay.events.reduced import reduced
from auditrelay.sandbox import faults
from auditrelay.sandbox.faults import answer
from auditrelay.sandbox.messages import Request
from auditrelay.sandbox.siems.azure_logs import AzureLogs, aborted
from auditrelay.sinks import Item, Sink, Verdict, azure_logs
from auditrelay.telemetry.metrics import Metrics

Make = Callable[..., Sink]
MakeEvent = Callable[..., AuditEvent]
Items = Callable[[Sink, int], list[Item]]


def refusal(status: int, code: str = "Odd", *, process: bool = False) -> faults.Action:
    """Return a refusal in Azure's words."""
    body = json.dumps({"error": {"code": code, "message": f"message of Azure {code}"}}).encode()
    return answer(status, body, {"x-ms-error-code": code}, process=process)


@pytest.mark.parametrize("status", [200, 204])
async def test_a_success_is_taken(rule: AzureLogs, make: Make, items: Items, status: int) -> None:
    sink = make()
    rule.fail_batches(answer(status, process=True))
    assert await sink.send(items(sink, 2)) == Verdict()
    assert rule.stored.total == 2


@pytest.mark.parametrize(
    "action",
    [
        answer(201, process=True),
        answer(202, b"{}", process=True),
        faults.html(200),
        answer(200, b"<!doctype html>"),
        answer(200, b"OK"),
        answer(200, b'{"error": {"code": "Odd", "message": "not taken"}}'),
        answer(200, b"{" * 2**21),
    ],
)
async def test_any_other_success_is_not_azures_and_holds_the_sink(
    rule: AzureLogs, make: Make, items: Items, action: faults.Action
) -> None:
    sink = make()
    rule.fail_batches(action)
    with pytest.raises(Refused, match="is not the Logs Ingestion API of Azure") as caught:
        await sink.send(items(sink, 2))
    assert caught.value.sent


@pytest.mark.parametrize(
    ("status", "error", "sent"),
    [
        (400, Rejected, False),
        (401, Refused, False),
        (403, Refused, False),
        (404, Refused, False),
        (405, Refused, False),
        (408, Retryable, False),
        (409, Refused, False),
        (413, TooLarge, False),
        (415, Refused, False),
        (422, Rejected, False),
        (429, Retryable, False),
        (500, Retryable, True),
        (502, Retryable, True),
        (503, Retryable, True),
        (504, Retryable, True),
    ],
)
async def test_each_status_of_azures_own(
    rule: AzureLogs,
    make: Make,
    items: Items,
    status: int,
    error: type[RelayError],
    *,
    sent: bool,
) -> None:
    sink = make()
    rule.fail_batches(refusal(status), times=None)
    with pytest.raises(error, match="Odd: message of Azure") as caught:
        await sink.send(items(sink, 2))
    assert type(caught.value) is error
    assert getattr(caught.value, "sent", False) == sent
    asked = sum(seen.path.endswith("Custom-AuditRelay") for seen in rule.seen)
    # A 401 is answered with another token, a rejection with the question whether `[]` is taken.
    assert asked == (2 if status in (400, 401, 422) else 1)


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("body", [b"", b"Bad Request", b'{"message":"no"}'])
async def test_a_rejection_that_is_not_azures_makes_no_dead_letter(
    rule: AzureLogs, make: Make, items: Items, status: int, body: bytes
) -> None:
    sink = make()
    rule.fail_batches(answer(status, body))
    with pytest.raises(Refused, match="nothing shows that an event is the cause") as caught:
        await sink.send(items(sink, 2))
    assert caught.value.sent


async def test_where_not_even_an_empty_list_is_taken_no_row_is_the_cause(
    rule: AzureLogs, make: Make, items: Items
) -> None:
    sink = make(stream="Custom-Elsewhere")
    with pytest.raises(Refused, match=r"InvalidStream.*not even an empty list") as caught:
        await sink.send(items(sink, 2))
    assert (caught.value.status, caught.value.sent) == (400, False)
    with pytest.raises(Refused, match="not even an empty list"):
        await sink.check()


async def test_a_question_that_is_not_answered_leaves_nothing_stored(
    rule: AzureLogs, make: Make, items: Items
) -> None:
    sink = make()
    rule.fail_batches(refusal(400))
    rule.faults.add(faults.html(503), when=lambda request: request.content("gzip") == b"[]")
    with pytest.raises(Retryable) as caught:
        await sink.send(items(sink, 2))
    assert not caught.value.sent


async def test_a_404_for_a_large_body_makes_it_smaller_if_an_empty_one_is_taken(
    rule: AzureLogs, make: Make, items: Items
) -> None:
    """Vector's authors met it; of a small body it means what it says."""
    rule.switches.not_found_above = 70_000
    sink = make(compression="none")
    with pytest.raises(TooLarge) as caught:
        await sink.send(items(sink, 100))
    assert caught.value.status == 404
    rule.switches.not_found_above = 1_000
    with pytest.raises(Refused, match="check endpoint, rule_id and stream"):
        await sink.send(items(sink, 2))


async def test_a_body_that_azure_stopped_reading_is_sent_again_and_made_smaller(
    rule: AzureLogs, make: Make, items: Items
) -> None:
    sink = make()
    rule.fail_batches(aborted())
    with pytest.raises(Retryable) as caught:
        await sink.send(items(sink, 2))
    error = caught.value
    assert (error.reason, error.sent, error.while_sending) == ("aborted", False, True)


async def test_what_an_operator_needs_is_in_the_words(
    rule: AzureLogs, make: Make, items: Items
) -> None:
    sink = make()
    for status, words in (
        (401, "check cloud"),
        (403, "Monitoring Metrics Publisher.*up to 30 minutes"),
        (404, "check endpoint, rule_id and stream"),
    ):
        rule.fail_batches(refusal(status), times=2)
        with pytest.raises(Refused, match=words) as caught:
            await sink.send(items(sink, 2))
        rule.faults.clear()
        request_id = rule.seen[-1].headers["x-ms-client-request-id"]
        assert request_id in str(caught.value), "for Microsoft's support"


async def test_rows_that_are_too_far_apart_even_within_half_an_hour_hold_the_sink(
    rule: AzureLogs, make: Make, items: Items
) -> None:
    sink = make()
    rule.fail_batches(refusal(400, "RecordsTimeRangeIsMoreThan30Minutes"), times=2)
    assert await sink.send(items(sink, 3)) == Verdict(retry=(0, 1, 2))
    with pytest.raises(Refused, match="or the table another plan"):
        await sink.send(items(sink, 3))


async def test_check_sends_an_empty_list_to_each_stream(rule: AzureLogs, make: Make) -> None:
    words = await make().check()
    assert words == (
        f"{rule.url} takes rows for Custom-AuditRelay and Custom-AuditRelayAuthentication"
    )
    assert [seen.path.rpartition("/")[2] for seen in rule.seen] == [
        "Custom-AuditRelay",
        "Custom-AuditRelayAuthentication",
    ]
    assert rule.stored.total == 0
    assert not rule.log_errors
    with pytest.raises(Refused, match="InvalidStream"):
        await make(stream_authentication="Custom-Elsewhere").check()
    rule.take_rights()
    with pytest.raises(Refused, match="Monitoring Metrics Publisher"):
        await make().check()


@pytest.mark.parametrize("action", [answer(200), answer(202), faults.html(200)])
async def test_check_wants_azures_own_answer(
    rule: AzureLogs, make: Make, action: faults.Action
) -> None:
    rule.faults.add(action)
    with pytest.raises(Refused, match="is not the Logs Ingestion API"):
        await make().check()


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


async def deliver(world: World, rule: AzureLogs, **keys: Any) -> None:
    """Deliver until nothing waits."""
    given = {**rule.settings(), "timeout": "2s", "linger": "0s", "compression": "none", **keys}
    settings = azure_logs.Settings.model_validate(given)
    sink = azure_logs.build("sink", settings, world.metrics, world.clock)
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


async def test_rows_of_two_streams_arrive_once_whatever_their_order(
    rule: AzureLogs, world: World, event: MakeEvent
) -> None:
    def made(number: int, **keys: Any) -> AuditEvent:
        is_login = number % 3 == 0
        return event(number, **keys, **({"kind": "session", "verb": "login"} if is_login else {}))

    world.event = made
    await world.spool(100)
    await deliver(world, rule)
    assert rule.tables == {"Custom-AuditRelay": 66, "Custom-AuditRelayAuthentication": 34}
    assert len(rule.stored.by_uid) == 100
    assert not rule.stored.repeated()
    posts = sum(seen.method == "POST" for seen in rule.seen)
    assert posts == 2, "one for each stream"
    assert world.counted("events_possible_duplicate_total") == 0


async def test_a_row_that_is_refused_is_found_by_halves_and_its_copy_arrives(
    rule: AzureLogs, world: World, event: MakeEvent
) -> None:
    poison = event(3)

    def has_poison(request: Request) -> bool:
        return bytes(poison.raw) in request.body

    rule.faults.add(refusal(400), when=has_poison, times=None)
    await world.spool(8)
    await deliver(world, rule)
    copy = reduced(poison, "")
    assert copy is not None
    assert [name for name, *_ in world.dead()] == ["3"]
    assert set(rule.stored.by_uid) == {event(n).uid for n in range(8)} - {poison.uid} | {copy.uid}
    assert not rule.stored.repeated()


async def test_what_is_lost_on_the_way_back_is_counted_as_possible_duplicates(
    rule: AzureLogs, world: World
) -> None:
    await world.spool(5)
    rule.fail_batches(faults.store_then_reset())
    await deliver(world, rule)
    assert len(rule.stored.repeated()) == 5
    assert world.counted("events_possible_duplicate_total") == 5


async def test_a_failing_token_endpoint_is_no_possible_duplicate(
    rule: AzureLogs, world: World
) -> None:
    """The rows were not sent: only the token was asked for."""
    await world.spool(5)
    for action in (faults.html(503), faults.store_then_reset(), faults.hang(), faults.html(200)):
        rule.entra.faults.add(action)
    await deliver(world, rule)
    assert rule.stored.total == 5
    assert world.counted("events_possible_duplicate_total") == 0
    assert world.counted("requests_retried_total") == 4


async def test_a_rule_that_takes_only_half_a_megabyte_gets_halves(
    rule: AzureLogs, world: World
) -> None:
    rule.limit_body(20_000)
    await world.spool(100)
    await deliver(world, rule)
    assert rule.answered[413] > 0
    assert len(rule.stored.by_uid) == 100
    assert not rule.stored.repeated()


async def test_an_old_backlog_is_delivered_to_an_auxiliary_table_without_dead_letters(
    rule: AzureLogs, world: World, event: MakeEvent
) -> None:
    rule.switches.is_auxiliary = True
    hour = timedelta(hours=1) // timedelta(microseconds=1)
    world.event = lambda number, **keys: event(
        number, **keys, at=event(number).at - number % 5 * hour
    )
    await world.spool(50)
    await deliver(world, rule)
    assert len(rule.stored.by_uid) == 50
    assert world.dead() == []
    assert rule.answered[400] == 1
