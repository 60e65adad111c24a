"""
Which span of time an export of Cencori covers. Pure.

An export has the rows of a range that ends when it is made, newest first. The length of the range
is only in the name of the file, ``audit-log-<slug>-<range>-<YYYY-MM-DD>.json`` or ``.csv``. A JSON
file contains the time of the export; of a CSV file only the day is known, from its name. Only what
is certain is covered.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from auditrelay.window import EPOCH, Interval

RANGES = {
    "1h": timedelta(hours=1),
    "24h": timedelta(hours=24),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
    "90d": timedelta(days=90),
}
"""The ranges that the dashboard offers, apart from ``all``."""

TRUNCATED_AT = (1_000, 50_000)
"""
Row counts of an export that was probably truncated: the most that a Supabase project returns by
default, and the most that the dashboard requests. Older rows are missing without notice.
"""

_DAY = timedelta(days=1)

_YEARS = range(2000, 9999)
"""Exports of other years are forged or broken, and their spans cannot be calculated with."""

_NAME = re.compile(
    # Browsers append a number if there is already a file of that name.
    r"audit-log-(?P<slug>.+)-(?P<range>1h|24h|7d|30d|90d|all)-(?P<day>\d{4}-\d\d-\d\d)"
    r"(?: ?\(\d{1,3}\)|[ -]\d{1,3})?\.(?:json|csv)",
    re.ASCII | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class FileName:
    """The parts of a documented file name. *length* is None for the range ``all``."""

    slug: str
    length: timedelta | None
    day: datetime


def parse_file_name(name: str) -> FileName | None:
    """Return the parts of the file name *name*, None if it is not a documented one."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    try:
        day = datetime.fromisoformat(found["day"]).replace(tzinfo=UTC)
    except ValueError:
        return None
    if day.year not in _YEARS:
        return None
    return FileName(found["slug"], RANGES.get(found["range"].lower()), day)


@dataclass(frozen=True, slots=True)
class RowStats:
    """
    The rows of a file: their *count*, and the times of the oldest and the newest.

    *granule* is the precision of these times. *broken_off* is true if the last row is incomplete.
    """

    count: int
    oldest: datetime | None
    newest: datetime | None
    granule: timedelta
    broken_off: bool = False


@dataclass(frozen=True, slots=True)
class Coverage:
    """The spans that an export *covers*, and the *gaps* that it may have, with their reasons."""

    covers: tuple[Interval, ...] = ()
    gaps: tuple[tuple[Interval, str], ...] = ()


def covered_span(
    name: FileName | None,
    exported_at: datetime | None,
    rows: RowStats,
    *,
    settle: timedelta,
    now: datetime,
) -> Coverage:
    """
    Return what an export covers, from its *name*, the time *exported_at* if known, and its *rows*.

    The last *settle* before the export is not covered: rows may have been stamped and not yet
    stored. Nor is anything after *now*. A truncated export covers what is newer than its oldest
    row; the rest of its range is a possible gap. If its range is not known, the gap is the time of
    that row. An export of all time that has no rows covers nothing: it would prove that nothing
    ever happened.
    """
    span = _full_span(name, exported_at, rows, settle=settle, now=now)
    reason = None
    if rows.broken_off:
        reason = "export_broken_off"
    elif rows.count in TRUNCATED_AT:
        reason = "export_cut"
    if reason is None:
        return Coverage() if span is None else Coverage(covers=(span,))
    if rows.oldest is None:
        return Coverage() if span is None else Coverage(gaps=((span, reason),))
    # Of the rows with the time of the oldest one, some may be missing as well.
    cut = rows.oldest + rows.granule
    if span is None or span.start >= cut:
        lost = (Interval(rows.oldest, cut), reason)
        return Coverage(() if span is None else (span,), (lost,))
    if span.end <= cut:
        return Coverage(gaps=((Interval(span.start, cut), reason),))
    return Coverage((Interval(cut, span.end),), ((Interval(span.start, cut), reason),))


def _full_span(
    name: FileName | None,
    exported_at: datetime | None,
    rows: RowStats,
    *,
    settle: timedelta,
    now: datetime,
) -> Interval | None:
    """Return the span that an export which is not truncated is certain to cover, None if none."""
    if name is None or (name.length is None and not rows.count):
        return None
    # Made at some time of that day, and not before its newest row.
    earliest = max(name.day, rows.newest or name.day)
    latest = name.day + _DAY
    if exported_at is not None:
        if not name.day - _DAY <= exported_at < latest + _DAY:
            return None  # the name belongs to another export
        earliest = latest = exported_at
    if earliest > latest:
        return None  # likewise
    start = EPOCH if name.length is None else latest - name.length
    end = min(earliest, now) - settle
    return Interval(start, end) if start < end else None
