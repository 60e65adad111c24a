"""
What a vendor is: which fields its records have, and what they mean.

A :class:`Vendor` is made of a module in this folder, which has what :class:`Module` says, or of a
description (``descriptions/vendor``). Adding one changes no other file. A module declares its
documented fields as a :class:`Documented` record, and reads a whole page of them at once: columns
in, columns out.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final, NamedTuple, Protocol, Self

import msgspec
from msgspec import UnsetType

from auditrelay.events import Actor, Change, Outcome, Target
from auditrelay.events.classify import Guess
from auditrelay.events.decode import encode
from auditrelay.events.identity import Identity, Place
from auditrelay.events.marks import UNKNOWN_ACTION
from auditrelay.events.shapes import Shape
from auditrelay.events.split import Split

MAX_TEXT_LENGTH: Final = 8191
"""
Characters that a text field keeps; the rest is in the raw record. At four bytes each they fit into
the 32,766 bytes that Elasticsearch accepts for one term.
"""

NO_ACTOR: Final = Actor()
NO_TARGET: Final = Target()

Field = str | int | UnsetType | None
"""
The value of a documented field. A field that a record lacks is UNSET, so that a record is written
again as it was. Never a float: ``1e2`` would be written as ``100.0``, which is longer, and lengths
tell whether a record is written as it was.
"""

Details = msgspec.Raw | UnsetType
"""A documented field of free form, which is decoded later, and only for new events."""


class Documented(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """
    The documented fields of a vendor's record.

    A record with other fields, or other types, is not decoded into one directly but converted.
    """

    @classmethod
    def of(cls, value: Mapping[str, Any], unmapped_fields: list[str]) -> Self:
        """
        Return the decoded record *value* as one; of free form is what is there, decoded.

        Texts are shortened. Names of documented fields with an unusable value are added to
        *unmapped_fields*.
        """
        record = cls()
        for name in cls.__struct_fields__:
            item = value.get(name)
            if item is None:
                continue
            if type(item) is str and name != "metadata":
                setattr(record, name, item[:MAX_TEXT_LENGTH])
            elif name == "metadata" or type(item) is int:
                setattr(record, name, item)
            else:
                unmapped_fields.append(name)
        return record


class Action(NamedTuple):
    """What a vendor's words for an action mean. A page has a dozen of them."""

    name: str
    """The vendor's word for it."""
    category: str | None
    kind: str
    verb: str
    outcome: Outcome | None
    warnings: tuple[str, ...] = ()


def guessed_action(name: str, category: str | None, kind: str, guessed: Guess) -> Action:
    """Return what a word means that is not documented: a verb of success is none for sure."""
    return Action(
        name,
        category,
        kind,
        guessed.verb or "other",
        "failure" if guessed.failed else "unknown",
        (UNKNOWN_ACTION, "heuristic_verb") if guessed.verb else (UNKNOWN_ACTION,),
    )


Column = Sequence[str | None]


class Columns:
    """
    The documented fields of a page's *records*; *metadata* are their decoded details.

    With *is_short* no text in them has to be shortened.
    """

    def __init__(
        self, records: Sequence[Documented], metadata: Sequence[Any], *, is_short: bool = False
    ) -> None:
        self._records = records
        self.is_short = is_short
        self.details: list[Any] = [
            each if type(each) is dict or isinstance(each, Shape) else _NO_DETAILS
            for each in metadata
        ]
        """For each record its details, if they are an object (or a shape), else an empty one."""

    def __len__(self) -> int:
        return len(self._records)

    def texts(self, *names: str) -> list[Column]:
        """Return the fields *names*, each as a column of texts; an empty text is None."""
        return [self._column(name) for name in names]

    def _column(self, name: str) -> Column:
        values = list(map(attrgetter(name), self._records))
        kinds = set(map(type, values))
        if kinds == _TEXTS and all(values):
            return values
        if kinds == _NUMBERS:
            return list(map(str, values))
        if int in kinds:
            return list(map(text, values))
        return [value or None for value in values]


_NO_DETAILS: Final[Mapping[str, Any]] = {}
_NUMBERS: Final = {int}
_TEXTS: Final = {str}


class ParsedPage(msgspec.Struct, gc=False, kw_only=True):
    """
    What a page says, in columns: by the fields of :class:`auditrelay.events.AuditEvent`.

    A column without any value may be empty. Those of :attr:`own` are given by a vendor that reads
    whole records; of other vendors they are read without it.
    """

    action: Sequence[Action]
    actor: Sequence[Actor]
    message: Sequence[str]
    target_type: Column = ()
    target_id: Column = ()
    target_name: Column = ()
    target_email: Column = ()
    org_name: Column = ()
    project_id: Column = ()
    project_name: Column = ()
    privilege: Column = ()
    changes: Sequence[tuple[Change, ...]] = ()
    reason: Column = ()
    own: "OwnColumns | None" = None


