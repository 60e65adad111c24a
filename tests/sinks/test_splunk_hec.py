"""Splunk HEC: the envelope, and what each of its codes means for a batch."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from pydantic import ValidationError
from tests.support.batches import item as item_of
from tests.support.batches import rendered
from tests.support.clock import FakeClock
from tests.support.daemon import eventually

from auditrelay.errors import Refused, Rejected, RelayError, Retryable
from auditrelay.events import AuditEvent
from auditrelay.sandbox.faults import Action, answer, hang, html, reset, rewrite, store_then_reset
from auditrelay.sandbox.messages import Request
from auditrelay.sandbox.siems.splunk_hec import CODES, TOKEN, Splunk
from auditrelay.sinks import AckId, Item, Sink, Unfit, Verdict, splunk_hec
from auditrelay.telemetry.metrics import Metrics

MakeEvent = Callable[..., AuditEvent]
Items = Callable[[Sink, int], list[Item]]
Batch = Callable[[Sink, Sequence[AuditEvent]], list[Item]]
Posted = Callable[[Sequence[Item]], list[list[int]]]


@pytest.fixture
async def splunk() -> AsyncIterator[Splunk]:
    async with Splunk() as double:
        yield double


@pytest.fixture
async def make(splunk: Splunk, clock: FakeClock) -> AsyncIterator[Callable[..., Sink]]:
    made: list[Sink] = []

    def build(**keys: Any) -> Sink:
        settings = splunk_hec.Settings.model_validate(
            {"type": "splunk_hec", "url": splunk.url, "token": TOKEN, "timeout": "10s", **keys}
        )
        made.append(splunk_hec.build("splunk", settings, Metrics(), clock))
        return made[-1]

    yield build
    for sink in made:
        await sink.close()


@pytest.fixture
def posted(splunk: Splunk) -> Posted:
    """Return which events of a batch each request contained, by their places."""
    bodies: list[bytes] = []

    def keep(request: Request) -> None:
        if request.path == "/services/collector/event":
            bodies.append(request.content("gzip"))

    splunk.on_request = keep
    return lambda sent: [
        [place for place, item in enumerate(sent) if item.uid.encode() in body] for body in bodies
    ]


def hec(status: int, code: object, number: object = None, **headers: str) -> Any:
    body: dict[str, object] = {"text": "message of Splunk", "code": code}
    if number is not None:
        body["invalid-event-number"] = number
    return answer(status, json.dumps(body).encode(), headers)


# --- the envelope ------------------------------------------------------------


async def test_the_indexed_event_has_its_own_time_and_metadata(
    splunk: Splunk, make: Callable[..., Sink], event: MakeEvent, batch: Batch
) -> None:
    sink = make()
    sent = event(1, at=1_767_268_800_123_456, message="fünf ☃")
    assert await sink.send(batch(sink, [sent])) == Verdict()
    (stored,) = splunk.stored.documents
    assert stored["time"] == 1_767_268_800.123456
    assert (stored["host"], stored["source"], stored["sourcetype"], stored["index"]) == (
        "api.bland.ai",
        "auditrelay:voice",
        "auditrelay:bland:audit",
        "main",
    )
    assert stored["fields"] == {
        "event_id": sent.uid,
        "cim_model": "Change",
        "auditrelay_kind": "pathway",
        "auditrelay_verb": "update",
    }
    assert stored["event"]["description"] == "fünf ☃"
    assert stored["event"]["vendor"] == {"id": 1, "event_type": "pathway.updated"}


async def test_the_settings_override_the_metadata_of_the_event(
    splunk: Splunk, make: Callable[..., Sink], items: Items
) -> None:
    sink = make(index="audit", sourcetype="st", source="src", host="h", format="raw")
    await sink.send(items(sink, 1))
    (stored,) = splunk.stored.documents
    assert [stored[key] for key in ("index", "sourcetype", "source", "host")] == [
        "audit",
        "st",
        "src",
        "h",
    ]
    assert stored["event"]["auditrelay"]["uid"] == stored["fields"]["event_id"]
    assert "cim_model" not in stored["fields"]


@pytest.mark.parametrize(
    ("at", "time"),
    [
        (0, b"0.000000"),
        (1, b"0.000001"),
        (-1, b"-0.000001"),
        (-1_500_000, b"-1.500000"),
        (10**22, b"10000000000000000.000000"),  # 1e+16 as a float
    ],
)
def test_the_time_is_a_plain_decimal_at_any_time(
    make: Callable[..., Sink], event: MakeEvent, at: int, time: bytes
) -> None:
    sink = make(format="raw")
    # No calendar has the last of them, so no form has to render it.
    sink._form = lambda _event, *, marks: {"a": 1}  # type: ignore[attr-defined]
    assert rendered(sink, event(1, at=at), at).text.startswith(b'{"time":%b,' % time)


@pytest.mark.parametrize("form", ["cim", "datadog", "ecs", "ocsf", "raw"])
async def test_every_form_is_accepted(
    splunk: Splunk, make: Callable[..., Sink], event: MakeEvent, batch: Batch, form: str
) -> None:
    sink = make(format=form)
    await sink.send(batch(sink, [event(1), event(2, api_host="")]))
    assert splunk.stored.uids == [event(1).uid, event(2).uid]
    kind = "audit" if form == "cim" else form
    assert splunk.stored.documents[0]["sourcetype"] == f"auditrelay:bland:{kind}"


# --- what the codes mean ------------------------------------------------------


def retry(*indices: int) -> Verdict:
    return Verdict(retry=indices)


@pytest.mark.parametrize(
    ("code", "reason"),
    [(6, "invalid_data_format"), (12, "event_required"), (13, "event_blank"), (15, None)],
)
async def test_a_bad_event_is_rejected_those_before_it_are_stored_and_the_rest_is_resent(
    splunk: Splunk,
    make: Callable[..., Sink],
    items: Items,
    code: int,
    reason: str | None,
) -> None:
    sink = make()
    sent = items(sink, 5)
    splunk.script(code, after=2)
    verdict = await sink.send(sent)
    (rejection,) = verdict.rejected
    assert (rejection.index, rejection.reason, rejection.status) == (
        2,
        reason or "invalid_fields",
        400,
    )
    assert rejection.message == f"{CODES[code][1]} (code {code})"
    assert (verdict.retry, verdict.retry_reason) == ((3, 4), None)
    assert splunk.stored.uids == [sent[0].uid, sent[1].uid]


@pytest.mark.parametrize(
    ("code", "number"),
    [(6, 5), *((code, odd) for code in (6, 7) for odd in (-1, 6, 99, True, 2.0, "2", [2]))],
)
async def test_a_number_that_names_no_event_is_about_the_batch_as_a_whole(
    splunk: Splunk,
    make: Callable[..., Sink],
    items: Items,
    code: int,
    number: object,
) -> None:
    sink = make()
    splunk.faults.add(hec(400, code, number))
    with pytest.raises(Rejected if code == 6 else Refused, match=r"\(code [67]\)"):
        await sink.send(items(sink, 5))


async def test_a_bad_event_without_a_number_rejects_the_batch_as_a_whole(
    splunk: Splunk, make: Callable[..., Sink], items: Items
) -> None:
    sink = make()
    splunk.script(6)
    with pytest.raises(Rejected, match=r"Invalid data format \(code 6\)"):
        await sink.send(items(sink, 2))


@pytest.mark.parametrize("quirk", [True, False])
async def test_a_wrong_index_is_found_by_sending_the_suspect_alone(
    splunk: Splunk, make: Callable[..., Sink], items: Items, posted: Posted, *, quirk: bool
) -> None:
    splunk.switches.index_quirk = quirk
    splunk.configure(indexes=("main",))
    sink = make()
    sent = items(sink, 5)
    # No setting gives events different indexes; a token whose list changes does.
    bad = msgspec.structs.replace(
        sent[3], text=sent[3].text.replace(b'"event":', b'"index":"no","event":', 1)
    )
    sent[3] = bad
    verdict = await sink.send(sent)
    assert (verdict.rejected, verdict.retry) == ((), (3, 4))
    with pytest.raises(Refused, match="the default index of the token does not exist"):
        await sink.send(sent[3:])  # where it is stored is no fault of an event
    assert set(splunk.stored.by_uid) == {item.uid for item in sent[:3]}
    repeated = splunk.stored.repeated()
    assert repeated == ({} if quirk else {sent[2].uid: 2})
    suspected = [[0, 1, 2, 3, 4], [3 if quirk else 2]]
    assert posted(sent) == [*suspected, [3, 4]]


async def test_a_configured_index_that_splunk_refuses_holds_the_sink(
    splunk: Splunk, make: Callable[..., Sink], items: Items
) -> None:
    splunk.configure(indexes=("main",))
    sink = make(index="typo")
    sent = items(sink, 3)
    for count in (3, 1):
        with pytest.raises(Refused, match="index: 'typo' does not exist"):
            await sink.send(sent[:count])
    assert splunk.stored.total == 0


@pytest.mark.parametrize(
    ("second", "rejected", "because", "possibly_stored"),
    [
        (hec(400, 6), "invalid_data_format", None, 1),
        (answer(413, b""), "too_large", None, 1),
        (hec(503, 9), None, "status_503", 1),
        (hec(500, 8), None, "status_500", 2),
        (reset(), None, "reset", 2),
        (hec(403, 1), None, "status_403", 1),
        (answer(404, b""), None, "status_404", 1),
    ],
)
async def test_the_suspect_of_a_wrong_index_is_not_lost_whatever_its_own_outcome(
    splunk: Splunk,
    make: Callable[..., Sink],
    items: Items,
    posted: Posted,
    *,
    second: Action,
    rejected: str | None,
    because: str | None,
    possibly_stored: int,
) -> None:
    sink = make()
    sent = items(sink, 5)
    splunk.faults.add(hec(400, 7, 3))
    splunk.faults.add(second)
    verdict = await sink.send(sent)
    assert posted(sent) == [[0, 1, 2, 3, 4], [2]]
    assert [(each.index, each.reason) for each in verdict.rejected] == (
        [] if rejected is None else [(2, rejected)]
    )
    assert verdict.retry == ((2, 3, 4) if rejected is None else (3, 4))
    assert (verdict.retry_reason and verdict.retry_reason.reason) == because
    assert verdict.counts.possibly_stored == possibly_stored


@pytest.mark.parametrize(
    ("status", "code"), [(503, 9), (503, 18), (503, 23), (500, 8), (429, 26), (429, 27)]
)
async def test_a_full_splunk_is_waited_for_and_stored_events_are_not_resent(
    splunk: Splunk,
    make: Callable[..., Sink],
    items: Items,
    status: int,
    code: int,
) -> None:
    sink = make()
    sent = items(sink, 5)
    splunk.faults.add(hec(status, code, 3, **{"Retry-After": "7"}))
    verdict = await sink.send(sent)
    assert (verdict.rejected, verdict.retry) == ((), (3, 4))
    assert verdict.retry_reason is not None
    assert (verdict.retry_reason.reason, verdict.retry_reason.retry_after) == (
        f"status_{status}",
        7.0,
    )
    for number in (None, 0, 5, -2, "3"):
        splunk.faults.add(hec(status, code, number))
        with pytest.raises(Retryable) as caught:
            await sink.send(sent)
        assert caught.value.reason == f"status_{status}"
        assert caught.value.sent is (status == 500)


@pytest.mark.parametrize("code", [24, 25])
async def test_a_queue_that_fills_up_accepts_the_batch_with_a_warning(
    splunk: Splunk, make: Callable[..., Sink], items: Items, code: int
) -> None:
    sink = make()
    splunk.script(code)
    verdict = await sink.send(items(sink, 1))
    assert verdict == Verdict(warnings=(f"{CODES[code][1]} (code {code})",), throttled=True)
    assert splunk.stored.total == 1


@pytest.mark.parametrize("code", [1, 2, 3, 4, 10, 11, 14, 16, 21, 22])
async def test_a_configuration_that_splunk_refuses_holds_the_sink(
    splunk: Splunk, make: Callable[..., Sink], items: Items, code: int
) -> None:
    sink = make()
    splunk.script(code)
    with pytest.raises(Refused) as caught:
        await sink.send(items(sink, 2))
    assert caught.value.status == CODES[code][0]
    assert CODES[code][1] in str(caught.value)
    assert TOKEN not in str(caught.value)


async def test_the_error_for_a_token_that_requires_acknowledgement_says_what_to_do(
    splunk: Splunk, make: Callable[..., Sink], items: Items
) -> None:
    splunk.configure(use_ack=True)
    sink = make()
    with pytest.raises(Refused, match="switch useACK off"):
        await sink.send(items(sink, 1))
    with pytest.raises(Refused, match="switch useACK off"):
        await sink.check()


@pytest.mark.parametrize("body", [b"", b"<html>400</html>", b"[]", b'{"text":"x"}'])
async def test_a_400_that_is_not_from_hec_rejects_no_event(
    splunk: Splunk, make: Callable[..., Sink], items: Items, body: bytes
) -> None:
    sink = make()
    splunk.faults.add(answer(400, body))
    with pytest.raises(Refused, match="check url"):
        await sink.send(items(sink, 1))


async def test_an_unknown_code_rejects_the_event_that_it_names_or_none(
    splunk: Splunk, make: Callable[..., Sink], items: Items
) -> None:
    sink = make()
    sent = items(sink, 3)
    splunk.faults.add(hec(400, 99, 1))
    verdict = await sink.send(sent)
    assert [(each.index, each.reason) for each in verdict.rejected] == [(1, "hec_99")]
    assert verdict.retry == (2,)
    splunk.faults.add(hec(400, 99))
    with pytest.raises(Refused):
        await sink.send(sent)


async def test_no_data_is_a_rejection_with_a_reason_of_its_own(
    splunk: Splunk, make: Callable[..., Sink], items: Items
) -> None:
    sink = make()
    splunk.script(5)
    with pytest.raises(Rejected) as caught:
        await sink.send(items(sink, 1))
    assert caught.value.reason == "no_data"


@pytest.mark.parametrize(
    "body", [b'{"text":"Success"}', b'{"code":"0"}', b'{"code":false}', b'{"code":9}', b"0"]
)
async def test_a_200_without_a_success_of_hec_proves_nothing(
    splunk: Splunk, make: Callable[..., Sink], items: Items, body: bytes
) -> None:
    sink = make()
    splunk.faults.add(answer(200, body))
    with pytest.raises(Refused, match="the address answers but is not a HEC") as caught:
        await sink.send(items(sink, 1))
    assert (caught.value.status, caught.value.sent) == (200, True)
    assert caught.value.is_success


async def test_a_web_page_with_a_200_is_no_success_but_may_be_of_one_event(
    splunk: Splunk, make: Callable[..., Sink], items: Items
) -> None:
    sink = make()
    splunk.faults.add(html(200))
    with pytest.raises(Refused, match="a web page") as caught:
        await sink.send(items(sink, 1))
    assert (caught.value.status, caught.value.sent) == (200, True)
    assert not caught.value.is_success


async def test_an_event_is_oversized_exactly_where_splunk_refuses_it(
    splunk: Splunk, make: Callable[..., Sink], event: MakeEvent
) -> None:
    sink = make(format="raw")

    def item(place: int, size: int) -> Item:
        empty = len(rendered(sink, event(place, raw=msgspec.Raw(b'""')), 0).text)
        padded = event(place, raw=msgspec.Raw(b'"%b"' % (b"x" * (size - empty))))
        text = rendered(sink, padded, 0)
        assert len(text.text) == size
        return item_of(place, padded, text, sink.limits)

    fits, exceeds = item(1, 5 * 2**20), item(2, 5 * 2**20 + 1)
    assert (fits.unfit, exceeds.text) == (None, b"")
    assert exceeds.unfit == Unfit("too_large", "5242881 bytes; the limit is 5242880")
    assert await sink.send([fits]) == Verdict()
    assert splunk.stored.uids == [fits.uid]


# --- every code, with and without the number of an event ------------------------

FATES: dict[int, tuple[str | type[RelayError], str | type[RelayError]]] = {
    # code: the outcome of four events, without a number and with the number 2.
    # d delivered, x rejected, r retried, a resent alone and accepted; or the error raised
    0: ("dddd", "dddd"),
    1: (Refused, Refused),
    2: (Refused, Refused),
    3: (Refused, Refused),
    4: (Refused, Refused),
    5: (Rejected, "ddxr"),
    6: (Rejected, "ddxr"),
    7: (Refused, "darr"),
    8: (Retryable, "ddrr"),
    9: (Retryable, "ddrr"),
    10: (Refused, Refused),
    11: (Refused, Refused),
    12: (Rejected, "ddxr"),
    13: (Rejected, "ddxr"),
    14: (Refused, Refused),
    15: (Rejected, "ddxr"),
    16: (Refused, Refused),
    17: (Refused, Refused),
    18: (Retryable, "ddrr"),
    19: (Retryable, "ddrr"),
    20: (Retryable, "ddrr"),
    21: (Refused, Refused),
    22: (Refused, Refused),
    23: (Retryable, "ddrr"),
    24: ("dddd", "dddd"),
    25: ("dddd", "dddd"),
    26: (Retryable, "ddrr"),
    27: (Retryable, "ddrr"),
}


def fate(verdict: Verdict, count: int, alone: Sequence[int]) -> str:
    """Return a letter for each event, and check that each is named at most once."""
    named = [*verdict.retry, *(each.index for each in verdict.rejected)]
    assert len(named) == len(set(named))
    letters = ["d"] * count
    for letter, indices in (
        ("a", alone),
        ("r", verdict.retry),
        ("x", [each.index for each in verdict.rejected]),
    ):
        for index in indices:
            letters[index] = letter
    return "".join(letters)


def test_every_code_of_the_double_has_a_row() -> None:
    assert set(FATES) == set(CODES)


@pytest.mark.parametrize("ack", [False, True], ids=["plain", "ack"])
@pytest.mark.parametrize("number", [None, 2])
@pytest.mark.parametrize("code", FATES)
async def test_each_code_gives_each_event_an_outcome(
    splunk: Splunk,
    make: Callable[..., Sink],
    items: Items,
    posted: Posted,
    *,
    code: int,
    number: int | None,
    ack: bool,
) -> None:
    splunk.configure(use_ack=ack)
    sink = make(ack=ack)
    body: dict[str, object] = {"text": CODES[code][1], "code": code, "ackId": 0}
    if number is not None:
        body["invalid-event-number"] = number
    splunk.faults.add(
        answer(CODES[code][0], json.dumps(body).encode()), path="/services/collector/event"
    )
    expected = FATES[code][number is not None]
    if not isinstance(expected, str):
        with pytest.raises(expected) as caught:
            await sink.send(items(sink, 4))
        assert f"(code {code})" in str(caught.value) or code == 17
        return
    sent = items(sink, 4)
    verdict = await sink.send(sent)
    first, *others = posted(sent)
    assert first == [0, 1, 2, 3]
    alone = [index for request in others for index in request]
    assert len(others) == len(alone) == expected.count("a")
    whole = expected == "dddd"
    # Events before the bad one have no ackId, so they could never be acknowledged.
    expected_fate = expected.replace("d", "r") if ack and not whole else expected
    assert fate(verdict, 4, alone) == expected_fate
    assert (verdict.ack_id is not None) == (ack and (whole or "a" in expected))
    before = expected.count("d") if ack and not whole else 0
    assert verdict.counts.possibly_stored == before + ("a" in expected)
    assert verdict.throttled == (code in (24, 25))
    assert (verdict.retry_reason is not None) == (CODES[code][0] in (429, 500, 503))


# --- indexer acknowledgement --------------------------------------------------


@pytest.fixture
def acking(splunk: Splunk, make: Callable[..., Sink]) -> Sink:
    splunk.configure(use_ack=True)
    return make(ack=True)


async def taken(sink: Sink, batch: list[Item]) -> AckId:
    ack_id = (await sink.send(batch)).ack_id
    assert ack_id is not None
    return ack_id


async def acknowledged(*ack_ids: AckId) -> set[int]:
    (channel,) = {ack_id.channel for ack_id in ack_ids}
    return await channel.acknowledged([ack_id.number for ack_id in ack_ids])


def polls(splunk: Splunk) -> list[Any]:
    return [seen for seen in splunk.seen if seen.path == "/services/collector/ack"]


def channels(splunk: Splunk) -> list[str]:
    """Return the channels of the batches, in the order of their first batch."""
    used = [
        seen.headers["x-splunk-request-channel"]
        for seen in splunk.seen
        if seen.path == "/services/collector/event"
    ]
    return list(dict.fromkeys(used))


async def test_batches_are_acknowledged_later_many_in_one_poll(
    splunk: Splunk, acking: Sink, items: Items
) -> None:
    splunk.switches.ack_after = 1
    ack_ids = [await taken(acking, items(acking, 2)) for _ in range(3)]
    assert [ack_id.number for ack_id in ack_ids] == [0, 1, 2]
    before = len(polls(splunk))
    assert await acknowledged(*ack_ids) == set()
    assert await acknowledged(*ack_ids) == {0, 1, 2}
    assert len(polls(splunk)) == before + 2
    assert await acknowledged(*ack_ids) == set(), "the double reports each only once"


async def test_every_sink_has_a_channel_of_its_own_that_is_a_guid(
    splunk: Splunk, make: Callable[..., Sink], items: Items
) -> None:
    splunk.configure(use_ack=True)
    for _ in range(2):
        sink = make(ack=True)
        await taken(sink, items(sink, 1))
        await taken(sink, items(sink, 1))
    used = channels(splunk)
    assert len(used) == 2
    assert all(uuid.UUID(each).version == 4 for each in used)


async def test_without_ack_there_is_no_channel_and_no_poll(
    splunk: Splunk, make: Callable[..., Sink], items: Items
) -> None:
    sink = make()
    assert (await sink.send(items(sink, 1))).ack_id is None
    await sink.check()
    assert not polls(splunk)
    assert not any("x-splunk-request-channel" in seen.headers for seen in splunk.seen)


async def test_polls_go_to_the_node_that_accepted_the_batch(
    splunk: Splunk, acking: Sink, items: Items
) -> None:
    splunk.switches.nodes = 3
    ack_ids = await asyncio.gather(*(taken(acking, items(acking, 1)) for _ in range(8)))
    assert sorted(ack_id.number for ack_id in ack_ids) == list(range(8))
    assert await acknowledged(*ack_ids) == set(range(8))


async def test_a_cookie_that_is_renewed_with_every_response_is_followed(
    splunk: Splunk, acking: Sink, items: Items
) -> None:
    count = iter(range(100))

    def renewed(_: Any, response: Any) -> Any:
        cookie = f"LB={next(count)}; Path=/; HttpOnly"
        return replace(response, headers={**response.headers, "Set-Cookie": cookie})

    splunk.faults.add(rewrite(renewed), times=None)
    ack_ids = [await taken(acking, items(acking, 1)) for _ in range(3)]
    assert await acknowledged(*ack_ids) == {0, 1, 2}
    sent = [seen.headers.get("cookie") for seen in splunk.seen]
    assert sent == [None, "LB=0", "LB=1", "LB=2", "LB=3"]


async def test_a_repeated_ackid_makes_nothing_delivered(
    splunk: Splunk, acking: Sink, items: Items
) -> None:
    first = await taken(acking, items(acking, 1))
    splunk.forget_channels()
    with pytest.raises(Retryable) as caught:
        await acking.send(items(acking, 2))
    assert (caught.value.reason, caught.value.sent) == ("channel_lost", True)
    assert first.channel.lost
    # The node would answer true, but for the other batch.
    assert await acknowledged(first) == set()
    second = await taken(acking, items(acking, 1))
    assert second.channel is not first.channel
    assert len(channels(splunk)) == 2


async def test_an_acknowledgement_that_may_be_for_a_batch_in_flight_is_ignored(
    splunk: Splunk, acking: Sink, items: Items
) -> None:
    first = await taken(acking, items(acking, 1))
    splunk.crash()
    # The next batch gets the number 0 again; while its response drips, 0 is polled.
    splunk.faults.add(Action(drip=(10, 0.05)), path="/services/collector/event")
    sending = asyncio.ensure_future(acking.send(items(acking, 1)))
    await eventually(lambda: splunk.stored.total)
    assert await acknowledged(first) == set(), "it was lost in the crash"
    with pytest.raises(Retryable):
        await sending


async def test_a_channel_that_was_cleaned_up_while_idle_is_still_used(
    splunk: Splunk, acking: Sink, items: Items
) -> None:
    for _ in range(3):
        ack_ids = [await taken(acking, items(acking, 1)) for _ in range(2)]
        assert await acknowledged(*ack_ids) == {0, 1}
        splunk.forget_channels()
    assert len(channels(splunk)) == 1


@pytest.mark.parametrize("fault", [reset(), store_then_reset(), hang(), html(502)])
async def test_after_an_unknown_outcome_a_new_channel_is_used_and_the_old_one_still_polled(
    splunk: Splunk, make: Callable[..., Sink], items: Items, fault: Any
) -> None:
    splunk.configure(use_ack=True)
    sink = make(ack=True, timeout="1s")
    first = await taken(sink, items(sink, 1))
    splunk.faults.add(fault, path="/services/collector/event")
    with pytest.raises(Retryable):
        await sink.send(items(sink, 1))
    second = await taken(sink, items(sink, 1))
    assert second.channel is not first.channel
    assert await acknowledged(first) == {0}
    assert await acknowledged(second) == {0}


async def test_a_full_ack_channel_is_replaced(splunk: Splunk, acking: Sink, items: Items) -> None:
    await taken(acking, items(acking, 1))
    splunk.script(27)
    with pytest.raises(Retryable):
        await acking.send(items(acking, 1))
    await taken(acking, items(acking, 1))
    assert len(channels(splunk)) == 2
    splunk.script(25)
    verdict = await acking.send(items(acking, 1))
    assert verdict.throttled
    assert verdict.ack_id is not None


async def test_a_token_that_does_not_acknowledge_is_found_out_before_anything_is_stored(
    splunk: Splunk, make: Callable[..., Sink], items: Items
) -> None:
    sink = make(ack=True)
    for work in (sink.send(items(sink, 1)), sink.send(items(sink, 1)), sink.check()):
        with pytest.raises(Refused, match="switch useACK on") as caught:
            await work
        assert not caught.value.sent
    assert splunk.stored.total == 0


async def test_a_200_without_an_ackid_holds_the_sink(
    splunk: Splunk, acking: Sink, items: Items
) -> None:
    await taken(acking, items(acking, 1))
    splunk.configure(use_ack=False)  # while the request is in flight
    with pytest.raises(Refused, match="without an ackId") as caught:
        await acking.send(items(acking, 1))
    assert caught.value.sent, "it may be stored twice later"
    stored = splunk.stored.total
    with pytest.raises(Refused, match="switch useACK on"):
        await acking.send(items(acking, 1))
    assert splunk.stored.total == stored, "every attempt would store it again"


@pytest.mark.parametrize(
    "refusal",
    [answer(404), answer(405), html(401), html(403), hec(400, 14), hec(400, 10), hec(400, 11)],
)
async def test_an_ack_endpoint_that_refuses_acknowledges_nothing(
    splunk: Splunk, acking: Sink, items: Items, refusal: Any
) -> None:
    ack_id = await taken(acking, items(acking, 1))
    splunk.faults.add(refusal, path="*/ack")
    with pytest.raises(Refused):
        await acknowledged(ack_id)
    assert await acknowledged(ack_id) == {0}


@pytest.mark.parametrize(
    "nothing",
    [
        html(503),
        html(200),
        answer(200),
        answer(200, b"{}"),
        answer(200, b'{"acks":[true]}'),
        hec(503, 19),
        reset(),
    ],
)
async def test_an_unexpected_response_acknowledges_nothing(
    splunk: Splunk, acking: Sink, items: Items, nothing: Any
) -> None:
    ack_id = await taken(acking, items(acking, 1))
    splunk.faults.add(nothing, path="*/ack")
    with pytest.raises(Retryable):
        await acknowledged(ack_id)
    assert await acknowledged(ack_id) == {0}


@pytest.mark.parametrize("value", [b"1", b'"true"', b"null", b"[]"])
async def test_only_true_is_an_acknowledgement(
    splunk: Splunk, acking: Sink, items: Items, value: bytes
) -> None:
    ack_id = await taken(acking, items(acking, 1))
    body = b'{"acks":{"0":%b,"7":true}}' % value
    splunk.faults.add(answer(200, body), path="*/ack")
    assert await acknowledged(ack_id) == set()


async def test_an_ack_service_that_is_down_delays_and_is_no_duplicate(
    splunk: Splunk, acking: Sink, items: Items
) -> None:
    splunk.faults.add(html(500), path="*/ack")
    with pytest.raises(Retryable) as caught:
        await acking.send(items(acking, 1))
    assert not caught.value.sent
    assert splunk.stored.total == 0
    await taken(acking, items(acking, 1))


async def test_a_channel_that_splunk_does_not_know_yet_is_used(
    splunk: Splunk, acking: Sink, items: Items
) -> None:
    splunk.faults.add(hec(400, 11), path="*/ack")
    await taken(acking, items(acking, 1))
    assert splunk.stored.total == 1


async def test_check_with_ack_proves_that_the_token_acknowledges_and_stores_nothing(
    splunk: Splunk, acking: Sink
) -> None:
    assert (await acking.check()).endswith("accepts the token, which acknowledges")
    assert splunk.stored.total == 0
    splunk.switches.health = 19
    with pytest.raises(Retryable, match="ack service"):
        await acking.check()


# --- what other clients got wrong ----------------------------------------------


async def test_events_after_a_bad_one_do_not_count_as_delivered(
    splunk: Splunk, make: Callable[..., Sink], items: Items
) -> None:
    sink = make()
    sent = items(sink, 9)
    for place in (2, 5):  # permanently broken, unlike any event that we render
        sent[place] = msgspec.structs.replace(sent[place], text=sent[place].text[:-1])
    todo, dead = [sent], []
    while todo:
        now = todo.pop(0)
        verdict = await sink.send(now)
        dead += [now[each.index].position for each in verdict.rejected]
        if verdict.retry:
            todo.append([now[index] for index in verdict.retry])
    assert dead == [2, 5]
    assert not splunk.stored.repeated()
    assert len(splunk.stored.by_uid) == 7


async def test_with_ack_no_event_is_stored_more_than_twice_however_many_are_bad(
    splunk: Splunk, acking: Sink, items: Items
) -> None:
    sent = items(acking, 12)
    for place in (2, 5, 9):
        sent[place] = msgspec.structs.replace(sent[place], text=sent[place].text[:-1])
    now, possibly_stored = sent, 0
    while True:
        verdict = await acking.send(now)
        possibly_stored += verdict.counts.possibly_stored
        if verdict.ack_id is not None:
            break
        now = [now[index] for index in verdict.retry]
    assert {item.position for item in now} == set(range(12)) - {2, 5, 9}
    repeated = splunk.stored.repeated()
    assert set(repeated.values()) <= {2}
    assert len(repeated) == possibly_stored


@pytest.mark.parametrize("status", [201, 202, 204, 206, 226])
async def test_not_every_2xx_is_a_success(
    splunk: Splunk, make: Callable[..., Sink], items: Items, status: int
) -> None:
    sink = make()
    splunk.faults.add(answer(status, b"" if status == 204 else b'{"text":"Success","code":0}'))
    with pytest.raises(Refused) as caught:
        await sink.send(items(sink, 1))
    assert caught.value.sent


# --- check --------------------------------------------------------------------


async def test_check_proves_the_token_and_stores_nothing(
    splunk: Splunk, make: Callable[..., Sink]
) -> None:
    assert await make().check() == f"HEC at {splunk.url} is healthy and accepts the token"
    assert splunk.stored.total == 0


@pytest.mark.parametrize("token", ["wrong", "disabled"])
async def test_check_refuses_a_token_that_splunk_does_not_accept(
    splunk: Splunk, make: Callable[..., Sink], token: str
) -> None:
    if token == "disabled":
        splunk.configure(enabled=False)
        token = TOKEN
    with pytest.raises(Refused):
        await make(token=token).check()
    # A health endpoint that accepts any token proves nothing.
    splunk.faults.add(hec(200, 17), method="GET")
    with pytest.raises(Refused):
        await make(token=token).check()


async def test_check_distinguishes_an_unhealthy_splunk_from_another_server(
    splunk: Splunk, make: Callable[..., Sink]
) -> None:
    splunk.switches.health = 18
    with pytest.raises(Retryable, match="queues are full"):
        await make().check()
    splunk.switches.health = 17
    splunk.faults.add(html(200), method="POST")
    with pytest.raises(RelayError, match="is not a HEC"):
        await make().check()


# --- settings -----------------------------------------------------------------

HTTPS: dict[str, Any] = {"type": "splunk_hec", "url": "https://splunk.example.com", "token": "t"}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"url": "http://splunk.example.com:8088"},
            "plain http would send the credentials in clear text",
        ),
        ({"url": "https://u:p@splunk.example.com"}, "user name or password"),
        ({"url": "https://splunk.example.com/services/collector/event"}, "leave out /services"),
        ({"index": ""}, "at least 1 character"),
        ({"batch_bytes": 838_860_801}, "less than or equal to 838860800"),
        ({"ack_timeout": "0s"}, "greater than 0"),
        ({"ack_timeout": 300}, "is not a duration"),
        ({"format": "leef"}, "'cim'"),
        ({"token": ""}, "is empty"),
    ],
)
def test_a_wrong_setting_says_what_is_wrong(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        splunk_hec.Settings.model_validate({**HTTPS, **keys})


def test_the_defaults_are_those_of_the_documentation() -> None:
    settings = splunk_hec.Settings.model_validate(HTTPS)
    assert (settings.format, settings.index, settings.compression, settings.concurrency) == (
        "cim",
        None,
        "gzip",
        4,
    )
    assert "'t'" not in repr(settings)
