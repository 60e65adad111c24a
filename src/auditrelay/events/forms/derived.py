"""
Write whole pages of events in a form, by templates that are derived from its renderer.

Events of one *shape* are written alike: the same keys in the same order, and only values differ.
So for each shape the renderer is called once, with an event that has a *mark* in the place of each
value. Its text, cut at the marks, is a template, and the events of the page that have this shape
are written by filling in their values. There is one description of a form, its renderer, and what
it writes does not depend on how it is called: ``tests/events/forms/test_derived.py`` holds that.

For that a renderer may **choose** only by what is in the shape: by everything in an event's
:class:`Sort`, by the kind of its actor, by which values are there, by which of the names of actor
and target are equal, and by :func:`is_ip`, :func:`is_email`, :func:`is_admin_role` and
:func:`fits_in_tag` of a value. It may put a value into a text, or one of the functions of a value
that are listed in :data:`_FIELDS`; those are computed for each event.

What a mark cannot stand for, such as a privilege that is looked into, stays in the shape as it is.
A template is proved on the event that it was first needed for, so a renderer that breaks these
rules is slow before it is wrong.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import lru_cache, partial
from itertools import repeat
from operator import attrgetter, itemgetter
from typing import Any, Final, NamedTuple

import msgspec

from auditrelay.events import NOTHING, Actor, AuditEvent, Change, Target
from auditrelay.events.addresses import is_email, is_ip
from auditrelay.events.decode import one_line
from auditrelay.events.forms.datadog import fits_in_tag
from auditrelay.events.forms.ecs import is_admin_role
from auditrelay.events.marks import NO_MARKS, changed_fields, changes_of
from auditrelay.events.page import Page, Sort
from auditrelay.events.timestamps import epoch_seconds, iso_ms, iso_second, iso_us

_FEW: Final = 8
"""A template costs as much as some events: fewer of a shape, or in a page, are rendered."""
_MAX_SHAPES: Final = 512
"""Shapes that are remembered; when there are more, all are forgotten."""
_MAX_SECONDS: Final = 2048
"""Seconds whose text is remembered: the events of a page share few of them."""
_LONGEST_IP: Final = 40
"""Characters; renderers treat a longer one differently."""


class RenderContext(NamedTuple):
    """What a text depends on besides the event."""

    now: int = 0
    """When it is to be sent: microseconds since 1970 UTC."""
    marks: Mapping[str, object] = NO_MARKS
    """Added under ``auditrelay``."""
    choice: Hashable = None
    """What a sink has decided for this event, such as the index that it goes to."""


Write = Callable[[AuditEvent, RenderContext], bytes]
Splice = Callable[[Sequence[bytes]], list[bytes]]
_Column = Callable[[Sequence[Any]], list[bytes]]
_Shape = tuple[Any, ...]

_encoder = msgspec.json.Encoder()  # escapes as orjson does, in a tenth of the time


class Derived:
    """
    Writes pages as *write* writes single events, byte for byte.

    *spliced* are the functions by which the form embeds the JSON texts of a page, by field, where
    it is not :func:`one_line`.
    """

    def __init__(self, write: Write, spliced: Mapping[str, Splice]) -> None:
        self._write = write
        self._columns = {
            how([mark])[0]: (field, how)
            for field, marks, functions in _FIELDS
            for mark in marks
            for how in (*functions, *([_splicing(spliced, field)] if field in _JSON else []))
        }
        texts = sorted(map(re.escape, self._columns), key=len, reverse=True)
        self._any_mark = re.compile(b"(%b)" % b"|".join(texts))
        self._templates: dict[_Shape, _Template | int] = {}
        """By shape its template, or how many events it has had so far."""

    def texts(
        self, page: Page, context: RenderContext, choices: Sequence[Hashable] | None = None
    ) -> list[bytes]:
        """Return the text of each event; *choices* has one for each, in place of ``choice``."""
        if len(page) >= _FEW and not context.marks:
            try:
                return self._by_template(page, context, choices)
            except UnicodeEncodeError:  # a lone surrogate, which no encoder accepts
                pass
        write = self._write
        if choices is None:
            return [write(event, context) for event in page]
        return [
            write(event, context._replace(choice=choice))
            for event, choice in zip(page, choices, strict=True)
        ]

    def _by_template(
        self, page: Page, context: RenderContext, choices: Sequence[Hashable] | None
    ) -> list[bytes]:
        columns = _Columns(page, context.now)
        texts = [b""] * len(page)
        for (sort, choice, *marks), rows in _rows_by_shape(page, choices or [context.choice]):
            row_context = context._replace(choice=choice)
            template = self._template((page.sorts[sort], choice, *marks), page, rows, row_context)
            if template is None:
                for row in rows:
                    texts[row] = self._write(page[row], row_context)
            elif len(rows) == len(texts):
                return template.fill(columns)
            else:
                for row, text in zip(rows, template.fill(columns, rows), strict=True):
                    texts[row] = text
        return texts

    def _template(
        self, shape: _Shape, page: Page, rows: Sequence[int], context: RenderContext
    ) -> "_Template | None":
        """Return the template of *shape*, which *rows* have; None while it is too rare for one."""
        found = self._templates.get(shape, 0)
        if not isinstance(found, int):
            return found if found.sound else None
        if not found and len(self._templates) >= _MAX_SHAPES:
            self._templates.clear()
        if found + len(rows) < _FEW:
            self._templates[shape] = found + len(rows)
            return None
        constants = self._any_mark.split(self._write(_marked(shape), context._replace(now=_NOW)))
        columns = [self._columns[mark] for mark in constants[1::2]]
        template = _Template(constants[::2], columns)
        if self._tells_marks_apart(shape, {field for field, _ in columns}):
            first = page.take(rows[:1])
            [text] = template.fill(_Columns(first, context.now))
            template.sound = text == self._write(first[0], context)
        self._templates[shape] = template
        return template if template.sound else None

    def _tells_marks_apart(self, shape: _Shape, fields: AbstractSet[str]) -> bool:
        """
        Return whether no mark is in what *shape* has as it is, and each of *fields* has a value.

        A user who causes an event may choose a text of it, such as an action, that reads like a
        mark.
        """
        values = dict(zip(_OPTIONAL, shape[3:], strict=True))
        if not all(values.get(field, True) for field in fields):
            return False
        kept = [value for value in values.values() if value not in _MARKS]
        return self._any_mark.search(_encoder.encode([shape[0], kept])) is None


class _Template:
    """The text of a shape: what is in all of them, and between two such the *columns*."""

    def __init__(self, constants: Sequence[bytes], columns: Sequence[tuple[str, _Column]]) -> None:
        self._constants = constants
        self._columns = columns
        self.sound = False
        """Whether it was filled in to just what the renderer says."""

    def fill(self, columns: "_Columns", rows: Sequence[int] | None = None) -> list[bytes]:
        """Return the texts of the events at *rows*; without rows, of all."""
        values: dict[Any, Any] = {name: columns[name] for name in self._columns}
        if rows is not None:
            pick = itemgetter(*rows) if len(rows) > 1 else lambda column: (column[rows[0]],)
            values = {name: pick(column) for name, column in values.items()}
        parts: list[Iterable[bytes]] = [repeat(self._constants[0])]
        for name, constant in zip(self._columns, self._constants[1:], strict=True):
            parts += [values[name], repeat(constant)]
        return list(map(b"".join, zip(*parts, strict=False)))


class _Columns(dict[tuple[str, _Column], list[bytes]]):
    """The texts of a page's values, by field and function, each computed when it is needed."""

    def __init__(self, page: Page, now: int) -> None:
        super().__init__()
        self._page = page
        self._now = now

    def __missing__(self, name: tuple[str, _Column]) -> list[bytes]:
        field, how = name
        if field == "now":
            values: Sequence[Any] = [self._now] * len(self._page)
        elif field in _ACTOR:
            values = list(map(_ACTOR[field], self._page.actor))
        else:
            values = getattr(self._page, field)
        texts = self[name] = how(values)
        return texts


