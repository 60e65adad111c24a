"""The spelling of times, in the notation of a description: of bounds, and of records."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from auditrelay.sandbox.history import micros, parse_time

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS = {"epoch_s": 1_000_000, "epoch_ms": 1000, "epoch_us": 1, "epoch_s_float": 1}
_TIMESPECS = {"iso_s": "seconds", "iso_ms": "milliseconds", "iso_us": "microseconds"}
_GRANULES = {"iso_s": 1_000_000, "iso_ms": 1000, "iso": 1000, "date": 86_400_000_000}
_FIELDS = {"%Y": 4, "%m": 2, "%d": 2, "%H": 2, "%M": 2, "%S": 2, "%L": 3}
_PATTERN_GRANULES = {"%L": 1000, "%S": 1_000_000, "%M": 60_000_000, "%H": 3_600_000_000}


def granule(form: str) -> int:
    """Return the microseconds that the finest difference of two times in *form* is."""
    if form in _UNITS:
        return _UNITS[form]
    if form in _GRANULES or form in _TIMESPECS:
        return _GRANULES.get(form, 1)
    return next(
        (size for mark, size in _PATTERN_GRANULES.items() if mark in form), _GRANULES["date"]
    )


def moment(at: int) -> datetime:
    """Return the time *at*, in microseconds."""
    return _EPOCH + timedelta(microseconds=at)


def write(at: int, form: str) -> Any:
    """Return the time *at*, in microseconds, as a record or a header has it."""
    if form == "epoch_s_float":
        return at / 1_000_000
    if form in _UNITS:
        return at // _UNITS[form]
    when = moment(at)
    if form == "date":
        return f"{when:%Y-%m-%d}"
    if form in _TIMESPECS or form == "iso":
        text = when.isoformat(timespec=_TIMESPECS.get(form, "milliseconds"))
        return text.replace("+00:00", "Z")
    return when.strftime(form.replace("%L", f"{when.microsecond // 1000:03}"))


def read(text: str, form: str) -> int:
    """
    Return the bound *text* in microseconds. Raises ValueError if it is not spelt as in *form*.

    A vendor refuses a number where it expects a date, and the other way round.
    """
    if form in _UNITS:
        if not re.fullmatch(r"\d{1,16}", text):
            raise ValueError(f"{text!r} is not a whole number")
        return int(text) * _UNITS[form]
    if form == "date":
        if not re.fullmatch(r"\d{4}-\d\d-\d\d", text):
            raise ValueError(f"{text!r} is not a day")
        return micros(datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC))
    if form in _TIMESPECS:
        if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", text):
            raise ValueError(f"{text!r} is not a time")
        return parse_time(text)
    marks = re.split(r"(%[YmdHMSL])", form)
    found = re.fullmatch(
        "".join(
            rf"(\d{{{_FIELDS[each]}}})" if each in _FIELDS else re.escape(each) for each in marks
        ),
        text,
    )
    if found is None:
        raise ValueError(f"{text!r} is not of the form {form}")
    names = (each for each in marks if each in _FIELDS)
    parts = dict(zip(names, map(int, found.groups()), strict=True))
    return micros(
        datetime(
            parts["%Y"],
            parts["%m"],
            parts["%d"],
            parts.get("%H", 0),
            parts.get("%M", 0),
            parts.get("%S", 0),
            parts.get("%L", 0) * 1000,
            tzinfo=UTC,
        )
    )
