"""Rows as the tables have them: of two streams, whole, and with their own time or another."""

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from tests.support.batches import item as item_of
from tests.support.batches import rendered

from auditrelay.events import AuditEvent, Change
from auditrelay.sandbox.messages import Request
from auditrelay.sandbox.siems.azure_logs import RULE, STREAMS, AzureLogs
from auditrelay.sinks import Counts, Item, Sink, Unfit, Verdict
from auditrelay.sinks.azure_logs.rows import FIELD_BYTES, PART_COLUMNS, PARTS

Make = Callable[..., Sink]
MakeEvent = Callable[..., AuditEvent]
Batch = Callable[[Sink, Sequence[AuditEvent]], list[Item]]

NOON = 1_767_268_800 * 10**6
DAY = 86_400 * 10**6
MINUTE = 60 * 10**6


def untouched(rule: AzureLogs) -> bool:
    """Return whether the tables have every column of every row, as it was sent."""
    return not (rule.undeclared or rule.mistyped or rule.truncated or rule.log_errors)


async def test_a_row_has_its_columns_and_the_request_what_the_api_wants(
    rule: AzureLogs, make: Make, event: MakeEvent, batch: Batch
) -> None:
    sink = make()
    assert await sink.send(batch(sink, [event(1)])) == Verdict()
    (row,) = rule.stored.documents
    assert row["TimeGenerated"] == row["EventStartTime"] == "2026-01-01T12:00:01.000000Z"
    assert (row["EventUid"], row["EventOriginalUid"]) == (event(1).uid, "1")
    assert row["AdditionalFields"]["record"] == {"id": 1, "event_type": "pathway.updated"}
    assert untouched(rule)
    (request,) = rule.seen
    assert request.path == f"/dataCollectionRules/{RULE}/streams/Custom-AuditRelay"
    assert request.query == {"api-version": "2023-01-01"}
    assert len(request.headers["x-ms-client-request-id"]) == 36


async def test_what_is_done_to_a_session_goes_to_its_own_stream_and_each_row_once(
    rule: AzureLogs, make: Make, event: MakeEvent, batch: Batch
) -> None:
    """A request is for one stream: what is for the other comes with the next."""
    sink = make()
    logins = {"kind": "session", "verb": "login"}
    items = batch(sink, [event(number, **(logins if number % 2 else {})) for number in range(6)])
    verdict = await sink.send(items)
    assert verdict == Verdict(retry=(1, 3, 5))
    assert await sink.send([items[index] for index in verdict.retry]) == Verdict()
    assert rule.tables == {"Custom-AuditRelay": 3, "Custom-AuditRelayAuthentication": 3}
    assert not rule.stored.repeated()
    schemas = [row["EventSchema"] for row in rule.stored.documents]
    assert schemas == ["AuditEvent"] * 3 + ["Authentication"] * 3
    assert untouched(rule)


async def test_one_stream_can_have_both(
    rule: AzureLogs, make: Make, event: MakeEvent, batch: Batch
) -> None:
    sink = make(stream_authentication="Custom-AuditRelay")
    items = batch(sink, [event(1), event(2, kind="session", verb="logout")])
    assert await sink.send(items) == Verdict()
    assert rule.tables == {"Custom-AuditRelay": 2}
    assert sink.query("u") == ['Sentinel: AuditRelay_CL | where EventUid == "u"']


@pytest.mark.parametrize("form", ["ocsf", "ecs", "cim", "raw", "datadog"])
async def test_another_form_is_in_additional_fields_beside_what_tells_the_event(
    rule: AzureLogs, make: Make, event: MakeEvent, batch: Batch, form: str
) -> None:
    sink = make(format=form)
    await sink.send(batch(sink, [event(1)]))
    (row,) = rule.stored.documents
    assert row["EventUid"] == event(1).uid
    assert "ActorUsername" not in row
    assert list(row["AdditionalFields"]) == ["auditrelay", form]
    assert untouched(rule)


# --- long values


