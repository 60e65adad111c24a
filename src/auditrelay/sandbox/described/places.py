"""Where things stand in a request, a reply and a record, in the notation of a description."""

import re
from typing import Any

_KEY = re.compile(r"((?:[^.\\]|\\.)*)(?:\.|$)")


def keys(path: str) -> list[str]:
    r"""Return the keys of *path*; ``\.`` is a dot inside one. Steps that search are kept whole."""
    found, position = [], 0
    while position < len(path):
        match = _KEY.match(path, position)
        if match is None:  # pragma: no cover  # a description was checked before
            raise ValueError(path)
        found.append(re.sub(r"\\(.)", r"\1", match[1]))
        position = match.end()
    return found


def is_plain(path: str) -> bool:
    """Whether *path* is a chain of keys alone, under which a value can be put."""
    return not any(mark in path for mark in "<[") and not any(key.isdigit() for key in keys(path))


def get(value: Any, path: str) -> Any:
    """Return what stands at the plain *path* of *value*, or None."""
    for key in keys(path):
        if isinstance(value, list) and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        elif isinstance(value, dict):
            value = value.get(key)
        else:
            return None
    return value


def put(holder: dict[str, Any], path: str, value: Any) -> None:
    """Put *value* at the plain *path* of *holder*, with the objects on the way."""
    *parents, last = keys(path)
    for key in parents:
        below = holder.get(key)
        if not isinstance(below, dict):
            below = holder[key] = {}
        holder = below
    holder[last] = value
