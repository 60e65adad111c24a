"""SQL as both engines write it, with the placeholders of SQLite, in the form of PostgreSQL."""

import re
from functools import lru_cache
from typing import Final, NamedTuple

_TOKEN: Final = re.compile(
    r"""
      '(?:[^']|'')*'                    # a string
    | "(?:[^"]|"")*"                    # a quoted name
    | --[^\n]*                          # a comment
    | ::                                # a cast
    | \?(?P<number>\d+)
    | (?P<next>\?)
    | :(?P<name>[A-Za-z_]\w*)
    """,
    re.VERBOSE,
)


class Statement(NamedTuple):
    """
    A statement with the placeholders ``$1``, ``$2``... of PostgreSQL.

    *names* are those of its parameters in the order of their numbers, None where they have none;
    *number* is how many there are.
    """

    sql: bytes
    names: tuple[str, ...] | None
    number: int


@lru_cache(maxsize=1_000)
def statement(sql: str) -> Statement:
    """
    Return *sql*, whose placeholders are ``?``, ``?1`` or ``:name``, for PostgreSQL.

    A ``?`` has the number after the largest so far, as in SQLite. Strings, quoted names, comments
    and casts stay as they are. Raises ValueError if names and numbers are mixed.
    """
    highest = 0
    numbers: dict[str, int] = {}

    def written(token: re.Match[str]) -> str:
        nonlocal highest
        if token["name"] is not None:
            return f"${numbers.setdefault(token['name'], len(numbers) + 1)}"
        if token["number"] is not None:
            number = int(token["number"])
        elif token["next"] is not None:
            number = highest + 1
        else:
            return token[0]
        highest = max(highest, number)
        return f"${number}"

    text = _TOKEN.sub(written, sql)
    if numbers and highest:
        raise ValueError(f"parameters with names and with numbers: {sql}")
    return Statement(text.encode(), tuple(numbers) or None, len(numbers) or highest)
