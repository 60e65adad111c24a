"""Values on their way into PostgreSQL and back: which types they have there."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg.adapt import Loader, PyFormat
from psycopg.pq import Format
from psycopg.types.numeric import (
    Int8BinaryDumper,
    Int8Dumper,
    NumericBinaryLoader,
    NumericLoader,
)

if TYPE_CHECKING:
    from decimal import Decimal

_ODD: Final = re.compile("[\0\ud800-\udfff]")
"""What the type text of PostgreSQL cannot hold, and SQLite can."""


def storable(text: str) -> str:
    r"""Return *text* with each NUL and lone surrogate written as what it is: ``\u0000``."""
    if text.isascii() and "\0" not in text:
        return text
    return _ODD.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def parameters(
    values: Sequence[Any] | Mapping[str, Any], names: tuple[str, ...] | None, count: int
) -> list[Any]:
    """
    Return *values* in the order of the *count* parameters of a statement, as they can be stored.

    Raises ValueError if they are not as many, and KeyError if one of *names* is missing.
    """
    if names is not None:
        if not isinstance(values, Mapping):
            raise ValueError(f"the parameters {', '.join(names)} are given without names")
        return [_storable(values[name]) for name in names]
    if isinstance(values, Mapping) and count:
        raise ValueError("the parameters of a statement without names are given with names")
    if not isinstance(values, Mapping) and len(values) != count:
        raise ValueError(f"{len(values)} parameters for {count} placeholders")
    return [_storable(value) for value in values]


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, (list, tuple)):
        return [_storable(each) for each in value]
    return value


def formats(values: Sequence[Any]) -> list[PyFormat]:
    """Return in which format each of *values* is sent: an array as text, whatever it is of."""
    return [PyFormat.TEXT if isinstance(value, list) else PyFormat.BINARY for value in values]


class _TextNumber(Loader):
    """Reads a ``numeric``: a sum of integers, say, is one. It is a number as SQLite has it."""

    _loader: type[Loader] = NumericLoader

    def load(self, data: Any) -> int | float:
        """Return the number as an int if it is whole, else as a float."""
        found: Decimal = self._loader(self.oid, self.connection).load(data)
        return int(found) if found == found.to_integral_value() else float(found)


class _BinaryNumber(_TextNumber):
    format = Format.BINARY
    _loader = NumericBinaryLoader


def adapt(raw: psycopg.Connection[Any]) -> None:
    """
    Let *raw* have the types of the state: every int is a ``bigint``, no number is a Decimal.

    With psycopg's own types the type of a parameter would depend on its value.
    """
    for dumper in (Int8Dumper, Int8BinaryDumper):
        raw.adapters.register_dumper(int, dumper)
    for loader in (_TextNumber, _BinaryNumber):
        raw.adapters.register_loader("numeric", loader)
