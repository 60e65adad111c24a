"""Read the body of a reply: decompressed piece by piece, and bounded in size."""

from typing import Any

import httpx
from isal import isal_zlib

from auditrelay.errors import Retryable

MAX_BODY_BYTES = 32 * 2**20
"""Size limit of one reply's body, after decompression."""

MAX_REFUSAL_BYTES = 2**20
"""The same of a reply that is not a success: of that, only a few words are read."""

_GZIP = b"\x1f\x8b"
"""How gzip begins, and neither JSON nor any text does."""


async def read_body(response: httpx.Response, where: str, max_bytes: int | None = None) -> bytes:
    """
    Return the whole body, decompressed piece by piece.

    It is gzip if it begins like that, whatever its ``Content-Encoding`` says: proxies decompress
    and leave the header, and some servers put other things there, such as ``UTF-8``. Reading stops
    at *max_bytes*, or at the size limits above, so that a decompression bomb is never expanded.
    *where* is the request, for messages. Raises Retryable for a body that cannot be used.
    """
    stream = response.stream
    assert isinstance(stream, httpx.AsyncByteStream)  # noqa: S101  # it is async
    limit = max_bytes or (MAX_BODY_BYTES if response.is_success else MAX_REFUSAL_BYTES)
    gzip: _GzipDecoder | None = None
    start: bytes | None = b""
    """The first byte, while only that has come."""
    parts: list[bytes] = []
    room = limit
    try:
        async for piece in stream:
            chunk = piece
            if start is not None:
                chunk = start + piece
                if len(chunk) < len(_GZIP):
                    start = chunk
                    continue
                start = None
                gzip = _GzipDecoder() if chunk.startswith(_GZIP) else None
            try:
                part = chunk if gzip is None else gzip.feed(chunk, room + 1)
            except _DAMAGED as error:
                raise _unusable(where, "is damaged gzip") from error
            room -= len(part)
            if room < 0:
                raise _unusable(where, f"is larger than {limit:,} bytes", "reply_too_large")
            parts.append(part)
    finally:
        # Closed before the end of the body, the connection is not used again.
        await stream.aclose()
    if gzip is not None and not gzip.complete:
        raise _unusable(where, "is truncated gzip")
    return b"".join((start or b"", *parts))


_DAMAGED: type[Exception] = isal_zlib.IsalError  # type: ignore[assignment]  # the stub is wrong


class _GzipDecoder:
    """Decompresses gzip piece by piece, also several members in a row."""

    def __init__(self) -> None:
        self._member: Any = None

    @property
    def complete(self) -> bool:
        """Whether the last member has been decompressed to its end."""
        return self._member is None

    def feed(self, data: bytes, limit: int) -> bytes:
        """Return *data* decompressed, but stop at *limit* bytes. Raises _DAMAGED."""
        parts: list[bytes] = []
        while data and limit > 0:
            if self._member is None:
                self._member = isal_zlib.decompressobj(wbits=31)
            part = self._member.decompress(data, limit)
            limit -= len(part)
            parts.append(part)
            if self._member.eof:
                data, self._member = self._member.unused_data, None
            else:
                data = self._member.unconsumed_tail
        return b"".join(parts)


def _unusable(where: str, problem: str, reason: str = "bad_reply") -> Retryable:
    """Return the error for a reply to the request *where* whose body has a *problem*."""
    return Retryable(f"the reply to {where} {problem}", reason=reason, sent=True)
