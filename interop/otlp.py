"""
Log records in an OpenTelemetry Collector, and in VictoriaLogs: programs that are not ours.

Behind the Collector is our double, strict and with a script. So what it has stored was read and
written again by the Collector, and what the Collector makes of the answers of the hop behind it is
seen as well.
"""

import asyncio
import json
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from structlog.testing import capture_logs
from tests.conftest import make_event
from tests.support import daemon
from tests.support.batches import NOON

from auditrelay.clock import Clock
from auditrelay.errors import Refused, Rejected, RelayError, Retryable, TooLarge
from auditrelay.events.page import Page
from auditrelay.sandbox import Sandbox, faults
from auditrelay.sandbox.siems.otlp import API_KEY, HEADER, Otlp, failed
from auditrelay.sinks import Item, Verdict, otlp
from auditrelay.telemetry.metrics import Metrics
from auditrelay.window import micros
from interop import golang, vendors, victorialogs
from interop.cluster import once, state
from interop.findings import Findings
from interop.vendors import Made

_BUILDER = "go.opentelemetry.io/collector/cmd/builder@v0.165.0"
_STORED_SECONDS = 60
"""How long what was taken may take until it can be read."""

Stored = dict[str, Any]
"""A record as it was read back: its uid, its time in microseconds, and the event in its body."""


# -- the programs


@contextmanager
def _collector(behind: Otlp, encoding: str = "proto") -> Iterator[str]:
    """Run a Collector without a queue that sends to *behind* in *encoding*."""
    program = golang.build("collector", _BUILDER, "--config", "builder.yaml")
    address = golang.free_address()
    config = {
        "receivers": {"otlp": {"protocols": {"http": {"endpoint": address}}}},
        "exporters": {
            "otlp_http": {
                "endpoint": behind.url,
                "headers": {HEADER: API_KEY},
                "encoding": encoding,
                "sending_queue": {"enabled": False},
                "retry_on_failure": {"enabled": False},
            }
        },
        "service": {
            "pipelines": {"logs": {"receivers": ["otlp"], "exporters": ["otlp_http"]}},
            "telemetry": {"metrics": {"level": "none"}},
        },
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "collector.yaml")
        path.write_text(json.dumps(config))  # which is YAML as well
        with golang.serving(program, address, "--config", str(path)) as url:
            yield url


# -- everything, once


async def _deliver(
    sandbox: Sandbox, findings: Findings, stored: Callable[[], Awaitable[list[Stored]]], **keys: Any
) -> None:
    """Deliver all events to a sink with *keys*; what is *stored* then must be just these."""
    made = vendors.made(sandbox)
    with tempfile.TemporaryDirectory() as folder:
        table = {"type": "otlp", "linger": "20ms", **keys}
        config = daemon.configure(Path(folder), vendors.sources(sandbox), {"here": table})
        ended = await daemon.command(config, "check")
        findings.check("check exits with 0", ok=ended.status == 0, seen=ended.stdout)
        await once(config, findings)
        findings.same("no dead letters", (await state(config))["dead_letters"], 0)
    found = await stored()
    for _ in range(_STORED_SECONDS):
        if len(found) >= len(made):
            break
        await asyncio.sleep(1)
        found = await stored()
    _compare(found, made, findings)


def _compare(found: Sequence[Stored], made: Sequence[Made], findings: Findings) -> None:
    """Check that what was *found* is exactly what was *made*, each once, unchanged."""
    wanted = {(each.source, each.id): each for each in made}
    times: Counter[tuple[str, str]] = Counter()
    wrong_time, wrong_record, uids = [], [], set()
    for each in found:
        event = each["event"]
        record = json.loads(event["raw_data"])
        key = event["unmapped"]["auditrelay"]["source"], str(record["id"])
        times[key] += 1
        uids.add(each["uid"])
        if key not in wanted:
            continue
        # Some vendors write milliseconds.
        own_time = each["at"] // 1000 == wanted[key].at // 1000
        if not own_time or event["metadata"]["uid"] != each["uid"]:
            wrong_time.append((key, each["at"], wanted[key].at))
        if record != wanted[key].record:
            wrong_record.append(key)
    findings.none("every event is stored", wanted.keys() - times.keys())
    findings.none("nothing else is stored", times.keys() - wanted.keys())
    findings.none("every event is stored once", [key for key, n in times.items() if n > 1])
    findings.none("every event has its own time, and its uid in the record", wrong_time)
    findings.none("every record is exactly as the vendor sent it", wrong_record)
    findings.same("every event has a uid of its own", len(uids), len(made))


