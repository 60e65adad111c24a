"""
An export of Cencori's audit log, JSON or CSV, as pages of records and what it speaks for.

A CSV row becomes a record of its own form: an object with the ten columns as they lie there. Rows
have no id, so the record itself is what they are known by. Where several rows of one time are the
same in everything, the second has a ``Twin`` of 1, the third of 2: they are told apart as they
stand, in this file and in every other that shows them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import PurePath
from typing import Any, BinaryIO

import msgspec

from auditrelay.events.decode import WHITESPACE, Undecodable, decode
from auditrelay.events.timestamps import parse
from auditrelay.events.vendors.cencori import HEADER, TWIN
from auditrelay.sources.cencori.export_csv import rows
from auditrelay.sources.cencori.export_json import Export
from auditrelay.sources.cencori.export_span import Claims, Named, Rows, claims
from auditrelay.sources.cencori.feed import Feed, Unreadable
from auditrelay.sources.cencori.folder import Summed
from auditrelay.window import moment

_ENCODE = msgspec.json.Encoder().encode

PAGE_ROWS = 1_000
PAGE_BYTES = 4 * 2**20
"""A page ends when it has so many rows or so many bytes."""


@dataclass(frozen=True, slots=True)
class Bad:
    """A row that is no record: its *text*, its *line*, and *why*."""

    text: bytes
    line: int
    why: str


@dataclass(slots=True)
class Page:
    """Records and bad rows that follow each other; the last page has what the file *claims*."""

    records: list[bytes] = field(default_factory=list)
    bad: list[Bad] = field(default_factory=list)
    claims: Claims | None = None


@dataclass(slots=True)
class _Tally:
    """What has been seen of a file so far."""

    granule: timedelta
    count: int = 0
    oldest: int | None = None
    newest: int | None = None
    broken: bool = False
    exported_at: datetime | None = None

    def admit(self, at: int | None, *, short: bool = False) -> None:
        """Count a row that happened *at*, if that is known."""
        self.count += 1
        self.broken = short
        if at is not None:
            self.oldest = at if self.oldest is None else min(self.oldest, at)
            self.newest = at if self.newest is None else max(self.newest, at)

    def rows(self) -> Rows:
        return Rows(
            count=self.count,
            oldest=None if self.oldest is None else moment(self.oldest),
            newest=None if self.newest is None else moment(self.newest),
            granule=self.granule,
            broken=self.broken,
        )


def is_csv(name: str) -> bool:
    """Tell CSV from JSON by the *name* of a file. Raises Unreadable if it says neither."""
    kind = PurePath(name).suffix.lower()
    if kind not in (".csv", ".json"):
        raise Unreadable(
            "neither a JSON nor a CSV file by its name: exports end in .json or .csv",
            reason="not_an_export",
        )
    return kind == ".csv"


def glance(opened: BinaryIO, name: str) -> None:
    """Raise Unreadable if *opened*, by its name and both its ends, cannot be an export."""
    if is_csv(name):
        next(rows(Feed(opened.read), HEADER), None)
        return
    head = opened.read(64).removeprefix(b"\xef\xbb\xbf").lstrip(WHITESPACE)
    if not head.startswith(b"{"):
        raise Unreadable("line 1: not the beginning of a JSON export", reason="not_an_export")
    opened.seek(0, 2)
    opened.seek(-min(64, opened.tell()), 1)
    if not opened.read().rstrip(WHITESPACE).endswith(b"}"):
        raise Unreadable("it breaks off before its end", reason="file_breaks_off")


def pages(
    opened: BinaryIO, name: str, key: bytes, says: Named | None, *, settle: timedelta, now: datetime
) -> Iterator[Page]:
    """
    Yield the pages of the file *opened*, called *name*, which *says* what its name says.

    The last page, which may be empty, and no other has claims. Raises Unreadable if the file turns
    out to be none that can be understood, or if its content is not that of the digest *key*.
    """
    glance(opened, name)
    opened.seek(0)
    summed = Summed(opened)
    feed = Feed(summed.read)
    tally = _Tally(timedelta(milliseconds=1) if is_csv(name) else timedelta(microseconds=1))
    page, size = Page(), 0
    for row in _from_csv(feed, tally) if is_csv(name) else _from_json(feed, tally):
        if isinstance(row, Bad):
            page.bad.append(row)
            size += len(row.text)
        else:
            page.records.append(row)
            size += len(row)
        if len(page.records) + len(page.bad) >= PAGE_ROWS or size >= PAGE_BYTES:
            yield page
            page, size = Page(), 0
    if summed.digest() != key:
        raise Unreadable("it was changed while it was read", reason="file_changed")
    page.claims = claims(says, tally.exported_at, tally.rows(), settle=settle, now=now)
    yield page


# --- CSV ---------------------------------------------------------------------


def _from_csv(feed: Feed, tally: _Tally) -> Iterator[bytes | Bad]:
    # Equal rows stand together, since an export is in order of time. Two exports that were put
    # into one file by hand do not become twins by that.
    stamp, twins = "", dict[tuple[str, ...], int]()
    for row in rows(feed, HEADER):
        if row.why:
            tally.admit(None, short=row.short)
            yield Bad(row.text, row.line, row.why)
            continue
        at = parse(row.fields[0])
        tally.admit(None if at is None else at[0])
        if at is None:
            yield Bad(row.text, row.line, "its Timestamp is not a time")
            continue
        if row.fields[0] != stamp:
            stamp, twins = row.fields[0], {}
        record: dict[str, Any] = dict(zip(HEADER, row.fields, strict=True))
        if ordinal := twins.get(row.fields, 0):
            record[TWIN] = ordinal
        twins[row.fields] = ordinal + 1
        yield _ENCODE(record)


# --- JSON --------------------------------------------------------------------


class _Head(msgspec.Struct):
    created_at: Any = None


_HEAD = msgspec.json.Decoder(_Head)


def _from_json(feed: Feed, tally: _Tally) -> Iterator[bytes | Bad]:
    export = Export()
    for text, line in export.records(feed, "logs"):
        told = _created_at(text)
        if isinstance(told, Bad):
            tally.admit(None)
            yield Bad(text, line, told.why)
            continue
        tally.admit(told)
        yield text
    made = export.told.get("exported_at")
    at = parse(made) if isinstance(made, str) else None
    tally.exported_at = None if at is None else moment(at[0])


def _created_at(text: bytes) -> int | Bad:
    """Return when the record *text* says that it happened, or what is wrong with it."""
    if not text.startswith(b"{"):
        return Bad(text, 0, "it is not an object")
    told: Any
    try:
        told = _HEAD.decode(text).created_at
    except (msgspec.DecodeError, RecursionError):
        try:
            value = decode(text).value
        except Undecodable:
            return Bad(text, 0, "it is not JSON")
        told = value.get("created_at")
    at = parse(told) if isinstance(told, str) else None
    if at is None:
        return Bad(text, 0, "its created_at is not a time")
    return at[0]
