"""How a batch is written: items, bodies, limits, keys, waits for nothing."""

import gzip
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.sinks.described.receivers import sink_of
from tests.support.batches import NOON

from auditrelay.errors import TooLarge
from auditrelay.events import AuditEvent
from auditrelay.events.page import Page
from auditrelay.sandbox.messages import Request, Response
from auditrelay.sandbox.server import Double
from auditrelay.sinks import Counts, Item, Sink, Verdict

MakeEvent = Callable[..., AuditEvent]
Items = Callable[[Sink, int], list[Item]]
AT = 1_767_268_800_123_456
"""When the event happened: 2026-01-01T12:00:00.123456Z."""


class Globex(Double):
    """Takes everything that is JSON, and remembers the bodies."""

    def __init__(self) -> None:
        super().__init__()
        self.bodies: list[bytes] = []
        self.requests_seen: list[Request] = []

    def respond(self, request: Request) -> Response:
        self.requests_seen.append(request)
        self.bodies.append(request.content("gzip"))
        return Response(200, b'{"ok": true}')


@asynccontextmanager
async def sending(
    folder: Path, keys: Mapping[str, Any] | None = None, **parts: str
) -> AsyncIterator[tuple[Globex, Sink]]:
    async with Globex() as double:
        sink = sink_of(folder, {"url": double.url, **(keys or {})}, **parts)
        try:
            yield double, sink
        finally:
            await sink.close()


def item(skeleton: Any, lines: str = "") -> str:
    return f"[item]\nskeleton = '{json.dumps(skeleton)}'\n{lines}\n"


def text_of(sink: Sink, *events: AuditEvent, now: int = NOON, **marks: object) -> list[Any]:
    """Return the items of *events*, decoded."""
    rendered = sink.render(Page.of(events), now, marks=marks)
    return [json.loads(each.text) if each.text else each.unfit for each in rendered]


# --- items


def test_each_name_stands_for_what_it_says(tmp_path: Path, event: MakeEvent) -> None:
    names = ("uid", "time", "message", "source", "vendor", "product", "action", "outcome", "raw")
    skeleton = {name: f"${name}" for name in names} | {"fixed": [1, {"a": "$ b"}], "text": "$text"}
    sink = sink_of(tmp_path, item=item(skeleton))
    made = event(7, at=AT, message='say "no" \u2028', raw=msgspec.Raw(b'{"n":\n1.50}'))
    [found] = text_of(sink, made)
    line = json.loads(found.pop("text"))
    assert line["metadata"]["uid"] == made.uid
    assert found == {
        "uid": made.uid,
        "time": "2026-01-01T12:00:00.123Z",
        "message": 'say "no" \u2028',
        "source": made.source,
        "vendor": made.vendor,
        "product": made.product,
        "action": made.native_action,
        "outcome": made.outcome or "unknown",
        "raw": {"n": 1.5},
        "fixed": [1, {"a": "$ b"}],
    }
    assert b"1.50}" in sink.render(Page.of([made]), NOON)[0].text


def test_the_markers_are_those_of_the_delivery(tmp_path: Path, event: MakeEvent) -> None:
    sink = sink_of(tmp_path, item=item({"m": "$markers", "r": "$raw", "u": "$uid"}))
    [found] = text_of(sink, event(1), test=True)
    assert found["m"] == {"source": event(1).source, "test": True}


@pytest.mark.parametrize(
    ("spelling", "written"),
    [
        ("iso_s", '"2026-01-01T12:00:00Z"'),
        ("iso_ms", '"2026-01-01T12:00:00.123Z"'),
        ("iso_us", '"2026-01-01T12:00:00.123456Z"'),
        ("epoch_s", "1767268800"),
        ("epoch_ms", "1767268800123"),
        ("epoch_us", "1767268800123456"),
        ("epoch_ns", "1767268800123456000"),
    ],
)
@pytest.mark.parametrize("inside", [False, True])
def test_a_time_has_exact_digits(
    spelling: str, written: str, *, inside: bool, tmp_path: Path, event: MakeEvent
) -> None:
    how = f'time_as = "{spelling}"\n'
    parts = (
        item("$event", f'{how}uid = "id"\ntime = "a.at"')
        if inside
        else item({"id": "$uid", "at": "$time", "e": "$event"}, how)
    )
    sink = sink_of(tmp_path, item=parts)
    [rendered] = sink.render(Page.of([event(1, at=AT)]), NOON)
    assert f'"at":{written}'.encode() in rendered.text
    is_number = spelling.startswith("epoch")
    if is_number:
        as_text = sink_of(tmp_path, item=f"{parts}time_text = true\n")
        [rendered] = as_text.render(Page.of([event(1, at=AT)]), NOON)
        assert f'"at":"{written}"'.encode() in rendered.text


