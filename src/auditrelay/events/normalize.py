"""Normalize a vendor's records into audit events: pure, and total over any input."""

import hashlib
import pkgutil
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import Any, Literal, Self, cast
from urllib.parse import urlsplit

import msgspec

from auditrelay.events import NOTHING, AuditEvent, TimeQuality, vendors
from auditrelay.events.decode import WHITESPACE, Decoded, Undecodable, decode, encode
from auditrelay.events.marks import NOT_NORMALIZED
from auditrelay.events.pseudonyms import Pseudonyms
from auditrelay.events.redact import Redactor
from auditrelay.events.timestamps import parse
from auditrelay.events.uid import Uids, canonical
from auditrelay.events.vendors import (
    MAX_TEXT_LENGTH,
    NO_ACTOR,
    NO_TARGET,
    Vendor,
    path_finder,
    text,
)
from auditrelay.settings import SourceSettings

_FETCHED: TimeQuality = "fetched"


@cache
def available() -> Mapping[str, Vendor]:
    """Return the supported vendors: the modules of ``events/vendors``, by name."""
    return {
        module.name: cast("Vendor", import_module(f"{vendors.__name__}.{module.name}"))
        for module in sorted(pkgutil.iter_modules(vendors.__path__), key=lambda each: each.name)
    }


