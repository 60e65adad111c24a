"""Datadog: the rendered log, and what the responses of the intake mean."""

import json
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.conftest import make_event
from tests.support.batches import item as item_of
from tests.support.batches import rendered
from tests.support.clock import FakeClock
from tests.support.extent import extent

from auditrelay.errors import Refused, Rejected, Retryable, TooLarge
from auditrelay.events import AuditEvent
from auditrelay.events.timestamps import iso_ms
from auditrelay.sandbox.faults import answer
from auditrelay.sandbox.siems.datadog import API_KEY, Datadog, throttled
from auditrelay.sinks import Item, Sink, Unfit, Verdict, datadog
from auditrelay.telemetry.metrics import Metrics
from auditrelay.window import micros

MakeEvent = Callable[..., AuditEvent]
Items = Callable[[Sink, int], list[Item]]
Batch = Callable[[Sink, Sequence[AuditEvent]], list[Item]]

NOON = 1_767_268_800
REQUIRED: dict[str, Any] = {"type": "datadog", "api_key": "k"}


@pytest.fixture
async def intake() -> AsyncIterator[Datadog]:
    async with Datadog(clock=lambda: NOON) as double:
        yield double


@pytest.fixture
async def make(intake: Datadog, clock: FakeClock) -> AsyncIterator[Callable[..., Sink]]:
    made: list[Sink] = []

    def build(**keys: Any) -> Sink:
        settings = datadog.Settings.model_validate(
            {"type": "datadog", "url": intake.url, "api_key": API_KEY, "timeout": "10s", **keys}
        )
        made.append(datadog.build("datadog", settings, Metrics(), clock))
        return made[-1]

    yield build
    for sink in made:
        await sink.close()


async def test_a_log_has_its_time_source_tags_and_id(
    intake: Datadog, make: Callable[..., Sink], event: MakeEvent, batch: Batch
) -> None:
    sink = make(service="audit", tags={"env": "prod"})
    sent = event(1, message="fünf ☃", tags=(("team", "sec"),))
    assert await sink.send(batch(sink, [sent])) == Verdict()
    (log,) = intake.stored.documents
    assert log["timestamp"] == "2026-01-01T12:00:01.000Z"
    assert (log["ddsource"], log["service"], log["hostname"], log["message"]) == (
        "bland",
        "audit",
        "api.bland.ai",
        "fünf ☃",
    )
    assert log["evt"]["id"] == sent.uid
    assert {"source_instance:voice", "team:sec", "env:prod"} <= set(log["ddtags"].split(","))


@pytest.mark.parametrize("form", ["cim", "ecs", "ocsf", "raw"])
async def test_another_form_is_under_a_key_of_its_own(
    intake: Datadog, make: Callable[..., Sink], event: MakeEvent, batch: Batch, form: str
) -> None:
    own, other = make(), make(format=form, service="audit")
    await own.send(batch(own, [event(1)]))
    await other.send(batch(other, [event(1)]))
    log, wrapped = intake.stored.documents
    kept = ("ddsource", "ddtags", "hostname", "message", "status", "timestamp")
    assert {key: wrapped[key] for key in kept} == {key: log[key] for key in kept}
    assert wrapped["evt"] == {"id": event(1).uid}
    assert wrapped["service"] == "audit"
    assert set(wrapped) == {*kept, "evt", "service", form}
    assert event(1).uid in json.dumps(wrapped[form])


async def test_a_request_never_exceeds_what_datadog_accepts(
    intake: Datadog, make: Callable[..., Sink], items: Items
) -> None:
    sink = make(batch_bytes=5_000_000)
    text = b'{"x":"%b"}'
    most = sink.limits
    size = most.bytes // 10 - most.overhead
    batch = items(sink, 10)
    full = [msgspec.structs.replace(item, text=text % (b"x" * (size - 8))) for item in batch]
    assert len(full[0].text) == size
    last = full[-1].text[:-2] + b"x" * (most.bytes - 10 * (size + most.overhead)) + b'"}'
    full[-1] = msgspec.structs.replace(batch[9], text=last)
    await sink.send(full)  # to the byte
    assert intake.answered[202] == 1
    full[-1] = msgspec.structs.replace(batch[9], text=last[:-2] + b'x"}')
    with pytest.raises(TooLarge):
        await sink.send(full)


