"""The spelling of values in a configuration: durations, sizes, lists, tables."""

import re
from datetime import timedelta
from typing import Annotated, Final, Literal

import orjson
from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, WithJsonSchema

_UNITS = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}

_DURATION = re.compile(r"(\d{1,15})(ms|s|m|h|d)", re.ASCII)

_LONGEST = timedelta(days=36500)
"""No setting needs more than a century, and now minus a century is still a valid date."""

_SIZES = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}

_SIZE = re.compile(r"(\d{1,18}) ?([A-Za-z]*)", re.ASCII)


def parse_duration(text: object) -> timedelta:
    """Return the duration *text*, such as ``90s``: a whole number and one unit."""
    if isinstance(text, timedelta):
        return text
    found = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ValueError(
            f"{text!r} is not a duration: write a whole number and one unit of "
            'ms, s, m, h, d, such as "5m"'
        )
    number, unit = int(found[1]), _UNITS[found[2]]
    if number > _LONGEST // unit:
        raise ValueError(f"{text!r} is longer than a century")
    return number * unit


def format_duration(value: timedelta) -> str:
    """Return *value* in the form that :func:`parse_duration` reads, in its largest whole unit."""
    for unit, size in reversed(_UNITS.items()):
        if value and not value % size:
            return f"{value // size}{unit}"
    return "0s"


def parse_size(text: object) -> int:
    """
    Return the number of bytes of the size *text*, such as ``2GiB``, or a bare number.

    pydantic's ByteSize is too lenient: it accepts ``2gib``, ``1.5GB``, ``8bit`` and true as sizes.
    """
    if isinstance(text, int) and not isinstance(text, bool):
        return text
    found = _SIZE.fullmatch(text) if isinstance(text, str) else None
    if found is None or (found[2] or "B") not in _SIZES:
        raise ValueError(
            f"{text!r} is not a size: write a whole number and one unit of "
            f'{", ".join(_SIZES)}, such as "2GiB"'
        )
    return int(found[1]) * _SIZES[found[2] or "B"]


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration),
    # An environment variable or a file may contain it: ${env:SETTLE}.
    WithJsonSchema({"type": "string", "pattern": r"^[0-9]+(ms|s|m|h|d)$|\$\{"}),
]

Size = Annotated[
    int,
    BeforeValidator(parse_size),
    Field(gt=0),
    WithJsonSchema({"type": ["string", "integer"]}),
]


def comma_list(value: object) -> object:
    """Let an environment variable be a list: as JSON, or separated by commas."""
    if not isinstance(value, str):
        return value
    if value.startswith("["):
        return _from_json(value, "a list")
    return [word for word in (part.strip() for part in value.split(",")) if word]


def table(value: object) -> object:
    """Let an environment variable be a table as JSON."""
    return _from_json(value, "a table") if isinstance(value, str) else value


def _from_json(text: str, kind: str) -> object:
    try:
        return orjson.loads(text)  # strict: no text that is not UTF-8, as half of a pair is not
    except ValueError:
        raise ValueError(f"is not {kind} in JSON") from None


def redact_patterns(value: object) -> object:
    """Let an environment variable be one of the two words, or a list of patterns."""
    if isinstance(value, str) and value.startswith("["):
        return comma_list(value)
    if value not in ("default", "off") and not isinstance(value, list):
        raise ValueError('must be "default", "off", or a list of key patterns')
    return value


IdentityField = Literal[
    "actor.id",
    "actor.name",
    "actor.email",
    "actor.ip",
    "target.id",
    "target.name",
    "target.email",
]
"""The fields of an event that can identify a person."""

TextList = Annotated[list[str], BeforeValidator(comma_list)]

MOST_GLOB: Final = 200
"""Characters of a glob over actions: it is a label of a metric, and stands in the evidence."""


def action_glob(value: str) -> str:
    """Return *value* if it can be a glob over actions."""
    if not value or not value.isprintable() or value != value.strip() or "," in value:
        raise ValueError("must be a text without commas, and without blanks around it")
    if len(value) > MOST_GLOB:
        raise ValueError(f"must have at most {MOST_GLOB} characters")
    return value


Glob = Annotated[str, AfterValidator(action_glob)]
"""A glob over ``kind.verb`` and over native actions."""

Labels = Annotated[dict[str, str], BeforeValidator(table)]
