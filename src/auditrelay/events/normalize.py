"""Normalize a vendor's records into audit events: pure, and total over any input."""

import pkgutil
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from hashlib import sha256
from importlib import import_module
from itertools import compress, repeat
from typing import Any, Final, Literal, NamedTuple, Self, TypeVar, cast
from urllib.parse import urlsplit

import msgspec

from auditrelay.events import TimeQuality, vendors
from auditrelay.events.careful import (
    FETCHED,
    IMPLAUSIBLE,
    CarefulReader,
    CarefulRecord,
    CarefulRow,
    Twins,
)
from auditrelay.events.classify import settled
from auditrelay.events.decode import WHITESPACE
from auditrelay.events.gate import Gate, Records
from auditrelay.events.identity import Identity, Place, full_text
from auditrelay.events.marks import FOREIGN_ACTION, IMPLAUSIBLE_TIME, NOT_SPLIT, OWN_PREFIX
from auditrelay.events.page import Page, Sort
from auditrelay.events.pseudonyms import Pseudonyms
from auditrelay.events.redact import Redactor
from auditrelay.events.split import Parts
from auditrelay.events.timestamps import are_plausible
from auditrelay.events.uid import Uids
from auditrelay.events.vendors import (
    MAX_TEXT_LENGTH,
    Action,
    Columns,
    Documented,
    Module,
    OwnColumns,
    Vendor,
    of_module,
)
from auditrelay.settings import SourceSettings

T = TypeVar("T")


@cache
def available() -> Mapping[str, Module]:
    """Return the modules of ``events/vendors``, by name."""
    return {
        module.name: cast("Module", import_module(f"{vendors.__name__}.{module.name}"))
        for module in sorted(pkgutil.iter_modules(vendors.__path__), key=lambda each: each.name)
    }


def vendor_named(name: str) -> Vendor:
    """Return the vendor whose module is called *name*. Raises LookupError if there is none."""
    modules = available()
    if name not in modules:
        raise LookupError(f"no vendor {name!r}: there are {', '.join(modules)}")
    return of_module(name, modules[name])


