"""A connection to the state, as the modules here use it, whatever the engine is."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from auditrelay.evidence.heads import Keys
from auditrelay.store.sql.dialect import Dialect

Value = str | int | bytes | None

Parameters = Sequence[Any] | Mapping[str, Any]


class Cursor(Protocol):
    """The rows that a statement has found, or how many it has changed (*rowcount*)."""

    @property
    def rowcount(self) -> int:
        """How many rows the statement has changed."""

    def fetchone(self) -> Any:
        """Return the next row, a tuple; None if there is none."""

    def fetchall(self) -> list[Any]:
        """Return all rows that are left."""

    def __iter__(self) -> Iterator[Any]:
        """Yield the rows that are left."""


class Connection(Protocol):
    """
    Runs statements within a transaction that its owner begins and ends.

    Placeholders are ``?``, ``?1`` (numbered) or ``:name``. With *keys* the evidence has tags.
    """

    keys: Keys | None

    @property
    def dialect(self) -> Dialect:
        """What the engine says in other words."""

    def execute(self, sql: str, parameters: Parameters = ..., /) -> Cursor:
        """Run one statement; an error of it may be raised later, at the end of the transaction."""

    def stream(self, sql: str, parameters: Parameters = ..., /) -> Iterator[Any]:
        """Yield the rows that *sql* finds, which need not fit in memory."""

    def executemany(self, sql: str, parameters: Iterable[Parameters], /) -> Any:
        """Run one statement that returns nothing with each of *parameters*."""
