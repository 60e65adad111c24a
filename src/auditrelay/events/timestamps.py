"""
Parse a vendor's times and format them for a SIEM, in whole microseconds since 1970 UTC.

A time is truncated to microseconds, never rounded up, and never converted to a float.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

from auditrelay.confirmed_time import EARLIEST
from auditrelay.events import TimeQuality
from auditrelay.events.patterns import lazily
from auditrelay.window import EPOCH, micros

_SECOND = 1_000_000
_MINUTE = 60 * _SECOND
_NAIVE_EPOCH = EPOCH.replace(tzinfo=None)
"""Arithmetic on naive times cannot overflow at the minimum and maximum."""
_FIRST = -62_135_596_800 * _SECOND
_LAST = 253_402_300_800 * _SECOND - 1

_SHAPE = lazily(
    r"(\d{4}-\d\d-\d\d)[T ](\d\d):(\d\d):(\d\d)(?:[.,](\d+))? ?(Z|[+-]\d\d(?::?\d\d)?)?", re.ASCII
)

_NUMBER = lazily(r"-?\d{9,20}(?:\.\d{1,9})?", re.ASCII)
"""Fewer digits could be a year, or a date without dashes; as seconds they are before 1974."""
_DECIMAL = lazily(r"(-)?(\d{1,20})(?:\.(\d+))?", re.ASCII)
_DOT_NET = lazily(r"\\?/Date\((-?\d{1,17})(?:[+-]\d{4})?\)\\?/", re.ASCII)
_MAIL = lazily(
    r"(?:[A-Za-z]{3,9}, *)?(\d{1,2})[ -]([A-Za-z]{3})[ -](\d{4}) +(\d\d:\d\d(?::\d\d(?:\.\d+)?)?)"
    r"(?: *(Z|[A-Za-z]{3}|[+-]\d{4}))?",
    re.ASCII,
)
_MONTHS = "janfebmaraprmayjunjulaugsepoctnovdec"
_MAIL_ZONES = {
    "EST": "-0500",
    "EDT": "-0400",
    "CST": "-0600",
    "CDT": "-0500",
    "MST": "-0700",
    "MDT": "-0600",
    "PST": "-0800",
    "PDT": "-0700",
}
"""The only zones with names, https://www.rfc-editor.org/rfc/rfc5322#section-4.3."""
_UTC_NAMES = (" UTC", " GMT", " UT", " Z", "UTC", "GMT")
_UTC_ZONES = ("UTC]", "Z]", "Etc/UTC]", "GMT]")
_OFFSET = lazily(r"(?:Z|[+-]\d\d:?\d\d)$", re.ASCII | re.IGNORECASE)
_MAX_NESTED = 3
_MAX_DIGITS = 20
_EPOCHS = ((11, 6), (14, 3), (17, 0), (20, -3))
"""Most digits of seconds, milliseconds, microseconds, nanoseconds; the power to microseconds."""

_EARLIEST: Final = micros(EARLIEST)
_AHEAD: Final = 86_400 * _SECOND
"""How far the clock of a vendor may be ahead."""

Parsed = tuple[int, TimeQuality]


def parse(text: str) -> Parsed | None:
    """
    Return *text* as microseconds and its quality, or None if it is not a time.

    Accepts RFC 3339 and the rest of ISO 8601, and other spellings that machines write: RFC 5322
    (as in mail), a number of seconds or parts of them since 1970, .NET's ``/Date(...)/``. Without
    an offset UTC is assumed. A leap second ``:60`` becomes the last microsecond of its minute.
    """
    if len(text) > 64:
        return None
    try:
        parsed = datetime.fromisoformat(text)  # truncates, too
    except ValueError:
        return _parse_slowly(text)
    if parsed.tzinfo is not UTC:
        return _parse_slowly(text)
    since = parsed - EPOCH
    return (since.days * 86_400 + since.seconds) * _SECOND + since.microseconds, "source"


