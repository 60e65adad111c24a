"""
Compile a description into a vendor: what its records are known by, and what they mean.

To identify a record its id, its time and its organisation are decoded alone, as a type that is made
of their paths. What a new record says is read in columns from the whole decoded page: a description
may lead anywhere.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import repeat, takewhile
from types import NoneType
from typing import Annotated, Any, Final, NamedTuple, cast

import msgspec
import orjson
from msgspec import UNSET, Meta, UnsetType

from auditrelay.descriptions import actions, times
from auditrelay.descriptions.columns import ANY, LISTS, OBJECTS, SCALARS, Table, field_of
from auditrelay.descriptions.model import (
    ActorKind,
    ActorPaths,
    ChangePaths,
    EventPaths,
    Feed,
    Records,
    TargetPaths,
)
from auditrelay.descriptions.model import Table as Tables
from auditrelay.descriptions.places import Named, Path, find
from auditrelay.events import Actor, Change, timestamps
from auditrelay.events.addresses import ip_and_text
from auditrelay.events.classify import MEMBERSHIPS
from auditrelay.events.decode import encode
from auditrelay.events.identity import Find, Identity, Place
from auditrelay.events.shapes import as_object, keys_of
from auditrelay.events.split import Split
from auditrelay.events.vendors import (
    MAX_TEXT_LENGTH,
    NO_ACTOR,
    Action,
    Column,
    Columns,
    Documented,
    OwnColumns,
    ParsedPage,
    Vendor,
    as_json,
    differences,
    either,
    messages,
    text,
    unmapped,
    verbatim_time,
)

_OTHERS: Final = "*"
"""In a table of kinds: any text that is not named."""

_NO_FIELD: Final = "value"
"""The name of what changed, where the record has none."""

_Number = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
_Leaf = str | _Number | UnsetType | None
_Time = str | _Number | float | UnsetType | None


def vendor_of(feed: Feed) -> Vendor:
    """Return the vendor that *feed* describes."""
    record, attributes = _declared(_identifying(feed.records), feed.records.time[0])
    identity = _identity(feed, attributes)
    reader = _Reader(feed, identity)
    split = feed.records.split
    return Vendor(
        name=feed.vendor,
        product=feed.product,
        identity=identity,
        record=record,
        fields=reader.fields,
        spared=reader.mapped,
        spared_places=frozenset(_known_places(feed)),
        read=reader.read,
        reads_whole=True,
        whole_places=reader.whole_places,
        split=None if split is None else Split([str(step) for step in split.steps]),
    )


# -- identity


def _identifying(records: Records) -> list[Path]:
    """Return the likeliest paths of what identifies a record."""
    found = [*(records.id_parts or (records.id or ())[:1]), records.time[0]]
    return found if records.organisation is None else [*found, records.organisation]


def _declared(paths: Iterable[Path], time: Path) -> tuple[type[Documented], Mapping[Path, str]]:
    """
    Return the type of a record with what stands at *paths*, and which attributes those are.

    Only what stands at *time* may be a number with a fraction. A path with anything but keys has no
    attribute, nor one that goes on from the end of another.
    """
    tree: dict[str, Any] = {}
    keyed = [path for path in paths if all(type(step) is str for step in path.steps)]
    for path in keyed:
        node = tree
        for key in path.steps:
            node = node.setdefault(str(key), {})
    ends = {path: _node(tree, path) for path in keyed}
    attributes: dict[Path, str] = {}
    record = _struct(tree, (), time)
    for path, node in ends.items():
        if not node:
            attributes[path] = ".".join(_names(tree, path))
    return record, attributes


def _node(tree: dict[str, Any], path: Path) -> dict[str, Any]:
    for key in path.steps:
        tree = tree[str(key)]
    return tree


def _names(tree: dict[str, Any], path: Path) -> Iterator[str]:
    """Yield the names of the attributes that lead to *path*: keys may be no names of Python."""
    for key in path.steps:
        yield f"f{list(tree).index(str(key))}"
        tree = tree[str(key)]


def _struct(tree: Mapping[str, Any], above: tuple[str, ...], time: Path) -> type[Documented]:
    fields: list[tuple[str, Any, Any]] = []
    for number, (key, below) in enumerate(tree.items()):
        if below:
            inner = _struct(below, (*above, key), time)
            fields.append((f"f{number}", inner, msgspec.field(default_factory=inner)))
        else:
            kind = _Time if (*above, key) == time.steps else _Leaf
            fields.append((f"f{number}", kind, UNSET))
    made = msgspec.defstruct(
        "Record",
        fields,
        bases=(Documented,),
        rename={f"f{number}": key for number, key in enumerate(tree)},
        forbid_unknown_fields=False,
        gc=False,
    )
    return cast("type[Documented]", made)


def _identity(feed: Feed, attributes: Mapping[Path, str]) -> Identity:
    records = feed.records

    def places(paths: Sequence[Path]) -> tuple[Place, ...]:
        return tuple(
            Place(find(path), field_of(path.steps), attributes.get(path)) for path in paths
        )

    read_time = times.reader(records.time_format)
    is_number = records.time_format in times.READ and records.time_format != "iso"
    return Identity(
        vendor=feed.key,
        id=places(records.id_parts or records.id or ()),
        is_joined=records.id_parts is not None,
        without=frozenset(records.without),
        time=places(records.time),
        read_time=read_time,
        read_usual_time=timestamps.parse if read_time is timestamps.read else read_time,
        usual_times=frozenset((str, int, float) if is_number else (str,)),
        organisation=None if records.organisation is None else places([records.organisation])[0],
    )


# -- meaning


class _Reader:
    """Reads pages of whole records of one feed."""

    def __init__(self, feed: Feed, identity: Identity) -> None:
        self._event = feed.event
        self._records = feed.records
        self._identity = identity
        self._action = actions.reader(feed.event, feed.actions)
        self._actor = _actor_maker(feed.event.actor)
        used = [*_paths(feed.records), *_paths(feed.event)]
        self.mapped = frozenset(filter(None, (field_of(path.steps) for path in used)))
        self.fields = self.mapped.union(feed.records.fields or ())
        self.whole_places = frozenset(map(_walked, used))
        self._named = {path.steps[0] for path in used if isinstance(path.steps[0], Named)}

    def read(self, page: Columns) -> ParsedPage:
        """Say who did what to what. What has a wrong type is left out, and stays unmapped."""
        event, table = (
            self._event,
            Table(page.details, self._event.metadata or (), is_short=page.is_short),
        )
        action = self._actions(table)
        actor, who = _actors(event, table, self._actor)
        target = _targets(event.target, table)
        sentences = messages(who, action, _first_of(len(page), target.name, target.id))
        own_message = table.texts(event.message)
        return ParsedPage(
            action=action,
            actor=actor,
            message=(
                [own or made for own, made in zip(own_message, sentences, strict=True)]
                if own_message
                else sentences
            ),
            target_type=target.type,
            target_id=target.id,
            target_name=target.name,
            target_email=target.email,
            org_name=table.texts(event.org_name),
            project_id=table.texts(event.project_id),
            project_name=table.texts(event.project_name),
            privilege=_privileges(event, table, action),
            changes=() if event.changes is None else _changes(event.changes, table),
            reason=table.texts(event.reason),
            own=self._own(table),
        )

    def _actions(self, table: Table) -> list[Action]:
        event = self._event
        columns = [
            _action_texts(event, table),
            table.texts(None if event.refine is None else (event.refine,)),
            table.texts(event.category),
            () if event.outcome is None else _words(table.values(event.outcome, SCALARS)),
        ]
        if not any(columns):
            return [self._action(None, None, None, None)] * len(table.records)
        return list(map(self._action, *[column or repeat(None) for column in columns]))

    def _own(self, table: Table) -> OwnColumns:
        """Return what the record itself says; it comes last, when all misfits are noted."""
        records, event = self._records, self._event
        organisation = records.organisation
        times_raw = table.values(records.time[:1]) if len(records.time) == 1 else ()
        return OwnColumns(
            native_id=self._ids(table),
            time_raw=[
                each[:MAX_TEXT_LENGTH] if type(each) is str else verbatim_time(each)
                for each in times_raw or map(self._identity.time_of, map(as_object, table.records))
            ],
            org_id=(
                [None] * len(table.records)
                if organisation is None
                else table.texts((organisation,))
            ),
            metadata=(() if event.metadata is None else _json_texts(table.values(event.metadata))),
            unmapped=self._unmapped(table),
        )

    def _ids(self, table: Table) -> Column:
        """Return the ids as they are shown; that of several parts has them in a row."""
        paths = self._records.id
        if paths is not None and len(paths) == 1:
            return table.texts(paths)
        found: list[str | None] = []
        for row, record in enumerate(map(as_object, table.records)):
            misfits: list[str] = []
            parts = self._identity.parts(record, misfits)
            found.append("/".join(parts)[:MAX_TEXT_LENGTH] or None)
            table.misfits += [(row, field) for field in misfits if field]
        return found

    def _unmapped(self, table: Table) -> Column:
        fields = self.fields
        if not table.misfits and fields.issuperset(keys_of(table.records)):
            return ()
        records = map(as_object, table.records)
        misfits: dict[int, list[str]] = {}
        for row, field in table.misfits:
            misfits.setdefault(row, []).append(field)
        named = [table.texts((step.path,)) for step in self._named]
        return [
            unmapped(record, fields.union(filter(None, keys)), misfits.get(row, ()))
            for row, (record, *keys) in enumerate(zip(records, *named, strict=True))
        ]


def _paths(tables: Tables) -> Iterator[Path]:
    """Yield the paths in *tables* that begin at a record, and those that name a key of one."""
    for name in type(tables).model_fields:
        value = getattr(tables, name)
        if isinstance(tables, ChangePaths) and tables.list is not None and name != "list":
            continue  # it begins at an element of the list
        for each in value if type(value) is tuple else (value,):
            if isinstance(each, Path):
                yield each
                yield from (step.path for step in each.steps if isinstance(step, Named))
            elif isinstance(each, Tables):
                yield from _paths(each)


def _walked(path: Path) -> tuple[str, ...]:
    """Return the keys of *path* before anything else in it: what they lead to is looked into."""
    return tuple(takewhile(lambda step: type(step) is str, path.steps))  # type: ignore[arg-type]


def _known_places(feed: Feed) -> Iterator[tuple[str | None, ...]]:
    """
    Yield what is no secret whatever its key is called: what a record is known by, and names.

    The author of a description looked at it: an id under ``credential_uid``, an object ``api_key``
    in which is who acted. What is free, such as details, changes and reasons, is not among it.
    """
    event, found = feed.event, [*_paths(feed.records)]
    free = {"message", "reason", "metadata", "changes"}
    found += _paths(event.model_copy(update=dict.fromkeys(free)))
    for path in found:
        steps = [step if isinstance(step, str) else None for step in path.steps]
        if not any(isinstance(step, Named) for step in path.steps):
            yield from (tuple(steps[: end + 1]) for end in range(len(steps)))


def _privileges(event: EventPaths, table: Table, action: Sequence[Action]) -> Column:
    """Return what was given; to a person who joins or leaves a group that is the group."""
    given, groups = table.texts(event.privilege), table.texts(event.group)
    if not groups:
        return given
    return [
        (group or own) if each.verb in MEMBERSHIPS and each.kind != "group" else own
        for each, group, own in zip(action, groups, given or repeat(None), strict=False)
    ]


def _action_texts(event: EventPaths, table: Table) -> Column:
    if event.action_parts is None:
        return table.texts(event.action)
    parts = [table.texts((path,)) for path in event.action_parts]
    return [".".join(filter(None, each)) or None for each in zip(*parts, strict=True)]


def _words(values: Sequence[Any]) -> Column:
    """Return what is looked up for *values*: texts, and the JSON text of numbers and booleans."""
    if set(map(type, values)) <= {str, NoneType}:
        return [each or None for each in values]
    return list(map(_word, values))


def _word(value: Any) -> str | None:
    if type(value) is str:
        return value or None
    return _json(value) if type(value) in SCALARS else None


def _json(value: Any) -> str | None:
    return None if value is None else encode(value).decode()


def _json_texts(values: Sequence[Any]) -> Column:
    try:
        return [None if value is None else orjson.dumps(value).decode() for value in values]
    except TypeError:  # an integer beyond 64 bits
        return list(map(_json, values))


class _Party(NamedTuple):
    """Who acted, or what was acted on: columns, empty where no path leads to any."""

    which: Sequence[int]
    """The alternative that is taken."""
    type: Column
    id: Column
    name: Column
    email: Column


_PARTS: Final = ("id", "name", "email")


def _party(alternatives: Sequence[ActorPaths | TargetPaths], table: Table) -> _Party:
    """
    Return for each record the first alternative whose id, name or email finds something.

    Where none does, there may still be a type: of the first alternative with a path to one.
    """
    if not alternatives:
        return _Party((), (), (), (), ())
    first = alternatives[0]
    types = table.texts(first.type)
    columns = {part: table.texts(getattr(first, part)) for part in _PARTS}
    if len(alternatives) == 1:
        return _Party((), types, **columns)
    count = len(table.records)
    taken = _present(count, columns.values())
    which = [0] * count
    for number, each in enumerate(alternatives[1:], 1):
        if all(taken):
            break
        own_types = table.texts(each.type, taken)
        own = {part: table.texts(getattr(each, part), taken) for part in _PARTS}
        here = [
            new and not old for new, old in zip(_present(count, own.values()), taken, strict=True)
        ]
        columns = {part: _merged(columns[part], own[part], here) for part in _PARTS}
        spoken = [
            new and not (old or kind)
            for new, old, kind in zip(
                map(bool, own_types or repeat(None, count)),
                taken,
                types or repeat(None),
                strict=False,
            )
        ]
        types = _merged(types, own_types, [a or b for a, b in zip(here, spoken, strict=True)])
        which = [
            number if one or other else former
            for one, other, former in zip(here, spoken, which, strict=True)
        ]
        taken = [old or new for old, new in zip(taken, here, strict=True)]
    return _Party(which, types, **columns)


def _present(count: int, columns: Iterable[Column]) -> list[bool]:
    """Return for each record whether one of *columns* has something."""
    there = [column for column in columns if column]
    return list(map(any, zip(*there, strict=True))) if there else [False] * count


def _merged(column: Column, other: Column, here: Sequence[bool]) -> Column:
    """Return *column* with the values of *other* where those count."""
    if not (column or other):
        return ()
    return [
        another if new else one
        for one, another, new in zip(
            column or repeat(None, len(here)), other or repeat(None), here, strict=False
        )
    ]


def _actors(
    event: EventPaths, table: Table, make: Callable[..., Actor]
) -> tuple[Sequence[Actor], Column]:
    """Return who acted, and how a sentence calls them."""
    party = _party(event.actor, table)
    who = _first_of(len(table.records), party.email, party.name, party.id, party.type)
    parts = [party.type, party.id, party.name, party.email]
    parts += table.texts(event.actor_ip), table.texts(event.actor_agent)
    if not any(parts):
        return [NO_ACTOR] * len(who), who
    columns = [column or repeat(None) for column in parts]
    return list(map(make, party.which or repeat(0), *columns)), who


def _actor_maker(alternatives: Sequence[ActorPaths]) -> Callable[..., Actor]:
    """Return what makes an actor of an alternative's number and the values; it keeps some."""

    @lru_cache(maxsize=512)
    def make(  # noqa: PLR0917  # it is mapped over columns
        which: int,
        native_type: str | None,
        own_id: str | None,
        name: str | None,
        email: str | None,
        ip: str | None,
        agent: str | None,
    ) -> Actor:
        kind: ActorKind = "unknown"
        if native_type or own_id or name or email:
            kind = _kind(alternatives[which], native_type)
        elif not (ip or agent):
            return NO_ACTOR
        ip, address = ip_and_text(ip)
        return Actor(kind, own_id, name, email, ip, agent, native_type, address)

    return make


