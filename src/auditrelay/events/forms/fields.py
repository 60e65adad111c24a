"""
Vendors' JSON as Elasticsearch accepts it: the author of a key must not keep an event out.

An object of a vendor becomes fields of a document. Some keys and numbers are then refused, and the
whole document with them:

* a key with U+0000, by ``flattened`` fields (github.com/elastic/elasticsearch/issues/90311);
* an empty key, by ``flattened`` fields until 8.5 (pull/90822), and one with an empty or blank part
  before, behind or between its dots by all others (``DotExpandingXContentParser``); a ``flattened``
  field takes dots alone, and fails when its source is put together again (issues/130139);
* a number of more than 1,000 characters and a key of more than 50,000, by the parser
  (``StreamReadConstraints`` of Jackson, which both products read JSON with).

Such a key is spelt otherwise, such a number becomes a text, and a member ``rewritten`` of the
object says so. Nearly all objects have none: their texts show it, those of a page at once.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

import orjson

from auditrelay.events.forms.nesting import deeper_than

MAX_KEY: Final = 8000
"""Characters."""

MAX_NUMBER: Final = 1000
"""Characters of a number."""

_REWRITTEN: Final = "some keys or numbers that Elasticsearch refuses are spelt otherwise"

_LONG_NUMBER: Final = re.compile(rb"[0-9.eE+-]{%d}" % (MAX_NUMBER + 1))

_BUT_DOTTED_KEYS: Final = bytes(set(range(256)) - set(b'":.'))
"""Without these a key with a dot in it is ``.":``, and nothing else is."""

_STRING: Final = re.compile(rb'"((?:[^"\\]|\\.)*+)"(\s*:)?', re.DOTALL)


def may_have_odd_keys(text: bytes) -> bool:
    """
    Return whether compact JSON *text*, or one of several in a row, may have a key that is refused.

    A guess, and a quick one: texts with dots or escapes in keys are looked at more closely.
    """
    plain = text
    if b"\\" in text:
        if b"\\u" in text:
            return has_odd_keys(text)
        plain = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    return b'"":' in plain or (
        b"." in plain and b'.":' in plain.translate(None, _BUT_DOTTED_KEYS) and has_odd_keys(text)
    )


def has_odd_keys(text: bytes) -> bool:
    """Return whether JSON *text* has a key with a blank part, or with an escape in it."""
    return any(
        b"\\" in key or not all(map(str.strip, key.decode().split(".")))
        for key, colon in _STRING.findall(text)
        if colon
    )


def may_have_long_parts(text: bytes) -> bool:
    """Return whether JSON *text* may have a number or a key that is too long: a guess."""
    return len(text) > MAX_NUMBER and (len(text) > MAX_KEY or _LONG_NUMBER.search(text) is not None)


def may_be_too_deep(text: bytes, levels: int) -> bool:
    """Return whether JSON *text* may have more *levels*, of objects and of parts of keys."""
    if text.count(b"{") + text.count(b"[") + text.count(b".") <= levels:
        return False
    return deeper_than(levels, text) or b'.":' in text.translate(None, _BUT_DOTTED_KEYS)


def acceptable(text: bytes, levels: int | None = None) -> bytes:
    """
    Return JSON *text* without keys and numbers that are refused; as it is, if it has none.

    With *levels*, what is deeper becomes a text; each part of a key is a level.
    """
    rewriter = _Rewriter(bounded=levels is not None)
    decoded = json.loads(text, parse_int=rewriter.number, parse_float=rewriter.number)
    value = rewriter.value(decoded, levels or 0)
    if not rewriter.changed:
        return text
    if isinstance(value, dict):
        value = {**value, _Names(value).unused("rewritten"): _REWRITTEN}
    return orjson.dumps(value)


class _Rewriter:
    """Spells keys and numbers otherwise, and notes in *changed* whether it had to."""

    def __init__(self, *, bounded: bool) -> None:
        self.changed = False
        self._bounded = bounded

    def number(self, digits: str) -> orjson.Fragment | str:
        """Keep a number as it was written, if it is short enough."""
        if len(digits) <= MAX_NUMBER:
            return orjson.Fragment(digits)
        self.changed = True
        return digits

    def value(self, node: Any, levels: int) -> Any:
        """Return *node* with accepted keys and, if bounded, with so many *levels* of objects."""
        if isinstance(node, list):
            return [self.value(each, levels) for each in node]
        if not isinstance(node, dict):
            return node
        found: dict[str, Any] = {}
        names = _Names(found)
        for key, each in node.items():
            name = names.unused(self._key(key, levels))
            below = levels - 1 - name.count(".")
            if self._bounded and below < 1 and isinstance(each, dict | list):
                self.changed = True
                found[name] = orjson.dumps(each).decode()
            else:
                found[name] = self.value(each, below)
        return found

    def _key(self, key: str, levels: int) -> str:
        name = key.replace("\0", "\ufffd")[:MAX_KEY]
        parts = name.split(".")
        if not all(map(str.strip, parts)):
            name = ".".join([part if part.strip() else f"{part}_" for part in parts])
        if self._bounded and name.count(".") >= levels:
            name = name.replace(".", "_")
        self.changed |= name != key
        return name


class _Names:
    """Finds keys that are not in *taken*: no object may have one twice."""

    def __init__(self, taken: Mapping[str, Any]) -> None:
        self._taken = taken
        self._last = Counter[str]()  # by key: to count from 1 each time is quadratic

    def unused(self, name: str) -> str:
        """Return *name*, or with a number if it is taken."""
        free = name
        while free in self._taken:
            self._last[name] += 1
            free = f"{name}#{self._last[name]}"
        return free
