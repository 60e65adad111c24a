"""What sinks over HTTP share: bodies, compression, responses as errors."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import orjson
from isal import isal_zlib

from auditrelay.errors import Refused, Rejected, RelayError, Retryable, TooLarge
from auditrelay.http.replies import Reply, check
from auditrelay.telemetry.scrubber import scrub


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


def error_for(reply: Reply, *, message: str = "", wait: float | None = None) -> RelayError:
    """
    Return the error that an unsuccessful *reply* means for the batch.

    Only 400 and 422 can be caused by an event. Any other refusal would affect every event alike, so
    it holds the sink instead of filling the dead letters. *message* is the error in the product's
    own format, *wait* the seconds that it asks to wait in a header of its own.
    """
    try:
        check(reply, message=clean(message), wait=wait)
    except Rejected as error:
        if isinstance(error, TooLarge) or error.status in (400, 422):
            return error
        return Refused(
            f"{error}; no event is the cause, check the address and any proxy in between",
            status=error.status,
        )
    except RelayError as error:
        return error
    return unexpected_body(reply, "the product")


def unexpected_body(reply: Reply, product: str) -> Retryable:
    """Return the error for a success that proves nothing: its body is not that of *product*."""
    return Retryable(
        f"{reply.status} from {reply.where}, but the body ({len(reply.body)} bytes) is not a "
        f"response of {product}: a proxy in between may have sent it",
        reason="bad_reply",
        sent=True,
    )


def clean(text: str) -> str:
    """Return *text* of a product in a form that can be shown: without secrets, bounded."""
    return scrub(text, 300)