@pytest.mark.parametrize("age", [0, 2 * 86_400 * 10**6])
async def test_a_log_is_oversized_exactly_where_datadog_truncates_it(
    intake: Datadog, make: Callable[..., Sink], event: MakeEvent, age: int
) -> None:
    sink = make()
    now = NOON * 10**6

    def item(place: int, size: int) -> Item:
        empty = len(rendered(sink, event(place, at=now - age, message=""), now).text)
        padded = event(place, at=now - age, message="x" * (size - empty))
        text = rendered(sink, padded, now)
        assert len(text.text) == size
        return item_of(place, padded, text, sink.limits)

    fits, exceeds = item(1, 1_000_000), item(2, 1_000_001)
    assert (fits.unfit, exceeds.text) == (None, b"")
    assert exceeds.unfit == Unfit("too_large", "1000001 bytes; the limit is 1000000")
    await sink.send([fits])
    assert intake.truncated == 0
    assert intake.stored.uids == [fits.uid]


HOUR, MINUTE = 3_600_000_000, 60_000_000
OUTSIDE = (-18 * HOUR, 2 * HOUR)
INSIDE = (-18 * HOUR + 120_000_000, 0, 2 * HOUR - 120_000_000)


async def test_a_log_of_a_time_that_datadog_does_not_index_is_restamped(
    intake: Datadog,
    make: Callable[..., Sink],
    event: Callable[..., AuditEvent],
    batch: Callable[[Sink, Sequence[AuditEvent]], list[Item]],
) -> None:
    sink = make()
    times = [NOON * 10**6 + offset for offset in (*OUTSIDE, *INSIDE)]
    verdict = await sink.send(batch(sink, [event(n, at=at) for n, at in enumerate(times)]))
    assert (verdict.rejected, verdict.counts.restamped) == ((), 2)
    assert (intake.stored.total, intake.not_indexed.total) == (5, 0)
    logs = {log["evt"]["id"]: log for log in intake.stored.documents}
    for number, original in enumerate(
        ("2025-12-31T18:00:00.000000Z", "2026-01-01T14:00:00.000000Z")
    ):
        log = logs[event(number).uid]
        assert log["timestamp"] == "2026-01-01T12:00:00.000Z"
        assert log["evt"]["original_timestamp"] == original
        assert log["auditrelay"]["restamped"] is True
    for number in (2, 3, 4):
        log = logs[event(number).uid]
        assert "restamped" not in log["auditrelay"]
        assert "original_timestamp" not in log["evt"]


async def test_a_log_of_a_time_that_datadog_does_not_index_is_a_dead_letter_if_so_configured(
    intake: Datadog,
    make: Callable[..., Sink],
    event: Callable[..., AuditEvent],
    batch: Callable[[Sink, Sequence[AuditEvent]], list[Item]],
) -> None:
    sink = make(too_old="dead_letter")
    times = [NOON * 10**6 + offset for offset in (*OUTSIDE, *INSIDE)]
    old, future, *inside = batch(sink, [event(n, at=at) for n, at in enumerate(times)])
    assert old.unfit == Unfit(
        "too_old",
        "happened at 2025-12-31T18:00:00.000000Z, more than 18 h ago: Datadog would not index it",
    )
    assert future.unfit is not None
    assert future.unfit.reason == "in_future"
    assert "more than 2 h ahead" in future.unfit.message
    assert (await sink.send(inside)).counts.restamped == 0
    assert (intake.stored.total, intake.not_indexed.total) == (3, 0)


@pytest.mark.parametrize("too_old", ["restamp", "dead_letter"])
def test_a_log_may_be_sent_as_long_as_datadog_indexes_it(
    make: Callable[..., Sink], event: MakeEvent, too_old: str
) -> None:
    """An event that is sent at another time is rendered again, with what is true then."""
    sink = make(too_old=too_old)
    at = event(1).at
    at_once = rendered(sink, event(1), at)
    youngest, oldest = at_once.ages
    assert (youngest, oldest) == (-2 * HOUR + MINUTE, 18 * HOUR - MINUTE)
    for age in (youngest, oldest):
        assert rendered(sink, event(1), at + age) == at_once
    for age in (youngest - 1, oldest + 1):
        other = rendered(sink, event(1), at + age)
        assert other != at_once
        assert other.ages == (age - MINUTE, age + MINUTE)
        assert (other.unfit is not None) == (too_old == "dead_letter")


