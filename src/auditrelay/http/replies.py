"""A peer's reply: its body decoded, its status as an error."""

import functools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import httpx
import msgspec
import orjson

from auditrelay.errors import Refused, Rejected, Retryable, TooLarge
from auditrelay.events.decode import NOT_DECODED, integer, without_depths
from auditrelay.http.fields import read_field
from auditrelay.http.headers import bounded, location_host, location_path, retry_after
from auditrelay.http.pages import cut
from auditrelay.telemetry.scrubber import scrub

S = TypeVar("S")

MOST_VALUES = 500_000
"""Values of a reply that is decoded as a whole: each may take 60 times its text in memory."""

MOST_RECORDS = 2_000_000
"""Records of a reply, at most: what is known of each one until it is read takes 56 bytes."""


@dataclass(frozen=True, slots=True)
class Reply:
    """
    One reply of a peer, whatever its status.

    *body* is decompressed. *where* names the request in messages: method and address without the
    query, which may be confidential. *at* is when it was received, by our clock. *unread* is why
    the body of a success could not be read, where its status counts all the same; it is empty then.
    """

    status: int
    headers: httpx.Headers
    body: bytes
    where: str
    at: datetime
    unread: Retryable | None = None

    def json(self) -> Any:
        """Return the decoded body; raise ValueError if it is not JSON, or has too many values."""
        if _values_in(self.body) > MOST_VALUES:
            raise ValueError("JSON of too many values")
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


def _values_in(body: bytes) -> int:
    """Return how many values JSON has at most: each follows a bracket or a comma."""
    return body.count(b",") + _brackets_in(body)


def _brackets_in(body: bytes) -> int:
    return body.count(b"[") + body.count(b"{")


def _lenient(body: bytes) -> Any:
    """Decode JSON leniently: NaN, lone surrogates, control characters, any UTF."""
    try:
        return json.loads(body, strict=False)
    except RecursionError as error:
        raise ValueError("JSON nested too deeply") from error


def _most_lenient(body: bytes) -> Any:
    """Decode JSON whatever is in it: bytes, numbers and depths that the others refuse."""
    text = without_depths(body).decode("utf-8", "replace")
    return json.loads(text, strict=False, parse_int=integer)


@functools.cache
def _decoder(shape: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(shape, dec_hook=read_field)


class _Key(NamedTuple):
    """A step to the records: the key in the text, and the attribute of the Struct."""

    text: str
    attribute: str


@functools.cache
def _records_path(shape: Any) -> tuple[_Key, ...] | None:
    """Return the way to the records of a *shape*, empty if it is their list; None without any."""
    return next(_paths(msgspec.inspect.type_info(shape)), None)


def _paths(shape: msgspec.inspect.Type) -> Iterator[tuple[_Key, ...]]:
    match shape:
        case msgspec.inspect.UnionType(types=arms):
            for arm in arms:
                yield from _paths(arm)
        case msgspec.inspect.ListType(item_type=msgspec.inspect.RawType()):
            yield ()
        case msgspec.inspect.StructType(fields=fields):
            for field in fields:
                key = _Key(field.encode_name, field.name)
                yield from ((key, *rest) for rest in _paths(field.type))


def decode(reply: Reply, shape: type[S], *, promised: bool = False) -> S:
    """
    Return the JSON body of *reply* as *shape*: a Struct with ``fields.Records`` at one place.

    It may also be that list itself, for a vendor that says elsewhere whether there is more.

    Where the fast decoder refuses the text (NaN, a lone surrogate...) the records are located
    instead of decoded, so that an odd one changes none of those beside it. null stands for an empty
    list, but not on a page that another one has *promised*. For a Struct a body that is a mere list
    is no reply: it does not say whether there is more. Raises Retryable if the body is not JSON or
    not of that shape (most often it is the error page of a proxy, sent with a status of 200), and
    with the reason ``reply_too_large`` if it may have more records than fit into memory.
    """
    body = reply.body
    # A record has one byte at least, and a comma behind it: a usual body need not be counted. What
    # is beside them may be one value that has as many in it as brackets.
    if len(body) > 2 * MOST_RECORDS and max(body.count(b","), _brackets_in(body)) > MOST_RECORDS:
        raise Retryable(
            f"{reply.status} from {reply.where}, but the body may have more than {MOST_RECORDS:,} "
            "records",
            reason="reply_too_large",
            sent=True,
        )
    of: Any = shape
    try:
        decoded: S = _decoded(body, of)
    except msgspec.ValidationError as error:
        problem = str(error)
    except (ValueError, RecursionError):
        problem = "it is not JSON"
    else:
        if not (promised and _is_null(decoded, _records_path(of))):
            return decoded
        problem = "null for the records of a page that was announced"
    # Raised here, because those errors have the whole text.
    raise misshapen(reply, problem)


def _decoded(body: bytes, shape: Any) -> Any:
    try:
        return _decoder(shape).decode(body)
    except msgspec.ValidationError:
        raise
    except NOT_DECODED:
        return _located(body, shape)


def _is_null(holder: Any, path: Sequence[_Key] | None) -> bool:
    """Return whether *holder* has null in the place of its records."""
    if path is None:
        return False
    for key in path:
        if holder is None:
            return False
        holder = getattr(holder, key.attribute)
    return holder is None


def _located(body: bytes, shape: Any) -> Any:
    """Return *body* as *shape*, with its records as they are, decodable or not."""
    path = _records_path(shape)
    rest, records = (body, None) if path is None else cut(body, [key.text for key in path])
    if _values_in(rest) > MOST_VALUES:
        raise ValueError("too many values beside the records")
    decoded = msgspec.convert(_most_lenient(rest), shape, dec_hook=read_field)
    if path is None or records is None:
        return decoded
    texts = list(map(msgspec.Raw, records))
    if not path:
        return texts
    holder: Any = decoded
    for key in path[:-1]:
        holder = getattr(holder, key.attribute)
        if holder is None:
            raise ValueError("a key came twice, and holds nothing the second time")
    setattr(holder, path[-1].attribute, texts)
    return decoded


def misshapen(reply: Reply, problem: str) -> Retryable:
    """Return the error for a *reply* that is a success, but with a *problem*."""
    return Retryable(
        f"{reply.status} from {reply.where}, but the body is not a reply of the API: {problem} "
        f"({described(reply)})",
        reason="bad_reply",
        sent=True,
    )


_HTML = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype|html|head|body|!--|\?xml)", re.IGNORECASE)


