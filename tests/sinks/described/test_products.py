"""The shipped receivers, each against its double: what it refuses, drops, and says of it."""

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from tests.support.clock import FakeClock
from tests.support.rigs import NOON, made_of

from auditrelay.errors import Refused, Rejected, Retryable
from auditrelay.events import AuditEvent
from auditrelay.events.page import Page
from auditrelay.sandbox import Trap, faults, receivers
from auditrelay.sandbox.receivers.axiom import throttled
from auditrelay.sinks import Counts, Item, Sink, Verdict
from auditrelay.telemetry.metrics import Metrics

MakeEvent = Callable[..., AuditEvent]
Items = Callable[[Sink, int], list[Item]]

DOUBLES = receivers.available()
HOUR = 3600 * 10**6
DAY = 24 * HOUR


@dataclass
class Rig:
    """A double, and sinks that send to it."""

    double: Any
    made: list[Sink] = field(default_factory=list)
    clock: FakeClock = field(default_factory=FakeClock)

    def build(self, **keys: Any) -> Sink:
        given = {**self.double.settings(), "timeout": "5s", **keys}
        _, sink = made_of("siem", given, Metrics(), self.clock)
        self.made.append(sink)
        return sink

    @property
    def uids(self) -> set[str]:
        return set(self.double.stored.by_uid)


@asynccontextmanager
async def rig_of(kind: str) -> AsyncIterator[Rig]:
    async with DOUBLES[kind](clock=lambda: NOON) as double:
        rig = Rig(double)
        try:
            yield rig
        finally:
            for sink in rig.made:
                await sink.close()


@pytest.fixture
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    async with rig_of(request.param) as rig:
        yield rig