def _kind(paths: ActorPaths, native_type: str | None) -> ActorKind:
    if paths.kind is not None:
        return paths.kind
    if native_type is None:
        return "unknown"
    return paths.kinds.get(native_type) or paths.kinds.get(_OTHERS) or "unknown"


def _targets(alternatives: Sequence[TargetPaths], table: Table) -> _Party:
    """Return what was acted on; a constant type only where something was found."""
    party = _party(alternatives, table)
    constants = [each.type_is for each in alternatives]
    if not any(constants):
        return party
    count = len(table.records)
    there = _present(count, (party.id, party.name, party.email))
    types = [
        constants[which] if found and constants[which] else own
        for which, found, own in zip(
            party.which or repeat(0, count), there, party.type or repeat(None), strict=False
        )
    ]
    return party._replace(type=types)


def _first_of(count: int, *columns: Column) -> Column:
    """Return for each record the first value of *columns*, of which some may be empty."""
    there = [column for column in columns if column]
    return either(*there) if there else [None] * count


def _changes(paths: ChangePaths, table: Table) -> Sequence[tuple[Change, ...]]:
    if paths.list is not None:
        inside = [
            find(each) if each is not None else _nothing
            for each in (paths.field, paths.before, paths.after)
        ]
        return [_listed(each, *inside) for each in table.values((paths.list,), LISTS)]
    expected = OBJECTS if paths.field is None else ANY
    before, after = (
        [None] * len(table.records) if each is None else table.values((each,), expected)
        for each in (paths.before, paths.after)
    )
    if paths.field is None:
        return [
            () if old is None and new is None else differences({"before": old, "after": new})
            for old, new in zip(before, after, strict=True)
        ]
    # Where values are described, a field alone is no change: the path to it may fit every record.
    has_values = paths.before is not None or paths.after is not None
    return [
        ()
        if old is None and new is None and (has_values or field is None)
        else (Change(field or _NO_FIELD, as_json(old), as_json(new)),)
        for field, old, new in zip(table.texts((paths.field,)), before, after, strict=True)
    ]


def _listed(elements: Any, field: Find, before: Find, after: Find) -> tuple[Change, ...]:
    if type(elements) is not list:
        return ()
    return tuple(
        [
            Change(text(field(each)) or _NO_FIELD, as_json(before(each)), as_json(after(each)))
            for each in elements
            if type(each) is dict
        ]
    )


def _nothing(_: Any) -> None:
    return None
