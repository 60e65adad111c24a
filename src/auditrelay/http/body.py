"""Read the body of a reply: decompressed piece by piece, and bounded in size."""

from typing import Any

import httpx
from isal import isal_zlib

from auditrelay.errors import Retryable
from auditrelay.telemetry.scrubber import scrub

MAX_BODY_BYTES = 32 * 2**20
"""Size limit of one reply's body, after decompression."""


async def read_body(stream: httpx.AsyncByteStream, encoding: str | None, where: str) -> bytes:
    """
    Return the whole body, decompressed piece by piece.

    Reading stops at the size limit, so that a decompression bomb is never expanded. *where* is the
    request, for messages. Raises Retryable for a body that cannot be used.
    """
    gzip: _GzipDecoder | None = None
    if encoding is not None and encoding.lower() != "identity":
        if encoding.lower() not in ("gzip", "x-gzip"):
            raise _unusable(where, f"has the content encoding {scrub(encoding, 40)}")
        gzip = _GzipDecoder()
    parts: list[bytes] = []
    room = MAX_BODY_BYTES
    async for chunk in stream:
        try:
            part = chunk if gzip is None else gzip.feed(chunk, room + 1)
        except _DAMAGED as error:
            raise _unusable(where, "is damaged gzip") from error
        room -= len(part)
        if room < 0:
            raise _unusable(where, f"is larger than {MAX_BODY_BYTES:,} bytes", "reply_too_large")
        parts.append(part)
    if gzip is not None and not gzip.complete:
        raise _unusable(where, "is truncated gzip")
    return b"".join(parts)


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
