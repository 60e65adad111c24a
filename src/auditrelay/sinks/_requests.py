"""What sinks over HTTP share: bodies, compression, responses as errors."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, TypeVar

import orjson
from isal import isal_zlib

from auditrelay.errors import Refused, Rejected, RelayError, Retryable, TooLarge
from auditrelay.http.replies import Reply, check, is_web_page
from auditrelay.telemetry.scrubber import scrub

T = TypeVar("T")


def part_of(answer: Any, kind: type[T], *keys: str) -> T | None:
    """Return what a decoded *answer* has at *keys*, one in the other, if it is a *kind*."""
    for key in keys:
        answer = answer.get(key) if isinstance(answer, Mapping) else None
    return answer if isinstance(answer, kind) else None


def dump(document: dict[str, Any]) -> bytes:
    """
    Return *document* as JSON on one line. Total: what JSON cannot represent becomes text.

    A record that is embedded verbatim may have line ends between its tokens, where they mean
    nothing; in NDJSON they would cut the document in two.
    """
    try:
        text = orjson.dumps(document)
    except orjson.JSONEncodeError:
        text = orjson.dumps(_writable(document))
    if b"\n" in text or b"\r" in text:
        text = text.replace(b"\n", b" ").replace(b"\r", b" ")
    return text


def _writable(value: Any) -> Any:
    """Return *value* in a form that orjson accepts: valid Unicode, 64-bit numbers, plain types."""
    if isinstance(value, bool | float | orjson.Fragment) or value is None:
        return value
    if isinstance(value, int) and -(2**63) <= value < 2**64:
        return value
    if isinstance(value, dict):
        return {_writable(str(key)): _writable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_writable(each) for each in value]
    return str(value).encode("utf-8", "replace").decode("utf-8")


_OFF_LOOP = 64 * 1024
"""Bytes above which compressing takes longer (0.1 ms) than starting it on a thread."""
_CHUNK = 100
"""Texts that are joined at once: a block as large as a whole body would be new memory each time."""


async def body_of(
    texts: Sequence[bytes],
    compression: Literal["gzip", "none"],
    *,
    start: bytes = b"",
    between: bytes,
    end: bytes = b"",
) -> tuple[bytes, dict[str, str]]:
    """Return *texts* as the body of a request, compressed as configured, and its headers."""
    parts = chunks(texts, start=start, between=between, end=end)
    if compression == "none":
        return b"".join(parts), {}
    if sum(map(len, texts)) > _OFF_LOOP:
        content = await asyncio.to_thread(_gzip, parts)
    else:
        content = _gzip(parts)
    return content, {"Content-Encoding": "gzip"}


def chunks(texts: Sequence[bytes], *, start: bytes, between: bytes, end: bytes) -> Iterator[bytes]:
    """Yield *start*, *texts* with *between* between them, and *end*, many texts at once."""
    for first in range(0, len(texts), _CHUNK):
        yield start + between.join(texts[first : first + _CHUNK])
        start = between
    yield end if texts else start + end


def _gzip(parts: Iterable[bytes]) -> bytes:
    stream = isal_zlib.compressobj(1, wbits=31)
    return b"".join([*map(stream.compress, parts), stream.flush()])


MAX_ANSWER_BYTES: Final = 2**20
"""Bytes of an answer to a batch that is taken or refused as a whole: a few words."""

_TURNED_AWAY: Final = frozenset(
    {
        *(301, 302, 307, 308),
        *(401, 404, 405, 407, 411, 413, 414, 415, 421, 425, 426, 429, 431),
    }
)
"""
Statuses with which HTTP itself says that a request was turned away before it was processed.

