"""
The narrow gate: which records of a page are usual, so that they can be read all at once.

Usual is a record whose documented fields have simple values, that is strict JSON, is passed on as
it was sent, and has nothing to redact. Everything else is read with care, alone (``careful``); what
comes of a record is the same on both ways, and the gate is the only place that decides. Of a vendor
that reads whole records, the whole is at hand: there a usual one may have something to redact.
"""

from collections.abc import Sequence
from operator import itemgetter
from typing import Any, Final, cast

import msgspec
import orjson
from msgspec import UNSET

from auditrelay.events.decode import MAX_DIGITS, NOT_DECODED, encode, values_of
from auditrelay.events.identity import Identity
from auditrelay.events.large import MAX_DECODED
from auditrelay.events.marks import places
from auditrelay.events.redact import Redactor
from auditrelay.events.secret_texts import Search
from auditrelay.events.shapes import Shape, Shapes, as_object
from auditrelay.events.vendors import MAX_TEXT_LENGTH, Documented, Vendor, is_long, unmapped

_ENCODER: Final = msgspec.json.Encoder()
_FIRST: Final = itemgetter(slice(1))
_LAST: Final = itemgetter(slice(-1, None))

_ID_TYPES: Final = frozenset((int, str))
_MAX_LENGTH: Final = min(MAX_TEXT_LENGTH, MAX_DIGITS)
"""Bytes of a usual record: no text of it must be cut, and no number written as a text."""

Records = Sequence[Documented | None]
"""The records of a page; None where one is not usual."""


