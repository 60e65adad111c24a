"""
Read an export of Cencori's audit log, JSON or CSV: pages of records, and the span it covers.

A CSV row becomes a record of its own form: an object with the ten columns as they are in the file.
Rows have no id, so they are deduplicated by the record itself. Of several rows with the same time
that are equal in everything, the second has a ``Twin`` of 1, the third of 2: this numbering is the
same in every file that contains them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import PurePath
from typing import Any, BinaryIO

import msgspec

from auditrelay.events.decode import NOT_DECODED, WHITESPACE, Undecodable, decode
from auditrelay.events.timestamps import parse
from auditrelay.events.vendors.cencori import HEADER, TWIN
from auditrelay.sources import BadRow, ExportPage
from auditrelay.sources.cencori.buffer import Buffer, Unreadable
from auditrelay.sources.cencori.export_csv import read_rows
from auditrelay.sources.cencori.export_json import JsonExport
from auditrelay.sources.cencori.export_span import FileName, RowStats, covered_span
from auditrelay.sources.cencori.folder import HashingReader
from auditrelay.window import micros, moment

_ENCODE = msgspec.json.Encoder().encode

PAGE_ROWS = 1_000
PAGE_BYTES = 2**19
"""A page ends when it has so many rows or so many bytes."""

_LATEST = micros(datetime(9999, 1, 1, tzinfo=UTC))
"""Later times are forwarded like any others, and no span is derived from them."""


@dataclass(slots=True)
class _Counter:
    """Counts rows, and keeps the times from which the covered span is derived."""

    granule: timedelta
    count: int = 0
    oldest: int | None = None
    newest: int | None = None
    broken_off: bool = False
    exported_at: datetime | None = None

    def add(self, at: int | None, *, short: bool = False) -> None:
        """Count a row with the time *at*, in microseconds, None if it cannot be read."""
        self.count += 1
        self.broken_off = short
        if at is not None and at < _LATEST:
            self.oldest = at if self.oldest is None else min(self.oldest, at)
            self.newest = at if self.newest is None else max(self.newest, at)

    def stats(self) -> RowStats:
        return RowStats(
            count=self.count,
            oldest=None if self.oldest is None else moment(self.oldest),
            newest=None if self.newest is None else moment(self.newest),
            granule=self.granule,
            broken_off=self.broken_off,
        )


def _is_csv(name: str) -> bool:
    """Return whether the file *name* is that of a CSV, not a JSON file. Raises Unreadable."""
    kind = PurePath(name).suffix.lower()
    if kind not in (".csv", ".json"):
        raise Unreadable(
            "neither a JSON nor a CSV file by its name: exports end in .json or .csv",
            reason="not_an_export",
        )
    return kind == ".csv"


def sniff(opened: BinaryIO, name: str) -> None:
    """Raise Unreadable if *opened*, by its *name*, its start and its end, cannot be an export."""
    if _is_csv(name):
        next(read_rows(Buffer(opened.read), HEADER), None)
        return
    head = opened.read(64).removeprefix(b"\xef\xbb\xbf").lstrip(WHITESPACE)
    if not head.startswith(b"{"):
        raise Unreadable("line 1: not the beginning of a JSON export", reason="not_an_export")
    opened.seek(0, 2)
    opened.seek(-min(64, opened.tell()), 1)
    if not opened.read().rstrip(WHITESPACE).endswith(b"}"):
        raise Unreadable("the file breaks off before its end", reason="file_breaks_off")


def read_pages(
    opened: BinaryIO,
    name: str,
    key: bytes,
    parsed: FileName | None,
    *,
    settle: timedelta,
    now: datetime,
) -> Iterator[ExportPage]:
    """
    Yield the pages of the file *opened*, called *name*, which is *parsed* if it is documented.

    Only the last page, which may be empty, has what the file covers. Raises Unreadable if the file
    is not an export that can be read, or if the digest of its content is not *key*.
    """
    sniff(opened, name)
    opened.seek(0)
    hashing = HashingReader(opened)
    buffer = Buffer(hashing.read)
    counter = _Counter(timedelta(milliseconds=1) if _is_csv(name) else timedelta(microseconds=1))
    records: list[bytes] = []
    bad: list[BadRow] = []
    size = 0
    for row in _from_csv(buffer, counter) if _is_csv(name) else _from_json(buffer, counter):
        if isinstance(row, BadRow):
            bad.append(row)
            size += len(row.text)
        else:
            records.append(row)
            size += len(row)
        if len(records) + len(bad) >= PAGE_ROWS or size >= PAGE_BYTES:
            yield ExportPage(records, last=False, bad=tuple(bad))
            records, bad, size = [], [], 0
    if hashing.digest() != key:
        raise Unreadable("the file was changed while it was read", reason="file_changed")
    coverage = covered_span(parsed, counter.exported_at, counter.stats(), settle=settle, now=now)
    yield ExportPage(records, last=True, bad=tuple(bad), covers=coverage.covers, gaps=coverage.gaps)


# --- CSV ---------------------------------------------------------------------


def _from_csv(buffer: Buffer, counter: _Counter) -> Iterator[bytes | BadRow]:
    # An export is in order of time, so equal rows are next to each other. Rows of two exports that
    # were joined by hand into one file do not become twins.
    stamp, twins = "", dict[tuple[str, ...], int]()
    for row in read_rows(buffer, HEADER):
        if row.problem:
            counter.add(None, short=row.short)
            yield BadRow(row.text, row.line, row.problem)
            continue
        at = parse(row.fields[0])
        counter.add(None if at is None else at[0])
        if at is None:
            yield BadRow(row.text, row.line, "its Timestamp is not a time")
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


def _from_json(buffer: Buffer, counter: _Counter) -> Iterator[bytes | BadRow]:
    export = JsonExport()
    for text, line in export.records(buffer, "logs"):
        at = _created_at(text)
        if isinstance(at, str):
            counter.add(None)
            yield BadRow(text, line, at)
            continue
        counter.add(at)
        yield text
    exported_at = export.metadata.get("exported_at")
    parsed = parse(exported_at) if isinstance(exported_at, str) else None
    counter.exported_at = None if parsed is None else moment(parsed[0])


def _created_at(text: bytes) -> int | str:
    """Return the time of the record *text*, in microseconds, or the problem with the record."""
    if not text.startswith(b"{"):
        return "not an object"
    value: Any
    try:
        value = _HEAD.decode(text).created_at
    except NOT_DECODED:
        try:
            record = decode(text).value
        except Undecodable:
            return "not JSON"
        value = record.get("created_at")
    at = parse(value) if isinstance(value, str) else None
    return "its created_at is not a time" if at is None else at[0]