# -- columns: how a value is written


def _quoted(values: Sequence[object]) -> list[bytes]:
    # In one call, since each costs more than what it does. No JSON text has a line feed in it.
    return _encoder.encode_lines(values)[:-1].split(b"\n")


def _within(values: Sequence[object]) -> list[bytes]:
    """As a part of a longer text."""
    return [text[1:-1] for text in _quoted(values)]


def _of(function: Callable[[Any], object]) -> _Column:
    return lambda values: _quoted(list(map(function, values)))


def _of_few(function: Callable[[Any], object]) -> _Column:
    """For a column that has few distinct values in a page."""

    def written(values: Sequence[Any]) -> list[bytes]:
        distinct = list(set(values))
        texts = dict(zip(distinct, _quoted(list(map(function, distinct))), strict=True))
        return [texts[value] for value in values]

    return written


def _iso_us(values: Sequence[int]) -> list[bytes]:
    digits = _digits(values)
    if not digits:
        return _quoted(list(map(iso_us, values)))
    return [_until_fraction[each[:-6]] + each[-6:] + b'Z"' for each in digits]


def _iso_ms(values: Sequence[int]) -> list[bytes]:
    digits = _digits(values)
    if not digits:
        return _quoted(list(map(iso_ms, values)))
    return [_until_fraction[each[:-6]] + each[-6:-3] + b'Z"' for each in digits]


