"""
Compare two records of one event: which fields say something else now. Pure.

Records are compared by what they say, not by how it is written: the order of keys, whitespace,
escapes and the spelling of a number are no change, nor is a time that is only written finer.
"""

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, Final

from auditrelay.events import Change
from auditrelay.events.decode import encode
from auditrelay.events.timestamps import parse

MAX_FIELDS: Final = 50
"""How many fields of a record are named at most."""

_MAX_DEPTH: Final = 4
"""Levels of a field's name; a value that is deeper is named by what contains it."""

_MAX_NAME: Final = 60
"""Characters of one level of it."""

_MAX_VALUE: Final = 500
"""Characters of a value before and after; a longer one is left out."""

_SECONDS: Final = re.compile(r"[T ]\d\d:\d\d:\d\d(?:[.,](\d+))?", re.ASCII)
"""A time of day that tells seconds, with their fraction."""

_ABSENT: Final = object()


def changed_fields(former: bytes, now: bytes) -> tuple[Change, ...]:
    """
    Return the fields in which the record *now* differs from *former*, at most MAX_FIELDS.

    Both are JSON texts, as events have them (``AuditEvent.raw``).
    """
    found = []
    for name, before, after in _differences(_value(former), _value(now), ()):
        found.append(Change(".".join(name) or "record", _text(before), _text(after)))
        if len(found) == MAX_FIELDS:
            break
    return tuple(found)


def _value(text: bytes) -> Any:
    # With Decimal no digit is lost, and 1.0, 1.00 and 1e0 are equal to 1.
    return json.loads(text, parse_float=Decimal)


def _differences(
    before: Any, after: Any, name: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    if type(before) is dict and type(after) is dict and len(name) < _MAX_DEPTH:
        for key in before | after:
            inner = (*name, _printable(key[:_MAX_NAME]))
            yield from _differences(before.get(key, _ABSENT), after.get(key, _ABSENT), inner)
    elif not _is_same(before, after):
        yield name, before, after


def _printable(key: str) -> str:
    """Return *key* without what a terminal or a log would act upon."""
    return key if key.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in key)


def _is_same(one: Any, other: Any) -> bool:
    if type(one) is dict and type(other) is dict:
        return one.keys() == other.keys() and all(_is_same(one[key], other[key]) for key in one)
    if type(one) is list and type(other) is list:
        return len(one) == len(other) and all(map(_is_same, one, other))
    if type(one) is str and type(other) is str:
        return one == other or _is_same_time(one, other)
    # True is no number here, though it is one to Python.
    return one is other or (
        type(one) is not bool and type(other) is not bool and bool(one == other)
    )


def _is_same_time(one: str, other: str) -> bool:
    """Return whether both are times that differ by less than the coarser one can tell."""
    if not (10 < len(one) <= 64 and 10 < len(other) <= 64):
        return False
    first, second = parse(one), parse(other)
    if first is None or second is None:
        return False
    return abs(first[0] - second[0]) < max(_unit(one), _unit(other))


def _unit(time: str) -> int:
    """Return the smallest step of *time* in microseconds; 0 if it does not tell seconds."""
    found = _SECONDS.search(time)
    return 0 if found is None else 10 ** max(0, 6 - len(found[1] or ""))


def _text(value: Any) -> str | None:
    """Return *value* as JSON, None if it is absent or too long to be shown beside the record."""
    if value is _ABSENT:
        return None
    text = json.dumps(value, default=_number, ensure_ascii=False)
    return text if len(text) <= _MAX_VALUE else None


def _number(value: Decimal) -> Any:
    return float(value) if encode(float(value)) != b"null" else str(value)