def only(kind: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("rig", [kind], indirect=True)


every = pytest.mark.parametrize("rig", DOUBLES, indirect=True)


def at_ages(sink: Sink, event: MakeEvent, *ages: int) -> list[Item]:
    """Return items of events of these ages (microseconds), rendered at noon."""
    now = int(NOON) * 10**6
    events = [event(number, at=now - age) for number, age in enumerate(ages)]
    page = Page.of(events)
    return Item.of_page(range(len(page)), page, sink.render(page, now), sink.limits)


# --- every one of them


@every
async def test_a_batch_is_stored_whole_and_once(rig: Rig, items: Items) -> None:
    sink = rig.build()
    batch = items(sink, 100)
    verdict = await sink.send(batch)
    assert (verdict.rejected, verdict.retry) == ((), ())
    assert rig.uids == {item.uid for item in batch}
    assert not rig.double.stored.repeated()
    assert set(rig.double.answered) <= {200, 202, 204}


@every
@pytest.mark.parametrize("form", ["raw", "ecs", "cim", "datadog"])
async def test_any_form_is_taken(rig: Rig, items: Items, form: str) -> None:
    sink = rig.build(format=form)
    batch = items(sink, 10)
    verdict = await sink.send(batch)
    assert (verdict.rejected, verdict.retry) == ((), ())
    assert rig.uids == {item.uid for item in batch}


@every
async def test_a_wrong_secret_holds_and_is_not_shown(rig: Rig, items: Items) -> None:
    wrong = "a-wrong-secret-of-ours"
    if rig.double.NAME == "sumo":
        wrong = f"{rig.double.url}/receiver/v1/http/{wrong}"
    sink = rig.build(**{rig.double.SECRET_KEY: wrong})
    with pytest.raises(Refused) as caught:
        await sink.send(items(sink, 2))
    assert "a-wrong-secret" not in str(caught.value)
    assert not rig.double.stored.total


@every
@pytest.mark.parametrize("status", [302, 308])
async def test_a_redirect_is_not_followed(rig: Rig, items: Items, status: int) -> None:
    async with Trap() as trap:
        sink = rig.build()
        rig.double.faults.add(faults.redirect(trap.url, status), times=None)
        with pytest.raises(Refused, match="redirect"):
            await sink.send(items(sink, 2))
        assert trap.connections == 0


@every
async def test_the_check_stores_nothing(rig: Rig) -> None:
    said = await rig.build().check()
    assert not rig.double.stored.total
    has_check = "check" in rig.double.description.tables
    assert rig.double.requests == (1 if has_check else 0)
    assert ("answers as it must" if has_check else "not asked") in said


@every
async def test_a_body_that_is_too_large_is_for_the_deliverer_to_halve(
    rig: Rig, items: Items
) -> None:
    sink = rig.build()
    rig.double.limit_body(3000)
    with pytest.raises(Rejected) as caught:
        await sink.send(items(sink, 50))
    assert caught.value.status == 413


@every
async def test_an_event_can_be_searched_for(rig: Rig, items: Items) -> None:
    sink = rig.build()
    uid = items(sink, 1)[0].uid
    [line] = sink.query(uid)
    assert uid in line
    assert "{" not in line.replace('{job="auditrelay"}', "")


# --- New Relic


@only("new_relic")
async def test_new_relic_drops_nothing_that_it_was_sent(
    rig: Rig, event: MakeEvent, items: Items
) -> None:
    """It would drop what is older than 48 hours, and say 202."""
    sink = rig.build()
    batch = at_ages(sink, event, 0, 2 * DAY - HOUR, 2 * DAY, 30 * DAY)
    verdict = await sink.send(batch)
    assert verdict == Verdict(counts=Counts(restamped=2))
    assert len(rig.uids) == 4
    assert rig.double.errors == []
    restamped = rig.double.stored.documents[3]
    assert restamped["attributes"]["unmapped.auditrelay.restamped"] is True
    assert restamped["timestamp"] == int(NOON) * 1000


@only("new_relic")
async def test_new_relic_gets_no_more_attributes_than_it_keeps(
    rig: Rig, event: MakeEvent, batch: Callable[[Sink, Sequence[AuditEvent]], list[Item]]
) -> None:
    many = "{" + ",".join(f'"k{number}":{{"x":[{number}]}}' for number in range(400)) + "}"
    sink = rig.build(format="raw")
    await sink.send(batch(sink, [event(1, raw=msgspec.Raw(many.encode()))]))
    [document] = rig.double.stored.documents
    attributes = document["attributes"]
    assert 249 <= len(attributes) <= 250
    assert attributes["record.k3.x"] == [3], "a list as a text; the double has opened it"
    assert attributes["auditrelay.cut"].startswith("record.k")
    assert attributes["auditrelay.uid"] in rig.uids


# --- Axiom


@only("axiom")
async def test_axiom_says_how_many_failed_and_each_is_sent_alone_once(
    rig: Rig, items: Items
) -> None:
    sink = rig.build()
    batch = items(sink, 5)
    rig.double.refuse_uids = frozenset({batch[3].uid})
    verdict = await sink.send(batch)
    assert [(each.index, each.message, each.reason) for each in verdict.rejected] == [
        (3, "cannot parse the event", "refused")
    ]
    assert verdict.retry == ()
    assert verdict.counts.possibly_stored == 4
    assert rig.double.requests == 6
    assert rig.uids == {item.uid for item in batch} - {batch[3].uid}
    assert set(rig.double.stored.by_uid.values()) == {2}


@only("axiom")
async def test_what_is_settled_stays_so_if_sending_alone_breaks_off(rig: Rig, items: Items) -> None:
    sink = rig.build()
    batch = items(sink, 5)
    rig.double.refuse_uids = frozenset({batch[0].uid})
    sent: list[int] = []

    def fail_the_fourth(_: Any) -> None:
        sent.append(1)
        if len(sent) == 3:
            rig.double.fail_batches(faults.too_many(retry_after="9"))

    rig.double.on_request = fail_the_fourth
    verdict = await sink.send(batch)
    assert [each.index for each in verdict.rejected] == [0]
    assert verdict.retry == (2, 3, 4)
    assert verdict.retry_reason is not None
    assert (verdict.retry_reason.reason, verdict.retry_reason.retry_after) == ("status_429", 9)
    assert verdict.counts.possibly_stored == 4


@only("axiom")
async def test_axioms_limit_is_waited_for(rig: Rig, items: Items) -> None:
    sink = rig.build()
    rig.double.fail_batches(throttled(rig.clock.now().timestamp() + 40))
    with pytest.raises(Retryable) as caught:
        await sink.send(items(sink, 1))
    assert caught.value.retry_after == pytest.approx(40, abs=1)
    assert not caught.value.sent


@only("axiom")
async def test_a_batch_of_axiom_has_no_more_events_than_it_takes(rig: Rig) -> None:
    with pytest.raises(ValueError, match="batch_events"):
        rig.build(batch_events=10_001)
    assert rig.build(batch_events=10_000).limits.events == 10_000


# --- Sumo Logic


@only("sumo")
async def test_the_address_of_sumo_is_a_secret_in_every_message(
    rig: Rig, items: Items, capsys: pytest.CaptureFixture[str]
) -> None:
    sink = rig.build()
    secret = rig.double.description.secrets["url"]
    said = [str(await sink.check())]
    for action in (faults.answer(500), faults.reset(), faults.html(200), faults.redirect("x:/")):
        rig.double.fail_batches(action)
        with pytest.raises((Retryable, Refused)) as caught:
            await sink.send(items(sink, 1))
        said.append(str(caught.value))
    assert all(secret not in text and "/receiver/" not in text for text in said)


@only("sumo")
async def test_a_408_of_sumo_may_have_been_taken_in_part(rig: Rig, items: Items) -> None:
    sink = rig.build()
    for status, sent in ((408, True), (429, False), (504, True)):
        rig.double.fail_batches(faults.answer(status))
        with pytest.raises(Retryable) as caught:
            await sink.send(items(sink, 1))
        assert caught.value.sent is sent


@only("sumo")
async def test_a_budget_of_sumo_drops_and_says_200(rig: Rig, items: Items) -> None:
    """Nothing can be done about it but to say so: the page does."""
    sink = rig.build()
    rig.double.budget = 3
    assert await sink.send(items(sink, 5)) == Verdict()
    assert rig.double.stored.total == 3


# --- Dynatrace


@only("dynatrace")
async def test_one_old_event_does_not_have_dynatrace_refuse_the_batch(
    rig: Rig, event: MakeEvent
) -> None:
    sink = rig.build()
    verdict = await sink.send(at_ages(sink, event, 0, DAY - HOUR, DAY, 10 * DAY))
    assert verdict == Verdict(counts=Counts(restamped=2))
    assert len(rig.uids) == 4
    assert rig.double.answered == {204: 1}


@only("dynatrace")
async def test_dynatrace_cuts_nothing_without_a_word(
    rig: Rig, event: MakeEvent, batch: Callable[[Sink, Sequence[AuditEvent]], list[Item]]
) -> None:
    deep = b'{"a":{"b":{"c":{"d":{"e":{"f":1}}}}},"l":%b,"t":"%b"}' % (
        b"[" + b",".join([b"1"] * 40) + b"]",
        b"x" * 40_000,
    )
    sink = rig.build(format="raw")
    await sink.send(batch(sink, [event(1, raw=msgspec.Raw(deep))]))
    assert rig.double.trimmed == 0
    [document] = rig.double.stored.documents
    assert document["audit"]["record.a.b.c.d.e.f"] == 1
    assert len(document["audit"]["record.t"]) == 32_000
    assert document["audit"]["auditrelay.cut"] == "record.t"


@only("dynatrace")
async def test_a_200_of_dynatrace_is_no_success(rig: Rig, items: Items) -> None:
    sink = rig.build()
    batch = items(sink, 3)
    rig.double.partial = frozenset({batch[1].uid})
    verdict = await sink.send(batch)
    assert [each.index for each in verdict.rejected] == [1]
    assert "timestamp out of correct time range" in verdict.rejected[0].message
    assert verdict.counts.possibly_stored == 2
    assert rig.uids == {batch[0].uid, batch[2].uid}


# --- Cortex


@only("cortex")
async def test_a_collector_without_a_dataset_holds(rig: Rig, items: Items) -> None:
    sink = rig.build()
    rig.double.has_dataset = False
    with pytest.raises(Refused, match="the collector has no dataset") as caught:
        await sink.send(items(sink, 2))
    assert not caught.value.sent


@only("cortex")
@pytest.mark.parametrize("body", [b"{}", b'{"ok": "false"}', b'{"ok": 1}', b"ok"])
async def test_cortex_says_ok_in_its_own_words(rig: Rig, items: Items, body: bytes) -> None:
    sink = rig.build()
    rig.double.fail_batches(faults.answer(200, body))
    with pytest.raises(Refused, match="the address answers but is not Cortex"):
        await sink.send(items(sink, 2))


# --- Loki


@only("loki")
async def test_loki_stores_the_valid_lines_of_what_it_refuses(rig: Rig, items: Items) -> None:
    sink = rig.build()
    batch = items(sink, 5)
    rig.double.bad_uids = frozenset({batch[2].uid})
    verdict = await sink.send(batch)
    assert [each.index for each in verdict.rejected] == [2]
    assert verdict.counts.possibly_stored == 4
    assert rig.uids == {item.uid for item in batch} - {batch[2].uid}
    assert not rig.double.stored.repeated(), "identical lines collapse"


@only("loki")
async def test_events_of_any_age_reach_loki(rig: Rig, event: MakeEvent) -> None:
    sink = rig.build()
    minute = 60 * 10**6
    ages = [0, 29 * minute, 31 * minute, 3 * HOUR, 6 * DAY, 7 * DAY, 20 * DAY, -11 * minute]
    for batch in (at_ages(sink, event, *ages[:1]), at_ages(sink, event, *ages)):
        verdict = await sink.send(batch)
        assert (verdict.rejected, verdict.retry) == ((), ())
    assert verdict.counts.restamped == 3
    assert len(rig.uids) == len(ages)
    assert rig.double.answered == {204: 2}
    late = {stream for stream in rig.double.streams if "late" in stream}
    assert len(late) == 3, late
    assert '"late": "2026-01-01T09"' in "".join(sorted(late))


@only("loki")
async def test_an_event_that_became_late_is_rendered_again(rig: Rig, event: MakeEvent) -> None:
    sink = rig.build()
    [item] = at_ages(sink, event, 0)
    least, most = item.ages
    assert most == 30 * 60 * 10**6
    assert least == -9 * 60 * 10**6
    [late] = at_ages(sink, event, HOUR)
    assert late.ages[0] == most + 1
    assert late.ages[1] == 7 * DAY - 60 * 10**6


@only("loki")
async def test_a_line_that_is_too_long_for_loki_is_cut_and_is_still_json(
    rig: Rig, event: MakeEvent, batch: Callable[[Sink, Sequence[AuditEvent]], list[Item]]
) -> None:
    sink = rig.build(format="raw")
    long = b'{"a":"%b","b":"\xe2\x98\x83","c":"%b"}' % (b'\\"' * 200_000, b"y" * 200_000)
    [item] = batch(sink, [event(1, raw=msgspec.Raw(long))])
    assert item.unfit is None
    verdict = await sink.send([item])
    assert verdict == Verdict()
    [(_, line, _)] = rig.double.stored.documents
    assert line["record"]["b"] == "☃"
    assert line["auditrelay"]["cut"] == "record.a, record.c"
    assert len(line["record"]["c"]) > 30_000


@only("loki")
@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (260, b"blocked", "ingestion is blocked for this tenant"),
        (400, b"loghttp.PushRequest.Streams: unmarshalerDecoder: ...", "Loki cannot read"),
        (401, b"no org id", "the credentials are not accepted"),
    ],
)
async def test_loki_holds(rig: Rig, items: Items, status: int, body: bytes, words: str) -> None:
    sink = rig.build()
    rig.double.fail_batches(faults.answer(status, body))
    with pytest.raises(Refused, match=words) as caught:
        await sink.send(items(sink, 2))
    assert not caught.value.sent


