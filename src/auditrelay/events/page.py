"""
A page of events, in columns: what is read, stored, handed over and rendered as one value.

Every step of the hot path is a function from page to page that works on whole columns. An
:class:`auditrelay.events.AuditEvent` is what one gets by looking at one row (``page[3]``): for dead
letters, ``verify``, notices and tests. Nothing on the hot path makes one.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, Final, Self, overload

import msgspec

from auditrelay.events import NOTHING, Actor, AuditEvent, Change, Outcome, Target, TimeQuality


class Sort(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """
    What all events of one sort have in common: a page has a dozen sorts.

    What a form says about a kind or a verb is worked out once for each of them. New fields go at
    the end and have a default.
    """

    source: str
    vendor: str
    product: str
    api_host: str
    native_action: str
    native_category: str | None
    kind: str
    verb: str
    outcome: Outcome | None
    time_quality: TimeQuality
    warnings: tuple[str, ...]
    tags: tuple[tuple[str, str], ...]
    backfill: bool = False
    replayed: bool = False
    notice: bool = False


class Page(msgspec.Struct, array_like=True, gc=False):
    """
    Events in columns; the fields are those of :class:`auditrelay.events.AuditEvent`.

    Every column is a list of one value for each event, or **empty if no event has a value**. JSON
    texts (*metadata*, *unmapped*, *raw*) are strings here. A page is never changed once it is made.
    It is also what the spool stores: new columns go at the end and have a default.
    """

    sorts: list[Sort]
    sort: list[int]
    """For each event its index in *sorts*."""
    uid: list[str]
    at: list[int]
    fetched: list[int]
    raw: list[str]
    raw_sha256: list[str]
    message: list[str]
    actor: list[Actor]
    """Events of the same actor may share one object."""
    native_id: list[str | None]
    time_raw: list[str | None]
    target_type: list[str | None]
    target_id: list[str | None]
    target_name: list[str | None]
    target_email: list[str | None]
    org_id: list[str | None]
    org_name: list[str | None]
    project_id: list[str | None]
    project_name: list[str | None]
    privilege: list[str | None]
    changes: list[tuple[Change, ...]]
    reason: list[str | None]
    metadata: list[str | None]
    unmapped: list[str | None]
    late_by_s: list[int | None]
    redacted: list[tuple[str, ...]] = []

    @classmethod
    def of(cls, events: Iterable[AuditEvent]) -> Self:
        """Return *events* as a page."""
        rows = [_row(event) for event in events]
        numbers: dict[Sort, int] = {}
        sort = [numbers.setdefault(row[0], len(numbers)) for row in rows]
        columns = [list(column) for column in zip(*rows, strict=True)] or [
            [] for _ in (0, *COLUMNS)
        ]
        return cls(
            list(numbers),
            sort,
            *[column if any(map(_is_value, column)) else [] for column in columns[1:]],
        )

    @classmethod
    def joined(cls, pages: Sequence[Self]) -> Self:
        """Return the events of *pages*, one after the other, as one page."""
        if len(pages) == 1:
            return pages[0]
        numbers: dict[Sort, int] = {}
        sort: list[int] = []
        for page in pages:
            own = [numbers.setdefault(each, len(numbers)) for each in page.sorts]
            sort += [own[number] for number in page.sort]
        return cls(list(numbers), sort, *[_joined(name, pages) for name in COLUMNS])

    def __len__(self) -> int:
        return len(self.sort)

    @overload
    def __getitem__(self, place: int) -> AuditEvent: ...

    @overload
    def __getitem__(self, place: slice) -> Self: ...

    def __getitem__(self, place: int | slice) -> AuditEvent | Self:
        """Return one event, or a page of some of them."""
        if isinstance(place, slice):
            if place.indices(len(self)) == (0, len(self), 1):
                return self
            return type(self)(
                self.sorts, *[getattr(self, name)[place] for name in ("sort", *COLUMNS)]
            )
        return self._event(place)

    def __iter__(self) -> Iterator[AuditEvent]:
        return map(self._event, range(len(self)))

    def take(self, rows: Sequence[int]) -> Self:
        """Return the events at *rows* as a page."""
        if len(rows) == len(self):
            return self
        if len(rows) < 2:
            return self[rows[0] : rows[0] + 1] if rows else self[:0]
        pick = itemgetter(*rows)
        columns = (getattr(self, name) for name in ("sort", *COLUMNS))
        return type(self)(self.sorts, *[list(pick(column)) if column else [] for column in columns])

    def _event(self, row: int) -> AuditEvent:
        sort = self.sorts[self.sort[row]]
        at = {name: column[row] for name in COLUMNS if (column := getattr(self, name))}
        target = Target(
            *[at.pop(f"target_{part}", None) for part in ("type", "id", "name", "email")]
        )
        for name in ("metadata", "unmapped"):
            text = at.get(name)
            at[name] = NOTHING if text is None else msgspec.Raw(text.encode())
        at["raw"] = msgspec.Raw(at["raw"].encode())
        return AuditEvent(**msgspec.structs.asdict(sort), **{**_ABSENT, **at}, target=target)


COLUMNS: Final = Page.__struct_fields__[2:]
"""The names of the columns that hold values of events."""

_ABSENT: Final = {
    **dict.fromkeys(
        ("native_id", "time_raw", "org_id", "org_name", "project_id", "project_name"), None
    ),
    **dict.fromkeys(("privilege", "reason", "late_by_s"), None),
    **dict.fromkeys(("changes", "redacted"), ()),
}


def _is_value(value: object) -> bool:
    return value is not None and value != ()


def _joined(name: str, pages: Sequence[Page]) -> list[Any]:
    columns = [getattr(page, name) for page in pages]
    if not any(columns):
        return []
    absent = [_ABSENT.get(name)]
    filled = [column or absent * len(page) for column, page in zip(columns, pages, strict=True)]
    return list(chain.from_iterable(filled))


def _text(json: msgspec.Raw) -> str | None:
    return None if json == NOTHING else bytes(json).decode()


def _row(event: AuditEvent) -> tuple[Sort, *tuple[object, ...]]:
    sort = Sort(*[getattr(event, name) for name in Sort.__struct_fields__])
    target = event.target
    return (
        sort,
        event.uid,
        event.at,
        event.fetched,
        bytes(event.raw).decode(),
        event.raw_sha256,
        event.message,
        event.actor,
        event.native_id,
        event.time_raw,
        target.type,
        target.id,
        target.name,
        target.email,
        event.org_id,
        event.org_name,
        event.project_id,
        event.project_name,
        event.privilege,
        event.changes,
        event.reason,
        _text(event.metadata),
        _text(event.unmapped),
        event.late_by_s,
        event.redacted,
    )
