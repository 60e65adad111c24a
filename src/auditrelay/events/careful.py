"""
Read one record with care: whatever it is, however it is written, and whatever must be redacted.

A usual record is read together with the whole page (``normalize``); the result is the same.
"""

import hashlib
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import msgspec

from auditrelay.events import TimeQuality
from auditrelay.events.decode import Decoded, Undecodable, decode, encode
from auditrelay.events.marks import NO_TIME, NOT_NORMALIZED, places
from auditrelay.events.redact import Redactor
from auditrelay.events.timestamps import read
from auditrelay.events.uid import Uids, canonical
from auditrelay.events.vendors import MAX_TEXT_LENGTH, Documented, Location, Vendor, text

FETCHED: Final[TimeQuality] = "fetched"
"""The quality of a time that the record does not tell."""

IMPLAUSIBLE: Final[TimeQuality] = "implausible"
"""The quality of one that is far off."""


class CarefulRow(msgspec.Struct, gc=False, kw_only=True):
    """
    What a record says, redacted. JSON is text.

    *before* and *after* are warnings, in the order of which those of its action are between.
    """

    record: Documented | None
    """None if it is no JSON object; then the event carries only its text."""
    raw: str
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
        uids: Uids,
        redactor: Redactor,
        scope: str,
        id_finder: Callable[[dict[str, Any]], Location],
        time_finder: Callable[[dict[str, Any]], Location],
    ) -> None:
        self._vendor = vendor
        self._uids = uids
        self._redactor = redactor
        self._scope = scope
        self._id = id_finder
        self._time = time_finder

    def __call__(self, record: bytes, twins: Twins) -> CarefulRecord:
        """Return *record*, which has no whitespace around it."""
        try:
            decoded = decode(record)
        except Undecodable:
            uid = self._content_uid(self._scope, record, twins)
            return CarefulRecord(uid, lambda: self._read_text(record))
        if type(decoded.value) is dict:
            return self._from_object(record, decoded, twins)
        uid = self._content_uid(self._scope, _content(record, decoded), twins)
        return CarefulRecord(uid, lambda: self._read_value(record, decoded))

    def _from_object(self, record: bytes, decoded: Decoded, twins: Twins) -> CarefulRecord:
        # The uid and the time come from the record as it was sent: a change of the redaction
        # settings must not change them.
        value: dict[str, Any] = decoded.value
        warnings = decoded.warnings
        unmapped_fields: list[str] = []
        parent, key = self._id(value)
        native_id = _text(parent, key, unmapped_fields)
        scope, organisation = self._scope, self._vendor.ORGANISATION
        if organisation is not None and _text(value, organisation, unmapped_fields):
            scope = str(value[organisation])
        if native_id:
            uid = self._uids.native(scope, str(parent[key]))  # in full length
        else:
            warnings += ("no_id",)
            uid = self._content_uid(scope, _content(record, decoded), twins)
        parent, key = self._time(value)
        parsed = read(parent.get(key))
        at, quality = parsed or (None, FETCHED)
        if parsed is None:
            warnings += (NO_TIME,)
        return CarefulRecord(
            uid,
            lambda: self._read_object(record, decoded, warnings, unmapped_fields),
            at,
            quality,
            has_id=bool(native_id),
        )

    def _read_object(
        self,
        record: bytes,
        decoded: Decoded,
        warnings: tuple[str, ...],
        unmapped_fields: list[str],
    ) -> CarefulRow:
        vendor, value = self._vendor, decoded.value
        redacted = self._redactor.record(value, decoded.compact)
        # Redaction may have replaced an object on the path of the id or the time.
        parent, key = self._id(value)
        native_id = text(parent.get(key))
        org_id = self._scope or None
        if vendor.ORGANISATION is not None:
            org_id = text(value.get(vendor.ORGANISATION)) or org_id
        parent, key = self._time(value)
        time = parent.get(key)
        unusable: list[str] = []
        documented = vendor.Record.of(value, unusable)
        # The id is looked up by its path, and a time may be anything: it is shown as it is.
        own = (vendor.ID, vendor.ORGANISATION, vendor.TIME)
        unmapped_fields += [name for name in unusable if name not in own]
        details = getattr(documented, "metadata", None)
        if details is msgspec.UNSET:
            details = None
        unmapped = None
        if unmapped_fields or not vendor.FIELDS.issuperset(value):
            mapped = vendor.FIELDS.difference(unmapped_fields)
            rest = {key: item for key, item in value.items() if key not in mapped}
            unmapped = encode(rest).decode()
        shortened = len(record) > MAX_TEXT_LENGTH and _has_long_text(value)
        return CarefulRow(
            record=documented,
            raw=self._raw(record, decoded, redacted=bool(redacted)),
            before=warnings,
            after=("shortened",) if shortened else (),
            native_id=native_id,
            org_id=org_id,
            time_raw=_verbatim_time(time),
            details=details,
            metadata=None if details is None else encode(details).decode(),
            unmapped=unmapped,
            redacted=places(redacted),
        )

    def _read_value(self, record: bytes, decoded: Decoded) -> CarefulRow:
        redacted = self._redactor.record(decoded.value, decoded.compact)
        return CarefulRow(
            record=None,
            raw=self._raw(record, decoded, redacted=bool(redacted)),
            before=(NOT_NORMALIZED, *decoded.warnings),
            redacted=places(redacted),
        )

    def _read_text(self, record: bytes) -> CarefulRow:
        raw, redacted = self._as_text(record)
        return CarefulRow(record=None, raw=raw, before=(NOT_NORMALIZED,), redacted=redacted)

    def _raw(self, record: bytes, decoded: Decoded, *, redacted: bool) -> str:
        """Return the record to store: as it was sent if possible, else encoded again."""
        if not decoded.complete:
            return self._as_text(record)[0]
        if redacted:
            return encode(decoded.value).decode()
        return (record if decoded.verbatim else decoded.compact).decode()

    def _as_text(self, record: bytes) -> tuple[str, tuple[str, ...]]:
        """Return a record that is not valid JSON as a JSON string, and where it was redacted."""
        text = record.decode("utf-8", "replace")
        safe = self._redactor.text(text)
        return encode(safe).decode(), ("record",) if safe != text else ()

    def _content_uid(self, scope: str, content: bytes, twins: Twins) -> str:
        key = (scope, hashlib.sha256(content).digest())
        ordinal = twins[key]
        twins[key] += 1
        return self._uids.content(scope, content, ordinal)


def _content(record: bytes, decoded: Decoded) -> bytes:
    """Return the bytes that identify a record without an id: its text, if decoding altered it."""
    return canonical(decoded.value) if decoded.verbatim else record


def _text(record: dict[str, Any], key: str, unmapped_fields: list[str]) -> str | None:
    """Return the text under *key*; note a value that has none in *unmapped_fields*."""
    value = record.get(key)
    if value is not None and type(value) is not str and type(value) is not int:
        unmapped_fields.append(key)
    return text(value)


def _has_long_text(value: dict[str, Any]) -> bool:
    return any(type(item) is str and len(item) > MAX_TEXT_LENGTH for item in value.values())


def _verbatim_time(time: Any) -> str | None:
    """Return the vendor's time, verbatim."""
    if time is None or type(time) is str:
        return time and time[:MAX_TEXT_LENGTH]
    return encode(time).decode()[:MAX_TEXT_LENGTH]
