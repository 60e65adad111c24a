"""The contract of every sink over HTTP, tested against doubles of the products, over sockets."""

import asyncio
import contextlib
import importlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from tests.support.batches import item as item_of
from tests.support.batches import rendered
from tests.support.clock import FakeClock
from tests.support.rigs import DOUBLES, NOON, WITHOUT_DOUBLE, made_of

from auditrelay.descriptions import HTTP, shipped_receivers
from auditrelay.errors import Refused, RelayError, Retryable, TooLarge
from auditrelay.events import AuditEvent
from auditrelay.events.forms import FORMS
from auditrelay.http.replies import Reply
from auditrelay.sandbox import Trap, faults, receivers
from auditrelay.sandbox.messages import Request
from auditrelay.sandbox.refusals import Refusal
from auditrelay.sandbox.stored import Stored
from auditrelay.settings.secrets import Resolved, Secret
from auditrelay.sinks import Form, Item, Sink, Verdict, available
from auditrelay.telemetry.metrics import Metrics

MakeEvent = Callable[..., AuditEvent]
Items = Callable[[Sink, int], list[Item]]
Batch = Callable[[Sink, Sequence[AuditEvent]], list[Item]]


@dataclass
class Rig:
    """A double, and sinks of the *kind* that send to it."""

    kind: str
    double: Any
    made: list[Sink]
    clock: FakeClock = field(default_factory=FakeClock)
    metrics: Metrics = field(default_factory=Metrics)

    @property
    def stored(self) -> Stored:
        stored: Stored = self.double.stored
        return stored

    @property
    def secret(self) -> str:
        secret: str = self.double.secret
        return secret

    def build(self, **keys: Any) -> Sink:
        given = {**self.double.settings(), "timeout": "5s", **keys}
        _, sink = made_of("siem", given, self.metrics, self.clock)
        self.made.append(sink)
        return sink

    def fail(self, action: faults.Action, times: int | None = 1) -> None:
        """Apply *action* to the next batch."""
        self.double.fail_batches(action, times)


@asynccontextmanager
async def rig_of(kind: str) -> AsyncIterator[Rig]:
    async with DOUBLES[kind](clock=lambda: NOON) as double:
        rig = Rig(kind, double, [])
        try:
            yield rig
        finally:
            for sink in rig.made:
                await sink.close()


@pytest.fixture(params=DOUBLES)
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    async with rig_of(request.param) as rig:
        yield rig


def uids(batch: Sequence[Item]) -> set[str]:
    return {item.uid for item in batch}


# --- delivery -----------------------------------------------------------------


async def test_a_batch_is_stored_whole_and_once(rig: Rig, items: Items) -> None:
    sink = rig.build()
    batch = items(sink, 100)
    assert await sink.send(batch) == Verdict()
    assert set(rig.stored.by_uid) == uids(batch)
    assert not rig.stored.repeated()


@pytest.mark.parametrize("form", sorted(FORMS))
async def test_a_record_of_any_content_arrives_unchanged(
    rig: Rig, event: MakeEvent, batch: Batch, form: str
) -> None:
    sink = rig.build(format=form)
    odd = 'fünf ☃ \U0001f600 "q" \\ \u2028 \x00 \t'
    record = b'{\n "text": %b,\r\n "x": [1,\n2]}\n' % json.dumps(odd, ensure_ascii=False).encode()
    events = [
        event(1, message=odd, raw=msgspec.Raw(record), metadata=msgspec.Raw(b'{\n"a":\r\n1}')),
        event(2, message="lone \ud800 surrogate"),
        event(3),
    ]
    assert await sink.send(batch(sink, events)) == Verdict()
    assert set(rig.stored.by_uid) == {each.uid for each in events}
    assert odd in _texts(rig.stored.documents[0])


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for part in value.values() for text in _texts(part)]
    if isinstance(value, list):
        return [text for part in value for text in _texts(part)]
    return [value] if isinstance(value, str) else []


