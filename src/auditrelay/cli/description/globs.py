"""Pairs of globs in a table of actions that can fit one action, and differ in what it means."""

from collections.abc import Iterator, Mapping
from functools import cache
from itertools import combinations
from typing import Any, Final

from auditrelay.descriptions.load import Description

_SHOWN: Final = 5
"""Pairs that are named: a glob that ends and one that begins with a star meet in some text."""


def overlaps(description: Description) -> Iterator[str]:
    """Yield a sentence for each table with such pairs, the most doubtful of them first."""
    for name in description.feeds or (None,):
        feed = description.feed(name)
        where = "actions" if name is None else f"feeds.{name}.actions"
        yield from _of_table(where, feed.actions)
        for action, table in feed.actions.items():
            if isinstance(table, dict):
                yield from _of_table(f'{where}."{action}"', table)


def _of_table(where: str, table: Mapping[str, Any]) -> Iterator[str]:
    # The one that counts first: it has more letters, or stands before the other.
    globs = sorted((action for action in table if "*" in action), key=_letters, reverse=True)
    pairs = [
        (one, other)
        for one, other in combinations(globs, 2)
        # A special case within a general one is meant as it is.
        if table[one] != table[other] and meet(one, other) and not _holds(other, one)
    ]
    if not pairs:
        return
    pairs.sort(key=lambda pair: _letters(pair[0]) - _letters(pair[1]))
    shown = ", ".join(f'"{one}" before "{other}"' for one, other in pairs[:_SHOWN])
    more = f", and {len(pairs) - _SHOWN} more pairs" if len(pairs) > _SHOWN else ""
    yield f"{where}: globs that can fit one action, and which of them counts: {shown}{more}"


def _letters(glob: str) -> int:
    return len(glob.replace("*", ""))


def meet(one: str, other: str) -> bool:
    """Return whether some text fits both globs, in which ``*`` stands for any characters."""

    @cache
    def rest(i: int, j: int) -> bool:
        if i == len(one) and j == len(other):
            return True
        if i < len(one) and one[i] == "*":
            return rest(i + 1, j) or (j < len(other) and rest(i, j + 1))
        if j < len(other) and other[j] == "*":
            return rest(i, j + 1) or (i < len(one) and rest(i + 1, j))
        return i < len(one) and j < len(other) and one[i] == other[j] and rest(i + 1, j + 1)

    return rest(0, 0)


def _holds(glob: str, other: str) -> bool:
    """Return whether *glob* fits every text that the glob *other* fits."""

    @cache
    def rest(i: int, j: int) -> bool:
        if i < len(glob) and glob[i] == "*":
            return rest(i + 1, j) or (j < len(other) and rest(i, j + 1))
        if i == len(glob) or j == len(other):
            return i == len(glob) and j == len(other)
        return glob[i] == other[j] and rest(i + 1, j + 1)

    return rest(0, 0)
