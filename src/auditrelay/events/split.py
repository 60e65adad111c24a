"""
Make several records of one that has a list of events in it.

Each gets the whole record with that list reduced to one element. Its text is derived: written again
from what was decoded, unless the list has one element only.
"""

import contextlib
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import orjson

from auditrelay.events.decode import Undecodable, decode, encode
from auditrelay.events.large import MAX_DECODED

MAX_ELEMENTS: Final = 100
"""A record with more of them stays whole: a page of such would take too long, and too much."""

MAX_DERIVED: Final = 131_072
MAX_GROWTH: Final = 8
"""
Bytes of all texts that are derived from one record, and how many times its own they may be: if they
would be more than both it stays whole.
"""


class Parts(NamedTuple):
    """The *texts* of a page after it was split, and for each the number of its element."""

    texts: list[bytes]
    elements: list[int | None]
    """None where a record stayed whole."""
    unsplit: set[int]
    """Of those the places of records that have such a list: it is too long."""


class Split:
    """Splits records at the list that stands under *keys*, each in the object under the former."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = tuple(keys)

    def __call__(self, texts: Sequence[bytes]) -> Parts:
        """Return the records of a page, in their order."""
        found = Parts([], [], set())
        for text in texts:
            derived = self._derived(text)
            if derived is None:
                found.unsplit.add(len(found.texts))
            found.texts.extend(derived or (text,))
            found.elements.extend(range(len(derived)) if derived else (None,))
        return found

    def _derived(self, text: bytes) -> list[bytes] | None:
        """Return the texts that *text* becomes: none without a list, None if that is too long."""
        if len(text) > MAX_DECODED:
            return None
        with contextlib.suppress(orjson.JSONDecodeError):
            if len(self._elements(orjson.loads(text))) == 1:
                return [text]
        try:
            decoded = decode(text)
        except Undecodable:
            return []
        elements = self._elements(decoded.value)
        if len(elements) < 2:
            return [text] if elements else []
        size = (len(decoded.compact) - len(encode(elements))) * len(elements)
        if (
            not decoded.complete
            or len(elements) > MAX_ELEMENTS
            or size > max(MAX_DERIVED, MAX_GROWTH * len(text))
        ):
            return None
        return [encode(self._reduced(decoded.value, element)) for element in elements]

    def _elements(self, record: Any) -> list[Any]:
        node = record
        for key in self._keys:
            node = node.get(key) if type(node) is dict else None
        return node if type(node) is list else []

    def _reduced(self, record: dict[str, Any], element: Any) -> dict[str, Any]:
        """Return *record* with the list reduced to *element*; what is beside it is shared."""
        whole = dict(record)
        node = whole
        for key in self._keys[:-1]:
            node[key] = dict(node[key])
            node = node[key]
        node[self._keys[-1]] = [element]
        return whole
