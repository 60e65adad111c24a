"""
What a record is known by, and when it happened: where that stands, and how it is read.

A place is looked for in a decoded record, whatever that record is. In a usual one (``gate``) it is
an attribute of the record's declared type, which is much cheaper.
"""

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final, NamedTuple, Self

import msgspec

from auditrelay.events.timestamps import Parsed, parse, read

Find = Callable[[Any], Any]
"""From a decoded record to what stands at a place of it, None if nothing does."""


class Place(NamedTuple):
    """A place in a record."""

    find: Find
    field: str
    """The field of the record that it is in."""
    attribute: str | None = None
    """Where a declared record has it, as dotted names; None if that is not known."""

    @classmethod
    def of(cls, path: str, attribute: str | None = None) -> Self:
        """Return the place at *path*: keys joined by dots, each in the object under the former."""
        first, *others = path.split(".")
        if not others:
            return cls(lambda record: record.get(path), path, attribute)

        def find(record: Mapping[str, Any]) -> Any:
            node: Any = record.get(first)
            for key in others:
                node = node.get(key) if type(node) is dict else None
            return node

        return cls(find, first, attribute)


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Where the records of a vendor have their id, their organisation and their time."""

    vendor: str
    """The vendor's part of the uid: its name, and the feed if it has several."""
    id: tuple[Place, ...]
    """
    The likeliest place first: the first that holds something counts. Without any, records are known
    by their content.
    """
    is_joined: bool = False
    """Whether only all places of *id* together are unique."""
    without: frozenset[str] = frozenset()
    """Fields left out of the content by which a record without an id is known."""
    time: tuple[Place, ...]
    """The likeliest place first."""
    read_time: Callable[[Any], Parsed | None] = read
    """What reads the time, from any JSON."""
    read_usual_time: Callable[[Any], Parsed | None] = parse
    """The same for a usual record."""
    usual_times: frozenset[type] = frozenset((str,))
    """The types that its time may have."""
    organisation: Place | None = None
    """What ids are unique in; None if records do not tell, and it is the configured one."""

    @property
    def is_declared(self) -> bool:
        """Whether the declared type of a record has all that is likely to be needed."""
        needed = [*(self.id if self.is_joined else self.id[:1]), self.time[0]]
        if self.organisation is not None:
            needed.append(self.organisation)
        return all(place.attribute is not None for place in needed)

    @property
    def fields(self) -> frozenset[str]:
        """The fields in which all of that is."""
        places = (*self.id, *self.time, *([self.organisation] if self.organisation else []))
        return frozenset(place.field for place in places)

    def known_by(self, parts: Sequence[str], element: int | None = None) -> str:
        """
        Return what the uid is made of for a record whose id has *parts*.

        *element* is its number among those that one record was split into.
        """
        if element is not None:
            return joined((*parts, str(element)))
        return joined(parts) if self.is_joined else parts[0]

    # -- of decoded records

    def parts(self, record: Mapping[str, Any], misfits: list[str]) -> tuple[str, ...]:
        """
        Return the parts of the id of *record* in full length, nothing if it has none.

        Fields with a value that is no id are added to *misfits*.
        """
        found = (
            [(place.find(record), place.field) for place in self.id]
            if self.is_joined
            else [first_found(self.id, record)]
        )
        misfits += [field for value, field in found if not _may_be_text(value)]
        parts = [full_text(value) for value, _ in found]
        return () if None in parts else tuple(part for part in parts if part is not None)

    def time_of(self, record: Mapping[str, Any]) -> Any:
        """Return the time of *record*, whatever it is."""
        return first_found(self.time, record)[0]

    def organisation_of(self, record: Mapping[str, Any], misfits: list[str]) -> str | None:
        """Return the organisation of *record* in full length; see :meth:`parts`."""
        if self.organisation is None:
            return None
        value = self.organisation.find(record)
        if not _may_be_text(value):
            misfits.append(self.organisation.field)
        return full_text(value)

    # -- of declared records

    def usual_ids(self, records: Sequence[Any]) -> list[Sequence[Any]]:
        """Return the parts of the ids of declared *records*, in columns."""
        places = self.id if self.is_joined else self.id[:1]
        return [list(map(attrgetter(place.attribute or ""), records)) for place in places]

    def usual_times_of(self, records: Sequence[Any]) -> list[Any]:
        """Return the times of declared *records*."""
        return list(map(attrgetter(self.time[0].attribute or ""), records))

    def usual_organisations(self, records: Sequence[Any]) -> list[Any]:
        """Return what declared *records* have as their organisations."""
        if self.organisation is None:
            return [None] * len(records)
        return list(map(attrgetter(self.organisation.attribute or ""), records))


def first_found(places: Sequence[Place], record: Mapping[str, Any]) -> tuple[Any, str]:
    """Return the first value at *places* that is neither null nor an empty text, and its field."""
    if len(places) == 1:
        return places[0].find(record), places[0].field
    for place in places:
        value = place.find(record)
        if value not in (None, ""):
            return value, place.field
    return None, ""


def joined(parts: Sequence[str]) -> str:
    """Return *parts* as one text, each after its length: no two lists have the same."""
    return "".join([f"{len(part)}:{part}," for part in parts])


def full_text(value: object) -> str | None:
    """Return the text or whole number *value* as text, however long; None for anything else."""
    if type(value) is str:
        return value or None
    return str(value) if type(value) is int else None


def _may_be_text(value: object) -> bool:
    return type(value) in _TEXTS


_TEXTS: Final = frozenset((str, int, type(None)))