Not 303: it shows where the result of a POST that was processed can be seen
(https://www.rfc-editor.org/rfc/rfc9110#section-15.4.4).
"""

_GATEWAY_GAVE_UP: Final = frozenset({460, 499})
"""What gateways answer that believe that we have gone: as much a time-out as 504."""


def error_for(
    reply: Reply, *, message: str = "", wait: float | None = None, not_stored: bool = False
) -> RelayError:
    """
    Return the error that an unsuccessful *reply* means for the batch.

    Only 400 and 422 can be caused by an event. Any other refusal would affect every event alike, so
    it holds the sink instead of filling the dead letters. *message* is the error in the product's
    own format, *wait* the seconds that it asks to wait in a header of its own.

    The product may have the events, and something before it may have answered: so they may be
    stored, unless HTTP says that the request was turned away, or *not_stored*: the product itself
    says that it took none of them.
    """
    try:
        check(reply, message=clean(message), wait=wait)
    except TooLarge as error:
        return error
    except (Retryable, Refused) as error:
        error.sent = not (not_stored or reply.status in _TURNED_AWAY)
        if isinstance(error, Refused):
            error.of_request &= not message
        return error
    except Rejected as error:
        return _of_rejection(error, reply, sent=not not_stored, of_request=not message)
    return unexpected_body(reply, "the product")


def _of_rejection(error: Rejected, reply: Reply, *, sent: bool, of_request: bool) -> RelayError:
    status = reply.status
    if status in _GATEWAY_GAVE_UP:
        return Retryable(str(error), reason=error.reason, sent=sent)
    if status in (400, 422) and not is_web_page(reply):
        return error
    return Refused(
        f"{error}; nothing shows that an event is the cause, check the address and any proxy or "
        "firewall in between",
        status=status,
        sent=sent and status not in _TURNED_AWAY,
        of_request=of_request and status != 407,
    )


def foreign(error: Rejected, product: str) -> Refused:
    """
    Return the error for a rejection that is not in the words of *product*.

    A proxy refuses for reasons that no event can have: its refusal makes no dead letter.
    """
    return Refused(
        f"{error}; the answer is not that of {product}, so nothing shows that an event is the "
        "cause, check the address and any proxy or firewall in between",
        status=error.status,
        sent=True,
        of_request=True,
    )


def unexpected_body(reply: Reply, product: str) -> Retryable:
    """
    Return the error for a success whose body is not that of *product*.

    For questions: asking again is harmless. What an answer to events fails to prove is *unproven*.
    """
    return Retryable(
        f"{reply.status} from {reply.where}, but the body ({len(reply.body)} bytes) is not a "
        f"response of {product}: a proxy in between may have sent it",
        reason="bad_reply",
        sent=True,
    )


def unproven(reply: Reply, product: str) -> Refused:
    """
    Return the error for a success that proves nothing: its body is not that of *product*.

    If the address stores the events, each further attempt would store them once more; if it does
    not, counting them as delivered would lose them. So it holds the sink.
    """
    return Refused(
        f"{reply.status} from {reply.where}: the address answers but is not {product}: its body is "
        f"{_kind_of(reply)}. Check the address, and any proxy in between. Whether the events were "
        "stored is unknown: they wait, and until the address answers as expected at most one event "
        "is sent again as a probe",
        status=reply.status,
        sent=True,
        of_request=is_web_page(reply),
    )


def is_proof(reply: Reply) -> bool:
    """Return whether the status of *reply* alone proves that a product took everything."""
    return 200 <= reply.status < 300 and not is_web_page(reply)


def _kind_of(reply: Reply) -> str:
    """Return what the body of *reply* seems to be, without quoting it."""
    if reply.unread is not None:
        return f"not readable ({reply.unread.reason})"
    if not reply.body.strip():
        return "empty"
    if is_web_page(reply):
        return "a web page, such as a login"
    kind = "JSON of another kind" if reply.body.lstrip()[:1] in (b"{", b"[") else "other text"
    return f"{kind} ({len(reply.body)} bytes)"


def clean(text: str) -> str:
    """Return *text* of a product in a form that can be shown: without secrets, bounded."""
    return scrub(text, 300)