async def test_the_marks_of_a_delivery_are_on_the_event(rig: Rig, event: MakeEvent) -> None:
    for form in sorted(FORMS):
        sink = rig.build(format=form)
        sent = event(1)
        now = int(NOON) * 10**6
        marked = rendered(sink, sent, now, {"replayed": True})
        await sink.send([item_of(0, sent, marked, sink.limits)])
        assert b'"replayed":true' in marked.text
        assert b'"replayed"' not in rendered(sink, sent, now).text


@pytest.mark.parametrize("count", [1, 500])
async def test_a_body_is_compressed_or_not_as_configured(
    rig: Rig, items: Items, count: int
) -> None:
    for compression in ("gzip", "none"):
        sink = rig.build(compression=compression)
        batch = items(sink, count)
        await sink.send(batch)
        [*_, seen] = [each for each in rig.double.seen if each.path != "/_mget"]  # no question
        size = sum(len(item.text) for item in batch)
        if compression == "gzip":
            if rig.double.NAMES_ENCODING:
                assert seen.headers["content-encoding"] == "gzip"
            assert seen.body_bytes < size * 0.75
        else:
            assert "content-encoding" not in seen.headers
            assert seen.body_bytes >= size


async def test_the_bytes_of_events_are_counted_before_and_after_compression(
    rig: Rig, items: Items
) -> None:
    whole = wire = 0
    for compression in ("none", "gzip"):
        sink = rig.build(compression=compression)
        await sink.check()
        await sink.send(items(sink, 50))
        [*_, seen] = [each for each in rig.double.seen if each.path != "/_mget"]  # no question
        wire += seen.body_bytes
        whole = whole or wire  # the same events, written alike
        assert sent(rig) == (wire, 2 * whole if compression == "gzip" else whole)
    rig.fail(faults.too_many())
    with pytest.raises(Retryable):
        await sink.send(items(sink, 50))
    assert sent(rig) > (wire, 2 * whole), "what is refused was sent as well"
    before = sent(rig)
    await rig.double.stop()
    with pytest.raises(Retryable):
        await sink.send(items(sink, 50))
    assert sent(rig) == before, "nothing was sent"


def sent(rig: Rig) -> tuple[int, int]:
    metrics = (rig.metrics.sent_bytes, rig.metrics.sent_uncompressed_bytes)
    sizes = [sample.value for each in metrics for sample in next(iter(each.collect())).samples]
    return int(sizes[0]), int(sizes[1])


async def test_the_limits_count_every_byte_of_the_body(
    rig: Rig, items: Items, event: MakeEvent, batch: Batch
) -> None:
    sink = rig.build(compression="none", batch_bytes=50_000)
    limits = sink.limits
    fitting, size = [], 0
    for item in items(sink, limits.events):
        size += len(item.text) + limits.overhead
        if size > limits.bytes:
            break
        fitting.append(item)
    # The record of the last one is padded to the last byte.
    room = limits.bytes - sum(len(item.text) + limits.overhead for item in fitting)
    record = bytes(event(len(fitting) - 1).raw)
    padded = msgspec.Raw(b"{" + b" " * room + record[1:])
    fitting[-1:] = batch(sink, [event(len(fitting) - 1, raw=padded)])
    assert await sink.send(fitting) == Verdict()
    # No separator follows the last event, unless the product wants one.
    assert 50_000 - rig.double.ENVELOPE <= rig.double.seen[-1].body_bytes <= 50_000


async def test_a_response_may_be_compressed_or_chunked(rig: Rig, items: Items) -> None:
    sink = rig.build()
    for action in (faults.gzipped(), faults.chunked(7), faults.wrong_type(), faults.close()):
        rig.fail(action)
        verdict = await sink.send(items(sink, 3))
        assert (verdict.rejected, verdict.retry) == ((), ())


async def test_a_reply_is_decoded_once(
    rig: Rig, items: Items, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Reply] = []
    decode = Reply.json

    def record(reply: Reply) -> Any:
        assert not any(reply is each for each in decoded), reply
        decoded.append(reply)
        return decode(reply)

    monkeypatch.setattr(Reply, "json", record)
    sink = rig.build()
    await sink.send(items(sink, 3))
    for status in (200, 400, 404, 422, 429, 500):
        for body in (b'{"text":"odd","code":6,"errors":["odd"],"error":{}}', b'{"odd":1}'):
            rig.fail(faults.answer(status, body))
            with contextlib.suppress(RelayError):
                await sink.send(items(sink, 3))
    assert len(decoded) >= 10 or not rig.double.ANSWERS_JSON


