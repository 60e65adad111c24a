"""
The narrow gate: which records of a page are usual, so that they can be read all at once.

Usual is a record of documented fields with simple values that is strict JSON, is passed on as it
was sent, and has nothing to redact. Everything else is read with care, alone (``careful``); what
comes of a record is the same on both ways, and the gate is the only place that decides.
"""

import contextlib
from collections.abc import Sequence
from operator import attrgetter
from typing import Any, Final

import msgspec
import orjson
from msgspec import UNSET

from auditrelay.events.decode import MAX_DIGITS, WHITESPACE
from auditrelay.events.redact import Redactor
from auditrelay.events.vendors import MAX_TEXT_LENGTH, Documented, Vendor

_ENCODER: Final = msgspec.json.Encoder()

_ID_TYPES: Final = frozenset((int, str))
_TIME_TYPES: Final = frozenset((str,))
_MAX_LENGTH: Final = min(MAX_TEXT_LENGTH, MAX_DIGITS)
"""Bytes of a usual record: no text of it must be cut, and no number written as a text."""

Records = Sequence[Documented | None]
"""The records of a page; None where one is not usual."""


class Gate:
    """
    Decides for the records of one *vendor*.

    It lets nothing pass if it is not *open*, nor where *redactor* may have something to do with a
    documented field as a whole.
    """

    def __init__(self, vendor: Vendor, redactor: Redactor, *, open: bool) -> None:  # noqa: A002
        # A field that is read and shown as unmapped, too, is nothing for the usual way.
        documented = vendor.FIELDS.issuperset(vendor.Record.__struct_fields__)
        self._open = open and documented and redactor.spares_documented
        self._redactor = redactor
        self._decoder = msgspec.json.Decoder(vendor.Record)
        self._id = attrgetter(vendor.ID)
        self._time = attrgetter(vendor.TIME)
        self._has_details = "metadata" in vendor.Record.__struct_fields__

    def decode(self, texts: Sequence[bytes]) -> Records:
        """
        Return the records of *texts* that have an id and a time, and are written canonically.

        No JSON text of such a record is shorter than its encoding: what is longer was written in
        another way, or had a key twice. Details of free form are not looked into.
        """
        if not self._open:
            return [None] * len(texts)
        return self._decode_page(texts) or [self._decode_one(each) for each in texts]

    def _decode_page(self, texts: Sequence[bytes]) -> Records | None:
        """Decode *texts* in one go, which is twice as fast; None unless all of them are usual."""
        # Between two such texts no record can go on, so that as many records as texts are one each:
        # else an odd text might begin what another one ends, and a third one hold two.
        if not all(text[:1] == b"{" and text[-1:] == b"}" for text in texts):
            return None
        page = b"\n".join(texts)
        try:
            records: Records = self._decoder.decode_lines(page)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        if len(records) != len(texts) or len(_ENCODER.encode_lines(records)) != len(page) + 1:
            return None
        if len(page) > _MAX_LENGTH and max(map(len, texts)) > _MAX_LENGTH:
            return None
        return records if self._are_identified(records) else None

    def _decode_one(self, text: bytes) -> Documented | None:
        try:
            record = self._decoder.decode(text)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        if len(text) > _MAX_LENGTH or not self._are_identified([record]):
            return None
        canonical = _ENCODER.encode(record)
        return record if len(canonical) == len(text) or _is_same(canonical, text) else None

    def _are_identified(self, records: Sequence[Any]) -> bool:
        ids = list(map(self._id, records))
        if not _ID_TYPES.issuperset(map(type, ids)) or "" in ids:
            return False
        return _TIME_TYPES.issuperset(map(type, map(self._time, records)))

    def read(self, texts: Sequence[bytes], records: Sequence[Documented]) -> "UsualPage":
        """Look into the whole of *records*, decoded from *texts*, and say which are usual."""
        raw = _as_texts(texts)
        usual = [text is not None for text in raw]
        details: list[Any] = []
        metadata: list[str | None] = []
        if self._has_details:
            details, metadata, same = _details(records)
            usual = [a and b for a, b in zip(usual, same, strict=True)]
            if not self._redactor.spares_page(details):
                spares = self._redactor.spares_values
                usual = [a and spares(value) for a, value in zip(usual, details, strict=True)]
        # Searching one character is ten times faster than two or three; many pages lack it.
        whole = "".join(filter(None, raw))
        if ("/" in whole and "://" in whole) or ("\\" in whole and '\\"' in whole):
            spares_texts = self._redactor.spares_texts
            usual = [a and spares_texts(text or "") for a, text in zip(usual, raw, strict=True)]
        return UsualPage(raw, details, metadata, usual)


class UsualPage(msgspec.Struct, gc=False):
    """Columns of a page: a row counts only where *usual* is true."""

    raw: list[str | None]
    details: list[Any]
    metadata: list[str | None]
    usual: list[bool]


def _is_same(one: bytes, other: bytes) -> bool:
    return len(one.translate(None, WHITESPACE)) == len(other.translate(None, WHITESPACE))


def _as_texts(texts: Sequence[bytes]) -> list[str | None]:
    page = b"\n".join(texts)
    if page.count(b"\n") == len(texts) - 1:
        with contextlib.suppress(UnicodeDecodeError):
            return [*page.decode().split("\n")]
    found: list[str | None] = []
    for text in texts:
        try:
            found.append(text.decode())
        except UnicodeDecodeError:
            found.append(None)
    return found


def _details(records: Sequence[Any]) -> tuple[list[Any], list[str | None], list[bool]]:
    """Return the details of *records*: decoded, as JSON, and whether they are that JSON."""
    raw = [b"null" if each.metadata is UNSET else bytes(each.metadata) for each in records]
    page = b"[" + b",".join(raw) + b"]"  # each is one JSON value
    with contextlib.suppress(orjson.JSONDecodeError, TypeError):
        values = orjson.loads(page)
        if orjson.dumps(values) == page:
            texts = [None if each == b"null" else each.decode() for each in raw]
            return values, texts, [True] * len(raw)
    columns = list(map(_detail, raw))
    return [row[0] for row in columns], [row[1] for row in columns], [row[2] for row in columns]


def _detail(raw: bytes) -> tuple[Any, str | None, bool]:
    try:
        value = orjson.loads(raw)
        text = orjson.dumps(value)
    except (orjson.JSONDecodeError, TypeError):
        return None, None, False
    same = text == raw or text.translate(None, WHITESPACE) == raw.translate(None, WHITESPACE)
    return value, None if value is None else text.decode(), same
