"""
A receiver of log records by OTLP over HTTP: an OpenTelemetry Collector, and what others answer.

https://opentelemetry.io/docs/specs/otlp/#otlphttp. It refuses what a Collector refuses, in its
words, and what :mod:`auditrelay.sandbox.siems.otlp.requests` says in addition. What a Collector
never does, and other receivers do, is there on command: to take a request and refuse some of its
records; to answer with an empty body.
"""

import contextlib
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, ClassVar, Literal

from auditrelay.sandbox.faults import Action, answer
from auditrelay.sandbox.messages import BadRequest, Request, Response
from auditrelay.sandbox.siems import Intake, Misbehaviour, Refusal, Variant
from auditrelay.sandbox.siems.otlp.requests import LogRecord, Undecodable, of_json, of_protobuf
from auditrelay.sandbox.stored import first_at

API_KEY = "otlp-sandbox-key-not-a-real-secret"
HEADER = "X-Api-Key"

Encoding = Literal["protobuf", "json"]

MEDIA_TYPES: dict[str, Encoding] = {
    "application/x-protobuf": "protobuf",
    "application/json": "json",
}
_UID = re.compile(rb'auditrelay\.uid(?:\x12\x2a\x0a\x28|","value":\{"stringValue":")([0-9a-f]{40})')
_NATIVE_ID = re.compile(rb'original_event_uid\\?":\\?"(.*?)\\?"')
_INVALID_ARGUMENT = 3
_INTERNAL = 13
_UNAVAILABLE = 14
_UNAUTHENTICATED = 16


@dataclass(slots=True)
class Switches:
    """Limits, and in which way it answers."""

    max_bytes: int = 20 * 2**20
    """Of a body, decompressed."""
    gateway_bytes: int | None = None
    """Of a body, decompressed, that something before it lets through."""
    terse: bool = False
    """Whether it reads protobuf alone, and answers with empty bodies, as VictoriaLogs does."""
    answers_in: Encoding | None = None
    """The encoding of its answers; None: that of the request."""


