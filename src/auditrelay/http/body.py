"""Read the body of a reply, decompressed as it comes, never more than a bound."""

from typing import Any

import httpx
from isal import isal_zlib

from auditrelay.errors import (
    Retryable,
)
from auditrelay.telemetry.scrubber import scrub

MOST_BYTES = 32 * 2**20
"""Most of one reply's body that is read, after decompression."""


async def read_body(stream: httpx.AsyncByteStream, encoding: str | None, where: str) -> bytes:
    """Return the whole body, decompressed as it comes, so that a bomb is never unfolded."""
    unzip: _Unzip | None = None
    if encoding is not None and encoding.lower() != "identity":
        if encoding.lower() not in ("gzip", "x-gzip"):
            raise unusable(where, f"has the content encoding {scrub(encoding, 40)}")
        unzip = _Unzip()
    parts: list[bytes] = []
    room = MOST_BYTES
    async for chunk in stream:
        try:
            part = chunk if unzip is None else unzip.feed(chunk, room + 1)
        except _DAMAGED as error:
            raise unusable(where, "is damaged gzip") from error
        room -= len(part)
        if room < 0:
            raise unusable(where, f"is larger than {MOST_BYTES:,} bytes", "reply_too_large")
        parts.append(part)
    if unzip is not None and not unzip.complete:
        raise unusable(where, "is gzip that breaks off")
    return b"".join(parts)


_DAMAGED: type[Exception] = isal_zlib.IsalError  # type: ignore[assignment]  # the stub is wrong


class _Unzip:
    """Decompress gzip piece by piece, also several members in a row."""

    def __init__(self) -> None:
        self._member: Any = None

    @property
    def complete(self) -> bool:
        """Whether the last member has come to its end."""
        return self._member is None

    def feed(self, data: bytes, most: int) -> bytes:
        """Return what *data* holds, but stop at *most* bytes. Raises _DAMAGED."""
        parts: list[bytes] = []
        while data and most > 0:
            if self._member is None:
                self._member = isal_zlib.decompressobj(wbits=31)
            part = self._member.decompress(data, most)
            most -= len(part)
            parts.append(part)
            if self._member.eof:
                data, self._member = self._member.unused_data, None
            else:
                data = self._member.unconsumed_tail
        return b"".join(parts)


def unusable(where: str, what: str, reason: str = "bad_reply") -> Retryable:
    """Return the error for a reply from *where* whose body cannot be used."""
    return Retryable(f"the reply to {where} {what}", reason=reason, sent=True)