ODD = '","timestamp":"1","evt":{"id":"x"},"auditrelay":{"restamped":'
FORM_NAMES = ["datadog", "cim", "ecs", "ocsf", "raw"]


@pytest.mark.parametrize("form", FORM_NAMES)
@pytest.mark.parametrize(
    "raw",
    [
        b'{"t":"\\ud800"}',
        b'{"n":1e400,"m":1.10,"o":123456789012345678901234567890}',
        b'{"a":1,"a":2}',
        b'{"timestamp":"2020","evt":{"id":"7"},"auditrelay":{"x":1}}',
        json.dumps({"t": ODD}).encode(),
    ],
)
async def test_a_restamped_log_differs_in_its_time_only(
    intake: Datadog,
    make: Callable[..., Sink],
    event: MakeEvent,
    batch: Batch,
    raw: bytes,
    form: str,
) -> None:
    sink = make(format=form, compression="none")
    bodies: list[bytes] = []
    intake.on_request = lambda request: bodies.append(request.body)
    old = event(1, at=(NOON - 86400) * 10**6, raw=msgspec.Raw(raw), message=ODD, reason=ODD)
    text = rendered(sink, old, old.at).text
    assert (await sink.send(batch(sink, [old]))).counts.restamped == 1
    (body,) = bodies
    sent = body[1:-1]
    if raw in text:  # a form may contain the record as a text, or not at all
        assert raw in sent
    before, after = json.loads(text), json.loads(sent)
    assert after.pop("timestamp") == "2026-01-01T12:00:00.000Z"
    del before["timestamp"]
    assert after["evt"].pop("original_timestamp") == "2025-12-31T12:00:00.000000Z"
    assert after["auditrelay"].pop("restamped") is True
    if form != "datadog":
        assert after.pop("auditrelay") == {}
    assert after == before


TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@settings(max_examples=extent(80, 400), deadline=None)
@given(message=TEXT, source=TEXT, tag=TEXT, host=TEXT, form=st.sampled_from(FORM_NAMES))
def test_a_log_of_any_content_can_be_restamped(
    message: str, source: str, tag: str, host: str, form: str
) -> None:
    sink = datadog.build(
        "datadog",
        datadog.Settings.model_validate({**REQUIRED, "format": form}),
        Metrics(),
        FakeClock(),
    )
    odd = f"{message}{ODD}{message}"
    sent = make_event(1, message=odd, source=odd + source, tags=((tag, ODD),), api_host=host)
    whole = json.loads(rendered(sink, sent, sent.at).text)
    later = sent.at + 2 * 86_400 * 10**6
    restamped = json.loads(rendered(sink, sent, later).text)
    assert restamped["message"] == odd
    assert restamped["evt"]["id"] == sent.uid
    assert restamped["timestamp"] == iso_ms(later)
    assert restamped["auditrelay"]["restamped"] is True
    assert restamped.keys() == whole.keys() | {"auditrelay"}
    assert restamped.get("vendor") == whole.get("vendor")


DAY = timedelta(days=1)
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("start", "end", "keys", "notice"),
    [
        (NOW - timedelta(hours=17), NOW, {}, None),
        (NOW - timedelta(hours=17, minutes=59), NOW, {}, None),
        (
            NOW - timedelta(hours=18),
            NOW,
            {},
            "the first 1 min of 18 h are more than 18 h ago, which Datadog does not index: their ",
        ),
        (NOW - 30 * DAY, NOW, {}, "the first 29 d 6 h of 30 d are more than 18 h ago"),
        (NOW - 3 * DAY, NOW - 2 * DAY, {}, "all 1 d are more than 18 h ago"),
        (NOW - 30 * DAY, NOW, {"max_age": "6h"}, "the first 29 d 18 h of 30 d are more than 6 h"),
        (
            NOW - 3 * DAY,
            NOW,
            {},
            "restamped with the time of sending, and keep their own in evt.orig",
        ),
        (
            NOW - 3 * DAY,
            NOW,
            {"too_old": "dead_letter"},
            "their events become dead letters (too_old)",
        ),
    ],
)
def test_a_backfill_notice_names_the_part_that_datadog_does_not_index(
    start: datetime, end: datetime, keys: dict[str, Any], notice: str | None
) -> None:
    found = datadog.build(
        "datadog", datadog.Settings.model_validate({**REQUIRED, **keys}), Metrics(), FakeClock()
    ).backfill_notice(start, end, NOW)
    if notice is None:
        assert found is None
    else:
        assert found is not None
        assert notice in found