class Normalizer:
    """
    Turns the records of one source into events.

    *vendor* is the type of the source, *source* its name, *api_host* the host it was read from.
    *scope* is the organisation that ids are unique in, where records do not name it; *redact* and
    *tags* are the source's settings. *id_path* and *time_path* are the paths, the likeliest first,
    where a record has its id and its time, if not in the vendor's documented fields (see
    :func:`auditrelay.events.vendors.path_finder`). *pseudonyms* replaces identities after the uid
    is made. Raises LookupError for a vendor that is not available.
    """

    def __init__(
        self,
        *,
        vendor: str,
        source: str,
        api_host: str,
        scope: str,
        redact: Literal["default", "off"] | list[str],
        tags: Mapping[str, str],
        id_path: Sequence[str] = (),
        time_path: Sequence[str] = (),
        pseudonyms: Pseudonyms | None = None,
    ) -> None:
        vendors = available()
        if vendor not in vendors:
            raise LookupError(f"no vendor {vendor!r}: there are {', '.join(vendors)}")
        self._vendor = vendors[vendor]
        self._vendor_name = vendor
        self._source = source
        self._api_host = api_host
        self._scope = scope
        self._tags = tuple(tags.items())
        self._id = path_finder(id_path or (self._vendor.ID,))
        self._time = path_finder(time_path or (self._vendor.TIME,))
        self._uids = Uids(vendor)
        self._redactor = Redactor(redact, self._vendor.FIELDS)
        self._pseudonyms = pseudonyms

    @classmethod
    def of(cls, name: str, settings: SourceSettings, *, scope: str) -> Self:
        """Return the normalizer of the source *name* with its *settings*; *scope* is its own."""
        return cls(
            vendor=settings.type,
            source=name,
            api_host=urlsplit(settings.base_url).hostname or "",
            scope=scope,
            redact=settings.redact,
            tags=settings.tags,
            pseudonyms=(
                Pseudonyms(settings.pseudonym_key.reveal(), settings.pseudonymize)
                if settings.pseudonym_key and settings.pseudonymize
                else None
            ),
            **settings.record_paths,
        )

    def __call__(self, records: list[bytes], fetched: int) -> list[AuditEvent]:
        """
        Return one event for each of *records*, in their order.

        *records* are JSON texts of one page; *fetched* is when it was read, in microseconds since
        1970 UTC, and is used as the time of an event without one.
        """
        twins: Counter[tuple[str, bytes]] = Counter()
        events = [self._event(record, fetched, twins) for record in records]
        return events if self._pseudonyms is None else [*map(self._pseudonyms, events)]

    def _event(self, record: bytes, fetched: int, twins: Counter[tuple[str, bytes]]) -> AuditEvent:
        record = record.strip(WHITESPACE)  # around a value it is not part of it
        digest = hashlib.sha256(record).hexdigest()
        try:
            decoded = decode(record)
        except Undecodable:
            uid = self._content_uid(self._scope, record, twins)
            return self._not_normalized(uid, self._as_text(record), digest, fetched, ())
        if type(decoded.value) is not dict:
            uid = self._content_uid(self._scope, _content(record, decoded), twins)
            redacted = self._redactor.record(decoded.value, decoded.compact)
            raw = self._raw(record, decoded, redacted=redacted)
            return self._not_normalized(uid, raw, digest, fetched, decoded.warnings)

        return self._from_object(record, decoded, digest, fetched, twins)

    def _from_object(
        self,
        record: bytes,
        decoded: Decoded,
        digest: str,
        fetched: int,
        twins: Counter[tuple[str, bytes]],
    ) -> AuditEvent:
        # The uid and the time come from the record as it was sent: a change of the redaction
        # settings must not change them.
        value: dict[str, Any] = decoded.value
        vendor, warnings = self._vendor, decoded.warnings
        unmapped_fields: list[str] = []
        parent, key = self._id(value)
        native_id = text(parent, key, unmapped_fields)
        scope = self._scope
        org_id: str | None = scope or None
        if vendor.ORGANISATION is not None:
            own_id = text(value, vendor.ORGANISATION, unmapped_fields)
            if own_id:
                org_id, scope = own_id, str(value[vendor.ORGANISATION])
        if native_id:
            uid = self._uids.native(scope, str(parent[key]))  # in full length
        else:
            warnings += ("no_id",)
            uid = self._content_uid(scope, _content(record, decoded), twins)
        parent, key = self._time(value)
        time_raw = parent.get(key)
        time = parse(time_raw) if type(time_raw) is str else None
        if time is None:
            warnings += ("no_time",)
        at, quality = time or (fetched, _FETCHED)

        redacted = self._redactor.record(value, decoded.compact)
        if redacted:
            # Look them up again: redaction may have replaced an object on their path.
            parent, key = self._id(value)
            native_id = text(parent, key, [])
            if vendor.ORGANISATION is not None:
                org_id = text(value, vendor.ORGANISATION, []) or self._scope or None
            parent, key = self._time(value)
            time_raw = parent.get(key)
        parsed = vendor.read(value, unmapped_fields)
        if parsed.warnings:
            warnings += parsed.warnings
        if len(record) > MAX_TEXT_LENGTH and _has_long_text(value):
            warnings += ("shortened",)
        metadata, unmapped = parsed.metadata, NOTHING
        if unmapped_fields or not vendor.FIELDS.issuperset(value):
            unmapped = _unmapped(value, vendor.FIELDS.difference(unmapped_fields))
        return AuditEvent(
            uid=uid,
            source=self._source,
            vendor=self._vendor_name,
            product=vendor.NAME,
            api_host=self._api_host,
            at=at,
            fetched=fetched,
            time_raw=_verbatim_time(time_raw),
            time_quality=quality,
            native_id=native_id,
            native_action=parsed.native_action,
            native_category=parsed.native_category,
            kind=parsed.kind,
            verb=parsed.verb,
            outcome=parsed.outcome,
            actor=parsed.actor,
            target=parsed.target,
            org_id=org_id,
            org_name=parsed.org_name,
            project_id=parsed.project_id,
            project_name=parsed.project_name,
            privilege=parsed.privilege,
            changes=parsed.changes,
            reason=parsed.reason,
            message=parsed.message[:MAX_TEXT_LENGTH],
            metadata=NOTHING if metadata is None else msgspec.Raw(encode(metadata)),
            unmapped=unmapped,
            raw=msgspec.Raw(self._raw(record, decoded, redacted=redacted)),
            raw_sha256=digest,
            warnings=warnings,
            tags=self._tags,
        )

    def _raw(self, record: bytes, decoded: Decoded, *, redacted: bool) -> bytes:
        """Return the record to store: as it was sent if possible, else encoded again."""
        if not decoded.complete:
            return self._as_text(record)
        if redacted:
            return encode(decoded.value)
        return record if decoded.verbatim else decoded.compact

    def _as_text(self, record: bytes) -> bytes:
        """Return a record that is not valid JSON as a JSON string."""
        return encode(self._redactor.text(record.decode("utf-8", "replace")))

    def _not_normalized(
        self, uid: str, raw: bytes, digest: str, fetched: int, warnings: tuple[str, ...]
    ) -> AuditEvent:
        """Return an event that carries only the record, which is not a JSON object."""
        return AuditEvent(
            uid=uid,
            source=self._source,
            vendor=self._vendor_name,
            product=self._vendor.NAME,
            api_host=self._api_host,
            at=fetched,
            fetched=fetched,
            time_raw=None,
            time_quality="fetched",
            native_id=None,
            native_action="unknown",
            native_category=None,
            kind="other",
            verb="other",
            outcome=None,
            actor=NO_ACTOR,
            target=NO_TARGET,
            org_id=None,
            org_name=None,
            project_id=None,
            project_name=None,
            privilege=None,
            changes=(),
            reason=None,
            message=f"{self._vendor.NAME} sent an audit record that is not a JSON object",
            metadata=NOTHING,
            unmapped=NOTHING,
            raw=msgspec.Raw(raw),
            raw_sha256=digest,
            warnings=(NOT_NORMALIZED, *warnings),
            tags=self._tags,
        )

    def _content_uid(self, scope: str, content: bytes, twins: Counter[tuple[str, bytes]]) -> str:
        key = (scope, hashlib.sha256(content).digest())
        ordinal = twins[key]
        twins[key] += 1
        return self._uids.content(scope, content, ordinal)


def _content(record: bytes, decoded: Decoded) -> bytes:
    """Return the bytes that identify a record without an id: its text, if decoding altered it."""
    return canonical(decoded.value) if decoded.verbatim else record


def _has_long_text(value: dict[str, Any]) -> bool:
    return any(type(item) is str and len(item) > MAX_TEXT_LENGTH for item in value.values())


def _verbatim_time(time: Any) -> str | None:
    """Return the vendor's time, verbatim."""
    if time is None or type(time) is str:
        return time and time[:MAX_TEXT_LENGTH]
    return encode(time).decode()[:MAX_TEXT_LENGTH]


def _unmapped(value: dict[str, Any], mapped: frozenset[str]) -> msgspec.Raw:
    """Return the fields of a record that are not in *mapped*."""
    rest = {key: item for key, item in value.items() if key not in mapped}
    return msgspec.Raw(encode(rest))
