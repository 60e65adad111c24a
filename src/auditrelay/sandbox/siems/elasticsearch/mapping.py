"""
A simple dynamic mapping: the first document sets a field's type, later ones must conform.

Date and IP fields of ECS are fixed beforehand, as its component templates do.

What is refused for a key's or a value's sake, by the classes of github.com/elastic/elasticsearch:

* ``DotExpandingXContentParser``, ``DocumentParser``: keys with an empty or blank part;
* ``FlattenedFieldParser``: keys with U+0000, more than 20 levels, and a value that makes, with its
  path, a term of more than 32,766 bytes;
* ``MappingLookup``: more than 20 levels of fields; ``NumberFieldMapper``: whole numbers of more
  than 64 bits and real ones that are infinite.
"""

import ipaddress
import re
from collections.abc import Iterator
from datetime import datetime
from fnmatch import fnmatchcase
from math import isfinite
from typing import Any

_DATES = (
    "@timestamp",
    "event.created",
    "event.ingested",
    "event.start",
    "event.end",
)
_ADDRESSES = ("source.ip", "client.ip", "destination.ip", "host.ip", "related.ip")
_DEPTH = 20
_TERM = 32_766
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?")
_DATE = re.compile(
    r"\d{4}(-\d{2}(-\d{2}(T\d{2}(:\d{2}(:\d{2}([.,]\d{1,9})?)?)?(Z|[+-]\d{2}:?\d{2})?)?)?)?"
)


class Conflict(Exception):  # an answer, not a bug of ours
    """A document does not fit the mapping; *kind* is the error type if not the usual one."""

    def __init__(self, reason: str, kind: str = "") -> None:
        super().__init__(reason)
        self.kind = kind


class Mapping:
    """The fields of one index and their types."""

    def __init__(
        self, constant: dict[str, str], flattened: tuple[str, ...], total_fields: int
    ) -> None:
        self._constant = constant
        self._flattened = flattened
        self._total = total_fields
        self.types: dict[str, str] = {
            **dict.fromkeys(_DATES, "date"),
            **dict.fromkeys(_ADDRESSES, "ip"),
            **dict.fromkeys(constant, "constant_keyword"),
            **dict.fromkeys(("event", "source", "client", "destination", "host"), "object"),
        }

    def check(self, document: dict[str, Any]) -> None:
        """Add the fields of *document*, or raise Conflict and leave the mapping unchanged."""
        new: dict[str, str] = {}
        for path, value in self._leaves("", document, new):
            self._check_value(path, value, new)
        if len(self.types) + len(new) > self._total:
            text = f"Limit of total fields [{self._total}] has been exceeded"
            raise Conflict(text, "illegal_argument_exception")
        self.types.update(new)

    def properties(self, text: str) -> dict[str, Any]:
        """Return the fields as in ``GET _mapping``; *text* is the type of a full-text field."""
        shown: dict[str, Any] = {}
        for path, kind in self.types.items():
            if kind == "object":
                continue
            *parents, last = path.split(".")
            place = shown
            for name in parents:
                place = place.setdefault(name, {}).setdefault("properties", {})
            shown_as = kind
            if kind == "keyword":
                shown_as = "match_only_text" if path == "message" else text
            place[last] = {"type": shown_as}
        return shown

    def _leaves(
        self, prefix: str, value: dict[str, Any], new: dict[str, str]
    ) -> Iterator[tuple[str, Any]]:
        for key, part in value.items():
            path = f"{prefix}{key}"
            if not key.strip("."):
                raise Conflict(f"field name [{key}] cannot be empty or contain only dots")
            if not all(map(str.strip, key.split("."))):
                raise Conflict(
                    "object field starting or ending with a [.] makes object resolution "
                    f"ambiguous: [{path}]"
                )
            if path.count(".") >= _DEPTH:
                raise Conflict(
                    f"Limit of mapping depth [{_DEPTH}] has been exceeded due to object field "
                    f"[{path}]",
                    "illegal_argument_exception",
                )
            # a dotted key is the same as nested objects
            for dot in [at for at, letter in enumerate(key) if letter == "."]:
                self._claim(f"{prefix}{key[:dot]}", "object", new)
            yield from self._part(path, part, new)

    def _part(self, path: str, part: Any, new: dict[str, str]) -> Iterator[tuple[str, Any]]:
        if any(fnmatchcase(path, pattern) for pattern in self._flattened):
            values = part if isinstance(part, list) else [part]
            if not all(isinstance(value, dict | None) for value in values):
                raise Conflict(f"failed to parse field [{path}] of type [flattened]")
            for value in values:
                _check_flattened(path, "", value, 1)
            self._claim(path, "flattened", new)
        elif isinstance(part, dict):
            self._claim(path, "object", new)
            yield from self._leaves(f"{path}.", part, new)
        elif isinstance(part, list):
            for value in part:
                yield from self._part(path, value, new)
        elif part is not None:
            yield path, part

    def _claim(self, path: str, kind: str, new: dict[str, str]) -> None:
        known = self.types.get(path) or new.get(path)
        if known is None:
            new[path] = kind
        elif known != kind:
            raise Conflict(
                f"object mapping for [{path}] tried to parse field [{path}] as object, but found a "
                f"concrete value"
                if kind != "object"
                else f"failed to parse field [{path}] of type [{known}]: found an object"
            )

    def _check_value(self, path: str, value: Any, new: dict[str, str]) -> None:
        known = self.types.get(path) or new.get(path)
        if known is None:
            known = new[path] = _kind(value)
        if known == "object":
            raise Conflict(
                f"object mapping for [{path}] tried to parse field [{path}] as object, but found a "
                "concrete value"
            )
        if known == "constant_keyword" and value != self._constant[path]:
            raise Conflict(
                f"failed to parse field [{path}] of type [constant_keyword]: [constant_keyword] "
                f"field [{path}] only accepts values that are equal to the value defined in the "
                f"mappings [{self._constant[path]}], but got [{value}]"
            )
        if not _fits(known, value):
            raise Conflict(f"failed to parse field [{path}] of type [{known}]")


