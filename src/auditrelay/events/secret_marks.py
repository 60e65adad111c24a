"""
Whether one of many marks is in the text of a page: the beginnings of tokens, words before a secret.

To look for forty of them one by one costs 12 ns a character. ahocorasick_rs, which is the Rust
crate aho-corasick, looks for all at once in 0.2 ns: a page without any costs next to nothing.
"""

from functools import cached_property
from typing import Any, Final

_BEGINNING: Final = 4096
"""Bytes that are searched first: where marks are many, not all of them have to be found."""


class Marks:
    """A set of *marks*. More than some sixty, or very short ones, are searched for more slowly."""

    def __init__(self, *marks: bytes) -> None:
        self._marks = marks

    @cached_property
    def _find(self) -> Any:
        # Imported with the first page: a start and a command do without it.
        from ahocorasick_rs import BytesAhoCorasick, MatchKind  # noqa: PLC0415  # see above

        # Of the kinds of match, this one alone has the fast search for few patterns.
        return BytesAhoCorasick(self._marks, MatchKind.LeftmostFirst).find_matches_as_indexes

    def are_in(self, text: bytes) -> bool:
        """Return whether at least one of them is in *text*."""
        return bool(self._find(text[:_BEGINNING]) or self._find(text))
