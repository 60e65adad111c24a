"""
The spellings of times in requests and in records, by the names that a description gives them.

A writer's *granule* is the shortest time that its format can tell: bounds are widened by it. A
reader is total: what is no time in its format is None, and a time is truncated to microseconds.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from auditrelay.events import TimeQuality, timestamps
from auditrelay.window import iso, micros

Read = Callable[[Any], tuple[int, TimeQuality] | None]
"""From a JSON value to microseconds since 1970 UTC, and where the time comes from."""


class TimeFormat(NamedTuple):
    """How a bound of a window is written."""

    granule: timedelta
    write: Callable[[datetime], str]
    """From a time, truncated to the granule, to its text."""
    is_number: bool = False
    """Whether it is a number where the place has JSON, as in a body."""


_PARTS: Final[Mapping[str, tuple[str, timedelta]]] = {
    "Y": ("[0-9]{4}", timedelta(days=366)),
    "m": ("[0-9]{2}", timedelta(days=31)),
    "d": ("[0-9]{2}", timedelta(days=1)),
    "H": ("[0-9]{2}", timedelta(hours=1)),
    "M": ("[0-9]{2}", timedelta(minutes=1)),
    "S": ("[0-9]{2}", timedelta(seconds=1)),
    "L": ("[0-9]{3}", timedelta(milliseconds=1)),
}
"""What a letter after % stands for, the longest time first: its digits, and its granule."""
_KNOWN: Final = " ".join(f"%{letter}" for letter in _PARTS)
_MARK: Final = re.compile(r"%(.?)", re.DOTALL)

_EPOCHS: Final[Mapping[str, timedelta]] = {
    "epoch_s": timedelta(seconds=1),
    "epoch_ms": timedelta(milliseconds=1),
    "epoch_us": timedelta(microseconds=1),
}
_ISO: Final[Mapping[str, tuple[timedelta, str]]] = {
    "iso_s": (timedelta(seconds=1), "seconds"),
    "iso_ms": (timedelta(milliseconds=1), "milliseconds"),
    "iso_us": (timedelta(microseconds=1), "microseconds"),
}

WRITTEN: Final = (*_ISO, "date", *_EPOCHS)
"""The names of formats of bounds; any other is a pattern."""
READ: Final = ("iso", *_EPOCHS, "epoch_s_float")
"""The names of formats of a record's time; any other is a pattern."""


def writer(name: str) -> TimeFormat:
    """Return the format of bounds called *name*. Raises ValueError with what is wrong with it."""
    if name in _ISO:
        granule, precision = _ISO[name]
        return TimeFormat(granule, lambda at: iso(at, precision))
    if name in _EPOCHS:
        granule = _EPOCHS[name]
        size = granule // timedelta(microseconds=1)
        return TimeFormat(granule, lambda at: str(micros(at) // size), is_number=True)
    if name == "date":
        name = "%Y-%m-%d"
    letters = _letters(name, WRITTEN)
    return TimeFormat(min(_PARTS[letter][1] for letter in letters), lambda at: _written(name, at))


def reader(name: str) -> Read:
    """
    Return what reads a record's time in the format *name*.

    Texts are read as numbers, and numbers with a fraction, where the format is one of the epochs.
    ``iso`` reads whatever the modules of vendors read, should a vendor write otherwise than it
    says: a number, too, by its size. Raises ValueError with what is wrong with the name.
    """
    if name == "iso":
        return timestamps.read
    unit = _EPOCHS.get(name.removesuffix("_float"))
    if unit is not None:
        size = unit // timedelta(microseconds=1)
        return lambda value: timestamps.counted(value, size)
    _letters(name, READ)
    digits = {letter: f"(?P<{letter}>{digits})" for letter, (digits, _) in _PARTS.items()}
    shape = re.compile(
        "".join(
            digits[piece] if at % 2 else re.escape(piece)
            for at, piece in enumerate(_MARK.split(name))
        )
    )
    text = "{Y}-{m}-{d}T{H}:{M}:{S}.{L}Z"
    absent = {"H": "00", "M": "00", "S": "00", "L": "000"}

    def read(value: Any) -> tuple[int, TimeQuality] | None:
        found = shape.fullmatch(value) if type(value) is str else None
        return timestamps.parse(text.format_map(absent | found.groupdict())) if found else None

    return read


def _letters(pattern: str, names: tuple[str, ...]) -> list[str]:
    """Return the letters of the parts of *pattern*, in their order. Raises ValueError."""
    letters: list[str] = _MARK.findall(pattern)
    if not letters:
        raise ValueError(
            f"{pattern!r} is no format: write one of {', '.join(names)}, or a pattern of {_KNOWN}"
        )
    for letter in letters:
        if letter not in _PARTS:
            raise ValueError(f"{pattern!r} has %{letter}; only {_KNOWN} are known")
        if letters.count(letter) > 1:
            raise ValueError(f"{pattern!r} has %{letter} twice")
    finest = max(list(_PARTS).index(letter) for letter in letters)
    for letter in list(_PARTS)[: max(finest, 2) + 1]:
        if letter not in letters:
            raise ValueError(f"{pattern!r} has no %{letter}, so it does not tell one time")
    return letters


def _written(pattern: str, at: datetime) -> str:
    at = at.astimezone(UTC)
    parts = {
        "Y": f"{at.year:04d}",
        "m": f"{at.month:02d}",
        "d": f"{at.day:02d}",
        "H": f"{at.hour:02d}",
        "M": f"{at.minute:02d}",
        "S": f"{at.second:02d}",
        "L": f"{at.microsecond // 1000:03d}",
    }
    return _MARK.sub(lambda found: parts[found[1]], pattern)
