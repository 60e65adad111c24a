"""A request and a response as a double sees them."""

import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from isal import isal_zlib

_MAX_DECODED = 1024 * 1024 * 1024


class BadRequest(Exception):  # an answer (*status*), not a bug of ours
    """The request is malformed; the answer is *status* with *reason* as its text."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Request:
    """
    One request as it came over the wire.

    *headers* have lower-case names, repeated ones joined by a comma. *query* has the last value
    of each parameter, percent-decoded. *body* is as sent, still encoded. *at* is the double's clock
    in epoch seconds. *number* counts the double's requests from 1.
    """

    number: int
    method: str
    target: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    at: float

    def content(self, *accepted: str) -> bytes:
        """
        Return the body, decoded if its Content-Encoding is one of *accepted*.

        Raises BadRequest: 415 for another encoding, 400 for data that does not decode.
        """
        encoding = self.headers.get("content-encoding", "identity").strip().lower()
        if encoding in {"", "identity"}:
            return self.body
        if encoding not in accepted:
            raise BadRequest(415, f"Content-Encoding [{encoding}] is not supported")
        try:
            return _inflate(self.body, raw_allowed=encoding == "deflate")
        except (zlib.error, isal_zlib.error) as error:  # type: ignore[misc]  # a class; the stub errs
            raise BadRequest(400, f"the body is not {encoding}: {error}") from error


@dataclass(slots=True)
class Response:
    """
    An answer: *status*, *headers*, and *body* or, for bodies too large for memory, *chunks*.

    Content-Length is added unless *headers* has one or *chunked* asks for chunked coding.
    """

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    chunks: Iterable[bytes] | None = None
    chunked: bool = False


@dataclass(slots=True)
class Seen:
    """A request in a double's log, without its body, and the status answered (0: none)."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body_bytes: int
    at: float
    status: int = 0
    fault: bool = False


def json_response(
    status: int, value: Any, headers: dict[str, str] | None = None, *, kind: str = ""
) -> Response:
    """Return *value* as a JSON answer of type *kind* (default application/json)."""
    return Response(
        status,
        json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode(),
        {"Content-Type": kind or "application/json", **(headers or {})},
    )


def _inflate(data: bytes, *, raw_allowed: bool) -> bytes:
    """Decode gzip (all members) or zlib data, or bare deflate if *raw_allowed*."""
    if raw_allowed and (not data or data[0] & 0x0F != 8 or data[0] >> 4 > 7):
        return isal_zlib.decompress(data, wbits=-15)
    parts: list[bytes] = []
    total = 0
    while True:
        stream = isal_zlib.decompressobj(wbits=47)
        parts.append(stream.decompress(data, _MAX_DECODED))
        total += len(parts[-1])
        if not stream.eof:
            why = "too large" if total >= _MAX_DECODED else "it ends too early"
            raise zlib.error(why)
        data = stream.unused_data
        if not data:
            return parts[0] if len(parts) == 1 else b"".join(parts)
