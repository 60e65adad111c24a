"""A peer's reply: its body decoded, its status as an error."""

import functools
import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import httpx
import msgspec
import orjson

from auditrelay.errors import Refused, Rejected, Retryable, TooLarge
from auditrelay.http.headers import bounded, location_host, retry_after
from auditrelay.telemetry.scrubber import scrub

S = TypeVar("S", bound=msgspec.Struct)

_MAX_DEPTH = 300
"""Levels of a reply: more than a record may have, so that a record that is cut is seen to be."""

_MAX_DIGITS = 4000
"""Digits of a number: Python refuses to read or write one of more than 4300."""

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)
"""A text, also one that does not end: looking for its end from each quote would take for ever."""


@dataclass(frozen=True, slots=True)
class Reply:
    """
    One reply of a peer, whatever its status.

    *body* is decompressed. *where* names the request in messages: method and address without the
    query, which may be confidential. *at* is when it was received, by our clock.
    """

    status: int
    headers: httpx.Headers
    body: bytes
    where: str
    at: datetime

    def json(self) -> Any:
        """Return the decoded body, or raise ValueError if it is not JSON."""
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return _lenient(self.body)

    def object(self) -> dict[str, Any] | None:
        """Return the body if it is a JSON object, else None."""
        try:
            value = self.json()
        except ValueError:
            return None
        return value if isinstance(value, dict) else None


def _lenient(body: bytes) -> Any:
    """Decode JSON leniently: NaN, lone surrogates, control characters, any UTF."""
    try:
        return json.loads(body, strict=False)
    except RecursionError as error:
        raise ValueError("JSON nested too deeply") from error


def _most_lenient(body: bytes) -> Any:
    """Decode JSON whatever is in its records: bytes, numbers and depths that the others refuse."""
    text = _cut(body).decode("utf-8-sig", "replace")
    return json.loads(text, strict=False, parse_int=_integer)


def _integer(digits: str) -> int | str:
    return int(digits) if len(digits) <= _MAX_DIGITS else digits


def _cut(body: bytes) -> bytes:
    """Return JSON with null for what is nested too deeply; the records then say that it was."""
    kept: list[bytes] = []
    start = depth = 0
    for found in _TOKEN.finditer(body):
        if found[0] in (b"[", b"{"):
            if depth == _MAX_DEPTH:
                kept.append(body[start : found.start()])
            depth += 1
        elif found[0] in (b"]", b"}"):
            depth -= 1
            if depth == _MAX_DEPTH:
                kept.append(b"null")
                start = found.end()
    kept.append(body[start:])
    return b"".join(kept)


@functools.cache
def _decoder(shape: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(shape)


def decode(reply: Reply, shape: type[S]) -> S:
    """
    Return the JSON body of *reply* as *shape*, usually a Struct with records left as Raw.

    Where the fast decoder refuses the text (NaN, a lone surrogate...) the standard one reads it
    and each record is encoded again, so that one odd value does not cost a page. Raises Retryable
    if the body is not JSON or not of that shape: most often it is the error page of a proxy, sent
    with a status of 200.
    """
    try:
        return _decoded(reply.body, shape)
    except msgspec.ValidationError as error:
        problem = str(error)
    except ValueError:
        problem = "it is not JSON"
    # Raised here, because those errors have the whole text.
    raise _misshapen(reply, problem)


def _decoded(body: bytes, shape: type[S]) -> S:
    try:
        decoded: S = _decoder(shape).decode(body)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, RecursionError):
        try:
            value = _lenient(body)
        except ValueError:
            value = _most_lenient(body)
        decoded = msgspec.convert(_as_raw(value, msgspec.inspect.type_info(shape)), shape)
    return decoded


def _as_raw(value: Any, shape: msgspec.inspect.Type) -> Any:
    """Encode the parts of *value* that are Raw in *shape*; leave the checks to msgspec."""
    match shape, value:
        case msgspec.inspect.RawType(), _:
            return msgspec.Raw(json.dumps(value).encode())
        case msgspec.inspect.ListType(item_type=item), list():
            return [_as_raw(part, item) for part in value]
        case msgspec.inspect.StructType(fields=fields), dict():
            types = {field.encode_name: field.type for field in fields}
            return {key: _as_raw(value[key], types[key]) for key in types.keys() & value.keys()}
        case msgspec.inspect.UnionType(types=arms), dict() | list():
            wanted = msgspec.inspect.StructType | msgspec.inspect.ListType
            return next((_as_raw(value, arm) for arm in arms if isinstance(arm, wanted)), value)
    return value


def _misshapen(reply: Reply, problem: str) -> Retryable:
    return Retryable(
        f"{reply.status} from {reply.where}, but the body is not a reply of the API: {problem} "
        f"({described(reply)})",
        reason="bad_reply",
        sent=True,
    )


def described(reply: Reply) -> str:
    """Return what the body of *reply* is said to be, and its length, for messages."""
    kind = scrub(reply.headers.get("content-type", "").partition(";")[0], 60) or "not given"
    coding = scrub(reply.headers.get("content-encoding", ""), 40)
    coding = f", content encoding {coding}" if coding else ""
    return f"content type {kind}{coding}, {len(reply.body)} bytes"


_ADVICE = {
    401: "the credentials are not accepted; check the key, and whether it has expired",
    403: "the credentials are valid but lack permission; check the rights of the key",
    404: "nothing exists at this address; check the address and the ids in the configuration",
    405: "this address does not accept the request; check the address in the configuration",
}


def check(reply: Reply, *, message: str = "", hint: str = "", wait: float | None = None) -> Reply:
    """
    Return *reply* if its status is a success, else raise the error for it.

    Raises Retryable (408, 425, 429, 5xx), Refused (401, 403, 404, 405, redirects), TooLarge (413)
    or Rejected (any other 4xx). *message* is the server's own short explanation, where the caller
    found one; *hint* is what the operator should do, where the caller knows more than the status
    shows; *wait* is the seconds that the server asks for in its own way, used without
    ``Retry-After``.

    What is Retryable counts as sent, whatever the status: a 503 or a 429 may come from a gateway
    that gave up on a request which the product had taken. Only a product's own words can prove
    that it did not; they are the caller's to judge.
    """
    status = reply.status
    if 200 <= status < 300:
        return reply
    text = f"{status} from {reply.where}"
    if message:
        text = f"{text}: {scrub(message, 200)}"
    if status in (408, 425, 429) or status >= 500:
        asked = retry_after(reply.headers, reply.at)
        raise Retryable(
            text,
            reason=f"status_{status}",
            retry_after=bounded(wait) if asked is None and wait is not None else asked,
            sent=True,
        )
    if status in _ADVICE:
        raise Refused(f"{text}; {hint or _ADVICE[status]}", status=status)
    if status < 400:
        raise Refused(f"{text}; {_redirection(reply)}", status=status)
    if status == 413:
        raise TooLarge(text, reason="status_413", status=status)
    raise Rejected(text, reason=f"status_{status}", status=status)


def _redirection(reply: Reply) -> str:
    """Return a message with the target of a redirect: its host alone, the rest may be secret."""
    host = location_host(reply.headers)
    target = f"to {scrub(host, 100)}" if host else "elsewhere"
    return (
        f"it redirects {target}; redirects are never followed, because they would leak the "
        "credentials; check the address in the configuration"
    )
