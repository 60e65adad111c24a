"""JSON texts of a description with names, such as ``"$event"``, in the places of values."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from auditrelay.descriptions.places import Path
from auditrelay.settings.wording import suggestion

RECORD: Final = ("event", "text", "raw")
"""The names of the record itself: in the form as an object, as a text, and the vendor's record."""
OF_AN_EVENT: Final = (
    *RECORD,
    "uid",
    "time",
    "message",
    "source",
    "vendor",
    "product",
    "action",
    "outcome",
    "markers",
)
"""The names that an item may have."""


_NAME: Final = re.compile(r"\$\w+")


def parse(text: str, known: Sequence[str]) -> Any:
    """
    Return the JSON value *text*, in which a text ``"$name"`` stands for one of *known*.

    Raises ValueError with what is wrong with it.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"is not JSON: {error}") from None
    for name in names(value):
        if name not in known:
            near = suggestion(f"${name}", [f"${each}" for each in known])
            raise ValueError(
                f"there is no ${name}{near}"
                if near
                else f"there is no ${name}: write one of {', '.join(f'${each}' for each in known)}"
            )
    return value


def names(value: Any) -> Iterator[str]:
    """Yield the names in the JSON *value*, in their order."""
    if isinstance(value, str) and _NAME.fullmatch(value):
        yield value[1:]
    elif isinstance(value, dict):
        for each in value.values():
            yield from names(each)
    elif isinstance(value, list):
        for each in value:
            yield from names(each)


def with_name(value: Any, path: Path, name: str) -> tuple[Any, Path | None]:
    """
    Return *value* with ``"$name"`` at *path*, and the rest of the path that lies in ``$event``.

    Raises ValueError if the path leads into something else.
    """
    if value == "$event":
        return value, path
    step, rest = path.steps[0], Path(path.text, path.steps[1:])
    if isinstance(value, dict) and isinstance(step, str):
        inner = value.get(step, {} if rest.steps else None)
        if not rest.steps:
            return {**value, step: f"${name}"}, None
        changed, left = with_name(inner, rest, name)
        return {**value, step: changed}, left
    raise ValueError(f"{str(path)!r} leads to no object of the skeleton, nor into $event")


def cut(value: Any, marks: Sequence[str]) -> list[bytes]:
    """
    Return the JSON of *value*, cut at the names *marks*: constants and names by turns.

    A name is ``b"$name"`` without its quotation marks.
    """
    parts: list[bytes] = [b""]
    _cut(value, frozenset(marks), parts)
    return parts


def _cut(value: Any, marks: frozenset[str], parts: list[bytes]) -> None:
    if isinstance(value, str) and value[:1] == "$" and value[1:] in marks:
        parts += [value.encode(), b""]
    elif isinstance(value, dict):
        parts[-1] += b"{"
        for number, (key, each) in enumerate(value.items()):
            parts[-1] += b"," * bool(number) + _dumped(key) + b":"
            _cut(each, marks, parts)
        parts[-1] += b"}"
    elif isinstance(value, list):
        parts[-1] += b"["
        for number, each in enumerate(value):
            parts[-1] += b"," * bool(number)
            _cut(each, marks, parts)
        parts[-1] += b"]"
    else:
        parts[-1] += _dumped(value)


def _dumped(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
