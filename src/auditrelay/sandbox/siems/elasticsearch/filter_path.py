"""
Elasticsearch's ``filter_path``: keep only the named parts of an answer.

https://www.elastic.co/docs/reference/elasticsearch/rest-apis/common-options. ``*`` is one step,
``**`` any number of steps, lists are transparent, a leading ``-`` excludes.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

_NOTHING = object()


def filtered(value: Any, paths: Sequence[str]) -> Any:
    """Return the parts of *value* that the *paths* include and do not exclude, or ``{}``."""
    wanted = [path.split(".") for path in paths if not path.startswith("-")]
    unwanted = [path[1:].split(".") for path in paths if path.startswith("-")]
    if wanted:
        value = _included(value, wanted)
    if unwanted and value is not _NOTHING:
        value = _excluded(value, unwanted)
    return {} if value is _NOTHING else value


def _next(key: str, paths: list[list[str]]) -> list[list[str]]:
    """Return the rest of each of the *paths* after the step to *key*."""
    left = []
    for path in paths:
        if not path:
            continue
        if path[0] == "**":
            left.append(path)
            left += _next(key, [path[1:]])
        elif fnmatchcase(key, path[0]):
            left.append(path[1:])
    return left


def _included(value: Any, paths: list[list[str]]) -> Any:
    if [] in paths or ["**"] in paths:
        return value
    if isinstance(value, dict):
        kept = {}
        for key, part in value.items():
            left = _next(key, paths)
            found = _included(part, left) if left else _NOTHING
            if found is not _NOTHING:
                kept[key] = found
        return kept or _NOTHING
    if isinstance(value, list):
        found = [_included(part, paths) for part in value]
        return [part for part in found if part is not _NOTHING] or _NOTHING
    return _NOTHING


def _excluded(value: Any, paths: list[list[str]]) -> Any:
    if isinstance(value, dict):
        kept = {}
        for key, part in value.items():
            left = _next(key, paths)
            if [] not in left:
                kept[key] = _excluded(part, left) if left else part
        return kept
    if isinstance(value, list):
        return [_excluded(part, paths) for part in value]
    return value
