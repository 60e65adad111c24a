"""
Splunk's HTTP Event Collector: its endpoints, its codes, and its partial acceptance of a batch.

A batch is a stream of JSON objects; those before the first bad one are stored even though the
request is refused. Codes follow Splunk's table of HEC status codes ("Troubleshoot HTTP Event
Collector" in its documentation); the quirks were measured by others on Splunk 10.4.2.
"""

import base64
import binascii
import json
import re
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NoReturn

from auditrelay.sandbox import faults
from auditrelay.sandbox.messages import BadRequest, Request, Response, json_response
from auditrelay.sandbox.siems import Intake, Misbehaviour, Refusal, Variant
from auditrelay.sandbox.stored import first_at, scan

TOKEN = "5a4dbb0c-0000-4000-8000-00000000f4ce"  # noqa: S105  # valid for this double only

_EVENT = frozenset(
    {"/services/collector", "/services/collector/event", "/services/collector/event/1.0"}
)
_RAW = frozenset({"/services/collector/raw", "/services/collector/raw/1.0"})
_HEALTH = frozenset({"/services/collector/health", "/services/collector/health/1.0"})
_ACK = frozenset({"/services/collector/ack", "/services/collector/ack/1.0"})
_METADATA = ("host", "source", "sourcetype", "index", "time")
_DECIMAL = re.compile(r"-?\d+(\.\d+)?")

CODES: dict[int, tuple[int, str]] = {
    0: (200, "Success"),
    1: (403, "Token disabled"),
    2: (401, "Token is required"),
    3: (401, "Invalid authorization"),
    4: (403, "Invalid token"),
    5: (400, "No data"),
    6: (400, "Invalid data format"),
    7: (400, "Incorrect index"),
    8: (500, "Internal server error"),
    9: (503, "Server is busy"),
    10: (400, "Data channel is missing"),
    11: (400, "Invalid data channel"),
    12: (400, "Event field is required"),
    13: (400, "Event field cannot be blank"),
    14: (400, "ACK is disabled"),
    15: (400, "Error in handling indexed fields"),
    16: (400, "Query string authorization is not enabled"),
    17: (200, "HEC is healthy"),
    18: (503, "HEC is unhealthy, queues are full"),
    19: (503, "HEC is unhealthy, ack service unavailable"),
    20: (503, "HEC is unhealthy, queues are full, ack service unavailable"),
    21: (400, "Invalid token"),
    22: (400, "Token disabled"),
    23: (503, "Server is shutting down"),
    24: (200, "HEC queue is approaching its capacity limit"),
    25: (200, "HEC ACK is approaching its capacity limit"),
    26: (429, "HEC queue is at capacity and cannot process any more requests"),
    27: (429, "HEC ACK channel is at capacity"),
}


@dataclass(slots=True)
class Token:
    """
    A HEC token: whether it is *enabled*, uses acknowledgement, and which indexes it may write.

    No *indexes* means any, even one that does not exist. The first one is the default.
    """

    value: str
    enabled: bool = True
    use_ack: bool = False
    indexes: tuple[str, ...] = ()


@dataclass(slots=True)
class Switches:
    """
    How this Splunk is set up.

    *acks*: "prompt" after *ack_after* polls; "never" although the events are stored; "lost", never
    and not stored. *index_quirk*: code 7 names an event one too high. *nodes* behind a sticky load
    balancer keep separate acknowledgements. *health* is the code of the health endpoint.

    Another product than Splunk has a *scheme* of its own, a *path* for events (its health is below
    it), *params* that every request must have, a health endpoint without a body (*health* None),
    and may answer a request without events as a success (*no_data* false).
    """

    max_content_length: int = 838_860_800
    max_event_size: int = 5 * 1024 * 1024
    query_string_auth: bool = False
    accept_array: bool = False
    index_quirk: bool = True
    acks: Literal["prompt", "never", "lost"] = "prompt"
    ack_after: int = 0
    nodes: int = 1
    health: int | None = 17
    scheme: str = "splunk"
    path: str | None = None
    params: tuple[str, ...] = ()
    no_data: bool = True


@dataclass(slots=True)
class ScriptedCode:
    """A scripted code for event requests: *after* N events were stored, or all if None."""

    code: int
    after: int | None
    times: int


@dataclass(slots=True)
class PendingBatch:
    """A pending acknowledgement: *polls* until it is given, and the *kept* documents."""

    polls: float
    kept: list[Any]