class Otlp(Intake):
    """
    A receiver: :attr:`stored` has the records, with their bodies decoded if they are JSON.

    In lean mode a body is only scanned for uids.
    """

    NAME: ClassVar = "collector"
    PLACE: ClassVar = 5
    ON_REQUEST: ClassVar = True
    SECRET_KEY: ClassVar = "headers"  # noqa: S105  # the name of a key, not its value
    ENVELOPE: ClassVar = 4_000
    REFUSALS: ClassVar = (
        Refusal("wrong key", 401, "check headers", lambda _: {"headers": {HEADER: "wrong-key-1"}}),
        Refusal("wrong address", 404, "check endpoint", lambda it: {"endpoint": f"{it.url}/x"}),
        Refusal("the hop behind", 401, "look into its own log", lambda it: it.break_behind(401)),
    )
    MISBEHAVIOURS: ClassVar[dict[str, Misbehaviour]] = {
        "refuses some": lambda double: double.refuse_next(2),
        "warns": lambda double: double.say_next("the clock of a record is wrong"),
        "429 until a date": lambda double: double.fail_batches(throttled(double.clock, 3)),
        "500 of its own": lambda double: double.fail_batches(failed(500, _INTERNAL)),
        "500 of one of two behind": lambda double: double.fail_batches(
            failed(500, _INTERNAL, process=True)
        ),
        "503 of its own": lambda double: double.fail_batches(failed(503, _UNAVAILABLE)),
        "401 of the hop behind": lambda double: double.fail_batches(failed(401, _UNAUTHENTICATED)),
        "answers in JSON": lambda double: setattr(double.switches, "answers_in", "json"),
        "JSON of another kind": lambda double: double.fail_batches(answer(200, b'{"ok":true}')),
    }
    VARIANTS: ClassVar = (
        Variant("json", lambda _: None, {"encoding": "json"}),
        Variant("terse", lambda double: setattr(double.switches, "terse", True), {}),
    )

    def __init__(
        self,
        *,
        switches: Switches | None = None,
        clock: Callable[[], float] = time.time,
        seed: int = 0,
    ) -> None:
        super().__init__(clock=clock, seed=seed)
        self.switches = switches or Switches()
        self.api_key = API_KEY
        self.refuses: Callable[[LogRecord], bool] = lambda _: False
        """Which records it refuses of a request that it takes."""
        self._refused_next = 0
        self._said_next = ""

    @property
    def secret(self) -> str:
        """The value of the header that it wants."""
        return self.api_key

    def settings(self) -> dict[str, Any]:
        """Return the settings of a sink that sends to this double."""
        return {"type": "otlp", "endpoint": self.url, **self.credentials()}

    @classmethod
    def keys_of(cls, secret: Any) -> dict[str, Any]:
        """Return the settings of a sink that has *secret* as its credential."""
        return {"headers": {HEADER: secret}}

    def limit_body(self, size: int) -> None:
        """Answer 413 to a body of more than *size* bytes, as gateways do and no Collector does."""
        self.switches.gateway_bytes = size

    def rotate(self, secret: str) -> None:
        """Accept only the key *secret* from now on."""
        self.api_key = secret

    def refuse_next(self, count: int) -> None:
        """Take the next request of more than *count* records, and refuse so many of them."""
        self._refused_next = count

    def say_next(self, message: str) -> None:
        """Take the next request with records, with *message* as a warning."""
        self._said_next = message

    def break_behind(self, status: int) -> dict[str, Any]:
        """Answer with *status*, as a Collector does whose own receiver answers so."""
        self.fail_batches(failed(status, _UNAUTHENTICATED), times=None)
        return {}

    def fail_batches(self, action: Action, times: int | None = 1) -> None:
        """Apply *action* to the next requests that carry records."""
        self.faults.add(action, method="POST", when=_has_records, times=times)

    def respond(self, request: Request) -> Response:  # noqa: PLR0911  # one check after the other
        """Answer as a Collector would."""
        if request.headers.get(HEADER.lower()) != self.api_key:
            return _plain(401, "Unauthorized")
        if request.path != "/v1/logs":
            return _plain(404, "404 page not found")
        if request.method != "POST":
            return _plain(405, "405 method not allowed, supported: [POST]")
        encoding = MEDIA_TYPES.get(_kind(request))
        if encoding is None:
            kinds = "application/json, application/x-protobuf"
            return _plain(415, f"415 unsupported media type, supported: [{kinds}]")
        try:
            body = request.content("gzip", "deflate")
        except BadRequest as error:
            return _failure(encoding, 400, _INVALID_ARGUMENT, error.reason)
        gateway = self.switches.gateway_bytes
        if gateway is not None and len(body) > gateway:
            return _plain(413, "Request Entity Too Large")
        if max(len(body), len(request.body)) > self.switches.max_bytes:
            return _failure(encoding, 400, _INVALID_ARGUMENT, "http: request body too large")
        return self._receive(body, encoding)

    def _receive(self, body: bytes, encoding: Encoding) -> Response:
        if self.lean:
            self._count(body)
            return self._success(encoding, 0, "")
        if self.switches.terse and encoding == "json":
            return _plain(400, "json encoding isn't supported for opentelemetry format")
        try:
            records = of_protobuf(body) if encoding == "protobuf" else of_json(body)
        except Undecodable as error:
            if self.switches.terse:
                return _plain(400, f"cannot parse the request: {error}")
            return _failure(encoding, 400, _INVALID_ARGUMENT, str(error))
        refused = [record for record in records if self.refuses(record)]
        if self._refused_next and len(records) > self._refused_next:
            refused += records[: self._refused_next]
            self._refused_next = 0
        said = f"{len(refused)} records are not valid" if refused else ""
        if records and self._said_next:
            said, self._said_next = self._said_next, ""
        for record in records:
            if not any(record is each for each in refused):
                self._store(record)
        return self._success(encoding, len(refused), said)

    def _count(self, body: bytes) -> None:
        uids = [uid.decode() for uid in _UID.findall(body)]
        self.stored.total += len(uids)
        self.stored.by_uid.update(uids)
        self.stored.by_native_id.update(each.decode() for each in _NATIVE_ID.findall(body))
        self.stored.note_heads(body)

    def _store(self, record: LogRecord) -> None:
        body = record.body
        with contextlib.suppress(TypeError, ValueError, RecursionError):  # others send texts
            body = json.loads(body)
        document = {
            **record.fields,
            "resource": record.resource,
            "scope": record.scope,
            "attributes": record.attributes,
            "body": body,
        }
        native_id = first_at(body, ("metadata.original_event_uid",)) or self._id_in(record, body)
        self.stored.add(document, first_at(record.attributes, ("auditrelay.uid",)), native_id)

    def _id_in(self, record: LogRecord, body: Any) -> str | None:
        """Return the id of the vendor's record in *body*, in the form that is usual here."""
        if not isinstance(body, dict):
            return None
        try:
            raw = json.loads(body.get("raw_data", ""))
        except (TypeError, ValueError, RecursionError):
            return None
        vendor = str(record.fields.get("eventName", "")).split(".")[1:2]
        return first_at(raw, self.id_fields.get(vendor[0] if vendor else "", ("id",)))

    def _success(self, encoding: Encoding, refused: int, said: str) -> Response:
        if self.switches.terse and not refused and not said:
            return Response(200)
        return success(self.switches.answers_in or encoding, refused, said)