def record_of(size: int) -> msgspec.Raw:
    """Return a record of *size* bytes, with letters of several."""
    filler = "fünf ☃ \U0001f600 " * (size // 15 + 1)
    short = json.dumps({"id": 1, "text": ""}).encode()
    cut = filler.encode()[: size - len(short)].decode("utf-8", "ignore")
    text = json.dumps({"id": 1, "text": cut}, ensure_ascii=False).encode()
    return msgspec.Raw(text)


@pytest.mark.parametrize(
    "size", [30_000, 33_000, 64 * 1024, 100_000, 400_000, PARTS * FIELD_BYTES - 100]
)
async def test_a_record_of_any_length_arrives_whole(
    rule: AzureLogs, make: Make, event: MakeEvent, batch: Batch, size: int
) -> None:
    sink = make()
    sent = event(1, raw=record_of(size))
    assert await sink.send(batch(sink, [sent])) == Verdict()
    (row,) = rule.stored.documents
    assert untouched(rule)
    record = row["AdditionalFields"]["record"]
    if size > FIELD_BYTES:
        parts = [row[name] for name in PART_COLUMNS if name in row]
        assert record == {
            "moved": "in RecordText",
            "bytes": len(bytes(sent.raw)),
            "parts": len(parts),
        }
        assert all(0 < len(part.encode()) <= FIELD_BYTES for part in parts)
        record = json.loads("".join(parts))
    assert record == json.loads(bytes(sent.raw))


async def test_without_that_azure_would_cut_it_off_and_say_nothing(
    rule: AzureLogs, make: Make, event: MakeEvent
) -> None:
    """The double does what Azure does: it is no test of the sink, but of what the others prove."""
    sink = make()
    sent = event(1, raw=record_of(100_000))
    one = item_of(0, sent, rendered(sink, event(1), NOON), sink.limits)
    small = bytes(event(1).raw)
    assert small in one.text
    naive = msgspec.structs.replace(one, text=one.text.replace(small, bytes(sent.raw)))
    assert await sink.send([naive]) == Verdict()
    assert rule.truncated == {"AdditionalFields": 1}


def test_a_record_for_which_there_are_not_enough_columns_is_set_aside_whole(
    make: Make, event: MakeEvent
) -> None:
    found = rendered(make(), event(1, raw=record_of(PARTS * FIELD_BYTES + 100)), NOON)
    assert found.unfit is not None
    assert found.unfit.reason == "too_large"
    assert "the 16 columns for it take 524272" in found.unfit.message


def test_a_row_that_fits_into_no_request_is_set_aside_whole(
    make: Make, event: MakeEvent, batch: Batch
) -> None:
    raw = json.dumps({"id": 1, "text": '"' * 250_000}).encode()
    (item,) = batch(make(), [event(1, raw=msgspec.Raw(raw))])
    assert item.unfit == Unfit("too_large", item.unfit.message if item.unfit else "")
    assert len(raw) < PARTS * FIELD_BYTES


async def test_a_table_of_microsofts_has_no_columns_for_it_so_the_row_says_what_is_missing(
    rule: AzureLogs, make: Make, event: MakeEvent, batch: Batch
) -> None:
    rule.streams = {"Microsoft-ASimAuditEventLogs": STREAMS["Custom-AuditRelay"]}
    sink = make(
        stream="Microsoft-ASimAuditEventLogs",
        stream_authentication="Microsoft-ASimAuthenticationEventLogs",
    )
    sent = event(1, raw=record_of(100_000))
    assert await sink.send(batch(sink, [sent])) == Verdict()
    (row,) = rule.stored.documents
    assert row["AdditionalFields"]["record"] == {
        "omitted": "too long for this table",
        "bytes": len(bytes(sent.raw)),
    }
    assert row["AdditionalFields"]["auditrelay"]["raw_sha256"] == sent.raw_sha256
    assert "RecordText" not in row
    assert untouched(rule)
    assert sink.query("u")[0] == 'Sentinel: ASimAuditEventLogs | where EventUid == "u"'


async def test_long_texts_and_changes_say_how_much_of_them_is_missing(
    rule: AzureLogs, make: Make, event: MakeEvent, batch: Batch
) -> None:
    sink = make()
    changes = tuple(Change(f"f{number}", "x" * 8000, "y" * 8000) for number in range(4))
    sent = event(1, message="ü" * 40_000, changes=changes)
    assert await sink.send(batch(sink, [sent])) == Verdict()
    (row,) = rule.stored.documents
    kept, _, rest = row["EventMessage"].partition(" [cut: ")
    assert set(kept) == {"ü"}
    assert rest == f"{80_000 - len(kept.encode())} more bytes, see the record]"
    fields = row["AdditionalFields"]
    assert fields["changes"] == {"omitted": "too long for a column: see the record"}
    assert json.loads(row["RecordText"]) == json.loads(bytes(sent.raw))
    assert fields["auditrelay"]["source"] == "voice"
    assert untouched(rule)


# --- time

OWN = (-DAY + MINUTE, 2 * DAY - MINUTE)


async def test_a_time_that_azure_replaces_is_marked_counted_and_kept_in_its_own_column(
    rule: AzureLogs, make: Make, event: MakeEvent, batch: Batch
) -> None:
    sink = make()
    old, ahead = NOON - 2 * DAY - 1, NOON + DAY + 1
    times = [old, ahead, NOON - OWN[1], NOON, NOON - OWN[0]]
    verdict = await sink.send(batch(sink, [event(n, at=at) for n, at in enumerate(times)]))
    assert verdict == Verdict(counts=Counts(restamped=2))
    assert rule.restamped == 2
    rows = {row["EventUid"]: row for row in rule.stored.documents}
    assert [
        rows[event(n).uid]["AdditionalFields"]["auditrelay"].get("restamped") for n in range(5)
    ] == [True, True, None, None, None]
    assert rows[event(0).uid]["EventStartTime"] == "2025-12-30T11:59:59.999999Z"
    assert datetime.fromisoformat(rows[event(0).uid]["TimeGenerated"]).timestamp() * 10**6 == NOON


def test_a_row_is_right_for_the_ages_at_which_azure_does_the_same(
    make: Make, event: MakeEvent
) -> None:
    sink = make()
    at = event(1).at
    now = rendered(sink, event(1), at)
    assert now.ages == OWN
    for age in OWN:
        assert rendered(sink, event(1), at + age) == now
    for age in (OWN[0] - 1, OWN[1] + 1):
        other = rendered(sink, event(1), at + age)
        assert other.ages[0] <= age <= other.ages[1]
        assert not now.ages[0] <= age <= now.ages[1]
        assert b'"restamped":true' in other.text
        assert rendered(sink, event(1), at + 20 * age) == other


NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("start", "end", "notice"),
    [
        (timedelta(hours=47), timedelta(0), None),
        (timedelta(days=4), timedelta(0), "the first 2 d of 4 d are more than 2 d ago"),
        (timedelta(days=5), timedelta(days=3), "all 2 d are more than 2 d ago"),
    ],
)
def test_a_backfill_notice_names_the_part_that_is_restamped(
    make: Make, start: timedelta, end: timedelta, notice: str | None
) -> None:
    found = make().backfill_notice(NOW - start, NOW - end, NOW)
    assert (found is None) == (notice is None)
    assert (notice or "") in (found or "")