@dataclass(slots=True)
class Channel:
    """The acknowledgements of one channel on one node, by ackId."""

    next_id: int = 0
    pending: dict[int, PendingBatch] = field(default_factory=dict)


class _Refused(Exception):  # an answer, not a bug of ours
    def __init__(self, code: int, number: int | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.number = number


class _Float(float):
    """A JSON number with a fraction or an exponent, and how it was written."""

    text: str


def _float(text: str) -> _Float:
    number = _Float(text)
    number.text = text
    return number


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


_DECODER = json.JSONDecoder(parse_float=_float, parse_constant=_no_constant)


def _use_ack(splunk: "Splunk") -> None:
    splunk.configure(use_ack=True)
    splunk.switches.nodes = 2
    splunk.switches.ack_after = 3


def _token_with(
    *, enabled: bool = True, use_ack: bool = False
) -> Callable[["Splunk"], dict[str, Any]]:
    def provoke(splunk: "Splunk") -> dict[str, Any]:
        splunk.configure(enabled=enabled, use_ack=use_ack)
        return {}

    return provoke


def _answer_code(code: int, after: int | None) -> Misbehaviour:
    return lambda splunk: splunk.script(code, after=after)


def _fail_polls(action: faults.Action) -> Misbehaviour:
    return lambda splunk: splunk.faults.add(action, path="*/ack")


def _bad_then_crash(splunk: "Splunk") -> None:
    splunk.script(13, after=3)

    async def crash(request: Request) -> None:
        if request.path.endswith("/ack"):
            splunk.on_request = None
            splunk.crash()

    splunk.on_request = crash


_MISBEHAVIOURS: dict[str, Misbehaviour] = {
    f"code {code} after {after}": _answer_code(code, after)
    for code, after in [
        *((bad, after) for bad in (6, 12, 13, 15) for after in (0, 3)),
        (7, 1),
        (7, 4),
        *((busy, after) for busy in (8, 9, 18, 20, 23, 26, 27) for after in (None, 3)),
        *((wrong, None) for wrong in (1, 4, 10, 11, 14)),
        (24, None),
        (25, None),
    ]
}
_MISBEHAVIOURS_WITH_ACK: dict[str, Misbehaviour] = {
    "channels forgotten": lambda splunk: splunk.forget_channels(),
    "crash": lambda splunk: splunk.crash(),
    "bad event, then a crash": _bad_then_crash,
    "slow acks": lambda splunk: setattr(splunk.switches, "ack_after", 2),
    "prompt acks": lambda splunk: setattr(splunk.switches, "ack_after", 0),
    "poll hangs": _fail_polls(faults.hang()),
    "poll hangs, processed": _fail_polls(faults.hang(process=True)),
    "poll reset, processed": _fail_polls(faults.store_then_reset()),
    "poll 503": _fail_polls(faults.html(503)),
    "poll 404": _fail_polls(faults.answer(404)),
    "poll portal": _fail_polls(faults.html(200)),
    "poll drips": _fail_polls(faults.drip(size=5, seconds=0.002)),
    "node gone": lambda splunk: setattr(splunk.switches, "nodes", 1),
    "node back": lambda splunk: setattr(splunk.switches, "nodes", 2),
}


class Splunk(Intake):
    """
    A HEC endpoint. :attr:`stored` is what it stored, whatever it answered.

    A stored document is ``{"event", "fields", "host", "source", "sourcetype", "index", "time"}``
    with the effective metadata. In lean mode (:attr:`lean`) a body is only decompressed and scanned
    for ``fields.event_id`` and ``native_event_id``: no check of the events at all.
    """

    NAME: ClassVar = "splunk"
    PLACE: ClassVar = 1
    SECRET_KEY: ClassVar = "token"  # noqa: S105  # the name of a key, not its value
    REFUSALS: ClassVar = (
        Refusal("wrong token", 403, "Invalid token", lambda _: {"token": str(uuid.UUID(int=1))}),
        Refusal("disabled token", 403, "Token disabled", _token_with(enabled=False)),
        Refusal("acknowledgement", 400, "Data channel is", _token_with(use_ack=True)),
        Refusal("wrong address", 404, "not found", lambda it: {"url": f"{it.url}/elsewhere"}),
    )
    MISBEHAVIOURS: ClassVar = _MISBEHAVIOURS
    VARIANTS: ClassVar = (
        Variant(
            "with ack",
            _use_ack,
            {"ack": True, "ack_timeout": "1m"},
            _MISBEHAVIOURS_WITH_ACK,
        ),
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
        self.tokens: dict[str, Token] = {TOKEN: Token(TOKEN)}
        self.token = TOKEN
        self.uid_paths = ("fields.event_id", "event.event_id", "event.metadata.uid")
        self.native_id_paths = ("event.native_event_id", "event.metadata.original_event_uid")
        self._script: deque[ScriptedCode] = deque()
        self._channels: dict[tuple[int, str], Channel] = {}
        self._without_ack: list[Any] = []

    @property
    def secret(self) -> str:
        """The default token."""
        return self.token

    def settings(self) -> dict[str, Any]:
        """Return the settings of a sink that sends to this double."""
        return {"type": "splunk_hec", "url": self.url, "token": self.token}

    def limit_body(self, size: int) -> None:
        """Answer 413 to a body of more than *size* bytes."""
        self.switches.max_content_length = size

    def rotate(self, secret: str) -> None:
        """Replace the default token by *secret*, with the same settings."""
        token = self.tokens.pop(self.token)
        token.value = secret
        self.tokens[secret] = token
        self.token = secret

    def configure(
        self,
        *,
        enabled: bool = True,
        use_ack: bool = False,
        indexes: tuple[str, ...] = (),
    ) -> Token:
        """Set up the default token."""
        self.tokens[self.token] = Token(self.token, enabled, use_ack, indexes)
        return self.tokens[self.token]

    def script(self, code: int, *, after: int | None = None, times: int = 1) -> None:
        """
        Let the next *times* event requests end with *code*.

        24 and 25 store everything. The others store the first *after* events and name the next one,
        if any, in ``invalid-event-number``; or, with None, store nothing and name none.
        """
        self._script.append(ScriptedCode(code, after, times))

    def forget_channels(self) -> None:
        """Drop all channels, as a restart or the expiry of idle channels does: ackIds restart."""
        self._channels.clear()

    def crash(self) -> None:
        """
        Lose all events that were accepted and not acknowledged yet, and all channels.

        The stored part of a refused batch has no ackId: it is never acknowledged.
        """
        for channel in self._channels.values():
            for batch in channel.pending.values():
                self._without_ack += batch.kept
        for document in self._without_ack:
            self.stored.lose(document)
        self._without_ack.clear()
        self.forget_channels()

    def respond(self, request: Request) -> Response:  # noqa: PLR0911  # an answer a line
        """Answer as HEC would."""
        path = request.path.rstrip("/") or "/"
        own = self.switches.path
        health, events = (_HEALTH, _EVENT) if own is None else ({f"{own}/health"}, {own})
        try:
            if path in health:
                return self._health(request)
            if path not in events | _RAW | _ACK:
                text = "The requested URL was not found on this server."
                return json_response(404, {"text": text, "code": 404})
            if request.method != "POST":
                text = "The requested URL was not found on this server."
                return json_response(405, {"text": text, "code": 404})
            token = self._token(request)
            if path in _ACK:
                return self._ack(request, token)
            if len(request.body) > self.switches.max_content_length:
                page = b"<html><body>Content-Length exceeds maximum</body></html>"
                return Response(413, page, {"Content-Type": "text/html"})
            for name in self.switches.params:
                if name not in request.query:
                    return json_response(400, {"message": f"{name} is required"})
            return self._receive(request, token, raw=path in _RAW)
        except _Refused as refused:
            return _reply(refused.code, refused.number)

    def _health(self, request: Request) -> Response:
        if "authorization" in request.headers:
            try:
                self._token(request)
            except _Refused as refused:
                return _reply(22 if refused.code == 1 else 21)
        if self.switches.health is None:
            return Response(200, b"")
        if self.switches.health == 19 and request.query.get("ack") != "true":
            return _reply(17)
        return _reply(self.switches.health)

    def _token(self, request: Request) -> Token:
        value = request.headers.get("authorization")
        if value is None:
            if "token" in request.query:
                if not self.switches.query_string_auth:
                    raise _Refused(16)
                value = f"Splunk {request.query['token']}"
            else:
                raise _Refused(2)
        scheme, _, secret = value.partition(" ")
        if scheme.lower() == "basic":
            secret = _password(secret)
        elif scheme.lower() != self.switches.scheme:
            raise _Refused(3)
        if not secret.strip():
            raise _Refused(2)
        token = self.tokens.get(secret.strip())
        if token is None:
            raise _Refused(4)
        if not token.enabled:
            raise _Refused(1)
        return token

    def _channel(self, request: Request) -> str:
        channel = request.headers.get("x-splunk-request-channel") or request.query.get("channel")
        if not channel:
            raise _Refused(10)
        try:
            return str(uuid.UUID(channel))
        except ValueError as error:
            raise _Refused(11) from error

    def _receive(self, request: Request, token: Token, *, raw: bool) -> Response:
        channel = self._channel(request) if token.use_ack or raw else None
        try:
            body = request.content("gzip")
        except BadRequest as error:
            if error.status == 415:
                raise
            raise _Refused(6) from error
        if not body.strip():
            raise _Refused(5 if self.switches.no_data else 0)
        scripted = self._scripted()
        warned = scripted is not None and scripted.code in {24, 25}
        if scripted is not None and scripted.after is None and not warned:
            raise _Refused(scripted.code)
        kept = self._keep(request, token, body, scripted, raw=raw)
        code = scripted.code if scripted is not None and warned else 0
        if channel is None or not token.use_ack:
            return _reply(code)
        node, headers = self._node(request)
        return _reply(code, ack=self._register_ack(node, channel, kept), headers=headers)

    def _keep(
        self,
        request: Request,
        token: Token,
        body: bytes,
        scripted: ScriptedCode | None,
        *,
        raw: bool,
    ) -> list[Any]:
        """Store *body*, up to the first bad event, and return the stored documents."""
        keep = not (token.use_ack and self.switches.acks == "lost")
        before = len(self.stored.documents)
        try:
            if raw:
                self._store_lines(body, request.query, keep=keep)
            elif self.lean:
                self._store_lean(body, keep=keep)
            else:
                self._store(body, token, scripted, keep=keep)
        except _Refused:
            if token.use_ack:
                self._without_ack += self.stored.documents[before:]
            raise
        return self.stored.documents[before:]

    def _scripted(self) -> ScriptedCode | None:
        if not self._script:
            return None
        scripted = self._script[0]
        scripted.times -= 1
        if scripted.times <= 0:
            self._script.popleft()
        return scripted

    def _store(
        self, body: bytes, token: Token, scripted: ScriptedCode | None, *, keep: bool
    ) -> None:
        """Store envelope by envelope, up to the first bad one, real or *scripted*."""
        sticky: dict[str, Any] = {}
        for number, envelope in enumerate(self._envelopes(body)):
            if scripted is not None and number == scripted.after:
                raise _Refused(scripted.code, number)
            document = self._checked(envelope, number, token, sticky)
            if keep:
                self.stored.add(
                    document,
                    first_at(document, self.uid_paths),
                    first_at(document, self.native_id_paths),
                )

    def _envelopes(self, body: bytes) -> Iterator[Any]:
        """Yield the concatenated JSON values of *body*; a broken one is refused with its number."""
        number = 0
        try:
            text = body.decode()
        except UnicodeDecodeError as error:
            text = body[: error.start].decode()
        place = 0
        while True:
            while place < len(text) and text[place] in " \t\r\n":
                place += 1
            if place == len(text):
                break
            try:
                value, end = _DECODER.raw_decode(text, place)
            except (ValueError, RecursionError) as error:
                raise _Refused(6, number) from error
            if isinstance(value, list) and self.switches.accept_array:
                yield from value
                number += len(value)
            elif not isinstance(value, dict) or (
                len(text[place:end].encode()) > self.switches.max_event_size
            ):
                raise _Refused(6, number)
            else:
                yield value
                number += 1
            place = end
        if len(text.encode()) < len(body):
            raise _Refused(6, number)

    def _checked(
        self, envelope: Any, number: int, token: Token, sticky: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the document of *envelope*; a bad one is refused with its *number*."""
        if not isinstance(envelope, dict):
            raise _Refused(6, number)
        _check_event(envelope, number)
        if "fields" in envelope:
            _check_fields(envelope["fields"], number)
        if "time" in envelope and not _is_decimal(envelope["time"]):
            raise _Refused(15, number)
        for name in ("host", "source", "sourcetype", "index"):
            if name in envelope and not isinstance(envelope[name], str):
                raise _Refused(6, number)
        index = envelope.get("index", sticky.get("index"))
        if token.indexes and index is not None and index not in token.indexes:
            raise _Refused(7, number + 1 if self.switches.index_quirk else number)
        sticky.update({name: envelope[name] for name in _METADATA if name in envelope})
        return {
            "time": self.clock(),
            "index": token.indexes[0] if token.indexes else "main",
            **sticky,
            "event": envelope.get("event"),
            "fields": envelope.get("fields", {}),
        }

    def _store_lines(self, body: bytes, query: dict[str, str], *, keep: bool) -> None:
        metadata = {name: query[name] for name in _METADATA if name in query}
        for line in body.decode(errors="replace").splitlines():
            if line.strip() and keep:
                self.stored.add({"event": line, "fields": {}, **metadata}, None, None)

    def _store_lean(self, body: bytes, *, keep: bool) -> None:
        if not keep:
            return
        uids = scan(body, b'"fields":{', b'"event_id":')
        self.stored.total += len(uids)
        self.stored.by_uid.update(uids)
        self.stored.by_native_id.update(scan(body, b'"native_event_id"', b":"))
        self.stored.note_heads(body)

    def _node(self, request: Request) -> tuple[int, dict[str, str]]:
        """Return the node that the load balancer picks, and the cookie that it sets."""
        if self.switches.nodes == 1:
            return 0, {}
        pinned = re.search(r"splunkd_node=(\d+)", request.headers.get("cookie", ""))
        if pinned and int(pinned[1]) < self.switches.nodes:
            return int(pinned[1]), {}
        node = self.requests % self.switches.nodes
        return node, {"Set-Cookie": f"splunkd_node={node}; Path=/; HttpOnly"}

    def _register_ack(self, node: int, name: str, kept: list[Any]) -> int:
        channel = self._channels.setdefault((node, name), Channel())
        ack = channel.next_id
        channel.next_id += 1
        prompt = self.switches.acks == "prompt"
        polls = self.switches.ack_after if prompt else float("inf")
        channel.pending[ack] = PendingBatch(polls, kept)
        return ack

    def _ack(self, request: Request, token: Token) -> Response:
        if not token.use_ack:
            raise _Refused(14)
        name = self._channel(request)
        try:
            asked = json.loads(request.content("gzip"))["acks"]
        except (ValueError, KeyError, TypeError) as error:
            raise _Refused(6) from error
        if not isinstance(asked, list) or not all(type(ack) is int for ack in asked):
            raise _Refused(6)
        node, headers = self._node(request)
        channel = self._channels.get((node, name), Channel())
        acknowledged = {str(ack): _acknowledged(channel, ack) for ack in asked}
        return json_response(200, {"acks": acknowledged}, headers)


def _acknowledged(channel: Channel, ack: int) -> bool:
    """Return whether *ack* is indexed; true is returned only once, then the ackId is gone."""
    batch = channel.pending.get(ack)
    if batch is None:
        return False
    if batch.polls > 0:
        batch.polls -= 1
        return False
    del channel.pending[ack]
    return True


def _check_event(envelope: dict[str, Any], number: int) -> None:
    if "event" not in envelope:
        if "fields" not in envelope:
            raise _Refused(12, number)
        return
    event = envelope["event"]
    blank = event is None or event in ({}, []) or (isinstance(event, str) and not event.strip())
    if blank:
        raise _Refused(13, number)


def _check_fields(fields: Any, number: int) -> None:
    flat = isinstance(fields, dict) and all(
        isinstance(value, str)
        or (isinstance(value, list) and all(isinstance(part, str) for part in value))
        for value in fields.values()
    )
    if not flat:
        raise _Refused(15, number)


def _is_decimal(value: Any) -> bool:
    """Return whether a ``time`` is a plain decimal number, as a number or as text."""
    if isinstance(value, bool):
        return False
    if isinstance(value, _Float):
        return _DECIMAL.fullmatch(value.text) is not None
    return isinstance(value, int) or (
        isinstance(value, str) and _DECIMAL.fullmatch(value) is not None
    )


def _password(encoded: str) -> str:
    try:
        return base64.b64decode(encoded, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError) as error:
        raise _Refused(3) from error


def _reply(
    code: int,
    number: int | None = None,
    *,
    ack: int | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    status, text = CODES[code]
    body: dict[str, Any] = {"text": text, "code": code}
    if number is not None:
        body["invalid-event-number"] = number
    if ack is not None:
        body["ackId"] = ack
    return json_response(status, body, headers)
