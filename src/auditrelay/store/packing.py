"""
How a page lies in the spool: one byte for the version, then its columns, deflated. Pure.

Version 1 had no such byte: it was a zlib stream, which begins with 0x78, of whole events as JSON.
It is still read. Whatever ties a blob to its place (its digest, a tag) belongs into the row that
has it: being over the blob as it lies there, it can be checked without inflating anything.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Final

import msgspec
from isal import isal_zlib

from auditrelay.errors import StateError
from auditrelay.events import Actor
from auditrelay.events import unpack as unpack_events
from auditrelay.events.page import COLUMNS, Page

VERSION: Final = 2

_ZLIB: Final = 0x78
"""The first byte of a zlib stream."""

_DAMAGED: Final[tuple[type[Exception], ...]] = (
    isal_zlib.error,  # type: ignore[assignment]  # typed as an instance
    msgspec.MsgspecError,
    ValueError,
    IndexError,
)

_REMEDY: Final = "restore the state from a backup"

_ROW_BYTES: Final = 1000
"""What the objects of an event take besides their texts: 850 to 1,120 bytes, as measured."""

_UID_DIGITS: Final = 40
_SHA256_DIGITS: Final = 64


class _Stored(msgspec.Struct, array_like=True, gc=False):
    """
    A page as it is written: its digests as bytes, each actor once, and its texts event by event.

    Digests as hex digits would take up more room, deflated too, and longer to deflate. Most texts
    stand in the record as well, and deflate finds them there only if that is near: it looks back
    32 kB. New fields go at the end and have a default.
    """

    page: Page
    """Without the columns that follow."""
    uid: bytes | list[str]
    raw_sha256: bytes | list[str]
    actors: list[Actor]
    actor: list[int]
    names: list[str]
    """Which columns of texts there are."""
    texts: list[str | None]
    """Of the first event its text in each of those columns, then of the second..."""


_TEXTS: Final = (
    "raw",
    "metadata",
    "unmapped",
    "native_id",
    "time_raw",
    "target_id",
    "target_name",
    "target_email",
    "target_type",
    "message",
    "org_id",
    "org_name",
    "project_id",
    "project_name",
    "privilege",
    "reason",
)
_COLUMNS: Final = frozenset(COLUMNS)

_ENCODE: Final = msgspec.msgpack.Encoder()
_DECODE: Final = msgspec.msgpack.Decoder(_Stored)


def pack(page: Page) -> tuple[bytes, int]:
    """Return *page* as the spool stores it, and about how many bytes of memory it takes."""
    numbers: dict[int, int] = {}
    actor = [numbers.setdefault(number, len(numbers)) for number in map(id, page.actor)]
    names = [name for name in _TEXTS if getattr(page, name)]
    texts = zip(*[getattr(page, name) for name in names], strict=True)
    moved = dict.fromkeys(("uid", "raw_sha256", "actor", *names), ())
    stored = _Stored(
        msgspec.structs.replace(page, **moved),
        _digests(page.uid, _UID_DIGITS),
        _digests(page.raw_sha256, _SHA256_DIGITS),
        list({id(each): each for each in page.actor}.values()),
        actor,
        names,
        list(chain.from_iterable(texts)),
    )
    text = _ENCODE.encode(stored)
    return b"%c%b" % (VERSION, isal_zlib.compress(text, 1)), _memory(text, page)


def unpack(blob: bytes, first: int, count: int) -> tuple[Page, int]:
    """
    Return the page of *count* events in a *blob* of this or an older version, at position *first*.

    With it comes about how many bytes of memory it takes, as :func:`pack` tells it too. Raises
    StateError if the blob is damaged, or of a newer version.
    """
    version = blob[0] if blob else 0
    try:
        if version == VERSION:
            text = isal_zlib.decompress(memoryview(blob)[1:])
            page = _page(_DECODE.decode(text))
        elif version == _ZLIB:
            text = isal_zlib.decompress(blob)
            page = Page.of(unpack_events(text))
        else:
            raise StateError(
                f"the page at position {first} of the spool has the unknown version {version}: if "
                f"a newer auditrelay wrote it, install that again; else it is damaged: {_REMEDY}"
            )
    except _DAMAGED as error:
        raise StateError(
            f"the page at position {first} of the spool is damaged ({error}): {_REMEDY}"
        ) from error
    if len(page) != count:
        raise StateError(
            f"the page at position {first} of the spool is damaged ({len(page)} events instead of "
            f"{count}): {_REMEDY}"
        )
    return page, _memory(text, page)


def _memory(text: bytes, page: Page) -> int:
    """Return about how many bytes of memory *page* takes, whose texts are all in *text*."""
    return len(text) + _ROW_BYTES * len(page)


def _page(stored: _Stored) -> Page:
    actors, names = stored.actors, stored.names
    texts = {
        name: stored.texts[place :: len(names)]
        for place, name in enumerate(names)
        if name in _COLUMNS  # else a newer version has added it
    }
    return msgspec.structs.replace(
        stored.page,
        **texts,
        uid=_texts(stored.uid, _UID_DIGITS),
        raw_sha256=_texts(stored.raw_sha256, _SHA256_DIGITS),
        actor=[actors[number] for number in stored.actor],
    )


def _digests(texts: Sequence[str], digits: int) -> bytes | list[str]:
    """Return *texts* joined as bytes, or as they are unless each has so many hex *digits*."""
    joined = "".join(texts)
    if {*map(len, texts)} <= {digits}:
        try:
            digests = bytes.fromhex(joined)
        except ValueError:
            return list(texts)
        if digests.hex() == joined:  # fromhex takes capitals and blanks as well
            return digests
    return list(texts)


def _texts(digests: bytes | list[str], digits: int) -> list[str]:
    if isinstance(digests, list):
        return digests
    joined = digests.hex()
    return [joined[start : start + digits] for start in range(0, len(joined), digits)]