async def test_rows_that_are_too_far_apart_are_cut_by_time_from_then_on(
    rule: AzureLogs, make: Make, event: MakeEvent, batch: Batch
) -> None:
    """An auxiliary table; others bisected for ever, since no row was bad (Azure-Sentinel#12130)."""
    rule.switches.is_auxiliary = True
    sink = make()
    items = batch(sink, [event(n, at=NOON - (n % 3) * 40 * MINUTE) for n in range(9)])
    left = items
    answers = []
    while left:
        verdict = await sink.send(left)
        assert not verdict.rejected
        answers.append(len(verdict.retry))
        left = [left[index] for index in verdict.retry]
    assert answers == [9, 6, 3, 0]
    assert rule.stored.by_uid == {event(n).uid: 1 for n in range(9)}
    await sink.send(items)
    assert rule.answered[400] == 1, "once"


# --- what a body may be


async def test_a_body_stays_below_the_limit_before_compression(
    rule: AzureLogs, make: Make, event: MakeEvent, batch: Batch
) -> None:
    sink = make(compression="gzip")
    sizes: list[tuple[int, int]] = []

    def note(request: Request) -> None:
        sizes.append((len(request.content("gzip")), len(request.body)))

    rule.on_request = note
    items = batch(sink, [event(n, raw=record_of(20_000)) for n in range(60)])
    room = sink.limits.bytes
    chosen: list[Item] = []
    for each in items:
        room -= len(each.text) + sink.limits.overhead
        if room < 0:
            break
        chosen.append(each)
    assert await sink.send(chosen) == Verdict()
    ((plain, packed),) = sizes
    assert 950_000 < plain <= 1_000_000
    assert packed < plain
    assert rule.stored.total == len(chosen)


async def test_the_double_takes_whatever_it_is_sent_and_only_its_log_errors_say_so(
    rule: AzureLogs, make: Make
) -> None:
    """So nothing but what the tables have proves that a row was right."""
    sink = make()
    await sink.check()
    peer: Any = sink
    rows: list[Any] = [b"not JSON", b'{"EventUid":1,"Unheard":2,"EventCount":"3"}']
    for text in rows:
        answer = await peer._post("Custom-AuditRelay", [text])
        assert answer.is_taken
    assert rule.log_errors == ["the body is not JSON"]
    assert rule.undeclared == {"Unheard": 1}
    assert rule.mistyped == {"EventUid": 1, "EventCount": 1}
