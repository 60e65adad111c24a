"""What one engine says in other words than the other one: few things, each with a name."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Dialect:
    """The words of one engine: parts of statements, and what parameters are given as."""

    least: str
    """The function that returns the least of two values."""
    greatest: str
    """The function that returns the greatest of two values."""
    hex: str
    """The bytes ``{0}`` in hexadecimal digits, of either case."""
    empty: str
    """Bytes: as many zeros as ``{0}`` says."""
    bytes: str
    """The bytes ``{0}``, which were appended to each other."""
    joined: str
    """The bytes ``{0}`` of all rows, in the order of ``{1}``, in which rows come already."""
    texts: str
    """The texts ``{0}`` of all rows, with commas, in the order of ``{1}``, likewise."""
    rows: str
    """A table with one row for each number from 0 to below ``:rows``, in ``row.key``."""
    count: Callable[[int], Any]
    """Returns the parameter ``:rows`` for that many rows."""
    among: str
    """Behind a value: that the list ``?`` has it."""
    listed: str
    """The same with the list ``{0}``."""
    values: Callable[[Sequence[Any]], Any]
    """Returns the parameter that is a list of these values."""
    appended: int
    """Up to how many bytes a value is appended to: each time, all of it is written again."""
    metas: tuple[str, str, str]
    """The tables of named numbers, texts and bytes."""


def _zeros(count: int) -> str:
    """Return a JSON list of *count* numbers, whose keys are the numbers of rows."""
    return f"[{',0' * count}]".replace("[,", "[", 1)


def _json(values: Sequence[Any]) -> str:
    return json.dumps(list(values))


SQLITE: Final = Dialect(
    least="min",
    greatest="max",
    hex="hex({0})",
    # Its aggregates go by the order of the rows that they are given.
    joined="cast(group_concat({0}, '') as blob)",
    texts="group_concat({0})",
    bytes="cast({0} as blob)",
    rows="json_each(:rows) as row",
    among="in (select value from json_each(?))",
    listed="in (select value from json_each({0}))",
    count=_zeros,
    values=_json,
    empty="zeroblob({0})",
    appended=8000,
    metas=("meta", "meta", "meta"),
)

POSTGRES: Final = Dialect(
    least="least",
    greatest="greatest",
    hex="encode({0}, 'hex')",
    joined="string_agg({0}, ''::bytea order by {1})",
    texts="string_agg({0}, ',' order by {1})",
    bytes="{0}",
    rows="generate_series(0, cast(:rows as integer) - 1) as row (key)",
    among="= any(?)",
    listed="= any({0})",
    count=int,
    values=list,
    empty="decode(repeat('00', {0}), 'hex')",
    appended=800,  # two of them in a row are not stored apart from it, in chunks
    metas=("meta", "meta_text", "meta_bytes"),
)
