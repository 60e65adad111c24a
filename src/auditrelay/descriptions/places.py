r"""
Where things stand: a slot of a request, a spot of a reply, a path in a record.

A slot is written ``query:NAME``, ``body:PATH`` or ``header:NAME``; a spot ``body:PATH``,
``header:NAME``, ``link:REL`` or ``last:PATH`` (in the last record of the page). A path is keys with
dots between them: ``\.`` is a dot inside a key, a number an index, ``[type=User]`` the first
element of a list whose ``type`` is ``User``, and ``<entity.type>`` the key that stands at that path
of the same record. There are no wildcards, no functions and no arithmetic.

What is not there is absent, never an error.
"""

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal, NamedTuple, get_args

from pydantic import BeforeValidator, WithJsonSchema

SlotPlace = Literal["query", "body", "header"]
SpotPlace = Literal["body", "header", "link", "last"]


class Slot(NamedTuple):
    """A place in a request. In a body the *name* is a path of plain keys."""

    place: SlotPlace
    name: str

    def __str__(self) -> str:
        """Return it as it is written."""
        return f"{self.place}:{self.name}"


class Element(NamedTuple):
    """A step of a path: the first element of a list whose *key* is the text *value*."""

    key: str
    value: str


class Named(NamedTuple):
    """A step of a path: the key that stands at *path* of the same record."""

    path: "Path"


class Path(NamedTuple):
    """A place in a JSON value; no *steps* mean the value itself."""

    text: str
    steps: tuple["str | int | Element | Named", ...]

    def __str__(self) -> str:
        """Return it as it is written."""
        return self.text


class Spot(NamedTuple):
    """A place in a reply. For ``body`` and ``last`` the *path* is parsed, else it is None."""

    place: SpotPlace
    name: str
    path: Path | None = None

    def __str__(self) -> str:
        """Return it as it is written."""
        return f"{self.place}:{self.name}"


_STEP: Final = re.compile(
    r"<(?P<named>[^<>]+)>"
    r"|\[(?P<key>[^\[\]=]+)=(?P<value>[^\[\]]*)\]"
    r"|(?P<plain>(?:[^\\.<>\[\]]|\\.|\[\]|\[(?=[^\[\]=]*\]))+?(?=\.|$))"
)


_NO_KEY: Final = re.compile(r'["\x00-\x1f]')
"""What no key of a decoded type may have in it, and no vendor's key has."""


def parse_path(text: str) -> Path:
    """Return the path *text*. Raises ValueError with what is wrong with it."""
    steps: list[str | int | Element | Named] = []
    position = 0
    while position < len(text) or (text and text[-1] == "." and position == len(text)):
        found = _STEP.match(text, position)
        if found is None or found.end() == position:
            raise ValueError(
                f"{text!r} is not a path: write keys with dots between them, "
                'such as "actor.id" (\\. for a dot in a key)'
            )
        if found["named"] is not None:
            steps.append(Named(parse_path(found["named"])))
        elif found["key"] is not None:
            steps.append(Element(found["key"], found["value"]))
        else:
            plain = found["plain"].replace("\\", "")
            if _NO_KEY.search(plain):
                raise ValueError(
                    f"{text!r} is not a path: no key may have a quotation mark or a control "
                    "character in it"
                )
            steps.append(int(plain) if plain.isascii() and plain.isdigit() else plain)
        position = found.end()
        if position < len(text):
            if text[position] != ".":
                raise ValueError(f"{text!r} is not a path: a dot must stand between two keys")
            position += 1
    return Path(text, tuple(steps))


def parse_slot(text: object) -> Slot:
    """Return the slot *text*. Raises ValueError with what is wrong with it."""
    if isinstance(text, Slot):
        return text
    place, name = _split(text, get_args(SlotPlace))
    if place == "body" and not all(isinstance(step, str) for step in parse_path(name).steps):
        raise ValueError(f"{text!r} must name plain keys with dots between them")
    return Slot(place, name)  # type: ignore[arg-type]  # one of the places


def parse_spot(text: object) -> Spot:
    """Return the spot *text*. Raises ValueError with what is wrong with it."""
    if isinstance(text, Spot):
        return text
    place, name = _split(text, get_args(SpotPlace))
    path = parse_path(name) if place in ("body", "last") else None
    return Spot(place, name, path)  # type: ignore[arg-type]  # one of the places


def _split(text: object, places: tuple[str, ...]) -> tuple[str, str]:
    if not isinstance(text, str):
        raise ValueError(  # noqa: TRY004  # pydantic reports ValueError only
            f'must be one place in quotes, such as "{places[0]}:NAME"'
        )
    place, colon, name = text.partition(":")
    if colon and place in places and name:
        return place, name
    first, _, rest = text.partition(".")
    if first in places and rest:
        raise ValueError(f"{text!r} names no place: write {first}:{rest}")
    raise ValueError(
        f"{text!r} names no place: write one of {', '.join(f'{each}:NAME' for each in places)}"
    )


def find(path: Path) -> Callable[[Any], Any]:
    """Return a function that returns what stands at *path* of a JSON value, or None."""
    steps = path.steps
    if len(steps) == 1 and isinstance(steps[0], str):
        key = steps[0]
        return lambda value: value.get(key) if type(value) is dict else None
    named = {step: find(step.path) for step in steps if isinstance(step, Named)}

    def found(value: Any) -> Any:
        node = value
        for step in steps:
            if isinstance(step, Named):
                step = named[step](value)  # noqa: PLW2901  # the key that it names
                if type(step) is not str:
                    return None
            if type(node) is dict:
                node = node.get(step if type(step) is str else str(step))
            elif type(node) is list:
                node = _of_list(node, step)
            else:
                return None
        return node

    return found


def _of_list(node: list[Any], step: object) -> Any:
    if isinstance(step, Element):
        for each in node:
            if type(each) is dict and each.get(step.key) == step.value:
                return each
        return None
    if type(step) is int:
        return node[step] if step < len(node) else None
    return None


def _paths(value: object) -> object:
    """Let one path be written as a text, and several as a list."""
    texts = [value] if isinstance(value, str | Path) else value
    if not isinstance(texts, list) or not texts:
        raise ValueError("must be a path in quotes, or a list of such")
    return tuple(map(_path, texts))


def _path(value: object) -> Path:
    if isinstance(value, Path):
        return value
    if value == "":
        raise ValueError("is empty: write the path of a value inside of it")
    return parse_path(_text(value))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(  # noqa: TRY004  # pydantic reports ValueError only
            'must be one path in quotes, such as "actor.id"'
        )
    return value


_TEXT: Final[Mapping[str, str]] = {"type": "string"}

_SLOT: Final[Mapping[str, str]] = {**_TEXT, "pattern": f"^({'|'.join(get_args(SlotPlace))}):."}
_SPOT: Final[Mapping[str, str]] = {**_TEXT, "pattern": f"^({'|'.join(get_args(SpotPlace))}):."}

AnySlot = Annotated[Slot, BeforeValidator(parse_slot), WithJsonSchema({**_SLOT})]
AnySpot = Annotated[Spot, BeforeValidator(parse_spot), WithJsonSchema({**_SPOT})]
AnyPath = Annotated[Path, BeforeValidator(_path), WithJsonSchema({**_TEXT})]
Paths = Annotated[
    tuple[Path, ...],
    BeforeValidator(_paths),
    WithJsonSchema({"anyOf": [{**_TEXT}, {"type": "array", "items": {**_TEXT}}]}),
]
"""Paths, the first that holds something counts."""