def is_web_page(reply: Reply) -> bool:
    """Return whether *reply* is a page for people, such as a login: no product sends one."""
    kind = reply.headers.get("content-type", "").lower()
    return (
        kind.startswith(("text/html", "application/xhtml")) or _HTML.match(reply.body) is not None
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

_OF_A_REQUEST = frozenset({403, 404, 405})
"""Refusals that one request alone may get; the others say what all requests lack."""


def check(reply: Reply, *, message: str = "", hint: str = "", wait: float | None = None) -> Reply:
    """
    Return *reply* if its status is a success, else raise the error for it.

    The arguments and the errors are those of :func:`failure`.
    """
    if 200 <= reply.status < 300:
        return reply
    raise failure(reply, message=message, hint=hint, wait=wait)


def failure(
    reply: Reply, *, message: str = "", hint: str = "", wait: float | None = None
) -> Retryable | Refused | Rejected:
    """
    Return the error for *reply*, whose status is no success.

    It is Retryable (408, 425, 429, 5xx), Refused (401, 403, 404, 405, redirects), TooLarge (413)
    or Rejected (any other 4xx). *message* is the server's own short explanation, where the caller
    found one; *hint* is what the operator should do, where the caller knows more than the status
    shows, whatever that is; *wait* is the seconds that the server asks for in its own way, used
    without ``Retry-After``.

    What is Retryable counts as sent, whatever the status: a 503 or a 429 may come from a gateway
    that gave up on a request which the product had taken. Only a product's own words can prove
    that it did not; they are the caller's to judge.
    """
    status = reply.status
    text = f"{status} from {reply.where}"
    if message:
        text = f"{text}: {scrub(message, 200)}"
    advice = hint or (_redirection(reply) if status < 400 else _ADVICE.get(status, ""))
    if advice:
        text = f"{text}; {advice}"
    if status >= 400 and not message and is_web_page(reply):
        text = f"{text}; its body is a web page, so a proxy or firewall in between may have sent it"
    if status in (408, 425, 429) or status >= 500:
        asked = retry_after(reply.headers, reply.at)
        return Retryable(
            text,
            reason=f"status_{status}",
            retry_after=bounded(wait) if asked is None and wait is not None else asked,
            sent=True,
        )
    if status in _ADVICE or status < 400:
        return Refused(text, status=status, of_request=status in _OF_A_REQUEST)
    if status == 413:
        return TooLarge(text, reason="status_413", status=status)
    return Rejected(text, reason=f"status_{status}", status=status)


def _redirection(reply: Reply) -> str:
    """
    Return a message with the target of a redirect: its host alone, the rest may be secret.

    Where it is our own path but for the slash at its end, that is what is wrong.
    """
    host = location_host(reply.headers)
    ours = urlsplit(reply.where.partition(" ")[2]).path
    theirs = location_path(reply.headers)
    if ours and theirs == f"{ours}/":
        target = "to the same path with a slash at its end"
    elif theirs and f"{theirs}/" == ours:
        target = "to the same path without the slash at its end"
    else:
        target = f"to {scrub(host, 100)}" if host else "elsewhere"
    return (
        f"it redirects {target}; redirects are never followed, because they would leak the "
        "credentials; check the address in the configuration"
    )