class Normalizer:
    """
    Turns the records of one source into events.

    *vendor* is what the records are of, *source* the name of the source, *api_host* the host it was
    read from. *scope* is the organisation that ids are unique in, where records do not name it;
    *redact* and *tags* are the source's settings. *id_path* and *time_path* are the paths, the
    likeliest first, where a record has its id and its time, if not where the vendor documents them
    (see :meth:`auditrelay.events.identity.Place.of`). *pseudonyms* replaces identities after the
    uid is made.
    """

    def __init__(
        self,
        *,
        vendor: Vendor,
        source: str,
        api_host: str,
        scope: str,
        redact: Literal["default", "off"] | list[str],
        tags: Mapping[str, str],
        id_path: Sequence[str] = (),
        time_path: Sequence[str] = (),
        pseudonyms: Pseudonyms | None = None,
    ) -> None:
        self.vendor = vendor
        self._source = source
        self._api_host = api_host
        self._scope = scope
        self._tags = tuple(tags.items())
        self._identity = _found_at(vendor.identity, id_path, time_path)
        self.has_ids = bool(self._identity.id)
        self._uids = Uids(self._identity.vendor)
        spared = vendor.fields if vendor.spared is None else vendor.spared
        redactor = Redactor(redact, spared, vendor.spared_places)
        self._careful = CarefulReader(
            vendor, identity=self._identity, uids=self._uids, redactor=redactor, scope=scope
        )
        self._gate = Gate(vendor, self._identity, redactor)
        self._pseudonyms = pseudonyms

    @classmethod
    def of(cls, name: str, settings: SourceSettings, *, vendor: Vendor, scope: str) -> Self:
        """Return the normalizer of the source *name* with its *settings*; *scope* is its own."""
        return cls(
            vendor=vendor,
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

    def __call__(self, records: Sequence[bytes], fetched: int) -> Page:
        """Return one event for each of *records*, in their order; see :meth:`identify`."""
        return self.identify(records, fetched).page()

    def identify(
        self, records: Sequence[bytes], fetched: int, twins: Twins | None = None
    ) -> "IdentifiedPage":
        """
        Return what identifies each of *records*, in their order, and nothing that costs more.

        *records* are JSON texts of one page; *fetched* is when it was read, in microseconds since
        1970 UTC, and is used as the time of an event without one. *twins* are those of the records
        of the same page that were identified before, if it is read in slices.
        """
        texts = [record.strip(WHITESPACE) for record in records]  # around a value: no part of it
        split = self.vendor.split
        parts = Parts(texts, [], set()) if split is None else split(texts)
        twins = Twins() if twins is None else twins
        page = IdentifiedPage(self, parts, fetched)
        if parts.texts:
            self._identify_usual(page, self._gate.decode(parts.texts), twins)
        page.careful = self._read_with_care(page, twins)
        if not are_plausible(page.at, fetched):
            page.mark_implausible()
        return page

    def _identify_usual(self, page: "IdentifiedPage", found: Records, twins: Twins) -> None:
        """Identify those of the records *found* on *page* that are usual."""
        rows: Sequence[int] = range(len(found))
        records = [record for record in found if record is not None]
        if len(records) < len(found):
            rows = [row for row, record in enumerate(found) if record is not None]
        times = list(map(self._identity.read_usual_time, self._identity.usual_times_of(records)))
        if None in times:
            rows = [row for row, time in zip(rows, times, strict=True) if time is not None]
            records = [record for record, time in zip(records, times, strict=True) if time]
        parsed = [time for time in times if time is not None]
        if self._identity.id:
            elements = [page.elements[row] for row in rows] if page.elements else []
            uids = self._native_uids(records, elements)
        else:
            own = self._identity.usual_organisations(records)
            known = self._careful.usual_uids([page.texts[row] for row in rows], own, twins)
            fine = [uid is not None for uid in known]
            rows, records = list(compress(rows, fine)), list(compress(records, fine))
            parsed = list(compress(parsed, fine))
            uids = [uid for uid in known if uid is not None]
        count = len(page)
        page.records = _spread(records, rows, count, None)
        page.uid = _spread(uids, rows, count, "")
        page.at = _spread([at for at, _ in parsed], rows, count, page.fetched)
        page.time_quality = _spread([each for _, each in parsed], rows, count, FETCHED)

    def _native_uids(
        self, records: Sequence[Documented], elements: Sequence[int | None]
    ) -> list[str]:
        if not records:
            return []
        columns = [list(map(str, column)) for column in self._identity.usual_ids(records)]
        ids = columns[0]
        if elements or self._identity.is_joined:
            known_by = self._identity.known_by
            ids = list(map(known_by, zip(*columns, strict=True), elements or repeat(None)))
        own = self._identity.usual_organisations(records)
        if own and own.count(own[0]) == len(own):
            return self._uids.natives(full_text(own[0]) or self._scope, ids)
        scopes = [full_text(each) or self._scope for each in own]
        return list(map(self._uids.native, scopes, ids))

    def _read_with_care(self, page: "IdentifiedPage", twins: Twins) -> dict[int, CarefulRecord]:
        found = {}
        for row, record in enumerate(page.records):
            if record is None:
                each = self._careful(page.texts[row], twins, page.element(row))
                found[row] = each
                page.uid[row] = each.uid
                if each.at is not None:
                    page.at[row], page.time_quality[row] = each.at, each.quality
        return found

    def read(self, page: "IdentifiedPage", rows: Sequence[int]) -> Page:
        """Return the events at *rows* of *page*."""
        most = _DECODED if self.vendor.reads_whole else len(rows)
        parts = [rows[start : start + most] for start in range(0, len(rows), most)]
        events = Page.joined([self._read(page, part) for part in parts])
        return events if self._pseudonyms is None else Page.of(map(self._pseudonyms, events))

    def _read(self, page: "IdentifiedPage", rows: Sequence[int]) -> Page:
        found, careful = self._read_rows(page, rows)
        vendor, count = self.vendor, len(rows)
        is_short = max(map(len, found.raw)) <= MAX_TEXT_LENGTH
        columns = Columns(found.records, found.details, is_short=is_short)
        parsed = vendor.read(columns)
        action, message = list(parsed.action), _shortened(parsed.message)
        own = parsed.own or self._own_columns(found, columns)
        native_id, time_raw = list(own.native_id), list(own.time_raw)
        if page.elements:
            elements = _pick(page.elements, rows)
            native_id = [
                each if each is None or element is None else f"{each}/{element}"
                for each, element in zip(native_id, elements, strict=True)
            ]
        org_id = [each or self._scope or None for each in own.org_id]
        quality = _pick(page.time_quality, rows)
        kinds: list[_Key] = list(zip(action, quality, _NONE, _NONE, strict=False))
        redacted = found.redacted
        for place, row in careful.items():
            if not vendor.reads_whole:
                native_id[place], time_raw[place] = row.native_id, row.time_raw
                org_id[place] = row.org_id
            if not row.is_object:
                org_id[place] = None
                action[place] = _NO_ACTION
                message[place] = f"{vendor.product} sent an audit record that is not a JSON object"
            kinds[place] = (action[place], quality[place], row.before, row.after)
        for place in page.places_unsplit(rows):
            what, when, before, after = kinds[place]
            kinds[place] = (what, when, (*before, NOT_SPLIT), after)
        numbers: dict[_Key, int] = {}
        sort = [numbers.setdefault(kind, len(numbers)) for kind in kinds]
        return Page(
            sorts=[self._sort(kind) for kind in numbers],
            sort=sort,
            uid=_pick(page.uid, rows),
            at=_pick(page.at, rows),
            fetched=[page.fetched] * count,
            raw=found.raw,
            raw_sha256=page.raw_sha256(rows),
            message=message,
            actor=list(parsed.actor),
            native_id=_column(native_id),
            time_raw=_column(time_raw),
            target_type=_column(parsed.target_type),
            target_id=_column(parsed.target_id),
            target_name=_column(parsed.target_name),
            target_email=_column(parsed.target_email),
            org_id=_column(org_id),
            org_name=_column(parsed.org_name),
            project_id=_column(parsed.project_id),
            project_name=_column(parsed.project_name),
            privilege=_column(parsed.privilege),
            changes=list(parsed.changes) if any(parsed.changes) else [],
            reason=_column(parsed.reason),
            metadata=_column(own.metadata),
            unmapped=_column(own.unmapped),
            late_by_s=[],
            redacted=redacted if any(redacted) else [],
        )

    def _own_columns(self, found: "_Rows", columns: Columns) -> OwnColumns:
        """Return the columns of declared records; those of careful ones are filled in later."""
        identity = self.vendor.identity
        places = (identity.id[0], identity.time[0], identity.organisation)
        names = [place.attribute for place in places if place is not None and place.attribute]
        native_id, time_raw, *org_id = columns.texts(*names)
        return OwnColumns(
            native_id=native_id,
            time_raw=time_raw,
            org_id=org_id[0] if org_id else [None] * len(columns),
            metadata=found.metadata,
            unmapped=found.unmapped,
        )

    def _read_rows(
        self, page: "IdentifiedPage", rows: Sequence[int]
    ) -> tuple["_Rows", dict[int, CarefulRow]]:
        """Return the records at *rows*, and by their place those that were read with care."""
        texts, records = _pick(page.texts, rows), _pick(page.records, rows)
        places = [place for place, record in enumerate(records) if record is not None]
        usual = self._gate.read(
            [texts[place] for place in places],
            [record for record in records if record is not None],
        )
        found = _Rows(
            [record or self.vendor.record() for record in records],
            _spread(usual.raw, places, len(rows), ""),
            _spread(usual.details, places, len(rows), None),
            _spread(usual.metadata, places, len(rows), None),
            _spread(usual.unmapped, places, len(rows), None),
            _spread(usual.redacted, places, len(rows), ()),
        )
        odd = {place for place, fine in zip(places, usual.usual, strict=True) if not fine}
        odd.update(place for place, record in enumerate(records) if record is None)
        careful = {}
        for place in sorted(odd):
            known = page.careful.get(rows[place])
            element = page.element(rows[place])
            row = (known or self._careful(texts[place], Twins(), element)).read()
            careful[place] = row
            found.records[place] = row.record or self.vendor.record()
            found.raw[place] = row.raw
            found.details[place], found.metadata[place] = row.details, row.metadata
            found.unmapped[place] = row.unmapped
            found.redacted[place] = row.redacted
        return found, careful

    def _sort(self, kind: "_Key") -> Sort:
        action, quality, before, after = kind
        if quality == IMPLAUSIBLE:
            before += (IMPLAUSIBLE_TIME,)
        verb, outcome = settled(action.kind, action.verb, action.outcome)
        foreign = (FOREIGN_ACTION,) if action.name.strip().lower().startswith(OWN_PREFIX) else ()
        return Sort(
            source=self._source,
            vendor=self.vendor.name,
            product=self.vendor.product,
            api_host=self._api_host,
            native_action=action.name,
            native_category=action.category,
            kind=action.kind,
            verb=verb,
            outcome=outcome,
            time_quality=quality,
            warnings=(*before, *action.warnings, *after, *foreign),
            tags=self._tags,
        )


class IdentifiedPage:
    """
    The records of a page, identified: what finds known events and judges a walk, in columns.

    What else is in the records is read by :meth:`page`, for those that are worth it.
    """

    def __init__(
        self,
        normalizer: Normalizer,
        parts: Parts,
        fetched: int,
    ) -> None:
        self._normalizer = normalizer
        self.texts = parts.texts
        self.elements = parts.elements
        """Which element of a record each was, if the vendor's records are split."""
        self._unsplit = parts.unsplit
        count = len(parts.texts)
        self.records: list[Documented | None] = [None] * count
        """Those that are usual; None for the others, which are in *careful*."""
        self.careful: dict[int, CarefulRecord] = {}
        self.fetched = fetched
        self.uid: list[str] = [""] * count
        self.at: list[int] = [fetched] * count
        self.time_quality: list[TimeQuality] = [FETCHED] * count

    def __len__(self) -> int:
        return len(self.texts)

    def element(self, row: int) -> int | None:
        """Return which element of a record the one at *row* was."""
        return self.elements[row] if self.elements else None

    def places_unsplit(self, rows: Sequence[int]) -> list[int]:
        """Return where among *rows* those are that should have been split, and are too large."""
        if not self._unsplit:
            return []
        return [place for place, row in enumerate(rows) if row in self._unsplit]

    def mark_implausible(self) -> None:
        """Mark the times of records that are far off."""
        for row, at in enumerate(self.at):
            if self.time_quality[row] != FETCHED and not are_plausible([at], self.fetched):
                self.time_quality[row] = IMPLAUSIBLE

    @cached_property
    def sha256(self) -> list[bytes]:
        """The digests of the texts of the records, before redaction."""
        return [sha256(text).digest() for text in self.texts]

    @property
    def content(self) -> list[bytes]:
        """
        What tells that a known record has other content today: the digests of the texts.

        Empty for a record without an id: its uid is made of its content.
        """
        if not self._normalizer.has_ids:
            return [b""] * len(self)
        without_id = [row for row, record in self.careful.items() if not record.has_id]
        if not without_id:
            return self.sha256
        found = list(self.sha256)
        for row in without_id:
            found[row] = b""
        return found

    def raw_sha256(self, rows: Sequence[int]) -> list[str]:
        """Return the hex digests of the texts of the records at *rows*."""
        return [digest.hex() for digest in _pick(self.sha256, rows)]

    def page(self, rows: Sequence[int] | None = None) -> Page:
        """Return the events at *rows*, which ascend; by default those of all records."""
        rows = range(len(self)) if rows is None else rows
        return self._normalizer.read(self, rows) if rows else Page.of(())


class _Rows(NamedTuple):
    records: list[Documented]
    raw: list[str]
    details: list[Any]
    metadata: list[str | None]
    unmapped: list[str | None]
    redacted: list[tuple[str, ...]]


_DECODED: Final = 250
"""Whole records that are decoded at a time: more of them do not stay in the processor's caches."""

_Key = tuple[Action, TimeQuality, tuple[str, ...], tuple[str, ...]]

_NONE = repeat(())
_NO_ACTION = Action("unknown", None, "other", "other", None)


def _found_at(identity: Identity, ids: Sequence[str], times: Sequence[str]) -> Identity:
    """Return *identity* with the id and the time at configured paths, if there are any."""
    changed = {
        name: tuple(Place.of(path, path if path == own[0].attribute else None) for path in paths)
        for name, own, paths in (("id", identity.id, ids), ("time", identity.time, times))
        if paths
    }
    return msgspec.structs.replace(identity, **changed)


def _pick(column: list[T], rows: Sequence[int]) -> list[T]:
    return column if len(rows) == len(column) else [column[row] for row in rows]


def _shortened(messages: Sequence[str]) -> list[str]:
    if max(map(len, messages)) <= MAX_TEXT_LENGTH:
        return list(messages)
    return [each[:MAX_TEXT_LENGTH] for each in messages]


def _spread(values: Sequence[Any], places: Sequence[int], count: int, absent: Any) -> list[Any]:
    """Return *values* at their *places* in a column of *count*."""
    if len(values) == count:
        return list(values)
    column = [absent] * count
    for place, value in zip(places, values, strict=False):
        column[place] = value
    return column


def _column(values: Sequence[str | None]) -> list[str | None]:
    """Return *values*, or nothing if there are none."""
    return list(values) if any(values) or "" in values else []
