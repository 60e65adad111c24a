"""
Format numbers, durations and times for people. All times are UTC.

The library humanize was tried. It formats 3 h 20 min as "3 hours" or "3 hours and 20 minutes", and
400 d as "1 year, 1 month and 4 days": too coarse, or too long for a table, and not in the units of
the settings.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
_SIZES = ("bytes", "KiB", "MiB", "GiB", "TiB")


def span(length: float | timedelta) -> str:
    """Return *length* (a timedelta or seconds) in its two largest units: ``3 h 20 min``."""
    seconds = length.total_seconds() if isinstance(length, timedelta) else length
    rest = max(0, round(seconds))
    for number, (unit, size) in enumerate(_UNITS):
        if rest < size:
            continue
        whole, rest = divmod(rest, size)
        if unit == "s" or (whole >= 20 and unit != "d"):
            return f"{whole} {unit}"
        smaller, step = _UNITS[number + 1]
        part = rest // step
        return f"{whole} {unit} {part} {smaller}" if part else f"{whole} {unit}"
    return "0 s"


def count(number: int, noun: str) -> str:
    """Return *number* with *noun* in the singular or plural: ``1 event``, ``12,431 events``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def size(number: float) -> str:
    """Return *number* of bytes in the unit that suits its size."""
    for unit in _SIZES:
        if number < 1024 or unit == _SIZES[-1]:
            break
        number /= 1024
    return f"{number:,.0f} {unit}" if number >= 10 or unit == "bytes" else f"{number:.1f} {unit}"


def timestamp(at: datetime, now: datetime) -> str:
    """Return *at* as short as is clear at *now*: ``02:14``, ``yesterday 23:10``, ``Mon 16 Nov``."""
    at, now = at.astimezone(UTC), now.astimezone(UTC)
    clock = f"{at:%H:%M:%S}" if abs(now - at) < timedelta(hours=1) else f"{at:%H:%M}"
    if at.date() == now.date():
        return clock
    if at.date() == now.date() - timedelta(days=1):
        return f"yesterday {clock}"
    year = "" if at.year == now.year else f" {at.year}"
    return f"{at:%a} {at.day} {at:%b}{year} {clock}"


def join(words: Sequence[str]) -> str:
    """Return *words* as a list in a sentence: ``a, b and c``."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