def _check_flattened(field: str, path: str, value: Any, depth: int) -> None:
    """Raise Conflict if a ``flattened`` *field* refuses *value* at *path* in it."""
    if isinstance(value, list):
        for each in value:
            _check_flattened(field, path, each, depth)
    elif isinstance(value, dict):
        if depth > _DEPTH:
            raise Conflict(
                f"The provided [flattened] field [{field}] exceeds the maximum depth limit of "
                f"[{_DEPTH}]."
            )
        for key, each in value.items():
            _check_flattened(field, f"{path}.{key}" if path else key, each, depth + 1)
    elif value is not None:
        if "\0" in path:
            raise Conflict(
                "Keys in [flattened] fields cannot contain the reserved character \\0. Offending "
                f"key: [{path}]."
            )
        size = len(f"{path}\0{value}".encode("utf-8", "surrogatepass"))
        if size > _TERM:
            raise Conflict(
                f"Flattened field [{field}] contains one immense field whose keyed encoding is "
                f"longer than the allowed max length of {_TERM} bytes."
            )


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "long"
    return "float" if isinstance(value, float) else "keyword"


def _fits(kind: str, value: Any) -> bool:
    if kind == "date":
        return _is_date(value)
    if kind == "ip":
        return _is_address(value)
    if kind == "boolean":
        return isinstance(value, bool) or value in ("true", "false", "")
    if kind in {"long", "float"}:
        if isinstance(value, str) and _NUMBER.fullmatch(value) is not None:
            value = float(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return -(2**63) <= value < 2**63 if kind == "long" else isfinite(value)
    return True


def _is_date(value: Any) -> bool:
    """Return whether *value* is of the format strict_date_optional_time or epoch_millis."""
    if isinstance(value, int) and not isinstance(value, bool):
        return True
    if not isinstance(value, str) or not _DATE.fullmatch(value):
        return False
    try:
        datetime.fromisoformat(f"{value[:10]}" if len(value) >= 10 else f"{value}-01-01"[:10])
    except ValueError:
        return False
    return True


def _is_address(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True