def success(encoding: Encoding, refused: int = 0, said: str = "") -> Response:
    """Return the answer to a request of which *refused* records were not taken."""
    if encoding == "json":
        partial: dict[str, Any] = {"rejectedLogRecords": str(refused)} if refused else {}
        if said:
            partial["errorMessage"] = said
        return _encoded(encoding, 200, json.dumps({"partialSuccess": partial}).encode())
    content = (b"\x08" + _varint(refused) if refused else b"") + (
        _field(2, said.encode()) if said else b""
    )
    return _encoded(encoding, 200, _field(1, content))


def failed(
    status: int, code: int, message: str = "it cannot be exported", *, process: bool = False
) -> Action:
    """Answer *status* in the words of the protocol; with *process* the records are stored too."""

    def made(request: Request, _response: Response) -> Response:
        encoding = MEDIA_TYPES.get(_kind(request), "protobuf")
        return _failure(encoding, status, code, message)

    return Action(process=process, answer=made)


def throttled(clock: Callable[[], float], seconds: float) -> Action:
    """Answer 429 with the HTTP date *seconds* after the *clock* at the time of the request."""

    def made(request: Request, _response: Response) -> Response:
        until = datetime.fromtimestamp(clock(), UTC) + timedelta(seconds=seconds)
        encoding = MEDIA_TYPES.get(_kind(request), "protobuf")
        reply = _failure(encoding, 429, _UNAVAILABLE, "the rate limit is reached")
        reply.headers["Retry-After"] = format_datetime(until, usegmt=True)
        return reply

    return Action(process=False, answer=made)


def _has_records(request: Request) -> bool:
    try:
        return b"auditrelay.uid" in request.content("gzip", "deflate")
    except BadRequest:
        return True


def _failure(encoding: Encoding, status: int, code: int, message: str) -> Response:
    """Return a ``google.rpc.Status``."""
    if encoding == "json":
        return _encoded(encoding, status, json.dumps({"code": code, "message": message}).encode())
    return _encoded(encoding, status, b"\x08" + _varint(code) + _field(2, message.encode()))


def _encoded(encoding: Encoding, status: int, body: bytes) -> Response:
    kind = next(kind for kind, each in MEDIA_TYPES.items() if each == encoding)
    return Response(status, body, {"Content-Type": kind})


def _plain(status: int, text: str) -> Response:
    return Response(status, text.encode(), {"Content-Type": "text/plain; charset=utf-8"})


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    groups = []
    while number >= 0x80:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*groups, number])
