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
        self._open = open and redactor.spares_documented
        self._redactor = redactor
        self._decoder = msgspec.json.Decoder(vendor.Record)
        self._id = attrgetter(vendor.ID)
        self._time = attrgetter(vendor.TIME)
        self._fields = vendor.FIELDS
        # Of an undocumented record everything is of free form.
        self._undocumented = not vendor.Record.__struct_config__.forbid_unknown_fields
        self._has_details = "metadata" in vendor.Record.__struct_fields__

    def decode(self, texts: Sequence[bytes]) -> Records:
        """
        Return the records of *texts* that have an id and a time, and are written canonically.

        No JSON text of such a record is shorter than its encoding: what is longer was written in
        another way, or had a key twice. What is of free form is not looked into.
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
            records = self._decoder.decode_lines(page)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        if len(records) != len(texts) or not self._are_identified(records):
            return None
        if not self._undocumented and len(_ENCODER.encode_lines(records)) != len(page) + 1:
            return None
        if len(page) > _MAX_LENGTH and any(map(_is_long, texts, records)):
            return None
        return records

    def _decode_one(self, text: bytes) -> Documented | None:
        try:
            record = self._decoder.decode(text)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        if _is_long(text, record) or not self._are_identified([record]):
            return None
        return record if self._undocumented or _is_as_long(_ENCODER.encode(record), text) else None

    def _are_identified(self, records: Sequence[Any]) -> bool:
        ids = list(map(self._id, records))
        if not _ID_TYPES.issuperset(map(type, ids)) or "" in ids:
            return False
        return _TIME_TYPES.issuperset(map(type, map(self._time, records)))

    def read(self, texts: Sequence[bytes], records: Sequence[Documented]) -> "UsualPage":
        """Look into the whole of *records*, decoded from *texts*, and say which are usual."""
        raw = _as_texts(texts)
        page = UsualPage(raw, [True] * len(raw), [], [], [])
        if None in raw:
            page.restrict([text is not None for text in raw])
        if self._undocumented:
            values, _ = self._look_into(page, texts)
            page.unmapped = [
                _unmapped(each, self._fields) if usual else None
                for each, usual in zip(values, page.usual, strict=True)
            ]
        elif self._has_details:
            page.details, page.metadata = self._look_into(page, _details(records))
        # Searching one character is ten times faster than two or three; many pages lack it.
        whole = "".join(filter(None, raw))
        if ("/" in whole and "://" in whole) or ("\\" in whole and '\\"' in whole):
            spares_texts = self._redactor.spares_texts
            page.restrict([spares_texts(text or "") for text in raw])
        return page

    def _look_into(
        self, page: "UsualPage", texts: Sequence[bytes]
    ) -> tuple[list[Any], list[str | None]]:
        """Return the values of *texts*, and their JSON; what is not that JSON is not usual."""
        values, canonical, same = _values(texts)
        if not all(same):
            page.restrict(same)
        if not self._redactor.spares_page(values):
            page.restrict([self._redactor.spares_values(value) for value in values])
        return values, canonical


class UsualPage(msgspec.Struct, gc=False):
    """Columns of a page: a row counts only where *usual* is true."""

    raw: list[str | None]
    usual: list[bool]
    details: list[Any]
    metadata: list[str | None]
    unmapped: list[str | None]

    def restrict(self, usual: Sequence[bool]) -> None:
        """Only what is *usual* is so still."""
        self.usual = [a and b for a, b in zip(self.usual, usual, strict=True)]


def _is_long(text: bytes, record: Any) -> bool:
    """Return whether a documented field may be too long: some of *text* is the details."""
    if len(text) <= _MAX_LENGTH:
        return False
    details = getattr(record, "metadata", UNSET)
    return details is UNSET or len(text) - len(bytes(details)) > _MAX_LENGTH


def _is_as_long(one: bytes, other: bytes) -> bool:
    """Return whether the two texts are equally long without whitespace."""
    if len(one) == len(other):
        return True
    return len(one.translate(None, WHITESPACE)) == len(other.translate(None, WHITESPACE))


def _as_texts(texts: Sequence[bytes]) -> list[str | None]:
    try:
        return [text.decode() for text in texts]
    except UnicodeDecodeError:
        return list(map(_as_text, texts))


def _as_text(text: bytes) -> str | None:
    try:
        return text.decode()
    except UnicodeDecodeError:
        return None


def _unmapped(value: dict[str, Any], fields: frozenset[str]) -> str | None:
    rest = {key: item for key, item in value.items() if key not in fields}
    return orjson.dumps(rest).decode() if rest else None


def _details(records: Sequence[Any]) -> list[bytes]:
    return [b"null" if each.metadata is UNSET else bytes(each.metadata) for each in records]


def _values(texts: Sequence[bytes]) -> tuple[list[Any], list[str | None], list[bool]]:
    """Return the values of *texts*, as JSON (None for null), and whether they are that JSON."""
    page = b"[" + b",".join(texts) + b"]"  # each is one JSON value
    with contextlib.suppress(orjson.JSONDecodeError, TypeError):
        values = orjson.loads(page)
        if orjson.dumps(values) == page:
            same = [True] * len(texts)
            return values, [None if each == b"null" else each.decode() for each in texts], same
    rows = list(map(_value, texts))
    return [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]


def _value(text: bytes) -> tuple[Any, str | None, bool]:
    try:
        value = orjson.loads(text)
        compact = orjson.dumps(value)
    except (orjson.JSONDecodeError, TypeError):
        return None, None, False
    same = compact.translate(None, WHITESPACE) == text.translate(None, WHITESPACE)
    return value, None if value is None else compact.decode(), same