async def _of_double(double: Otlp) -> list[Stored]:
    return [
        {
            "uid": each["attributes"]["auditrelay.uid"],
            "at": int(each["timeUnixNano"]) // 1000,
            "event": each["body"],
        }
        for each in double.stored.documents
    ]


# -- the Collector


async def prove_collector(findings: Findings) -> None:
    """Send everything through a Collector; compare its answers with our double's, and ours."""
    async with Sandbox() as sandbox:
        vendors.fill(sandbox)
        for keys, onwards in (
            ({"encoding": "protobuf", "compression": "gzip"}, "proto"),
            ({"encoding": "json", "compression": "none"}, "json"),
        ):
            print(f"{len(vendors.made(sandbox))} events in {keys['encoding']} through a Collector")
            async with Otlp() as double:
                with _collector(double, onwards) as url:
                    stored = partial(_of_double, double)
                    await _deliver(sandbox, findings, stored, endpoint=url, **keys)
    async with Otlp() as double:
        with _collector(double) as url:
            print("the answers of a Collector and of our double")
            await _same_answers(url, double, findings)
            print("what comes from behind a Collector")
            with capture_logs():
                await _from_behind(url, double, findings)


_PROTOBUF = {"Content-Type": "application/x-protobuf"}
_JSON = {"Content-Type": "application/json"}
_RECORD = (
    '{"resourceLogs":[{"resource":{},"scopeLogs":[{"scope":{},"logRecords":[{'
    '"observedTimeUnixNano":"1","body":{"stringValue":"x"}%s}]}]}]}'
)
_REQUESTS: dict[str, tuple[str, str, dict[str, str], bytes]] = {
    "nothing, in protobuf": ("POST", "/v1/logs", _PROTOBUF, b""),
    "a resource without records": ("POST", "/v1/logs", _PROTOBUF, b"\x0a\x00"),
    "no protobuf": ("POST", "/v1/logs", _PROTOBUF, b"\xff"),
    "protobuf that is cut": ("POST", "/v1/logs", _PROTOBUF, b"\x0a\x05\x12"),
    "a text in the place of a message": ("POST", "/v1/logs", _PROTOBUF, b"\x0a\x03abc"),
    "nothing, in JSON": ("POST", "/v1/logs", _JSON, b"{}"),
    "no JSON": ("POST", "/v1/logs", _JSON, b"{"),
    "an empty body, in JSON": ("POST", "/v1/logs", _JSON, b""),
    "a record": ("POST", "/v1/logs", _JSON, (_RECORD % "").encode()),
    "a trace id of two bytes": (
        "POST",
        "/v1/logs",
        _JSON,
        (_RECORD % ',"traceId":"abcd"').encode(),
    ),
    "text": ("POST", "/v1/logs", {"Content-Type": "text/plain"}, b"{}"),
    "no content type": ("POST", "/v1/logs", {}, b"{}"),
    "an unknown encoding": ("POST", "/v1/logs", {**_JSON, "Content-Encoding": "br2"}, b"{}"),
    "no gzip": ("POST", "/v1/logs", {**_JSON, "Content-Encoding": "gzip"}, b"{}"),
    "GET": ("GET", "/v1/logs", {}, b""),
    "another path": ("POST", "/v1/elsewhere", _JSON, b"{}"),
    "a body of 21 MiB": ("POST", "/v1/logs", _JSON, b" " * 21 * 2**20),
}


async def _same_answers(url: str, double: Otlp, findings: Findings) -> None:
    """Check that a Collector at *url* and *double* answer alike."""
    async with httpx.AsyncClient(trust_env=False, headers={HEADER: API_KEY}) as client:
        for name, (method, path, headers, body) in _REQUESTS.items():
            seen = []
            for address in (url, double.url):
                reply = await client.request(
                    method, address + path, headers=headers, content=body, timeout=60
                )
                kind = reply.headers.get("content-type", "").partition(";")[0]
                seen.append((reply.status_code, kind, _words(reply.content, kind)))
            findings.same(f"answered alike: {name}", seen[1], seen[0])


def _words(body: bytes, kind: str) -> object:
    """Return of an answer what must be the same: not the text of an error."""
    if kind == "application/json":
        answer = json.loads(body)
        return answer if "partialSuccess" in answer else (answer["code"], sorted(answer))
    return body[:2] if kind == "application/x-protobuf" else body.strip()