@only("loki")
async def test_a_limit_of_streams_leaves_open_what_is_stored(rig: Rig, items: Items) -> None:
    sink = rig.build()
    rig.double.most_streams = 0
    with pytest.raises(Retryable, match="too many streams") as caught:
        await sink.send(items(sink, 2))
    assert caught.value.sent
    rig.double.fail_batches(faults.answer(429, b"Ingestion rate limit exceeded"))
    with pytest.raises(Retryable) as caught:
        await sink.send(items(sink, 2))
    assert not caught.value.sent


@only("loki")
async def test_loki_without_users_and_tenants(rig: Rig, items: Items) -> None:
    seen: list[Any] = []
    sink = rig.build(user="", password=None, tenant="")
    rig.double.on_request = seen.append
    with contextlib.suppress(Refused):
        await sink.send(items(sink, 1))
    [request] = seen
    assert "authorization" not in request.headers
    assert "x-scope-orgid" not in request.headers


@only("loki")
async def test_a_backfill_to_loki_is_warned_of(rig: Rig) -> None:
    sink = rig.build()
    now = rig.clock.now()
    assert sink.backfill_notice(now - timedelta(days=6), now, now) is None
    notice = sink.backfill_notice(now - timedelta(days=10), now, now)
    assert notice is not None
    assert "the first 3 d of 10 d are more than 7 d ago" in notice
    whole = sink.backfill_notice(now - timedelta(days=10), now - timedelta(days=8), now)
    assert whole is not None
    assert whole.startswith("all 2 d ")