async def test_a_backfill_notice_matches_the_outcome_of_each_event(
    make: Callable[..., Sink], event: MakeEvent, batch: Batch
) -> None:
    sink = make()
    limit = NOW - timedelta(hours=18) + timedelta(minutes=1)
    for at in (limit - timedelta(microseconds=1), limit):
        happened = micros(at)
        notice = sink.backfill_notice(at, NOW, NOW)
        verdict = await sink.send(batch(sink, [event(1, at=happened)]))
        assert (notice is not None) == (verdict.counts.restamped == 1) == (at < limit)


async def test_the_search_finds_the_event_by_its_uid(
    intake: Datadog, make: Callable[..., Sink], event: MakeEvent, batch: Batch
) -> None:
    sink = make()
    await sink.send(batch(sink, [event(1)]))
    (line,) = sink.query(event(1).uid)
    assert line == f"Datadog: @evt.id:{intake.stored.documents[0]['evt']['id']}"


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("body", [b"", b"Bad Request", b'{"message":"no"}', b'{"a":' * 3000])
async def test_a_refusal_that_is_not_datadogs_makes_no_dead_letter(
    intake: Datadog, make: Callable[..., Sink], items: Items, status: int, body: bytes
) -> None:
    sink = make()
    intake.faults.add(answer(status, body))
    with pytest.raises(Refused, match="nothing shows that an event is the cause") as caught:
        await sink.send(items(sink, 2))
    assert caught.value.sent


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, Rejected),
        (401, Refused),
        (403, Refused),
        (404, Refused),
        (405, Refused),
        (408, Retryable),
        (413, TooLarge),
        (415, Refused),
        (429, Retryable),
        (500, Retryable),
        (503, Retryable),
    ],
)
async def test_each_status_means_an_outcome_of_the_batch(
    intake: Datadog,
    make: Callable[..., Sink],
    items: Items,
    status: int,
    error: type[Exception],
) -> None:
    sink = make()
    detail = f"message of Datadog about {API_KEY}"
    body = {"errors": [{"status": str(status), "title": "T", "detail": detail}]}
    intake.faults.add(answer(status, json.dumps(body).encode()))
    with pytest.raises(error, match="message of Datadog") as caught:
        await sink.send(items(sink, 2))
    assert type(caught.value) is error


@pytest.mark.parametrize(("reset", "wait"), [(12, 12.0), (2.5, 2.5), (None, None)])
async def test_the_rate_limit_reset_of_datadog_is_waited_for(
    intake: Datadog,
    make: Callable[..., Sink],
    items: Items,
    reset: float | None,
    wait: float | None,
) -> None:
    sink = make()
    intake.faults.add(throttled(reset=reset))
    with pytest.raises(Retryable) as caught:
        await sink.send(items(sink, 1))
    assert (caught.value.reason, caught.value.retry_after) == ("status_429", wait)


@pytest.mark.parametrize("reset", ["soon", "-1", "nan", "1e999", ""])
async def test_a_reset_that_is_no_number_is_ignored(
    intake: Datadog, make: Callable[..., Sink], items: Items, reset: str
) -> None:
    sink = make()
    intake.faults.add(answer(429, b"", {"X-RateLimit-Reset": reset}))
    with pytest.raises(Retryable) as caught:
        await sink.send(items(sink, 1))
    assert caught.value.retry_after is None


@pytest.mark.parametrize("status", [200, 201, 202, 204])
@pytest.mark.parametrize("body", [b"{}", b"[]", b'"ok"', b"OK", b"null", b"{", b""])
async def test_any_2xx_is_a_success_as_what_speaks_the_protocol_words_it(
    intake: Datadog, make: Callable[..., Sink], items: Items, status: int, body: bytes
) -> None:
    sink = make()
    intake.faults.add(answer(status, b"" if status == 204 else body))
    assert await sink.send(items(sink, 1)) == Verdict()


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"<!DOCTYPE html><title>Sign in</title>", {}),
        (b"\n  <html>", {}),
        (b"Please sign in", {"Content-Type": "text/html; charset=utf-8"}),
        (b"", {"Content-Type": "text/HTML"}),
    ],
)
async def test_a_web_page_is_no_success(
    intake: Datadog,
    make: Callable[..., Sink],
    items: Items,
    body: bytes,
    headers: dict[str, str],
) -> None:
    sink = make()
    intake.faults.add(answer(200, body, headers))
    with pytest.raises(Refused, match="the address answers but is not Datadog") as caught:
        await sink.send(items(sink, 1))
    assert (caught.value.status, caught.value.sent) == (200, True)


