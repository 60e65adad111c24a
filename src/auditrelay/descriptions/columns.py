"""
Values at paths of a page of records, in columns: what stands on the way to several is found once.

What comes of one record never depends on the others of its page.
"""

from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from typing import Any, Final, NamedTuple

from auditrelay.descriptions.places import Element, Named, Path
from auditrelay.events.shapes import Shape, children, types_of
from auditrelay.events.vendors import MAX_TEXT_LENGTH, Column, text

ANY: Final[frozenset[type]] = frozenset()
"""No type in particular is expected."""
OBJECTS: Final[frozenset[type]] = frozenset((dict, type(None)))
LISTS: Final[frozenset[type]] = frozenset((list, type(None)))
SCALARS: Final[frozenset[type]] = frozenset((str, int, float, bool, type(None)))

Step = str | int | Element | Named

Misfits = Sequence[tuple[int, str]]
"""Rows, each with the field of the record in which a value has another type than is expected."""


class Found(NamedTuple):
    """A column of *values*, and what is not as expected on the way to them."""

    values: Sequence[Any]
    misfits: Misfits = ()


class _Nodes(NamedTuple):
    """The same, with the *types* of all values: other columns stand below this one."""

    values: Sequence[Any]
    types: frozenset[type]
    misfits: Misfits = ()


class Table:
    """
    The decoded *records* of a page: dicts and shapes.

    What is at the paths *whole* is kept as it is, so nothing misfits in it. In *misfits* is noted
    what was asked for and has another type than is expected. With *is_short* no text in the records
    has to be shortened.
    """

    def __init__(
        self,
        records: Sequence[Any],
        whole: Sequence[Path] = (),
        *,
        is_short: bool = False,
    ) -> None:
        self.records = records
        self.misfits: list[tuple[int, str]] = []
        self._is_short = is_short
        self._columns: dict[tuple[Step, ...], _Nodes] = {(): _Nodes(records, types_of(records))}
        self._known: dict[Path, Found] = {}
        self._whole = [path.steps for path in whole]

    def values(self, paths: Sequence[Path], expected: frozenset[type] = ANY) -> Sequence[Any]:
        """Return the first value at *paths* that is not null; its type should be an *expected*."""
        return self._first(paths, partial(self._expect, expected=expected), None)

    def texts(self, paths: Sequence[Path] | None, taken: Sequence[bool] = ()) -> Column:
        """
        Return the first text or whole number at *paths*; an empty column if there are no paths.

        Misfits of rows that are *taken* are not noted.
        """
        return self._first(paths, self._texts, taken) if paths else ()

    def _first(
        self,
        paths: Sequence[Path],
        read: Callable[[Path], Found],
        taken: Sequence[bool] | None,
    ) -> Sequence[Any]:
        values, misfits = read(paths[0])
        for path in paths[1:]:
            if None not in values:
                break
            others, odd = read(path)
            misfits = [*misfits, *[each for each in odd if values[each[0]] is None]]
            values = [
                another if one is None else one for one, another in zip(values, others, strict=True)
            ]
        self.misfits += [each for each in misfits if not (taken and taken[each[0]])]
        return values

    def _expect(self, path: Path, *, expected: frozenset[type]) -> Found:
        values, types, misfits = self._at(path.steps)
        if not (expected is ANY or types <= expected):
            misfits = [*misfits, *self._odd(values, expected, path.steps)]
        return Found(values, misfits)

    def _texts(self, path: Path) -> Found:
        found = self._known.get(path)
        if found is None:
            found = self._known[path] = self._read_texts(path)
        return found

    def _read_texts(self, path: Path) -> Found:
        values, types, misfits = self._at(path.steps)
        if not self._is_short and str in types:
            values = [each[:MAX_TEXT_LENGTH] if type(each) is str else each for each in values]
        if types == _NUMBERS:
            return Found(list(map(str, values)), misfits)
        if types == _NOTHING or (types == _TEXTS and "" not in values):
            return Found(values, misfits)
        if types <= _TEXT:
            return Found([each or None for each in values], misfits)
        misfits = [*misfits, *self._odd(values, _TEXT_OR_NUMBER, path.steps)]
        return Found(list(map(text, values)), misfits)

    def _at(self, steps: tuple[Step, ...]) -> _Nodes:
        found = self._columns.get(steps)
        if found is None:
            parents = self._at(steps[:-1])
            found = self._columns[steps] = self._below(parents, steps)
        return found

    def _below(self, parents: _Nodes, steps: tuple[Step, ...]) -> _Nodes:
        nodes, types, misfits = parents
        step = steps[-1]
        if not types or types == _NOTHING:
            return parents
        expected: frozenset[type] = OBJECTS
        values: Sequence[Any]
        if type(step) is str:
            if types == _DICTS:
                try:  # most records of a page have the same fields
                    values = list(map(itemgetter(step), nodes))
                except KeyError:
                    values = [node.get(step) for node in nodes]
                return _Nodes(values, types_of(values), misfits)
            values, found = children(nodes, types, step)
        else:
            if isinstance(step, Named):
                keys = self._at(step.path.steps).values
                values = [
                    node.get(key) if type(node) is dict and type(key) is str else None
                    for node, key in zip(nodes, keys, strict=True)
                ]
            elif isinstance(step, Element):
                expected = LISTS
                values = _elements(step, nodes)
            else:
                expected = _CONTAINER
                values = list(map(_indexed(step), nodes))
            found = types_of(values)
        if not all(kind in expected or issubclass(kind, Shape) for kind in types):
            misfits = [*misfits, *self._odd(nodes, expected, steps)]
        return _Nodes(values, found, misfits)

    def _odd(
        self, values: Sequence[Any], expected: frozenset[type], steps: tuple[Step, ...]
    ) -> Misfits:
        field = field_of(steps)
        if not field or any(steps[: len(whole)] == whole for whole in self._whole):
            return ()
        return [
            (row, field)
            for row, value in enumerate(values)
            if type(value) not in expected and not isinstance(value, Shape)
        ]


def field_of(steps: Sequence[Step]) -> str:
    """Return the field of a record that *steps* begin with; of ``<...>`` it is not known."""
    return str(steps[0]) if steps and not isinstance(steps[0], Named) else ""


def _elements(step: Element, nodes: Sequence[Any]) -> list[Any]:
    """Return of each of *nodes* the first element in which the key has the value of *step*."""
    key, value = step
    found: list[Any] = [None] * len(nodes)
    for row, node in enumerate(nodes):
        if type(node) is list:
            for each in node:
                if type(each) is dict and each.get(key) == value:
                    found[row] = each
                    break
    return found


def _indexed(index: Any) -> Callable[[Any], Any]:
    key = str(index)

    def pick(node: Any) -> Any:
        if type(node) is list:
            return node[index] if index < len(node) else None
        return node.get(key) if type(node) is dict else None

    return pick


_NOTHING: Final[frozenset[type]] = frozenset((type(None),))
_NUMBERS: Final[frozenset[type]] = frozenset((int,))
_DICTS: Final[frozenset[type]] = frozenset((dict,))
_TEXTS: Final[frozenset[type]] = frozenset((str,))
_TEXT: Final = frozenset((str, type(None)))
_TEXT_OR_NUMBER: Final[frozenset[type]] = frozenset((str, int, type(None)))
_CONTAINER: Final[frozenset[type]] = frozenset((dict, list, type(None)))