class Gate:
    """
    Decides for the records of one *vendor*.

    It lets nothing pass if the declared records do not have what *identity* needs, nor where
    *redactor* may have something to do with a documented field as a whole.
    """

    def __init__(self, vendor: Vendor, identity: Identity, redactor: Redactor) -> None:
        self._open = identity.is_declared and (
            vendor.reads_whole or (bool(identity.id) and redactor.spares_documented)
        )
        self._redactor = redactor
        self._identity = identity
        self._fields = vendor.fields
        self._reads_whole = vendor.reads_whole
        self._shapes = (
            Shapes(vendor.whole_places, redactor)
            if vendor.reads_whole and () not in vendor.whole_places
            else None
        )
        self._has_details = "metadata" in vendor.record.__struct_fields__
        self._decoder = msgspec.json.Decoder(vendor.record)
        self._is_documented = bool(vendor.record.__struct_config__.forbid_unknown_fields)
        # The same with fields that are not documented: a vendor may add one to all of its records.
        self._wider = vendor.record
        if self._is_documented:
            self._wider = cast(
                "type[Documented]",
                msgspec.defstruct("Wider", [], bases=(vendor.record,), forbid_unknown_fields=False),
            )
        self._wider_decoder = msgspec.json.Decoder(self._wider)

    def decode(self, texts: Sequence[bytes]) -> Records:
        """
        Return the records of *texts* that have an id and a time, and documented fields as declared.

        Only if all of them have no other fields, a single look suffices: then no JSON text is
        shorter than the encoding of its record, and what is longer was written in another way, or
        had a key twice. What is of free form is not looked into.
        """
        if not self._open:
            return [None] * len(texts)
        if max(map(len, texts)) > MAX_DECODED:
            return [None if len(each) > MAX_DECODED else self._decode_one(each) for each in texts]
        page = b"\n".join(texts)
        # Between two such texts no record can go on, so that as many records as texts are one each:
        # else an odd text might begin what another one ends, and a third one hold two.
        if set(map(_FIRST, texts)) == {b"{"} and set(map(_LAST, texts)) == {b"}"}:
            records = self._decode_page(page, texts, self._decoder) if self._is_documented else None
            if records is not None and len(_ENCODER.encode_lines(records)) == len(page) + 1:
                return records
            records = self._decode_page(page, texts, self._wider_decoder)
            if records is not None:
                return records
        return [self._decode_one(each) for each in texts]

    def _decode_page(
        self, page: bytes, texts: Sequence[bytes], decoder: msgspec.json.Decoder[Any]
    ) -> list[Documented] | None:
        """Decode *texts*, joined in *page*, which is twice as fast; None if one of them is odd."""
        try:
            records: list[Documented] = decoder.decode_lines(page)
        except NOT_DECODED:
            return None
        if len(records) != len(texts) or not self._are_identified(records):
            return None
        if max(map(len, texts)) > _MAX_LENGTH and any(map(self._is_long, texts, records)):
            return None
        return records

    def _decode_one(self, text: bytes) -> Documented | None:
        try:
            record: Documented = self._wider_decoder.decode(text)
        except NOT_DECODED:
            return None
        return (
            record if self._are_identified([record]) and not self._is_long(text, record) else None
        )

    def _are_identified(self, records: Sequence[Any]) -> bool:
        for ids in self._identity.usual_ids(records):
            if not _ID_TYPES.issuperset(map(type, ids)) or "" in ids:
                return False
        times = self._identity.usual_times_of(records)
        return self._identity.usual_times.issuperset(map(type, times))

    def _is_long(self, text: bytes, record: Any) -> bool:
        """Return whether a documented field may be too long: some of *text* is the details."""
        if len(text) <= _MAX_LENGTH or self._reads_whole:
            return False
        details = getattr(record, "metadata", UNSET)
        if details is UNSET or bytes(details)[:1] == b'"':  # a long text is warned of
            return True
        return len(text) - len(bytes(details)) > _MAX_LENGTH

    def read(self, texts: Sequence[bytes], records: Sequence[Documented]) -> "UsualPage":
        """Look into the whole of *records*, decoded from *texts*, and say which are usual."""
        if self._reads_whole:
            return self._read_whole(texts)
        raw = _as_texts(texts)
        page = UsualPage(raw, [True] * len(raw), [], [], [])
        if None in raw:
            page.restrict([text is not None for text in raw])
        if records and type(records[0]) is self._wider:
            self._look_into_all(page, texts)
        elif self._has_details:
            page.details, page.metadata = self._look_into(page, _details(records))
        redactor = self._redactor
        if searches := redactor.searches(b"\n".join(texts)):
            page.restrict(
                [
                    text is not None and redactor.spares_texts(record, text, searches)
                    for record, text in zip(texts, raw, strict=True)
                ]
            )
        return page

    def _read_whole(self, texts: Sequence[bytes]) -> "UsualPage":
        """Do so for a vendor that reads whole records: those are at hand, to redact them here."""
        shapes, hidden = (
            self._shapes.read(texts, MAX_TEXT_LENGTH)
            if self._shapes
            else (cast("list[Shape | None]", [None] * len(texts)), {})
        )
        rest = [row for row, shape in enumerate(shapes) if shape is None]
        odd = [texts[row] for row in rest]
        values, _, same = values_of(odd)
        if self._shapes and rest:
            self._shapes.learn(odd, values)
        page = UsualPage(_as_texts(texts), [True] * len(texts), list(shapes), [], [])
        for row, value, is_same in zip(rest, values, same, strict=True):
            page.details[row], page.usual[row] = value, is_same
        if hidden:
            page.redacted = [()] * len(texts)
        for row, names in hidden.items():
            page.raw[row] = encode(as_object(shapes[row])).decode()
            page.redacted[row] = places(names)
        if None in page.raw:
            page.restrict([text is not None for text in page.raw])
        if any(len(text) > MAX_TEXT_LENGTH for text in odd):
            page.restrict(
                [not is_long(text, value) for text, value in zip(texts, page.details, strict=True)]
            )
        searches = self._redactor.searches(b"\n".join(texts))
        if searches or not self._redactor.spares_page(values):
            self._redact(page, texts, searches)
        return page

    def _redact(
        self, page: "UsualPage", texts: Sequence[bytes], searches: Sequence[Search]
    ) -> None:
        redactor = self._redactor
        page.redacted = page.redacted or [()] * len(texts)
        for row, (record, value) in enumerate(zip(texts, page.details, strict=True)):
            text = page.raw[row]
            if text is None or not page.usual[row]:
                continue
            is_clean = not searches or redactor.spares_texts(record, text, searches)
            if isinstance(value, Shape):
                if is_clean:
                    continue
                value = page.details[row] = orjson.loads(record)  # noqa: PLW2901  # to be changed
            replaced = redactor.record(value, b"" if is_clean else record)
            if replaced:
                page.raw[row] = encode(value).decode()
                page.redacted[row] = places(replaced)

    def _look_into_all(self, page: "UsualPage", texts: Sequence[bytes]) -> None:
        values, _ = self._look_into(page, texts)
        known: list[dict[str, Any]] = [
            value if usual else {} for value, usual in zip(values, page.usual, strict=True)
        ]
        page.unmapped = [unmapped(value, self._fields) for value in known]
        if self._has_details:
            page.details = [value.get("metadata") for value in known]
            page.metadata = [
                None if each is None else orjson.dumps(each).decode() for each in page.details
            ]

    def _look_into(
        self, page: "UsualPage", texts: Sequence[bytes]
    ) -> tuple[list[Any], list[str | None]]:
        """Return the values of *texts*, and their JSON; what is not that JSON is not usual."""
        values, canonical, same = values_of(texts)
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
    redacted: list[tuple[str, ...]] = []
    """Where something was replaced; empty if nothing was."""

    def restrict(self, usual: Sequence[bool]) -> None:
        """Only what is *usual* is so still."""
        self.usual = [a and b for a, b in zip(self.usual, usual, strict=True)]


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


def _details(records: Sequence[Any]) -> list[bytes]:
    return [b"null" if each.metadata is UNSET else bytes(each.metadata) for each in records]
