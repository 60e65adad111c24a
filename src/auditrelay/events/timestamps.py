"""
Parse a vendor's times and format them for a SIEM, in whole microseconds since 1970 UTC.

A time is truncated to microseconds, never rounded up, and never converted to a float.
"""

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from auditrelay.events import TimeQuality
from auditrelay.window import EPOCH

_SECOND = 1_000_000
_MINUTE = 60 * _SECOND
_NAIVE_EPOCH = EPOCH.replace(tzinfo=None)
"""Arithmetic on naive times cannot overflow at the minimum and maximum."""
_FIRST = -62_135_596_800 * _SECOND
_LAST = 253_402_300_800 * _SECOND - 1

_SHAPE = re.compile(
    r"(\d{4}-\d\d-\d\d)[T ](\d\d):(\d\d):(\d\d)(?:[.,](\d+))? ?(Z|[+-]\d\d(?::?\d\d)?)?", re.ASCII
)

Parsed = tuple[int, TimeQuality]


def parse(text: str) -> Parsed | None:
    """
    Return *text* as microseconds and its quality, or None if it is not a time.

    Accepts RFC 3339 and the rest of ISO 8601. Without an offset UTC is assumed. A leap second
    ``:60`` becomes the last microsecond of its minute. Numbers are not taken for epochs: a vendor
    that sends epochs converts them in its own module.
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


def _parse_slowly(text: str) -> Parsed | None:
    found = _SHAPE.fullmatch(text.strip().upper())
    if found is None:
        return _parse_rare(text.strip())
    day, hour, minute, second, fraction, offset = found.groups()
    start = _midnight(day)
    time = _time_of_day(int(hour), int(minute), int(second), fraction or "")
    ahead = _minutes_ahead(offset or "Z")
    if start is None or time is None or ahead is None:
        return None
    return _bounded(start + time - ahead * _MINUTE, "source" if offset else "assumed_utc")


def _midnight(day: str) -> int | None:
    try:
        return (datetime.fromisoformat(day) - _NAIVE_EPOCH) // timedelta(microseconds=1)
    except ValueError:
        return None


def _time_of_day(hour: int, minute: int, second: int, fraction: str) -> int | None:
    micros = int(fraction[:6].ljust(6, "0"))
    if second == 60:  # a leap second, which Unix time does not have
        second, micros = 59, 999_999
    since = (hour * 60 + minute) * _MINUTE + second * _SECOND + micros
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
    """Parse the rare forms of ISO 8601: bare dates, week dates, no colons."""
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
def _to_second(second: int) -> str:
    """Return the text of a whole second; cached, since the events of a page share few of them."""
    parsed = EPOCH + timedelta(seconds=second)
    return parsed.isoformat()[:19]


def iso_ms(at: int) -> str:
    """Return *at* as ``2026-05-11T08:15:01.990Z``, truncated."""
    if at >= _SECOND:  # to cut digits is faster than to format a number
        return f"{_to_second(at // _SECOND)}.{str(at)[-6:-3]}Z"
    second, micros = divmod(at, _SECOND)
    return f"{_to_second(second)}.{micros // 1000:03d}Z"


def iso_us(at: int) -> str:
    """Return *at* as ``2026-05-11T08:15:01.990052Z``."""
    if at >= _SECOND:
        return f"{_to_second(at // _SECOND)}.{str(at)[-6:]}Z"
    second, micros = divmod(at, _SECOND)
    return f"{_to_second(second)}.{micros:06d}Z"


def epoch_seconds(at: int) -> str:
    """
    Return *at* as seconds since 1970, a plain decimal with six places.

    Splunk's HEC refuses a number with an exponent, which formatting a float can produce.
    """
    if at >= _SECOND:
        digits = str(at)
        return f"{digits[:-6]}.{digits[-6:]}"
    seconds, micros = divmod(abs(at), _SECOND)
    return f"{'-' if at < 0 else ''}{seconds}.{micros:06d}"