# --- faults on the network ---------------------------------------------------------


async def test_the_retry_after_of_a_429_is_waited_for(rig: Rig, items: Items) -> None:
    sink = rig.build()
    now = rig.clock.now()
    for retry_after, least, most in (
        (None, None, None),
        ("7", 7, 7),
        (now + timedelta(seconds=90), 60, 91),
    ):
        rig.fail(faults.too_many(retry_after=retry_after))
        with pytest.raises(Retryable) as caught:
            await sink.send(items(sink, 2))
        wait = caught.value.retry_after
        assert (caught.value.reason, caught.value.sent) == ("status_429", False)
        if least is None or most is None:
            assert wait is None
        else:
            assert wait is not None
            assert least <= wait <= most
    assert rig.stored.total == 0


@pytest.mark.parametrize(
    "status", [408, 460, 499, 500, 502, 503, 504, 520, 522, 524, 529, 530, 598]
)
async def test_a_gateway_may_answer_for_a_product_that_has_stored_the_batch(
    rig: Rig, items: Items, status: int
) -> None:
    sink = rig.build()
    rig.fail(faults.html(status, process=True))
    with pytest.raises(Retryable) as caught:
        await sink.send(items(sink, 2))
    assert (caught.value.reason, caught.value.sent) == (f"status_{status}", True)
    await sink.send(items(sink, 2))
    assert set(rig.stored.by_uid.values()) == {1 if sink.deduplicates else 2}


@pytest.mark.parametrize("status", [301, 302, 307, 308, 401, 404, 407, 411, 431])
async def test_a_request_that_was_turned_away_is_no_possible_duplicate(
    rig: Rig, items: Items, status: int
) -> None:
    sink = rig.build()
    rig.fail(faults.html(status), times=None)  # a 401 may be answered with another token
    with pytest.raises(Refused) as caught:
        await sink.send(items(sink, 2))
    assert not caught.value.sent


@pytest.mark.parametrize("status", [300, 303, 304, 402, 403, 406, 409, 451])
async def test_a_refusal_by_something_before_the_product_may_come_after_it_has_stored(
    rig: Rig, items: Items, status: int
) -> None:
    """Firewalls look at answers, too."""
    sink = rig.build()
    rig.fail(faults.html(status, process=True))
    with pytest.raises(Refused) as caught:
        await sink.send(items(sink, 2))
    assert caught.value.sent


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize(
    ("fault", "reason"),
    [("hang", "timeout"), ("reset", "reset"), ("truncated", "reset")],
)
async def test_an_unknown_outcome_is_a_possible_duplicate(
    rig: Rig, items: Items, *, fault: str, reason: str, stored: bool
) -> None:
    if fault == "truncated":
        stored = True  # a truncated response is one to a batch that was stored
    actions = {
        "hang": faults.hang(process=stored),
        "reset": faults.store_then_reset() if stored else faults.reset(),
        "truncated": faults.truncated(),
    }
    sink = rig.build(timeout="1s" if fault == "hang" else "10s")
    first = items(sink, 1)
    await sink.send(first)
    batch = items(sink, 4)[1:]
    rig.fail(actions[fault])
    try:
        verdict = await sink.send(batch)
    except Retryable as error:
        assert (error.reason, error.sent) == (reason, True)  # noqa: PT017  # it may be none
    else:
        assert fault == "truncated", "a status came"
        assert (verdict.rejected, verdict.retry, rig.stored.total) == ((), (), 4)
        # A sink to which the status is enough needs no body at all.
        rig.fail(faults.empty(200, process=True))
        assert (await sink.send(items(sink, 1))).rejected == ()
        return
    assert rig.stored.total == (4 if stored else 1)
    verdict = await sink.send(batch)
    assert (verdict.rejected, verdict.retry) == ((), ())
    assert uids(first + batch) == set(rig.stored.by_uid)
    assert sink.deduplicates == rig.double.DEDUPLICATES
    if sink.deduplicates:
        assert verdict.counts.duplicates == (3 if stored else 0)
        assert not rig.stored.repeated()
    else:
        assert len(rig.stored.repeated()) == (3 if stored else 0)


