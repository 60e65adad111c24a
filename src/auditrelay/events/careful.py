"""
Read one record with care: whatever it is, however it is written, and whatever must be redacted.

A usual record is read together with the whole page (``normalize``); the result is the same.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from auditrelay.events import TimeQuality
from auditrelay.events.decode import Decoded, Undecodable, decode, encode, values_of
from auditrelay.events.identity import Identity, full_text
from auditrelay.events.large import MAX_DECODED, LargeReader, kept
from auditrelay.events.marks import NO_TIME, NOT_NORMALIZED, places
from auditrelay.events.redact import Redactor
from auditrelay.events.uid import Uids, canonical
from auditrelay.events.vendors import (
    MAX_TEXT_LENGTH,
    Documented,
    Vendor,
    is_long,
    unmapped,
    verbatim_time,
)

FETCHED: Final[TimeQuality] = "fetched"
"""The quality of a time that the record does not tell."""

IMPLAUSIBLE: Final[TimeQuality] = "implausible"
"""The quality of one that is far off."""


class CarefulRow(msgspec.Struct, gc=False, kw_only=True):
    """
    What a record says, redacted. JSON is text.

    *before* and *after* are warnings, in the order of which those of its action are between.
    """

    raw: str
    is_object: bool = True
    """Whether it is a JSON object; else the event carries only its text."""
    record: Documented | None = None
    """None for a vendor that reads whole records; such a one is in *details*."""
    before: tuple[str, ...]
    after: tuple[str, ...] = ()
    native_id: str | None = None
    org_id: str | None = None
    time_raw: str | None = None
    details: Any = None
    metadata: str | None = None
    unmapped: str | None = None
    redacted: tuple[str, ...] = ()
    """Where something was replaced."""


class CarefulRecord:
    """
    A record read with care: its identity at once, and by :meth:`read` what it says.

    *at* is when it happened in microseconds since 1970 UTC, None if the record does not tell. With
    an id (*has_id*) the uid is made of it, else of the content.
    """

    def __init__(
        self,
        uid: str,
        read: Callable[[], CarefulRow],
        at: int | None = None,
        quality: TimeQuality = FETCHED,
        *,
        has_id: bool = False,
    ) -> None:
        self.uid = uid
        self.at = at
        self.has_id = has_id
        self.quality: TimeQuality = quality
        self._read = read
        self._row: CarefulRow | None = None

    def read(self) -> CarefulRow:
        """Return what it says. It is redacted in place, and so read only once."""
        if self._row is None:
            self._row = self._read()
        return self._row


Twins = Counter[tuple[str, bytes]]
"""How often each content without an id was in a page so far."""


class CarefulReader:
    """Reads records of one source; the arguments are those of the Normalizer that it is part of."""

    def __init__(
        self,
        vendor: Vendor,
        *,
        identity: Identity,
        uids: Uids,
        redactor: Redactor,
        scope: str,
    ) -> None:
        self._vendor = vendor
        self._identity = identity
        self._uids = uids
        self._redactor = redactor
        self._scope = scope
        self._large = LargeReader(vendor.fields | identity.fields)

    def __call__(self, record: bytes, twins: Twins, element: int | None = None) -> CarefulRecord:
        """
        Return *record*, which has no whitespace around it.

        *element* is its number if it is one of several that a record was split into.
        """
        try:
            decoded = decode(record) if len(record) <= MAX_DECODED else self._large(record)
        except Undecodable:
            uid = self.content_uid(self._scope, record, twins)
            return CarefulRecord(uid, lambda: self._read_text(record))
        if type(decoded.value) is dict:
            return self._from_object(record, decoded, twins, element)
        content = _content(record, decoded, frozenset())
        uid = self.content_uid(self._scope, content, twins)
        return CarefulRecord(uid, lambda: self._read_value(record, decoded))

    def _from_object(
        self, record: bytes, decoded: Decoded, twins: Twins, element: int | None
    ) -> CarefulRecord:
        # The uid and the time come from the record as it was sent: a change of the redaction
        # settings must not change them.
        value: dict[str, Any] = decoded.value
        identity, warnings = self._identity, decoded.warnings
        unmapped_fields: list[str] = []
        parts = identity.parts(value, unmapped_fields)
        scope = identity.organisation_of(value, unmapped_fields) or self._scope
        if parts:
            uid = self._uids.native(scope, identity.known_by(parts, element))
        else:
            if identity.id:
                warnings += ("no_id",)
            content = _content(record, decoded, identity.without)
            uid = self.content_uid(scope, content, twins)
        parsed = identity.read_time(identity.time_of(value))
        at, quality = parsed or (None, FETCHED)
        if parsed is None:
            warnings += (NO_TIME,)
        return CarefulRecord(
            uid,
            lambda: self._read_object(record, decoded, warnings, unmapped_fields),
            at,
            quality,
            has_id=bool(parts),
        )

    def _read_object(
        self,
        record: bytes,
        decoded: Decoded,
        warnings: tuple[str, ...],
        unmapped_fields: list[str],
    ) -> CarefulRow:
        vendor, value, identity = self._vendor, decoded.value, self._identity
        redacted = self._redactor.record(value, decoded.compact)
        row = CarefulRow(
            raw=self._raw(record, decoded, redacted=bool(redacted)),
            before=warnings,
            after=("shortened",) if is_long(record, value) else (),
            redacted=places(redacted),
        )
        if vendor.reads_whole:
            row.details = value
            return row
        # Redaction may have replaced an object on the path of the id or the time.
        ids = identity.parts(value, [])
        row.native_id = ids[0][:MAX_TEXT_LENGTH] if ids else None
        organisation = identity.organisation_of(value, []) or self._scope
        row.org_id = organisation[:MAX_TEXT_LENGTH] or None
        row.time_raw = verbatim_time(identity.time_of(value))
        unusable: list[str] = []
        row.record = vendor.record.of(value, unusable)
        # The id is looked up by its path, and a time may be anything: it is shown as it is.
        own = vendor.identity.fields
        unmapped_fields += [name for name in unusable if name not in own]
        details = getattr(row.record, "metadata", None)
        if details is not msgspec.UNSET and details is not None:
            row.details, row.metadata = details, encode(details).decode()
        row.unmapped = unmapped(value, vendor.fields, unmapped_fields)
        return row

    def _read_value(self, record: bytes, decoded: Decoded) -> CarefulRow:
        redacted = self._redactor.record(decoded.value, decoded.compact)
        return CarefulRow(
            is_object=False,
            raw=self._raw(record, decoded, redacted=bool(redacted)),
            before=(NOT_NORMALIZED, *decoded.warnings),
            redacted=places(redacted),
        )

    def _read_text(self, record: bytes) -> CarefulRow:
        raw, redacted = self._as_text(record)
        return CarefulRow(is_object=False, raw=raw, before=(NOT_NORMALIZED,), redacted=redacted)

    def _raw(self, record: bytes, decoded: Decoded, *, redacted: bool) -> str:
        """Return the record to store: as it was sent if possible, else encoded again."""
        if not decoded.complete:
            return self._as_text(record)[0]
        if redacted:
            return encode(decoded.value).decode()
        return (record if decoded.verbatim else decoded.compact).decode()

    def _as_text(self, record: bytes) -> tuple[str, tuple[str, ...]]:
        """Return a record that is not valid JSON as a JSON string, and where it was redacted."""
        text = kept(record).decode("utf-8", "replace")
        safe = self._redactor.text(text)
        return encode(safe).decode(), ("record",) if safe != text else ()

    def usual_uids(
        self, texts: Sequence[bytes], organisations: Sequence[Any], twins: Twins
    ) -> list[str | None]:
        """Return the uids of usual records without an id; None for one that is odd after all."""
        values, _, same = values_of(texts)
        return [
            self.content_uid(
                full_text(organisation) or self._scope,
                _verbatim_content(value, self._identity.without),
                twins,
            )
            if fine
            else None
            for value, organisation, fine in zip(values, organisations, same, strict=True)
        ]

    def content_uid(self, scope: str, content: bytes, twins: Twins) -> str:
        """Return the uid of the next record with this *content* on a page."""
        key = (scope, hashlib.sha256(content).digest())
        ordinal = twins[key]
        twins[key] += 1
        return self._uids.content(scope, content, ordinal)


def _content(record: bytes, decoded: Decoded, without: frozenset[str]) -> bytes:
    """Return the bytes that identify a record without an id: its text, if decoding altered it."""
    if decoded.verbatim or (without and decoded.complete):
        return _verbatim_content(decoded.value, without)
    return record


def _verbatim_content(value: Any, without: frozenset[str]) -> bytes:
    if without:
        value = {key: item for key, item in value.items() if key not in without}
    return canonical(value)
