"""
The types of the fields of a vendor's answer: one meaning, however it is spelt.

Servers in several languages write the same thing in several ways: an empty list of Go is ``null``,
a count may come as a text or with a fraction of zero, and "there is no next page" is a null, an
empty text, a false or a 0. :func:`auditrelay.http.replies.decode` reads a field that has one of
these types leniently; anything that has no such meaning is an error, and so is a missing list.
"""

from typing import Any, Final

import msgspec

Records = list[msgspec.Raw] | None
"""The texts of the records of a page, byte for byte; null for an empty list."""


def texts(records: Records) -> list[bytes]:
    """Return the texts of *records*."""
    return list(map(bytes, records or ()))


class Count(int):
    """A number of records or pages: ``3``, ``3.0`` or ``"3"``; never negative."""


class Flag(int):
    """Yes or no: a boolean, 1 or 0, or one of these as a text; an empty text means no."""


class Link(str):
    """The next page, an address or a cursor; empty if there is none: null, ``""``, false or 0."""

    __slots__ = ()


Cursor = str | int | tuple[str | int, ...]
"""The vendor's mark of the next page: a text, a whole number with all its digits, or a list."""

MAX_CURSOR_PARTS: Final = 100
"""Texts and numbers of a cursor that is a list."""


def read_cursor(value: Any) -> Cursor | None:
    """
    Return *value* as a cursor; None if it says that there is no next page, as an empty Link does.

    Raises ValueError if it is something else.
    """
    if not value:
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, list) and len(value) <= MAX_CURSOR_PARTS:
        parts = [read_cursor(part) for part in value if not isinstance(part, list)]
        if len(parts) == len(value) and None not in parts:
            return tuple(parts)  # type: ignore[arg-type]  # none is None, and none is a list
    raise ValueError("it is neither a text, nor a whole number, nor a list of these")


_MAX_COUNT: Final = 2**53
"""More no JSON number tells exactly."""

_WORDS: Final = {"true": True, "1": True, "false": False, "0": False, "": False, "null": False}


def read_field(kind: type, value: Any) -> Any:
    """Return *value* as one of the types above. Raises ValueError if it has no such meaning."""
    if kind is Count:
        return Count(_count(value))
    if kind is Flag:
        return Flag(_flag(value))
    if kind is Link:
        if not value:
            return Link()
        if isinstance(value, str):
            return Link(value)
        raise ValueError("it names no page")
    raise NotImplementedError(kind)  # msgspec's word for a type that its hook does not know


def _count(value: Any) -> int:
    if isinstance(value, str) and len(value) < 20:  # digits of 2**53, and blanks
        value = float(value)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError("it is not a number")  # noqa: TRY004  # msgspec expects a ValueError
    if not 0 <= value <= _MAX_COUNT or value != int(value):
        raise ValueError("it is not a number of records")
    return int(value)


def _flag(value: Any) -> bool:
    if isinstance(value, str):
        value = _WORDS.get(value.strip().lower())
    if value in (True, False):  # also 1, 0, 1.0 and 0.0
        return bool(value)
    raise ValueError("it is neither yes nor no")
