"""
Read of a large record only what it is known by, and as much else as fits.

Decoded, a record of millions of small values takes sixty times the memory of its text, and seconds.
So what is in its large fields is kept as text only; what it is known by, who and when stands in
small ones.
"""

import re
from collections.abc import Iterable
from hashlib import sha256
from typing import Any, Final

import msgspec

from auditrelay.events.decode import NOT_DECODED, Decoded, Undecodable, decode, encode

MAX_DECODED: Final = 2**20
"""Bytes of a record that are decoded."""

MAX_KEPT: Final = 4 * 2**20
"""Bytes of a record that are kept: more than any SIEM takes as one event."""

TOO_LARGE: Final = "[too large: see the raw record]"
"""What stands in place of a value that is not decoded."""

_PLAIN: Final = re.compile(r'[^"\\\x00-\x1f]+')

_ABSENT: Final = msgspec.Raw(b"")


class LargeReader:
    """Reads the *fields* of large records; others are in their text alone."""

    def __init__(self, fields: Iterable[str]) -> None:
        # Whatever a configured path names: msgspec refuses names that JSON would escape.
        plain = [name for name in sorted(fields) if _PLAIN.fullmatch(name)]
        names = {f"field_{number}": name for number, name in enumerate(plain)}
        self._names = names.values()
        # A decoder that knows the fields passes over all else without making a value of it.
        shape = msgspec.defstruct(
            "Large", [(each, msgspec.Raw, _ABSENT) for each in names], rename=names
        )
        self._decoder = msgspec.json.Decoder(shape)

    def __call__(self, text: bytes) -> Decoded:
        """Return *text*, an object; raise Undecodable if it is none, or not strict JSON."""
        try:
            found = msgspec.structs.astuple(self._decoder.decode(text))
        except NOT_DECODED as error:
            raise Undecodable("it is large, and not a JSON object") from error
        value: dict[str, Any] = {}
        room = MAX_DECODED
        for name, raw in sorted(
            zip(self._names, map(bytes, found), strict=True), key=lambda field: len(field[1])
        ):
            room -= len(raw)
            if raw:
                value[name] = decode(raw).value if room >= 0 else TOO_LARGE
        return Decoded(
            value,
            verbatim=False,
            complete=False,
            compact=encode(value),
            warnings=("too_large",),
        )


def kept(text: bytes) -> bytes:
    """Return what is kept of *text*: all, or its beginning and what identifies the whole."""
    if len(text) <= MAX_KEPT:
        return text
    return b"%b [cut: %d bytes, SHA-256 %b]" % (
        text[:MAX_KEPT],
        len(text),
        sha256(text).hexdigest().encode(),
    )
