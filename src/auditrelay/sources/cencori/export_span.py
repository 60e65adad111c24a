"""
Which span of time an export of Cencori speaks for. Pure.

An export shows the rows of a range that ends when it is made, newest first. How long the range is
stands in the name of the file alone, ``audit-log-<slug>-<range>-<YYYY-MM-DD>.json`` or ``.csv``;
when it was made stands in a JSON file itself, and of a CSV file no more is known than the day. What
is not known for sure is not claimed.
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
"""The ranges that the dashboard offers, beside ``all``."""

CUTS = (1_000, 50_000)
"""
How many rows an export has when it was probably cut: the most that a Supabase project shows by
default, and the most that the dashboard asks for. Older rows are left out without a word.
"""

_DAY = timedelta(days=1)

_NAME = re.compile(
    # Browsers put a number behind the name of a file that they have already.
    r"audit-log-(?P<slug>.+)-(?P<range>1h|24h|7d|30d|90d|all)-(?P<day>\d{4}-\d\d-\d\d)"
    r"(?: ?\(\d{1,3}\)|[ -]\d{1,3})?\.(?:json|csv)",
    re.ASCII | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Named:
    """What the documented name of a file says. *length* is None for all there is."""

    slug: str
    length: timedelta | None
    day: datetime


def named(name: str) -> Named | None:
    """Return what the *name* of a file says, None if it is not a documented one."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    try:
        day = datetime.fromisoformat(found["day"]).replace(tzinfo=UTC)
    except ValueError:
        return None
    return Named(found["slug"], RANGES.get(found["range"].lower()), day)


@dataclass(frozen=True, slots=True)
class Rows:
    """
    What the rows of a file show: how many there are, and the times of the oldest and the newest.

    *granule* is how finely their times are told. *broken* says that the file ends in a row that
    is not whole.
    """

    count: int
    oldest: datetime | None
    newest: datetime | None
    granule: timedelta
    broken: bool = False


@dataclass(frozen=True, slots=True)
class Claims:
    """The spans that an export *covers*, and the *gaps* that it may have, with their reasons."""

    covers: tuple[Interval, ...] = ()
    gaps: tuple[tuple[Interval, str], ...] = ()


def claims(
    name: Named | None,
    exported_at: datetime | None,
    rows: Rows,
    *,
    settle: timedelta,
    now: datetime,
) -> Claims:
    """
    Return what an export of that *name*, made at *exported_at* if it tells, speaks for.

    *settle* is held back from its end, for rows that were stamped and not yet stored when it was
    made, and nothing after *now* is claimed. An export that was cut covers what is newer than its
    oldest row; the rest of its range is a possible gap, or the instant of that row where its range
    is not known.
    """
    span = _span(name, exported_at, rows, settle=settle, now=now)
    reason = "export_broken_off" if rows.broken else "export_cut" if rows.count in CUTS else None
    if reason is None:
        return Claims() if span is None else Claims(covers=(span,))
    if rows.oldest is None:
        return Claims() if span is None else Claims(gaps=((span, reason),))
    # Of the rows at the time of the oldest one some may be missing, too.
    cut = rows.oldest + rows.granule
    if span is None or span.start >= cut:
        lost = (Interval(rows.oldest, cut), reason)
        return Claims(() if span is None else (span,), (lost,))
    if span.end <= cut:
        return Claims(gaps=((Interval(span.start, cut), reason),))
    return Claims((Interval(cut, span.end),), ((Interval(span.start, cut), reason),))


def _span(
    name: Named | None,
    exported_at: datetime | None,
    rows: Rows,
    *,
    settle: timedelta,
    now: datetime,
) -> Interval | None:
    """Return the span that the file surely shows, None if there is none."""
    if name is None:
        return None
    # Some time of that day, and not before the newest row that it shows.
    earliest = max(name.day, rows.newest or name.day)
    latest = name.day + _DAY
    if exported_at is not None:
        if not name.day - _DAY <= exported_at < latest + _DAY:
            return None  # the name is that of another export
        earliest = latest = exported_at
    if earliest > latest:
        return None  # likewise
    start = EPOCH if name.length is None else latest - name.length
    end = min(earliest, now) - settle
    return Interval(start, end) if start < end else None