async def test_check_asks_whether_the_key_is_valid_and_stores_nothing(
    intake: Datadog, make: Callable[..., Sink]
) -> None:
    assert await make().check() == f"{intake.url} accepts the API key"
    with pytest.raises(Refused, match="belongs to this site"):
        await make(api_key="wrong").check()
    intake.faults.add(answer(200, b'{"valid":false}'))
    with pytest.raises(Refused, match="is not Datadog"):
        await make().check()
    assert intake.stored.total == 0


def test_the_site_gives_both_addresses() -> None:
    settings = datadog.Settings.model_validate({**REQUIRED, "site": "us3.datadoghq.com"})
    assert settings.intake == "https://http-intake.logs.us3.datadoghq.com"
    assert settings.api == "https://api.us3.datadoghq.com"
    assert datadog.Settings.model_validate(REQUIRED).site == "datadoghq.com"


@pytest.mark.parametrize("site", [*datadog.SITES, "ap9.datadoghq.com", "datadoghq.uk"])
def test_a_site_is_used_as_configured_known_or_new(site: str) -> None:
    settings = datadog.Settings.model_validate({**REQUIRED, "site": site})
    assert settings.intake == f"https://http-intake.logs.{site}"


async def test_check_of_an_unknown_site_that_is_not_there_names_the_known_ones() -> None:
    for site, named in (("datadohgq.invalid", True), ("datadoghq.eu", False)):
        keys = {**REQUIRED, "site": site, "timeout": "5s", "proxy": "http://127.0.0.1:1"}
        sink = datadog.build(
            "datadog", datadog.Settings.model_validate(keys), Metrics(), FakeClock()
        )
        with pytest.raises(Retryable) as caught:
            await sink.check()
        assert ("is 'datadohgq.invalid' your site? Known ones are" in str(caught.value)) is named
        assert caught.value.reason == "connect"
        await sink.close()


@pytest.mark.parametrize(
    ("tags", "read"),
    [
        ({"env": "prod", "team": "sec"}, ("env:prod", "team:sec")),
        (["env:prod", "critical"], ("env:prod", "critical")),
        ("env:prod, team:sec", ("env:prod", "team:sec")),
    ],
)
def test_tags_may_be_a_table_a_list_or_a_text(tags: object, read: tuple[str, ...]) -> None:
    assert datadog.Settings.model_validate({**REQUIRED, "tags": tags}).tags == read


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"site": "https://app.datadoghq.com"}, "without https:// and app."),
        ({"site": "app.datadoghq.eu"}, "leave out the prefix of the site: 'datadoghq.eu'"),
        ({"site": "US3"}, "'US3' is no address; the site of that name is 'us3.datadoghq.com'"),
        ({"site": "us1.datadoghq.com"}, "the site of that name is 'datadoghq.com'"),
        ({"site": "eu1.datadoghq.com"}, "the site of that name is 'datadoghq.eu'"),
        ({"site": "us1-fed"}, "the site of that name is 'ddog-gov.com'"),
        ({"site": "datadoghq.eu", "url": "https://proxy.example.com"}, "exclude each other"),
        ({"url": "http://proxy.example.com"}, "url: plain http"),
        ({"batch_events": 1001}, "less than or equal to 1000"),
        ({"batch_bytes": "6MB"}, "less than or equal to 5000000"),
        ({"tags": ["a,b"]}, "'a,b' is not a tag"),
        ({"tags": [" "]}, "is not a tag"),
        ({"tags": 3}, "valid tuple"),
        ({"max_age": "1m"}, "greater than"),
        ({"too_old": "drop"}, "'restamp' or 'dead_letter'"),
    ],
)
def test_a_wrong_setting_says_what_is_wrong(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        datadog.Settings.model_validate({**REQUIRED, **keys})