class OwnColumns(msgspec.Struct, gc=False, kw_only=True):
    """The columns that a vendor's own paths lead to."""

    native_id: Column
    time_raw: Column
    org_id: Column
    metadata: Column
    unmapped: Column


class Vendor(msgspec.Struct, kw_only=True):
    """
    A vendor: how its records are known, and what they mean.

    *read* is given declared records and their details; with *reads_whole* it is given the whole
    decoded records as details, and a declared record has no more than identifies it.
    """

    name: str
    """The name of the source's type, as events have it."""
    product: str
    """The product as a SIEM should show it."""
    identity: Identity
    record: type["Documented"]
    """The declared type of a record."""
    fields: frozenset[str]
    """The names of the fields that are read; any other is ``unmapped``."""
    read: Callable[[Columns], ParsedPage]
    """Says who did what to what, whatever the fields are: missing, null, unknown words."""
    spared: frozenset[str] | None = None
    """Fields that are known to contain no secret as a whole; by default all *fields*."""
    spared_places: frozenset[tuple[str | None, ...]] = frozenset()
    """The same of places in a record: keys, and None for any place in a list."""
    reads_whole: bool = False
    whole_places: frozenset[tuple[str, ...]] = frozenset()
    """With *reads_whole*: where values are used; everything above them is only walked through."""
    split: Split | None = None
    """What makes several records of one; None if each is one."""


class Module(Protocol):
    """One vendor's module."""

    NAME: str
    """The product as a SIEM should show it."""
    Record: type[Documented]
    """The documented fields of a record."""
    FIELDS: frozenset[str]
    """The names of the fields that are read; any other is ``unmapped``."""
    ID: str
    """The field with the vendor's id of the record."""
    ORGANISATION: str | None
    """
    The field with the organisation that ids are unique in; None if records have none, and it is
    the configured one.
    """
    TIME: str
    """The field with the time of the event."""

    def read(self, page: Columns) -> ParsedPage:
        """See :attr:`Vendor.read`."""


def of_module(name: str, module: Module) -> Vendor:
    """Return the vendor of *module*, called *name*."""
    organisation = module.ORGANISATION
    return Vendor(
        name=name,
        product=module.NAME,
        identity=Identity(
            vendor=name,
            id=(Place.of(module.ID, module.ID),),
            time=(Place.of(module.TIME, module.TIME),),
            organisation=None if organisation is None else Place.of(organisation, organisation),
        ),
        record=module.Record,
        fields=module.FIELDS,
        read=module.read,
    )


def text(value: Any) -> str | None:
    """Return the text or whole number *value* as text; None for anything else."""
    if type(value) is str:
        return value[:MAX_TEXT_LENGTH] or None
    return str(value) if type(value) is int else None


def messages(who: Column, actions: Sequence[Action], what: Column) -> list[str]:
    """Return the sentence for each event: who did what to what."""
    return [
        f"{one or 'unknown actor'} {action.name} {other}"
        if other
        else f"{one or 'unknown actor'} {action.name}"
        for one, action, other in zip(who, actions, what, strict=True)
    ]


def either(column: Column, *others: Column) -> Column:
    """Return for each event the first value that one of the columns has."""
    for other in others:
        column = [one or another for one, another in zip(column, other, strict=True)]
    return column


def as_json(value: Any) -> str | None:
    """Return *value* as JSON text for a Change, or None if there is none."""
    return None if value is None else encode(value).decode()[:MAX_TEXT_LENGTH]


def differences(metadata: Mapping[str, Any]) -> tuple[Change, ...]:
    """Return what differs between the objects *before* and *after* of the metadata, if any."""
    before, after = metadata.get("before"), metadata.get("after")
    if not isinstance(before, dict | None) or not isinstance(after, dict | None):
        return ()  # other types are not documented
    old: dict[str, Any] = before or {}
    new: dict[str, Any] = after or {}
    return tuple(
        [
            Change(field[:MAX_TEXT_LENGTH], as_json(old.get(field)), as_json(new.get(field)))
            for field in dict.fromkeys((*old, *new))
            if field not in old or field not in new or old[field] != new[field]
        ]
    )


def is_long(text: bytes, value: Any) -> bool:
    """Return whether a text of the record *value*, decoded from *text*, is shortened."""
    return (
        len(text) > MAX_TEXT_LENGTH
        and type(value) is dict
        and any(type(item) is str and len(item) > MAX_TEXT_LENGTH for item in value.values())
    )


def unmapped(
    value: dict[str, Any], fields: frozenset[str], misfits: Collection[str] = ()
) -> str | None:
    """Return as JSON what is in a record but not read: all but *fields*, and the *misfits*."""
    if not misfits and fields.issuperset(value):
        return None
    mapped = fields.difference(misfits)
    rest = {key: item for key, item in value.items() if key not in mapped}
    return encode(rest).decode()


def verbatim_time(time: Any) -> str | None:
    """Return the vendor's time, verbatim."""
    if time is None or type(time) is str:
        return time and time[:MAX_TEXT_LENGTH]
    return encode(time).decode()[:MAX_TEXT_LENGTH]