def _epoch_seconds(values: Sequence[int]) -> list[bytes]:
    digits = _digits(values)
    if not digits:
        return [epoch_seconds(value).encode() for value in values]
    return [each[:-6] + b"." + each[-6:] for each in digits]


def _milliseconds(values: Sequence[int]) -> list[bytes]:
    digits = _digits(values)
    if not digits:
        return [b"%d" % (value // 1000) for value in values]
    return [each[:-3] for each in digits]


def _digits(values: Sequence[int]) -> list[bytes]:
    """Return times as decimal digits, whose last six are microseconds; empty if one has fewer."""
    return _quoted(values) if min(values) >= 10**6 else []


class _UntilFraction(dict[bytes, bytes]):
    """What is before the fraction in the text of a time, by the digits of its seconds."""

    def __missing__(self, seconds: bytes) -> bytes:
        if len(self) >= _MAX_SECONDS:
            self.clear()
        text = self[seconds] = f'"{iso_second(int(seconds))}.'.encode()
        return text


_until_fraction: Final = _UntilFraction()


def _splicing(spliced: Mapping[str, Splice], field: str) -> _Column:
    splice = spliced.get(field)
    if splice is not None:
        return partial(_spliced, splice)
    return lambda texts: [
        (
            b""
            if text is None
            else one_line(text.encode())
            if "\n" in text or "\r" in text
            else text.encode()
        )
        for text in texts
    ]


def _spliced(splice: Splice, texts: Sequence[str | None]) -> list[bytes]:
    found = iter(splice([text.encode() for text in texts if text is not None]))
    return [b"" if text is None else next(found) for text in texts]


# -- marks: what stands for a value while a template is made


def _mark(field: str) -> str:
    return f"\ufdd0{field}\ufdd1"  # characters that no text has


def _email(field: str) -> str:
    return f"{field}@mark.auditrelay.invalid"


_ACTOR: Final = {
    f"actor_{part}": attrgetter(part)
    for part in ("id", "name", "email", "ip", "user_agent", "native_type", "address")
}
_ACTOR_MARKS: Final = {
    part: _mark(f"actor_{part}") for part in ("ip", "user_agent", "native_type", "address")
}
_NAME_MARKS: Final = {
    (part, is_mail): _email(f"actor_{part}") if is_mail else _mark(f"actor_{part}")
    for part in ("id", "name", "email")
    for is_mail in (False, True)
}
_IP: Final = "2001:db8:6d61:726b::1"
_TIMES: Final = {"at": 1_234_567_890_123_456, "fetched": 987_654_321_987_654}
_NOW: Final = 1_357_924_680_135_792
_LATE: Final = 246_813_579_246_813
_CHANGES: Final = (Change(_mark("changes")),)
_REDACTED: Final = (_mark("redacted"),)
_VALUES: Final[Mapping[str, object]] = {
    "late_by_s": _LATE,
    "changes": _CHANGES,
    "redacted": _REDACTED,
}
_JSON: Final = {name: f'{{"{_mark(name)}":0}}' for name in ("raw", "metadata", "unmapped")}

_TEXT: Final[tuple[_Column, ...]] = (_quoted, _within)
_TIME: Final = (_iso_ms, _iso_us, _epoch_seconds, _milliseconds)
_NAMES: Final = ("id", "name", "email")
_OPTIONAL: Final = (
    *("native_id", "time_raw", "target_type", "org_name", "project_name", "reason"),
    *("target_id", "target_name", "target_email", "org_id", "project_id", "privilege"),
    *("changes", "metadata", "unmapped", "late_by_s", "redacted"),
)
"""The columns that may lack a value, in the order in which a shape has them."""

_FIELDS: Final[Sequence[tuple[str, Sequence[object], Sequence[_Column]]]] = (
    *[
        (name, [_mark(name)], _TEXT)
        for name in ("uid", "raw_sha256", "message", *_OPTIONAL[:12], "actor_user_agent")
    ],
    *[
        (name, [_email(name)], _TEXT)
        for name in ("actor_id", "actor_name", "actor_email", "target_email")
    ],
    *[
        (f"actor_{name}", [_mark(f"actor_{name}")], _TEXT)
        for name in (*_NAMES, "native_type", "address")
    ],
    ("actor_ip", [_mark("actor_ip"), _IP], _TEXT),
    ("at", [_TIMES["at"]], _TIME),
    ("fetched", [_TIMES["fetched"]], (_of_few(iso_ms), _milliseconds)),
    ("now", [_NOW], (_of_few(iso_ms), _of_few(iso_us))),
    ("late_by_s", [_LATE], (_quoted,)),
    ("redacted", [_REDACTED], (_quoted,)),
    ("changes", [_CHANGES], (_of_few(changes_of), _of_few(changed_fields))),
    *[(name, [mark], (_quoted,)) for name, mark in _JSON.items()],
)
"""Each field, what marks it, and the functions of a column by which renderers write its values."""
_MARKS: Final = [mark for _, marks, _ in _FIELDS for mark in marks]


# -- shapes


def _rows_by_shape(
    page: Page, choices: Sequence[Hashable]
) -> Iterator[tuple[_Shape, Sequence[int]]]:
    """
    Yield each shape of *page* and the rows that have it: sort, choice, and what may be missing.

    A value that is there is replaced by its mark, so two events of one shape are equal here.
    """
    columns = _facets(page, choices)
    shape = [column[0] for column in columns]
    varying = [number for number, column in enumerate(columns) if len(column) > 1]
    if not varying:
        yield tuple(shape), range(len(page))
        return
    rows_of = defaultdict[_Shape, list[int]](list)
    for row, values in enumerate(zip(*[columns[number] for number in varying], strict=True)):
        rows_of[values].append(row)
    for values, rows in rows_of.items():
        for number, value in zip(varying, values, strict=True):
            shape[number] = value
        yield tuple(shape), rows


def _facets(page: Page, choices: Sequence[Hashable]) -> list[Sequence[Any]]:
    """Return what makes a shape, in columns; one value alone is that of all events."""
    values: dict[str, Sequence[Any]] = {
        name: _facet(name, column) if column else [None]
        for name in _OPTIONAL
        for column in [getattr(page, name)]
    }
    distinct = dict(zip(map(id, page.actor), page.actor, strict=True))
    names = [page.target_email, page.target_id, page.target_name]
    if shared := _shared(distinct.values(), names):
        count = len(page)
        keys = [f"target_{name}" for name in ("email", "id", "name")]
        columns = [
            list(values[key]) if len(values[key]) > 1 else list(values[key]) * count for key in keys
        ]
        for row, names_of_row in enumerate(
            zip(*[each or repeat(None, count) for each in names], strict=True)
        ):
            if not shared.isdisjoint(names_of_row):
                marks = _same_names(page.actor[row], *names_of_row)
                for column, mark in zip(columns, marks, strict=True):
                    column[row] = mark
        values |= zip(keys, columns, strict=True)
    marked = {key: _marked_actor(actor) for key, actor in distinct.items()}
    actors = [marked[id(actor)] for actor in page.actor]
    sort = [page.sort[0]] if len(page.sorts) == 1 else page.sort
    return [sort, _one_if_same(choices), _one_if_same(actors), *values.values()]


def _facet(name: str, column: Sequence[Any]) -> Sequence[Any]:
    """Return *column* with each value that is there replaced by a mark."""
    if name in _JSON:
        mark = _JSON[name]
        return _one_if_same(
            [mark if text is not None and text != "null" else None for text in column]
        )
    if name in _LOOKED_INTO:
        mark_of = {value: value and _LOOKED_INTO[name](value) for value in set(column)}
        if len(mark_of) == 1:
            return list(mark_of.values())
        return _one_if_same([mark_of[value] for value in column])
    value_mark: object = _VALUES.get(name) or _mark(name)
    return [value_mark] if all(column) else [value and value_mark for value in column]


def _one_if_same(column: Sequence[Any]) -> Sequence[Any]:
    return column[:1] if column.count(column[0]) == len(column) else column


def _address(name: str, value: str) -> str:
    return _email(name) if is_email(value) else _mark(name)


_LOOKED_INTO: Final[Mapping[str, Callable[[str], str]]] = {
    "target_email": lambda value: _address("target_email", value),
    "org_id": lambda value: _mark("org_id") if fits_in_tag(value) else value,
    "project_id": lambda value: _mark("project_id") if fits_in_tag(value) else value,
    "privilege": lambda value: value if is_admin_role(value) else _mark("privilege"),
}
"""What a value is replaced by where not only its presence matters."""


@lru_cache(maxsize=2048)
def _marked_actor(actor: Actor) -> Actor:
    """Return *actor* with marks; equal names have equal marks."""
    own_id, name, email = actor.id, actor.name, actor.email
    id_mark = own_id and _NAME_MARKS["id", is_email(own_id)]
    name_mark = name and (id_mark if name == own_id else _NAME_MARKS["name", is_email(name)])
    email_mark = email and (
        id_mark
        if email == own_id
        else name_mark
        if email == name
        else _NAME_MARKS["email", is_email(email)]
    )
    ip = actor.ip
    if ip:
        ip = _ACTOR_MARKS["ip"] if not is_ip(ip) else _IP if len(ip) <= _LONGEST_IP else ip
    return _one(
        Actor(
            actor.kind,
            id_mark,
            name_mark,
            email_mark,
            ip,
            actor.user_agent and _ACTOR_MARKS["user_agent"],
            actor.native_type and _ACTOR_MARKS["native_type"],
            actor.address and _ACTOR_MARKS["address"],
        )
    )


@lru_cache(maxsize=1024)
def _one(actor: Actor) -> Actor:
    """Return one object for all that are equal: comparing it with itself takes no time."""
    return actor


def _shared(actors: Iterable[Actor], targets: Sequence[Sequence[str | None]]) -> set[str | None]:
    """Return the texts that are in two of the columns: names of an actor, or of a target."""
    found = {name for actor in actors for name in (actor.id, actor.name, actor.email)}
    shared: set[str | None] = set()
    for column in filter(None, targets):
        of_column = set(column)
        shared |= found & of_column
        found |= of_column
    return shared - {None, ""}


def _same_names(
    actor: Actor, email: str | None, id_: str | None, name: str | None
) -> tuple[str | None, str | None, str | None]:
    """Return the marks of a target's names: those that equal one of *actor*'s have the same."""
    marked = _marked_actor(actor)
    marks: dict[str | None, str | None] = {None: None, "": ""}
    for value, mark in (
        (actor.id, marked.id),
        (actor.name, marked.name),
        (actor.email, marked.email),
        (email, email and _address("target_email", email)),
        (id_, _mark("target_id")),
        (name, _mark("target_name")),
    ):
        marks.setdefault(value, mark)
    return marks[email], marks[id_], marks[name]


def _marked(shape: _Shape) -> AuditEvent:
    """Return the event that stands for all of *shape*."""
    sort: Sort = shape[0]
    values: dict[str, Any] = dict(zip(_OPTIONAL, shape[3:], strict=True))
    target = Target(*[values.pop(f"target_{part}") for part in ("type", *_NAMES)])
    metadata, unmapped = values.pop("metadata"), values.pop("unmapped")
    return AuditEvent(
        **msgspec.structs.asdict(sort),
        **values
        | _TIMES
        | {"changes": values["changes"] or (), "redacted": values["redacted"] or ()},
        uid=_mark("uid"),
        actor=shape[2],
        target=target,
        message=_mark("message"),
        metadata=NOTHING if metadata is None else msgspec.Raw(metadata.encode()),
        unmapped=NOTHING if unmapped is None else msgspec.Raw(unmapped.encode()),
        raw=msgspec.Raw(_JSON["raw"].encode()),
        raw_sha256=_mark("raw_sha256"),
    )
