"""
Make an event fit into what a receiver stores: flat, without lists, so many fields, so long.

Only for descriptions that ask for it: each event is looked into as a whole, which takes several
times as long as writing it.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson

from auditrelay.descriptions.receiver.model import ItemTable, Limits
from auditrelay.events.decode import decode
from auditrelay.events.marks import places
from auditrelay.sinks._requests import dump

CUT: Final = "cut"
"""The marker of auditrelay's own with the places where something was left out."""

LEAST: Final = 64
"""Bytes that are kept of every text when an item is too long as a whole."""


class TooMuch(ValueError):
    """The event is more than the receiver takes, and may not be cut; the message says what."""


class Shaper:
    """Shapes the objects of one receiver; *reserved* values are added to each afterwards."""

    def __init__(self, item: ItemTable, limits: Limits, reserved: int) -> None:
        self._flat = item.flat
        self._lists_as_text = item.lists == "text"
        self._limits = limits
        self._most_fields = None if limits.fields is None else limits.fields - reserved

    @staticmethod
    def is_needed(item: ItemTable, limits: Limits) -> bool:
        """Return whether events have to be looked into at all."""
        most = (limits.fields, limits.field_bytes, limits.depth)
        return item.flat or item.lists == "text" or any(each is not None for each in most)

    def shaped(self, text: bytes, longest: int | None = None) -> dict[str, Any]:
        """
        Return the object in *text* as the receiver takes it, its *longest* text of so many bytes.

        Raises TooMuch.
        """
        value = decode(text).value
        if not isinstance(value, dict):  # no form writes anything else
            raise TypeError("an event is an object")
        limits, cut = self._limits, dict[str, None]()
        if limits.depth is not None:
            value = {key: _no_deeper(each, limits.depth - 1) for key, each in value.items()}
        if self._flat:
            value = dict(_flat(value, ""))
        if self._lists_as_text:
            value = _without_lists(value)
        bounds = [each for each in (limits.field_bytes, longest) if each is not None]
        if bounds:
            value = self._shortened(value, min(bounds), "", cut)
        return self._with_marker(value, cut)

    def _shortened(self, value: Any, most: int, at: str, cut: dict[str, None]) -> Any:
        """Return *value* with no text of more than *most* bytes; *cut* gets the places."""
        if isinstance(value, str):
            if len(value) * 4 <= most or _size(value) <= most:
                return value
            if not self._limits.cut:
                raise TooMuch(f"the field {at} has {_size(value):,} bytes; the limit is {most:,}")
            cut[at] = None
            return value.encode("utf-8", "replace")[:most].decode("utf-8", "ignore")
        if isinstance(value, dict):
            return {
                key: self._shortened(each, most, f"{at}.{key}" if at else key, cut)
                for key, each in value.items()
            }
        if isinstance(value, list):
            return [self._shortened(each, most, at, cut) for each in value]
        return value

    def _with_marker(self, value: dict[str, Any], cut: dict[str, None]) -> dict[str, Any]:
        most = self._most_fields
        count = _fields(value)
        if most is not None and count > most:
            if not self._limits.cut:
                raise TooMuch(f"it has {count:,} fields; the limit is {self._limits.fields:,}")
            left = [most - 1]
            value = _first_fields(value, left, "", cut)
        elif most is not None and cut and count == most:
            left = [most - 1]
            value = _first_fields(value, left, "", cut)
        if cut:
            shown = ", ".join(places(tuple(cut)))
            if self._flat:
                value[f"auditrelay.{CUT}"] = shown
            else:
                own = value.get("auditrelay")
                value["auditrelay"] = {**(own if isinstance(own, dict) else {}), CUT: shown}
        return value


def set_at(value: dict[str, Any], steps: tuple[str, ...], to: Any, *, flat: bool) -> None:
    """Set what stands at *steps* of *value*; where it is *flat*, under their dotted key."""
    if flat:
        value[".".join(steps)] = to
        return
    *parents, last = steps
    node = value
    for step in parents:
        inner = node.get(step)
        # What the form shares between events is not changed.
        node[step] = node = {**inner} if isinstance(inner, dict) else {}
    node[last] = to


def _flat(value: Mapping[str, Any], at: str) -> Iterator[tuple[str, Any]]:
    for key, each in value.items():
        place = f"{at}.{key}" if at else key
        if isinstance(each, dict):
            yield from _flat(each, place)
        else:
            yield place, each


def _without_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_lists(each) for key, each in value.items()}
    return _as_text(value) if isinstance(value, list) else value


def _no_deeper(value: Any, levels: int) -> Any:
    """Return *value* with what is nested in more than *levels* objects and lists as a text."""
    if not isinstance(value, dict | list):
        return value
    if levels < 1:
        return _as_text(value)
    if isinstance(value, dict):
        return {key: _no_deeper(each, levels - 1) for key, each in value.items()}
    return [_no_deeper(each, levels - 1) for each in value]


def _as_text(value: Any) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # half a character, or a number beyond 64 bits
        return dump({"": value})[4:-1].decode()


def _size(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


def _fields(value: Any) -> int:
    """Return how many values in *value* are no objects; a list is one."""
    if isinstance(value, dict):
        return sum(map(_fields, value.values()))
    return 1


def _first_fields(
    value: dict[str, Any], left: list[int], at: str, cut: dict[str, None]
) -> dict[str, Any]:
    """Return *value* with as many of its first fields as are *left*; *cut* gets the others."""
    kept: dict[str, Any] = {}
    for key, each in value.items():
        place = f"{at}.{key}" if at else key
        if isinstance(each, dict):
            inner = _first_fields(each, left, place, cut)
            if inner or not each:
                kept[key] = inner
        elif left[0] > 0:
            left[0] -= 1
            kept[key] = each
        else:
            cut[place] = None
    return kept