def are_plausible(at: Sequence[int], fetched: int) -> bool:
    """Return whether none of the times *at* is far off at the time *fetched*, if that is right."""
    if not at:
        return True
    latest = fetched + _AHEAD if fetched >= _EARLIEST else _LAST
    return min(at) >= _EARLIEST and max(at) <= latest


def _parse_slowly(text: str) -> Parsed | None:
    found = _SHAPE.fullmatch(text.strip().upper())
    if found is None:
        return _parse_rarely_written(text.strip())
    day, hour, minute, second, fraction, offset = found.groups()
    start = _midnight(day)
    time = _time_of_day(int(hour), int(minute), int(second), fraction or "")
    ahead = _minutes_ahead(offset or "Z")
    if start is None or time is None or ahead is None:
        return None
    return _bounded(start + time - ahead * _MINUTE, "source" if offset else "assumed_utc")


def read(value: object) -> Parsed | None:
    """
    Return the time that the JSON *value* tells, as :func:`parse` does, or None if it is none.

    A number counts from 1970: seconds, milliseconds, microseconds or nanoseconds, by its size. An
    object is a time as databases export it: ``{"$date": ...}`` (MongoDB), ``{"seconds": ...,
    "nanos": ...}`` (Protocol Buffers), also with an underscore before the names (Firestore).
    """
    for _ in range(_MAX_NESTED):
        if type(value) is not dict:
            break
        value = _unwrapped(value)
    if type(value) is str:
        return parse(value)
    if type(value) is int and _is_short(value):
        return _parse_odd(str(value))
    # The shortest text of a float has its digits as they were sent: 1795643000.123456.
    return _parse_odd(repr(value)) if type(value) is float else None


def counted(value: object, size: int) -> Parsed | None:
    """
    Return the JSON *value* as a time, if it counts parts of *size* microseconds since 1970.

    It is a number, or the decimal text of one.
    """
    if type(value) is int:
        return _bounded(value * size, "source") if _is_short(value) else None
    if type(value) is float:
        value = repr(value)  # its digits as they were sent: 1795643000.123456
    found = _DECIMAL.fullmatch(value) if type(value) is str else None
    if found is None:
        return None
    sign, whole, fraction = found.groups(default="")
    at = int(whole) * size + int(f"{fraction[:6]:0<6}") * size // _SECOND
    return _bounded(-at if sign else at, "source")


def _unwrapped(value: dict[str, object]) -> object:
    keys = {key.removeprefix("_"): item for key, item in value.items()}
    if "seconds" in keys:
        seconds = keys["seconds"]
        nanos = keys.get("nanos", keys.get("nanoseconds", 0))
        if not (_is_short(seconds) and _is_short(nanos) and f"{nanos}".isdecimal()):
            return None
        return f"{seconds}.{f'{nanos}':0>9}"
    return value.get("$date", value.get("$numberLong"))


def _parse_rarely_written(text: str) -> Parsed | None:
    plain = _plain(text)
    if plain != text:
        return parse(plain)  # it is shorter, or has no such minus any more
    return _parse_odd(text) or _parse_rare(text)


def _is_short(value: object) -> bool:
    """Return whether *value* is a text, or an integer that is no longer than an epoch."""
    return type(value) is str or (type(value) is int and abs(value) < 10**_MAX_DIGITS)


def _plain(text: str) -> str:
    """Return *text* without what some writers add: a zone's name after the offset, a long minus."""
    text = text.replace("\u2212", "-")
    if text.endswith("]"):
        text, _, zone = text.partition("[")
        if zone not in _UTC_ZONES and not _OFFSET.search(text):
            return ""  # a local time, in a zone whose rules would be needed
    for name in _UTC_NAMES:
        if text.upper().endswith(name):
            return f"{text[: -len(name)].rstrip()}Z"
    return text


