"""
Holes in the texts of a description: ``{name}``, which stands for what the operator has set.

A hole takes a text, and nothing can be computed in it. Braces around anything but a name are no
hole, so that a GraphQL query can be written as it is.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal
from urllib.parse import quote

HOLE: Final = re.compile(r"\{([a-z][a-z0-9_]*)\}")
"""A hole; the name is its group."""

Place = Literal["plain", "path"]


def names(text: str) -> list[str]:
    """Return the names of the holes in *text*, in their order."""
    return HOLE.findall(text)


def fill(text: str, values: Mapping[str, str], place: Place = "plain") -> str:
    """
    Return *text* with each hole filled from *values*.

    In a *path* a value is percent-encoded whole, its slashes too. Everywhere else it stands as it
    is: the parameters of a query and the headers are encoded where the request is written, and
    the host's values have no character that would need it (``host_problem``).
    """
    if place == "path":
        return HOLE.sub(lambda found: quote(values[found[1]], safe=""), text)
    return HOLE.sub(lambda found: values[found[1]], text)


def fill_address(address: str, values: Mapping[str, str]) -> str:
    """Return the *address* with its holes filled, percent-encoded behind the host."""
    host, path = split_address(address)
    return fill(host, values) + fill(path, values, "path")


def fill_all(value: Any, values: Mapping[str, str]) -> Any:
    """Return the JSON *value* with the holes in all its texts filled."""
    if isinstance(value, str):
        return fill(value, values)
    if isinstance(value, Mapping):
        return {key: fill_all(each, values) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [fill_all(each, values) for each in value]
    return value


def texts(
    value: Any, path: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield each text inside of the JSON *value*, and the keys that lead to it from *path*."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from texts(each, (*path, key))
    elif isinstance(value, list | tuple):
        for at, each in enumerate(value):
            yield from texts(each, (*path, at))


def split_address(address: str) -> tuple[str, str]:
    """Return the *address* in two: up to its host and port, and what is behind them."""
    scheme, mark, rest = address.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{mark}{host}", f"{slash}{path}"


_HOST: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?")


def host_problem(value: str) -> str | None:
    """Return what is wrong with *value* as a part of a host, or None."""
    if _HOST.fullmatch(value):
        return None
    return "stands in the host of an address: only letters, digits, dots and - are allowed in it"


def path_problem(value: str) -> str | None:
    """Return what is wrong with *value* as a part of a path, or None."""
    if value.strip("."):
        return None
    return "stands in the path of an address, and would lead elsewhere"