async def test_a_login_page_is_no_delivery(rig: Rig, items: Items) -> None:
    sink = rig.build()
    rig.fail(faults.html(200))
    with pytest.raises(Refused if not sink.deduplicates else RelayError) as caught:
        await sink.send(items(sink, 2))
    assert isinstance(caught.value, Refused | Retryable)
    assert caught.value.sent


async def test_a_failed_connection_is_no_possible_duplicate(rig: Rig, items: Items) -> None:
    sink = rig.build()
    batch = items(sink, 2)
    await rig.double.stop()
    with pytest.raises(Retryable) as caught:
        await sink.send(batch)
    assert (caught.value.reason, caught.value.sent) == ("connect", False)
    with pytest.raises(Retryable):
        await sink.check()
    await rig.double.start()
    assert await sink.send(batch) == Verdict()


async def test_a_cancelled_batch_leaves_the_sink_usable(rig: Rig, items: Items) -> None:
    sink = rig.build()
    await sink.send(items(sink, 1))
    arrived = asyncio.Event()

    def note(request: Request) -> None:
        if request.method in ("POST", "PUT"):
            arrived.set()

    rig.double.on_request = note
    rig.fail(faults.hang())
    sending = asyncio.create_task(sink.send(items(sink, 3)))
    await arrived.wait()
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    verdict = await sink.send(items(sink, 3))
    assert (verdict.rejected, verdict.retry) == ((), ())


# --- refusals -------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_never_followed_and_no_secret_leaves(
    rig: Rig, items: Items, status: int
) -> None:
    async with Trap() as trap:
        sink = rig.build()
        rig.double.faults.add(faults.redirect(trap.url, status), times=None)
        for work in (sink.send(items(sink, 2)), sink.check()):
            with pytest.raises(Refused, match="redirect") as caught:
                await work
            assert caught.value.status == status
        assert trap.connections == 0


async def test_a_secret_that_is_not_accepted_holds_the_sink_and_is_not_shown(
    rig: Rig, items: Items
) -> None:
    wrong = "a-wrong-secret-of-ours"
    sink = rig.build(**rig.double.keys_of(wrong))
    for work in (sink.send(items(sink, 2)), sink.check()):
        with pytest.raises(Refused) as caught:
            await work
        assert caught.value.status in (400, 401, 403)
        assert wrong not in str(caught.value)
    assert rig.stored.total == 0