def test_a_path_replaces_what_the_form_has_there(tmp_path: Path, event: MakeEvent) -> None:
    parts = item("$event", 'uid = "metadata.uid"\ntime = "time"\ntime_as = "epoch_s"')
    sink = sink_of(tmp_path, item=parts)
    [rendered] = sink.render(Page.of([event(1, at=AT)]), NOON)
    assert rendered.text.count(b'"time":') == 1
    found = json.loads(rendered.text)
    assert (found["time"], found["metadata"]["uid"]) == (AT // 10**6, event(1).uid)
    assert found["metadata"]["product"]["vendor_name"], "the rest of the object is there"


# --- what a receiver cannot store


LIMITS = "[limits]\n{}\n"
EVENT = {"id": "$uid", "at": "$time", "e": "$event"}


def raw_sink(folder: Path, lines: str, limits: str) -> Sink:
    return sink_of(folder, {"format": "raw"}, item=item(EVENT, lines), limits=LIMITS.format(limits))


def with_record(event: MakeEvent, record: Any) -> AuditEvent:
    return event(1, raw=msgspec.Raw(json.dumps(record).encode()))


def test_flat_and_lists(tmp_path: Path, event: MakeEvent) -> None:
    made = with_record(event, {"a": {"b": {}, "c": {"d": [1, {"e": 2}]}}, "n": None})
    sink = raw_sink(tmp_path, 'flat = true\nlists = "text"', "events = 5")
    [found] = text_of(sink, made)
    assert found["e"]["record.a.c.d"] == '[1,{"e":2}]'
    assert found["e"]["record.n"] is None
    assert not any(isinstance(each, dict | list) for each in found["e"].values())
    kept = raw_sink(tmp_path, "flat = true", "events = 5")
    assert text_of(kept, made)[0]["e"]["record.a.c.d"] == [1, {"e": 2}]


def test_digits_are_kept_however_an_event_is_looked_into(tmp_path: Path, event: MakeEvent) -> None:
    made = event(1, raw=msgspec.Raw(b'{"n":9007199254740993,"big":123456789012345678901234567890}'))
    [found] = text_of(raw_sink(tmp_path, "flat = true", "events = 5"), made)
    assert found["e"]["record.n"] == 9007199254740993
    assert int(found["e"]["record.big"]) == 123456789012345678901234567890


def test_a_depth_makes_texts_of_what_is_below(tmp_path: Path, event: MakeEvent) -> None:
    made = with_record(event, {"a": {"b": {"c": 1}}, "l": [[1]]})
    [found] = text_of(raw_sink(tmp_path, "", "depth = 3"), made)
    assert found["e"]["record"] == {"a": {"b": '{"c":1}'}, "l": ["[1]"]}


@pytest.mark.parametrize(
    ("limits", "record", "words", "cut"),
    [
        ("field_bytes = 50", {"a": "x" * 51}, "record.a has 51 bytes; the limit is 50", "record.a"),
        (
            "field_bytes = 50",
            {"a": ["☃" * 17]},
            "record.a has 51 bytes; the limit is 5",
            "record.a",
        ),
        (
            "fields = 12",
            {f"k{number}": number for number in range(12)},
            "fields; the limit is 12",
            "record.k11",
        ),
    ],
)
def test_what_is_too_much_is_a_dead_letter_or_cut(
    limits: str, record: Any, words: str, cut: str, tmp_path: Path, event: MakeEvent
) -> None:
    made = with_record(event, record)
    [rendered] = raw_sink(tmp_path, "", limits).render(Page.of([made]), NOON)
    assert rendered.unfit is not None
    assert rendered.unfit.reason == "too_large"
    assert words in rendered.unfit.message
    [rendered] = raw_sink(tmp_path, "", f"{limits}\ncut = true").render(Page.of([made]), NOON)
    assert rendered.unfit is None
    assert json.loads(rendered.text)["e"]["auditrelay"]["cut"].endswith(cut)


def test_a_text_is_cut_between_characters(tmp_path: Path, event: MakeEvent) -> None:
    sink = raw_sink(tmp_path, "", "field_bytes = 100\ncut = true")
    [found] = text_of(sink, with_record(event, {"a": "☃" * 50, "b": "x" * 100}))
    assert found["e"]["record"] == {"a": "☃" * 33, "b": "x" * 100}
    assert found["e"]["auditrelay"]["cut"] == "record.a"


def test_an_item_that_is_too_long_is_cut_as_little_as_needed(
    tmp_path: Path, event: MakeEvent
) -> None:
    limits = 'event_bytes = "4KB"\ncut = true'
    sink = raw_sink(tmp_path, "", limits)
    made = with_record(event, {"long": "x" * 9000, "short": "y" * 300})
    [rendered] = sink.render(Page.of([made]), NOON)
    assert 2000 < len(rendered.text) <= 4000
    assert json.loads(rendered.text)["e"]["record"]["short"] == "y" * 300
    many = with_record(event, {f"k{number}": number for number in range(2000)})
    [item_of] = Item.of_page([0], Page.of([many]), sink.render(Page.of([many]), NOON), sink.limits)
    assert item_of.unfit is not None
    assert item_of.unfit.reason == "too_large", "there is nothing to shorten"


def test_there_is_room_for_what_is_set_in_the_event(tmp_path: Path, event: MakeEvent) -> None:
    record = {f"k{number}": number for number in range(40)}
    lines = 'flat = true\nuid = "our.uid"\ntime = "our.time"'
    for count in range(20, 50):
        sink = sink_of(
            tmp_path,
            {"format": "raw"},
            item=item("$event", lines),
            limits=LIMITS.format(f"fields = {count}\ncut = true"),
        )
        [found] = text_of(sink, with_record(event, record))
        assert len(found) <= count
        assert found["our.uid"] == event(1).uid
        assert ("auditrelay.cut" in found) == ("record.k39" not in found)


def test_a_restamped_event_has_the_time_of_sending_wherever_it_stands(
    tmp_path: Path, event: MakeEvent
) -> None:
    for lines in ('time = "at"', 'time = "at"\nflat = true'):
        parts = item("$event", f'{lines}\nuid = "id"\ntime_as = "epoch_us"')
        sink = sink_of(tmp_path, {"format": "raw"}, item=parts, age=AGE.format("restamp"))
        old, new = text_of(sink, event(1, at=NOON - 61 * MINUTE), event(2, at=NOON))
        assert (old["at"], new["at"]) == (NOON, NOON)


# --- each alone


async def test_what_is_refused_alone_is_a_dead_letter_however_it_is_said(
    tmp_path: Path, items: Items, monkeypatch: pytest.MonkeyPatch
) -> None:
    on = '[[on]]\nstatuses = [409]\ndo = "isolate"\nstored = "the_valid"\n'
    async with sending(tmp_path, on=on) as (double, sink):
        batch = items(sink, 4)

        def respond(request: Request) -> Response:
            found = json.loads(request.content("gzip"))["events"]
            answers = {batch[0].uid: 400, batch[1].uid: 413, batch[2].uid: 409}
            status = answers.get(found[0]["id"], 200) if len(found) == 1 else 409
            return Response(status, b'{"ok": true}')

        monkeypatch.setattr(double, "respond", respond)
        verdict = await sink.send(batch)
        assert [(each.index, each.reason, each.status) for each in verdict.rejected] == [
            (0, "status_400", 400),
            (1, "too_large", 413),
            (2, "refused", 409),
        ]
        assert verdict.retry == ()
        assert verdict.counts.possibly_stored == 1


async def test_one_that_must_wait_when_sent_alone_is_sent_again(
    tmp_path: Path, items: Items, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = {
        "on": '[[on]]\nstatuses = [409]\ndo = "isolate"\n',
        "items": '[items]\nat = "r"\nby = "order"\nverdict = "s"\nok = ["1"]\nretry = ["2"]\n',
    }
    async with sending(tmp_path, None, **parts) as (double, sink):
        batch = items(sink, 3)

        def respond(request: Request) -> Response:
            found = json.loads(request.content("gzip"))["events"]
            if len(found) > 1:
                return Response(409)
            state = 2 if found[0]["id"] == batch[1].uid else 1
            return Response(200, json.dumps({"ok": True, "r": [{"s": state}]}).encode())

        monkeypatch.setattr(double, "respond", respond)
        verdict = await sink.send(batch)
        assert (verdict.rejected, verdict.retry) == ((), (1,))
        assert verdict.retry_reason is not None
        assert verdict.counts.possibly_stored == 0


# --- bodies


BODY = '[body]\nshape = "{}"\n'


@pytest.mark.parametrize(
    ("shape", "kind", "split"),
    [
        ("array", "application/json", json.loads),
        ("ndjson", "application/x-ndjson", lambda body: list(map(json.loads, body.splitlines()))),
        ("wrapped", "application/json", lambda body: json.loads(body)["events"]),
    ],
)
@pytest.mark.parametrize("count", [1, 3])
async def test_the_shapes_of_a_body(
    shape: str,
    kind: str,
    split: Callable[[bytes], list[Any]],
    count: int,
    tmp_path: Path,
    items: Items,
) -> None:
    parts = {} if shape == "wrapped" else {"body": BODY.format(shape)}
    async with sending(tmp_path, None, **parts) as (double, sink):
        batch = items(sink, count)
        assert await sink.send(batch) == Verdict()
        [body] = double.bodies
        assert [each["id"] for each in split(body)] == [each.uid for each in batch]
        assert double.requests_seen[0].headers["content-type"] == kind
        assert double.requests_seen[0].path == "/v1/events"
        limits = sink.limits
        around = len(body) - sum(len(each.text) + limits.overhead for each in batch)
        assert around == 1_000_000 - limits.bytes, "the limit counts every byte"


async def test_one_request_for_each_event_with_its_key(tmp_path: Path, items: Items) -> None:
    key = '[key]\nheader = "Idempotency-Key"\n'
    parts = {"body": BODY.format("single"), "key": key, "limits": ""}
    async with sending(tmp_path, None, **parts) as (double, sink):
        assert sink.deduplicates
        assert sink.limits.events == 1
        [one] = items(sink, 1)
        await sink.send([one])
        assert double.requests_seen[0].headers["idempotency-key"] == one.uid
        assert json.loads(double.bodies[0])["id"] == one.uid


async def test_a_receiver_that_does_not_unpack_gzip_gets_none(tmp_path: Path, items: Items) -> None:
    request = '[request]\nurl = "https://{site}/v1/events"\ngzip = false\nmethod = "PUT"\n'
    async with sending(tmp_path, request=request) as (double, sink):
        await sink.send(items(sink, 2))
        assert "content-encoding" not in double.requests_seen[0].headers
        assert double.requests_seen[0].method == "PUT"
    with pytest.raises(ValueError, match="compression"):
        sink_of(tmp_path, {"compression": "gzip"}, request=request)


async def test_a_limit_of_what_is_sent_is_kept_here(tmp_path: Path, items: Items) -> None:
    async with sending(tmp_path, limits='[limits]\nwire_bytes = "2KB"\n') as (double, sink):
        batch = items(sink, 100)
        with pytest.raises(TooLarge, match="Globex takes at most 2,000"):
            await sink.send(batch)
        assert double.requests == 0
        few = batch[:2]
        await sink.send(few)
        assert len(gzip.compress(double.bodies[0])) < 2000


async def test_parameters_and_headers_are_filled(tmp_path: Path, items: Items) -> None:
    settings = """
[settings.site]
about = "The host."
example = "eu.globex.example"
pattern = '[a-z0-9.-]+'

[settings.index]
about = "An index."
example = "a b"

[settings.team]
about = "A team, or none."
example = "x"
default = ""

[settings.region]
about = "A region."
example = "eu"
choices = ["eu", "us"]
default = "eu"
means = { eu = "europe" }
"""
    request = """
[request]
url = "https://{site}/v1/{index}/{region}"
params = { to = "{index}", team = "{team}" }
headers = { X-Team = "{team}", X-Region = "{region}", X-Fixed = "1" }
"""
    parts = {"settings": settings, "request": request}
    async with sending(tmp_path, {"index": "a/b c"}, **parts) as (double, sink):
        await sink.send(items(sink, 1))
        [request_seen] = double.requests_seen
        assert request_seen.target.startswith("/v1/a%2Fb%20c/europe?to=a%2Fb%20c")
        assert request_seen.query == {"to": "a/b c"}
        assert request_seen.headers["x-region"] == "europe"
        assert request_seen.headers["x-fixed"] == "1"
        assert "x-team" not in request_seen.headers


# --- ages


AGE = '[age]\noldest = "1h"\nnewest = "10m"\nthen = "{}"\n'
MINUTE = 60 * 10**6


def test_an_event_of_another_age_is_restamped(tmp_path: Path, event: MakeEvent) -> None:
    sink = sink_of(tmp_path, age=AGE.format("restamp"))
    events = [event(number, at=NOON - age * MINUTE) for number, age in enumerate((0, 58, 61, -11))]
    rendered = sink.render(Page.of(events), NOON)
    found = [json.loads(each.text) for each in rendered]
    assert [each["at"] for each in found] == [
        (NOON - age * MINUTE) // 1000 for age in (0, 58, 0, 0)
    ]
    own = [each["event"]["unmapped"]["auditrelay"] for each in found]
    assert [each.get("restamped") for each in own] == [None, None, True, True]
    at = datetime.fromtimestamp(events[2].at / 10**6, UTC)
    assert datetime.fromisoformat(own[2]["original_timestamp"]) == at
    assert rendered[0].ages == (-9 * MINUTE, 59 * MINUTE)
    assert rendered[2].ages == (60 * MINUTE, 62 * MINUTE)


async def test_restamped_events_are_counted(
    tmp_path: Path, event: MakeEvent, batch: Callable[..., list[Item]]
) -> None:
    async with sending(tmp_path, age=AGE.format("restamp")) as (_, sink):
        events = [event(1, at=NOON), event(2, at=NOON - 90 * MINUTE)]
        assert await sink.send(batch(sink, events)) == Verdict(counts=Counts(restamped=1))


def test_an_event_of_another_age_is_a_dead_letter(tmp_path: Path, event: MakeEvent) -> None:
    sink = sink_of(tmp_path, age=AGE.format("dead_letter"))
    events = [event(1, at=NOON - 61 * MINUTE), event(2, at=NOON + 11 * MINUTE)]
    old, new = sink.render(Page.of(events), NOON)
    assert old.unfit is not None
    assert old.unfit.reason == "too_old"
    assert "more than 1 h ago: Globex would not take it" in old.unfit.message
    assert new.unfit is not None
    assert new.unfit.reason == "in_future"


# --- check and search


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Response(200, b'{"ok": true}'), None),
        (Response(200, b"<html>"), "the address answers but is not Globex"),
        (Response(204), "the address answers but is not Globex"),
        (Response(401), "the credentials are not accepted"),
        (Response(400, b"no"), "it is not what the check must get"),
        (Response(500), "500 from GET"),
    ],
)
async def test_the_check_must_get_its_answer(
    answer: Response, words: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sending(tmp_path) as (double, sink):
        monkeypatch.setattr(double, "respond", lambda _: answer)
        if words is None:
            assert await sink.check() == f"Globex at {double.url} answers as it must"
            return
        with pytest.raises(Exception, match=words) as caught:
            await sink.check()
        assert getattr(caught.value, "sent", None) is False


def test_an_event_is_searched_for_as_the_file_says(tmp_path: Path) -> None:
    top = """
receiver = "globex"
product = "Globex"
docs = ["https://docs.globex.example/intake"]
checked = 2026-03-01
evidence = "documentation"
find = 'on {site}: id = {uid}'
"""
    assert sink_of(tmp_path, top=top).query("u1") == ("Globex: on eu.globex.example: id = u1",)
    assert sink_of(tmp_path).query("u1") == ("Globex: u1",)