async def _from_behind(url: str, double: Otlp, findings: Findings) -> None:
    """Check what the answers of *double*, which is behind the Collector at *url*, become."""
    settings = otlp.Settings.model_validate({"type": "otlp", "endpoint": url})
    sink = otlp.build("here", settings, Metrics(), Clock())
    page = Page.of([make_event(number) for number in range(4)])
    batch = Item.of_page(range(4), page, sink.render(page, NOON), sink.limits)
    passed = [
        ("400", failed(400, 3), Rejected, 400, False),
        ("401", failed(401, 16), Refused, 401, True),
        ("403", failed(403, 7), Refused, 403, True),
        ("404", failed(404, 12), Refused, 404, True),
        ("413", faults.answer(413), Retryable, "status_500", True),
        ("429", faults.too_many(), Retryable, "status_429", True),
        ("500", failed(500, 13), Retryable, "status_500", True),
        ("503", faults.html(503), Retryable, "status_503", True),
        ("reset", faults.reset(), Retryable, "status_503", True),
    ]
    before = double.stored.total
    for name, action, kind, what, passed_on in passed:
        double.fail_batches(action, times=None)
        try:
            seen: object = await sink.send(batch)
        except RelayError as error:
            said = "a Collector answers so for what it sends to as well" in str(error)
            seen = type(error), getattr(error, "status", None) or getattr(error, "reason", ""), said
        findings.same(f"from behind: {name}", seen, (kind, what, passed_on))
        double.faults.clear()
    findings.same("nothing of that was stored", double.stored.total, before)
    # A Collector takes a partial success for a success, and only logs what was refused.
    double.refuse_next(2)
    findings.same("from behind: a partial success is taken", await sink.send(batch), Verdict())
    findings.same("and what was refused there is lost", double.stored.total, before + 2)
    large = [item for _ in range(8) for item in _large(sink)]
    try:
        seen = await sink.send(large)
    except RelayError as error:
        seen = type(error), str(error).partition(": ")[2]
    findings.same("21 MB", seen, (TooLarge, "http: request body too large"))
    await sink.close()


def _large(sink: otlp.Sink) -> list[Item]:
    page = Page.of([make_event(9, message="x" * 3_000_000)])
    return Item.of_page([9], page, sink.render(page, NOON), sink.limits)


# -- VictoriaLogs


async def prove_victorialogs(findings: Findings) -> None:
    """Store everything in VictoriaLogs, and read it back."""
    async with AsyncExitStack() as running:
        sandbox = await running.enter_async_context(Sandbox())
        url = running.enter_context(victorialogs.serving("-insert.maxLineSizeBytes=2MB"))
        vendors.fill(sandbox)
        print(f"{len(vendors.made(sandbox))} events in VictoriaLogs")

        async def stored() -> list[Stored]:
            async with httpx.AsyncClient(trust_env=False) as client:
                reply = await client.get(
                    f"{url}/select/logsql/query", params={"query": "*"}, timeout=60
                )
            found = [_of_line(json.loads(line)) for line in reply.text.split("\n") if line]
            return [each for each in found if not _is_head(each["event"])]

        endpoint = f"{url}/insert/opentelemetry"
        await _deliver(sandbox, findings, stored, endpoint=endpoint)
        with tempfile.TemporaryDirectory() as folder:
            table = {"type": "otlp", "endpoint": endpoint, "encoding": "json"}
            config = daemon.configure(Path(folder), vendors.sources(sandbox), {"here": table})
            ended = await daemon.command(config, "check")
            says_so = "json encoding isn't supported" in " ".join(ended.stdout.split())
            findings.check(
                "check says that it does not read JSON",
                ok=ended.status != 0 and says_so,
                seen=ended.stdout,
            )


def _is_head(event: dict[str, Any]) -> bool:
    """Return whether *event* is a head of the evidence, which no vendor has recorded."""
    return bool(event["activity_name"] == "auditrelay.ledger_sealed")


def _of_line(line: dict[str, str]) -> Stored:
    at = datetime.fromisoformat(f"{line['_time'].removesuffix('Z')[:26]}+00:00")
    return {
        "uid": line["auditrelay.uid"],
        "at": micros(at),
        "event": json.loads(line["_msg"]),
    }