async def test_a_secret_that_was_rotated_is_read_again(
    rig: Rig, items: Items, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text(f"{rig.secret}\n")
    sink = rig.build(**rig.double.keys_of(Secret(Resolved(f"${{file:{secret}}}"))))
    assert await sink.send(items(sink, 1)) == Verdict()
    rig.double.rotate("anewsecretthatisjustasgood")
    secret.write_text(rig.secret)
    verdict = await sink.send(items(sink, 2))
    assert (verdict.rejected, verdict.retry) == ((), ())
    assert rig.stored.by_uid.keys() == uids(items(sink, 2))


@pytest.mark.parametrize(
    ("kind", "refusal"),
    [
        pytest.param(kind, refusal, id=f"{kind}-{refusal.name}")
        for kind, double in DOUBLES.items()
        for refusal in double.REFUSALS
    ],
)
async def test_a_documented_refusal_holds_the_sink(
    kind: str, refusal: Refusal, items: Items
) -> None:
    async with rig_of(kind) as rig:
        sink = rig.build(**refusal.provoke(rig.double))
        with pytest.raises(Refused, match=refusal.words) as caught:
            await sink.send(items(sink, 2))
        assert caught.value.status == refusal.status
        assert rig.stored.total == 0


@pytest.mark.parametrize("status", [404, 405])
async def test_a_wrong_address_holds_the_sink(rig: Rig, items: Items, status: int) -> None:
    sink = rig.build()
    rig.fail(faults.answer(status, b"not here"))
    with pytest.raises(Refused, match="check the address") as caught:
        await sink.send(items(sink, 2))
    assert caught.value.status == status


@pytest.mark.parametrize("status", [402, 407, 410, 411, 431, 451])
async def test_a_refusal_that_no_event_can_have_caused_holds_the_sink(
    rig: Rig, items: Items, status: int
) -> None:
    sink = rig.build()
    rig.fail(faults.html(status))
    with pytest.raises(Refused):
        await sink.send(items(sink, 2))


async def test_a_batch_that_is_too_large_is_bisected(rig: Rig, items: Items) -> None:
    sink = rig.build(compression="none")
    batch = items(sink, 16)
    size = sum(len(item.text) for item in batch)
    rig.double.limit_body(size // 3)

    async def offer(part: Sequence[Item]) -> None:
        try:
            assert await sink.send(part) == Verdict()
        except TooLarge:
            middle = len(part) // 2
            await offer(part[:middle])
            await offer(part[middle:])

    await offer(batch)
    assert rig.double.answered[413] == 3
    assert set(rig.stored.by_uid) == uids(batch)
    assert not rig.stored.repeated()


async def test_the_message_of_a_server_is_shown_bounded_and_on_one_line(
    rig: Rig, items: Items
) -> None:
    text = "line\nline\x1b[31m" + "x" * 5000
    body = {
        "text": text,
        "code": 6,
        "errors": [{"detail": text}],
        "error": {"type": "t", "reason": text},
    }
    sink = rig.build()
    rig.fail(faults.answer(422, json.dumps(body).encode()), times=2)
    with pytest.raises(RelayError) as caught:
        await sink.send(items(sink, 2))
    assert len(str(caught.value)) < 800
    assert str(caught.value).isprintable()


# --- check ------------------------------------------------------------------------


async def test_check_tests_the_credentials_and_stores_nothing(rig: Rig) -> None:
    assert rig.double.url in await rig.build().check()
    assert rig.stored.total == 0


async def test_check_fails_when_another_server_answers(rig: Rig) -> None:
    sink = rig.build()
    for action in (faults.html(200), faults.empty(200), faults.html(503)):
        rig.double.faults.add(action, times=None)
        with pytest.raises(RelayError):
            await sink.check()
        rig.double.faults.clear()


async def test_a_search_names_the_event_and_no_secret(rig: Rig, event: MakeEvent) -> None:
    lines = rig.build().query(event(1).uid)
    assert lines
    assert all(event(1).uid in line and rig.secret not in line for line in lines)


def test_a_product_that_does_not_index_old_events_has_a_backfill_notice_for_a_month_ago(
    rig: Rig,
) -> None:
    now = datetime.fromtimestamp(NOON, UTC)
    notice = rig.build().backfill_notice(now - timedelta(days=30), now, now)
    assert (notice is None) == rig.double.INDEXES_OLD_EVENTS


# --- every sink ---------------------------------------------------------------------


def test_every_module_of_the_folder_is_a_sink() -> None:
    kinds = {"azure_logs", "datadog", "elasticsearch", "file", "otlp", "splunk_hec"}
    assert kinds <= set(available())
    for kind in available():
        module = importlib.import_module(f"auditrelay.sinks.{kind}")
        assert get_args(module.Settings.model_fields["type"].annotation) == (kind,)
        assert callable(module.build)


def test_every_sink_over_http_has_a_double() -> None:
    assert set(available()) - set(DOUBLES) == WITHOUT_DOUBLE
    assert set(DOUBLES) <= {*available(), HTTP}
    assert sorted(receivers.available()) == list(shipped_receivers())


async def test_a_double_is_of_the_type_of_its_sink(rig: Rig) -> None:
    assert rig.double.settings()["type"] == rig.kind
    keys = rig.double.keys_of(rig.secret)
    assert keys.items() <= rig.double.settings().items()
    assert keys.items() <= rig.double.credentials().items()


def test_the_forms_that_can_be_asked_for_are_those_that_exist() -> None:
    assert set(get_args(Form)) == set(FORMS)