def _parse_odd(text: str) -> Parsed | None:
    """Parse an epoch, a date as in mail, or one of .NET's JSON."""
    if _NUMBER.fullmatch(text):
        return _epoch(text)
    if found := _DOT_NET.fullmatch(text):
        return _bounded(int(found[1]) * 1000, "source")
    found = _MAIL.fullmatch(text)
    if found is None:
        return None
    day, month, year, time, zone = found.groups()
    number = _MONTHS.find(month.lower()) // 3 + 1
    offset = _MAIL_ZONES.get((zone or "").upper(), zone or "")
    return parse(f"{year}-{number:02d}-{int(day):02d}T{time}{offset}") if number else None


def _epoch(text: str) -> Parsed | None:
    """Return the decimal number *text* as a time: how large it is says what it counts."""
    whole, _, fraction = text.partition(".")
    digits = len(whole.lstrip("-"))
    for most, power in _EPOCHS:
        if digits <= most:
            scaled = int(whole + fraction[: max(power, 0)].ljust(max(power, 0), "0"))
            return _bounded(scaled // 10 ** max(-power, 0), "source")
    return None


def _midnight(day: str) -> int | None:
    try:
        return (datetime.fromisoformat(day) - _NAIVE_EPOCH) // timedelta(microseconds=1)
    except ValueError:
        return None


def _time_of_day(hour: int, minute: int, second: int, fraction: str) -> int | None:
    parts = int(fraction[:6].ljust(6, "0"))
    if second == 60:  # a leap second, which Unix time does not have
        second, parts = 59, 999_999
    since = (hour * 60 + minute) * _MINUTE + second * _SECOND + parts
    # 24:00:00 is the midnight that ends the day.
    return since if minute < 60 and second < 60 and since <= 1440 * _MINUTE else None


def _minutes_ahead(offset: str) -> int | None:
    """Return by how many minutes clocks of *offset*, such as ``+05:30``, are ahead of UTC."""
    if offset == "Z":
        return 0
    minutes = int(offset[1:3]) * 60 + int(offset[-2:] if len(offset) > 3 else 0)
    if minutes >= 1440:
        return None
    return -minutes if offset[0] == "-" else minutes


def _parse_rare(text: str) -> Parsed | None:
    """Parse the rare forms of ISO 8601: dates alone, week dates, no colons."""
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        return None
    at = (parsed.replace(tzinfo=None) - _NAIVE_EPOCH) // timedelta(microseconds=1)
    ahead = parsed.utcoffset()
    if ahead is None:
        return _bounded(at, "assumed_utc")
    return _bounded(at - ahead // timedelta(microseconds=1), "source")


def _bounded(at: int, quality: TimeQuality) -> Parsed | None:
    """Return the time if its year has four digits; an offset can move it out of range."""
    return (at, quality) if _FIRST <= at <= _LAST else None


@lru_cache(maxsize=8192)
def iso_second(second: int) -> str:
    """
    Return *second* since 1970 as ``2026-05-11T08:15:01``.

    Cached, since the events of a page share few of them.
    """
    parsed = EPOCH + timedelta(seconds=second)
    return parsed.isoformat()[:19]


def iso_ms(at: int) -> str:
    """Return *at* as ``2026-05-11T08:15:01.990Z``, truncated."""
    if at >= _SECOND:  # to cut digits is faster than to format a number
        return f"{iso_second(at // _SECOND)}.{str(at)[-6:-3]}Z"
    second, rest = divmod(at, _SECOND)
    return f"{iso_second(second)}.{rest // 1000:03d}Z"


def iso_us(at: int) -> str:
    """Return *at* as ``2026-05-11T08:15:01.990052Z``."""
    if at >= _SECOND:
        return f"{iso_second(at // _SECOND)}.{str(at)[-6:]}Z"
    second, rest = divmod(at, _SECOND)
    return f"{iso_second(second)}.{rest:06d}Z"


def epoch_seconds(at: int) -> str:
    """
    Return *at* as seconds since 1970, a plain decimal with six places.

    Splunk's HEC refuses a number with an exponent, which formatting a float can produce.
    """
    if at >= _SECOND:
        digits = str(at)
        return f"{digits[:-6]}.{digits[-6:]}"
    seconds, rest = divmod(abs(at), _SECOND)
    return f"{'-' if at < 0 else ''}{seconds}.{rest:06d}"
