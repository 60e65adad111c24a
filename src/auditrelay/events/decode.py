"""
Decode one record from JSON text and encode it again, for any bytes that a vendor may send.

The result can be written as strict JSON: no NaN, no lone surrogates, no duplicate keys, no nesting
that a JSON library refuses. orjson decodes ordinary records; the standard library decodes the rest,
so that a malformed record does not fail its whole page.
"""

import contextlib
import json
import re
from codecs import BOM_UTF8
from collections.abc import Sequence
from math import isfinite
from typing import Any

import msgspec
import orjson

WHITESPACE = b" \t\r\n"
"""JSON whitespace."""

MAX_DEPTH = 200
"""Nesting levels beyond which a value is kept as text only: orjson writes at most 254."""

TOO_DEEP = "[nested too deeply: see the raw record]"

CUT_DEPTH = 300
"""Nesting levels that are decoded: more than MAX_DEPTH, so that what is cut is seen to be."""

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)
"""A text, also one that does not end: looking for its end from each quote would take for ever."""

NOT_DECODED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that it cannot decode: also an error of Python for no UTF-8."""

_SURROGATE = re.compile("[\ud800-\udfff]")

MAX_DIGITS = 4000
"""Digits beyond which an integer is kept as a text: Python refuses to write more than 4300."""


MAX_REPEATS = 1000
"""Repeated keys of a record whose earlier values are kept beside the last one."""

_INCOMPLETE = frozenset(("too_deep", "too_many_repeats"))
"""Warnings of a value in which something was left out."""


class Undecodable(ValueError):
    """The text is not JSON, or nested too deeply for both parsers."""


class Decoded(msgspec.Struct, frozen=True, gc=False):
    """
    The decoded *value* of a text.

    *verbatim*: the text itself is strict JSON with the same meaning, and may be passed on
    unchanged. *complete* is false if values were left out: nested too deeply, or of keys that are
    repeated without end. *compact* is the value as JSON without whitespace.
    """

    value: Any
    verbatim: bool
    complete: bool
    compact: bytes
    warnings: tuple[str, ...] = ()


def encode(value: Any) -> bytes:
    """Return *value* as compact JSON, with every digit of an integer beyond 64 bits."""
    try:
        return orjson.dumps(value)
    except TypeError:  # an integer beyond 64 bits
        return json.dumps(
            value, ensure_ascii=False, separators=(",", ":"), allow_nan=False
        ).encode()


def one_line(text: bytes) -> bytes:
    """Return JSON *text* without line ends: strict JSON has these between tokens only."""
    if b"\n" in text or b"\r" in text:
        return text.translate(None, b"\r\n")
    return text


def one_lines(texts: Sequence[bytes]) -> list[bytes]:
    """Return :func:`one_line` of each of *texts*: a page of them is looked through at once."""
    page = b"".join(texts)
    return list(map(one_line, texts)) if b"\n" in page or b"\r" in page else list(texts)


def splice(text: msgspec.Raw) -> orjson.Fragment:
    """Return JSON *text* as part of a value for orjson, on one line, without decoding it."""
    return orjson.Fragment(one_line(bytes(text)))


def decode(text: bytes) -> Decoded:
    """Return the value of *text*, or raise Undecodable."""
    try:
        value = orjson.loads(text)
        compact = orjson.dumps(value)
    except (orjson.JSONDecodeError, TypeError):
        return _decode_leniently(text)
    # Duplicate keys, integers beyond 64 bits and the like do not survive decoding and encoding:
    # only a text that does (ignoring whitespace) is verbatim.
    if is_same(compact, text):
        return Decoded(value, True, True, compact)  # noqa: FBT003  # positional is twice as fast
    return _decode_leniently(text)


def is_same(compact: bytes, text: bytes) -> bool:
    """Return whether *text* is the JSON text *compact*, but for whitespace."""
    return compact == text or compact.translate(None, WHITESPACE) == text.translate(
        None, WHITESPACE
    )


def values_of(texts: Sequence[bytes]) -> tuple[list[Any], list[str | None], list[bool]]:
    """Return the values of *texts*, as JSON (None for null), and whether they are that JSON."""
    page = b"[" + b",".join(texts) + b"]"  # each is one JSON value
    with contextlib.suppress(orjson.JSONDecodeError, TypeError):
        values = orjson.loads(page)
        if orjson.dumps(values) == page:
            same = [True] * len(texts)
            return values, [None if each == b"null" else each.decode() for each in texts], same
    rows = list(map(_value, texts))
    return [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]


def _value(text: bytes) -> tuple[Any, str | None, bool]:
    try:
        value = orjson.loads(text)
        compact = orjson.dumps(value)
    except (orjson.JSONDecodeError, TypeError):
        return None, None, False
    return value, None if value is None else compact.decode(), is_same(compact, text)


def _decode_leniently(text: bytes) -> Decoded:
    reader = _LenientReader()
    try:
        unicode = text.decode("utf-8-sig")
    except UnicodeDecodeError:
        unicode = text.decode("utf-8-sig", "replace")
        reader.warn("replaced_characters")
    try:
        value = reader.read(unicode)
        value = reader.clean(value, 1)
    except (json.JSONDecodeError, RecursionError) as error:
        raise Undecodable(str(error)) from error
    return Decoded(
        value,
        verbatim=not reader.warnings and not text.startswith(BOM_UTF8),
        complete=_INCOMPLETE.isdisjoint(reader.warnings),
        compact=encode(value),
        warnings=tuple(reader.warnings),
    )


def integer(digits: str) -> int | str:
    """Return the number of *digits*; as a text where Python refuses to write the number."""
    return int(digits) if len(digits) <= MAX_DIGITS else digits


def without_depths(text: bytes) -> bytes:
    """Return JSON *text* with null for what is nested too deeply to be decoded."""
    kept: list[bytes] = []
    start = depth = 0
    for found in _TOKEN.finditer(text):
        if found[0] in (b"[", b"{"):
            if depth == CUT_DEPTH:
                kept.append(text[start : found.start()])
            depth += 1
        elif found[0] in (b"]", b"}"):
            depth -= 1
            if depth == CUT_DEPTH:
                kept.append(b"null")
                start = found.end()
    kept.append(text[start:])
    return b"".join(kept)


class _LenientReader:
    """Turns almost-JSON into strict JSON, and records what it had to change."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self._repeats = 0

    def warn(self, code: str) -> None:
        if code not in self.warnings:
            self.warnings.append(code)

    def read(self, text: str) -> Any:
        """Return the value of *text*, in which texts may have line ends, and depths are cut."""
        try:
            return self._load(text)
        except json.JSONDecodeError:
            value = self._load(text, strict=False)
            self.warn("replaced_characters")
            return value
        except RecursionError:
            return self._load(without_depths(text.encode()).decode(), strict=False)

    def _load(self, text: str, *, strict: bool = True) -> Any:
        return json.loads(
            text,
            strict=strict,
            object_pairs_hook=self.object,
            parse_constant=self.constant,
            parse_int=self.integer,
            parse_float=self.real,
        )

    def constant(self, word: str) -> str:
        """Keep NaN and Infinity as words."""
        self.warn("replaced_numbers")
        return word

    def integer(self, digits: str) -> int | str:
        """Keep every digit, see :func:`integer`."""
        number = integer(digits)
        if isinstance(number, str):
            self.warn("replaced_numbers")
        return number

    def real(self, digits: str) -> float | str:
        """Keep a number that is larger than any float as a text."""
        number = float(digits)
        if isfinite(number):
            return number
        self.warn("replaced_numbers")
        return digits

    def object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """
        Keep the earlier value of a duplicate key as ``key#1``.

        The last value keeps the name, as in most parsers; Elasticsearch refuses duplicate keys.
        """
        found = dict(pairs)
        if len(found) == len(pairs):
            return found
        self.warn("duplicate_keys")
        found = {}
        numbers: dict[str, int] = {}  # by key the last one: to count from 1 each time is quadratic
        for place, (key, value) in enumerate(pairs):
            if key in found:
                self._repeats += 1
                if self._repeats > MAX_REPEATS:
                    self.warn("too_many_repeats")
                    found.update(pairs[place:])  # at once: there may be millions
                    break
                number = numbers.get(key, 0) + 1
                while f"{key}#{number}" in found:
                    number += 1
                numbers[key] = number
                found[f"{key}#{number}"] = found[key]
            found[key] = value
        return found

    def text(self, text: str) -> str:
        """Replace lone surrogates, which UTF-8 cannot encode."""
        if _SURROGATE.search(text) is None:
            return text
        self.warn("replaced_characters")
        return _SURROGATE.sub("\ufffd", text)

    def clean(self, node: Any, depth: int) -> Any:
        """Return *node* with valid texts only, and without values nested too deeply."""
        if isinstance(node, str):
            return self.text(node)
        if not isinstance(node, dict | list):
            return node
        if depth > MAX_DEPTH:
            self.warn("too_deep")
            return TOO_DEEP
        if isinstance(node, list):
            return [self.clean(item, depth + 1) for item in node]
        return self.object(
            [(self.text(key), self.clean(item, depth + 1)) for key, item in node.items()]
        )
