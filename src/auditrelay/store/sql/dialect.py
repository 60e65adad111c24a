"""What one engine says in other words than the other one: few things, each with a name."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Dialect:
    """
    The words of one engine.

    Parts of statements: *least* and *greatest* of two values, the hexadecimal *hex* of bytes (of
    ``{0}``), values *joined* as bytes or as *texts* with commas (of ``{0}``, in the order of
    ``{1}``), *bytes* that were appended to each other (``{0}``), *rows*, a row for each number from
    0 up to a count (the parameter ``:rows``, of :attr:`count`) in the column ``row.key``, *among*,
    that a column is in a list (the one parameter, of :attr:`values`), and *listed*, the same with
    the parameter ``{0}``.
    """

    least: str
    greatest: str
    hex: str
    joined: str
    texts: str
    bytes: str
    rows: str
    among: str
    listed: str
    count: Callable[[int], Any]
    values: Callable[[Sequence[Any]], Any]
    empty: str
    """Bytes, as many zeros as ``{0}`` says."""
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
    metas=("meta", "meta_text", "meta_bytes"),
)
