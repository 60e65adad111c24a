"""
The tables of a description's file, each checked by itself, and sentences about what is wrong.

One wrong table does not hide the problems of others: it is left out, and the others are checked
again.
"""

import copy
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Generic, NamedTuple, TypeVar

from pydantic import ValidationError

from auditrelay.descriptions.model import Table
from auditrelay.settings.wording import KeyPath, explained, one_line

T = TypeVar("T", bound=Table)

Problem = tuple[KeyPath, str]
"""A key, and what is wrong with it."""


class Right(NamedTuple, Generic[T]):
    """What is right of a file: its tables, what is left of its text, and what was left out."""

    file: T
    raw: dict[str, Any]
    broken: frozenset[KeyPath]


def in_lines(path: Path, found: Iterable[Problem]) -> list[str]:
    """Return the sentences of *found* about the file *path*, each once."""
    lines = (one_line(f"{path}: {_key(key)}: {sentence}") for key, sentence in found)
    return list(dict.fromkeys(lines))


def in_order(path: Path, table: Mapping[str, Any], found: Iterable[Problem]) -> list[str]:
    """Return the sentences of *found* about the file *path*, in the order of its *table*."""
    order = {key: number for number, key in enumerate(table)}
    return in_lines(
        path, sorted(found, key=lambda problem: order.get(str(problem[0][0]), len(order)))
    )


_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")


def _key(path: KeyPath) -> str:
    """Return *path* as it is written in TOML: ``actions."user.create"``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            quoted = part if _BARE.fullmatch(part) else f'"{part}"'
            text += f".{quoted}" if text else quoted
    return text


def each_table(
    table: Mapping[str, Any],
    model: type[T],
    placeholders: Mapping[str, Any],
    table_of: Callable[[KeyPath], KeyPath],
) -> tuple[list[Problem], Right[T] | None]:
    """
    Return what is wrong with each part of a file, no *model*, by itself, and what is right of it.

    *placeholders* stand for required keys that are wrong, while the others are checked. *table_of*
    is the part to leave out because of a problem.
    """
    found: list[Problem] = []
    broken: set[KeyPath] = set()
    left = copy.deepcopy(dict(table))
    for _ in range(3):  # a table that is taken out can leave one that is not whole
        try:
            file = model(**left)
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                path, sentence = explained(detail, model, left)
                found.append((path, sentence))
                is_unknown = detail["type"] == "extra_forbidden"
                broken.add(path if is_unknown else table_of(path))
            for path in broken:
                _take_out(left, path, placeholders)
        else:
            return found, Right(file, left, frozenset(broken))
    return found, None


def names_in(table: Mapping[str, Any], kind: str) -> frozenset[str]:
    """Return the names that *table* declares as a *kind*, those with problems too."""
    declared = table.get(kind)
    return frozenset(declared if isinstance(declared, Mapping) else ())


def _take_out(table: dict[str, Any], path: KeyPath, placeholders: Mapping[str, Any]) -> None:
    *parents, last = path
    node: Any = table
    for key in parents:
        node = node.get(key) if isinstance(node, dict) else None
    if isinstance(node, dict):
        node.pop(last, None)
    if len(path) == 1 and last in placeholders:
        table[str(last)] = placeholders[str(last)]


def written_path(table: Mapping[str, Any], folder: Path, what: str) -> Path:
    """
    Return the path under the key ``description`` of *table*, relative to *folder*.

    *what* is what the file describes. Raises ValueError with what is wrong with the key.
    """
    written = table.get("description")
    if written is None:
        raise ValueError(f"is missing: write the path of the file that describes the {what}")
    if not isinstance(written, str):
        raise ValueError("must be a text: the path of a file")  # noqa: TRY004  # as of all keys
    if not written:
        raise ValueError(f"is empty: write the path of the file that describes the {what}")
    try:
        return folder / Path(written).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{written!r}: no such user has a home folder") from error
