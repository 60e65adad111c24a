"""
Types of whole records, made of the shapes that were seen: such records cost a third to decode.

A record of a type has no other keys than the type, so that keys are judged once, when they are
learnt; and it is passed on as it was sent if its encoding is the same to the byte. What does not
fit is decoded to dicts, and learnt of. A value that is not only walked through stays what it would
be otherwise, *whole*: in an object of the type there is nothing but texts, numbers, and objects.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from operator import attrgetter
from threading import Lock
from types import NoneType
from typing import Annotated, Any, Final, NamedTuple, cast

import msgspec
import orjson
from msgspec import UNSET, Meta, UnsetType

from auditrelay.events.decode import NOT_DECODED
from auditrelay.events.patterns import lazily
from auditrelay.events.redact import Redactor
from auditrelay.events.secret_texts import MARK

FIRST: Final = 250
"""Records that fit no type before the first one is made; before each other one, twice as many."""

_TAUGHT: Final = 20
"""The most records of a page that are learnt of."""

_MOST_KEYS: Final = 200
"""Of one object: what has more of them is no shape, but a table that the vendor fills."""

_MOST_DEPTH: Final = 20

_MOST_PLACES: Final = 1000
"""
Of all records: objects within objects would else be tables in tables, a type for each row, and the
making of those would stop everything. What is seen beyond so many makes its object a whole one.
"""

_NO_NAME: Final = lazily(r'["\\\x00-\x1f]')
"""What no key of a type may have in it."""

_BLOCK: Final = 50
"""Records that are decoded alone for the sake of one among them that does not fit."""

_TRIED: Final = 1000
"""Records after which a type is given up that fits fewer than every other one."""

_Number = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
_Scalar = str | _Number | float | bool | UnsetType | None
_ENCODER: Final = msgspec.json.Encoder()

_NOTHING: Final = frozenset({NoneType})

Place = tuple[str, ...]
"""The keys that lead to a value."""


class Shape(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """An object of a record; each key is an attribute, see :func:`attribute_of`."""


@lru_cache(maxsize=4096)
def attribute_of(key: str) -> str:
    """Return the name of the attribute for *key*, which may be no name of Python."""
    return f"k{key.encode().hex()}"


def child(node: Any, key: str) -> Any:
    """Return what is under *key* of *node*, None if it is no object or has nothing there."""
    if type(node) is dict:
        return node.get(key)
    if isinstance(node, Shape):
        value = getattr(node, attribute_of(key), None)
        return None if value is UNSET else value
    return None


def types_of(values: Iterable[Any]) -> frozenset[type]:
    """Return the types of *values*: to look at all of a page is cheap, but not for nothing."""
    return frozenset(map(type, values))


def children(
    nodes: Sequence[Any], types: frozenset[type], key: str
) -> tuple[Sequence[Any], frozenset[type]]:
    """Return :func:`child` of each of *nodes*, which are of *types*, and the types of those."""
    first, *others = types
    if others or not issubclass(first, Shape):
        values = [child(node, key) for node in nodes]
        return values, types_of(values)
    attribute = attribute_of(key)
    if not hasattr(first, attribute):  # the type has no such key
        return [None] * len(nodes), _NOTHING
    values = list(map(attrgetter(attribute), nodes))
    found = types_of(values)
    if UnsetType in found:
        values = [None if each is UNSET else each for each in values]
        found = (found - {UnsetType}) | _NOTHING
    return values, found


def as_object(value: Any) -> Any:
    """Return *value* with a dict for an object: what it would be without a type."""
    return msgspec.to_builtins(value) if isinstance(value, Shape) else value


def keys_of(records: Sequence[Any]) -> set[str]:
    """Return the keys of *records*, objects; of a type also those that a record has not."""
    found = set(chain.from_iterable(each for each in records if type(each) is dict))
    types = {type(each) for each in records}
    return found.union(
        *[each.__struct_encode_fields__ for each in types if issubclass(each, Shape)]
    )


class _Node:
    """What was seen at one place: objects with *keys* in their order, lists of *elements*."""

    __slots__ = ("elements", "is_whole", "keys", "place")

    def __init__(self, place: Place) -> None:
        self.place = place
        self.keys: dict[str, _Node] | None = None
        self.elements: _Node | None = None
        self.is_whole = False

    def count_below(self) -> int:
        """Return how many places are known within this one."""
        below = [*(self.keys or {}).values(), *filter(None, [self.elements])]
        return len(below) + sum(each.count_below() for each in below)


class _Made(NamedTuple):
    """A type of whole records, and the places in it that are whole and that are to be judged."""

    decoder: msgspec.json.Decoder[Shape]
    wholes: list[Place]
    judged: list[Place]


class Shapes:
    """
    The shapes of one source's records.

    Several threads may read and learn at once: long pages are read beside the loop.
    What is at the places *whole* is read as a whole. What the *redactor* may hide for the sake of a
    key is whole, too, and looked at in each record.
    """

    def __init__(self, whole: Collection[Place], redactor: Redactor) -> None:
        self._whole = whole
        self._redactor = redactor
        self._root = _Node(())
        self._places = 0
        self._learning = Lock()
        self._made: _Made | None = None
        """Replaced as one: who reads goes on with the one that was there."""
        self._tried = self._fitted = 0
        self._missed, self._due = 0, FIRST
        self._has_learnt = False

    def read(
        self, texts: Sequence[bytes], longest: int
    ) -> tuple[Sequence[Shape | None], Mapping[int, list[str]]]:
        """
        Return the records of *texts*, and by row where a value was replaced for the sake of a key.

        None is what fits no type, or is longer than *longest*. Texts are not searched for secrets.
        """
        made = self._made
        if made is None:
            return [None] * len(texts), {}
        found = _decoded(made.decoder, texts)
        for row, text in enumerate(texts):
            if len(text) > longest:
                found[row] = None
        hidden = self._judge(made, found)
        wholes = made.wholes
        if not self._spares(wholes, [each for each in found if each is not None]):
            found = [each if each and self._spares(wholes, [each]) else None for each in found]
        names = {}
        for row, places in hidden.items():
            shape = found[row]
            if shape is not None:
                names[row] = [_hide(shape, place, self._redactor) for place in places]
        self._tried += len(found)
        self._fitted += len(found) - found.count(None)
        if self._tried >= _TRIED and 2 * self._fitted < self._tried:
            self._made = None  # it costs more than it saves, until more was learnt
        return found, names

    def _judge(self, made: _Made, found: list[Shape | None]) -> Mapping[int, list[Place]]:
        """Return what is to be hidden in which of *found*; None is put where that is not simple."""
        rows = [row for row, each in enumerate(found) if each is not None]
        shapes = [each for each in found if each is not None]
        hidden: dict[int, list[Place]] = {}
        for place in made.judged:
            for row, value in zip(rows, _column(shapes, place), strict=True):
                what = value is not None and self._redactor.hides_at(place, value)
                if what is None:
                    found[row] = None
                elif what:
                    hidden.setdefault(row, []).append(place)
        return hidden

    def _spares(self, wholes: Iterable[Place], shapes: Sequence[Shape]) -> bool:
        values = [value for place in wholes for value in _column(shapes, place)]
        try:
            orjson.dumps(values)
        except TypeError:  # an integer beyond 64 bits
            return False
        return self._redactor.spares_page(values)

    def learn(self, texts: Sequence[bytes], values: Sequence[Any]) -> None:
        """
        Learn of *texts* that have no type, with their *values*; these are not changed.

        Nothing is learnt while another thread learns.
        """
        if self._learning.acquire(blocking=False):
            try:
                self._learn(texts, values)
            finally:
                self._learning.release()

    def _learn(self, texts: Sequence[bytes], values: Sequence[Any]) -> None:
        taught = 0
        for text, value in zip(texts, values, strict=True):
            if taught == _TAUGHT or self._root.is_whole:
                break
            if type(value) is dict and orjson.dumps(value) == text:  # else no type would fit it
                taught += 1
                self._see(self._root, value, 0)
        self._missed += len(texts)
        if self._has_learnt and self._missed >= self._due:
            self._missed, self._due = 0, 2 * self._due
            self._make()

    def _see(self, node: _Node, value: Any, depth: int) -> None:
        kind = type(value)
        if node.is_whole or (kind is not dict and kind is not list):
            return
        if node.place in self._whole or depth == _MOST_DEPTH:
            self._make_whole(node)
        elif kind is list:
            self._see_list(node, value, depth)
        else:
            self._see_object(node, value, depth)

    def _see_list(self, node: _Node, value: list[Any], depth: int) -> None:
        if not all(type(each) is dict for each in value):
            self._make_whole(node)  # texts in a list may be names of headers
            return
        if node.elements is None:
            if not self._has_room(1):
                self._make_whole(node)
                return
            node.elements, self._has_learnt = _Node((*node.place, "")), True
        for each in value:
            self._see(node.elements, each, depth + 1)

    def _see_object(self, node: _Node, value: dict[str, Any], depth: int) -> None:
        known = node.keys
        if known is None:
            known = node.keys = {}
            self._has_learnt = True
        new = len(value.keys() - known.keys())
        if any(map(_NO_NAME.search, value)) or (new and not self._has_room(new)):
            self._make_whole(node)
            return
        if new:
            known = node.keys = self._ordered(node.place, known, value)
        order = {key: number for number, key in enumerate(known)}
        numbers = [order[key] for key in value]
        if len(known) > _MOST_KEYS or numbers != sorted(numbers):  # it has no order of its own
            self._make_whole(node)
            return
        for key, item in value.items():
            below = known[key]
            if not self._redactor.spares_key(key) and not below.is_whole:
                if self._redactor.is_beside(key):
                    self._make_whole(node)
                    return
                self._make_whole(below)
            self._see(below, item, depth + 1)

    def _has_room(self, new: int) -> bool:
        """Return whether *new* more places may be learnt, which are counted then."""
        if self._places + new > _MOST_PLACES:
            return False
        self._places += new
        return True

    def _ordered(
        self, place: Place, known: dict[str, _Node], value: Iterable[str]
    ) -> dict[str, _Node]:
        """Return *known* with the other keys of *value*, each behind the one that it follows."""
        self._has_learnt = True
        keys, at = list(known), 0
        for key in value:
            if key in known:
                at = keys.index(key) + 1
            else:
                keys.insert(at, key)
                at += 1
        return {key: known.get(key) or _Node((*place, key)) for key in keys}

    def _make_whole(self, node: _Node) -> None:
        self._places -= node.count_below()
        node.is_whole, node.keys, node.elements = True, None, None
        self._has_learnt = True

    def _make(self) -> None:
        """Make the type of all that was learnt."""
        self._has_learnt = False
        self._tried = self._fitted = 0
        self._made = None
        root, wholes = self._root, list[Place]()
        if not root.is_whole and root.keys:
            decoder = msgspec.json.Decoder(self._struct(root.keys, wholes))
            spares = self._redactor.spares_key
            self._made = _Made(decoder, wholes, [each for each in wholes if not spares(each[-1])])

    def _struct(self, keys: dict[str, _Node], wholes: list[Place]) -> type[Shape]:
        """Return the type of an object with *keys*; places in it are added to *wholes*."""
        made = msgspec.defstruct(
            "Shape",
            [(attribute_of(key), self._type(node, wholes), UNSET) for key, node in keys.items()],
            bases=(Shape,),
            rename={attribute_of(key): key for key in keys},
            gc=False,
        )
        return cast("type[Shape]", made)

    def _type(self, node: _Node, wholes: list[Place]) -> Any:
        kind: Any = _Scalar
        if node.elements is not None:
            before = len(wholes)
            element = self._struct(node.elements.keys or {}, wholes)
            if node.elements.is_whole or len(wholes) > before:
                del wholes[before:]  # what is in a list has no place of its own
                node.is_whole = True
            else:  # of nothing but objects: a text may name a header, whose value is the next one
                kind |= list[element]  # type: ignore[valid-type]  # made at run time
        if node.is_whole:
            wholes.append(node.place)
            return Any
        return kind if node.keys is None else kind | self._struct(node.keys, wholes)


def _column(shapes: Sequence[Shape], place: Place) -> Sequence[Any]:
    column: Sequence[Any] = shapes
    types = types_of(column)
    for key in place:
        if not column:
            break
        column, types = children(column, types, key)
    return column


def _hide(shape: Shape, place: Place, redactor: Redactor) -> str:
    """Replace what is at *place* of *shape*, and return how an event names it."""
    node: Any = shape
    for key in place[:-1]:
        node = child(node, key)
    setattr(node, attribute_of(place[-1]), MARK)
    return redactor.name_of(place)


def _decoded(decoder: msgspec.json.Decoder[Shape], texts: Sequence[bytes]) -> list[Shape | None]:
    """Return the records of *texts* that are the same when they are encoded."""
    page = b"\n".join(texts)
    try:
        shapes = decoder.decode_lines(page)
        # Then each line is one text: an encoded record has no line ends.
        if len(shapes) == len(texts):
            again = _ENCODER.encode_lines(shapes)
            if len(again) == len(page) + 1 and again.startswith(page):
                return list(shapes)
    except (*NOT_DECODED, ValueError):  # an integer of more digits than Python reads
        pass
    if len(texts) <= _BLOCK:
        return [_decoded_one(decoder, text) for text in texts]
    blocks = [texts[start : start + _BLOCK] for start in range(0, len(texts), _BLOCK)]
    return list(chain.from_iterable(_decoded(decoder, block) for block in blocks))


def _decoded_one(decoder: msgspec.json.Decoder[Shape], text: bytes) -> Shape | None:
    try:
        shape = decoder.decode(text)
        return shape if _ENCODER.encode(shape) == text else None
    except (*NOT_DECODED, ValueError):
        return None
