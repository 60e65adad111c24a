"""
A description of a receiver: the tables of its file, as they are written.

It says how a batch is written into a request, and what each answer means. It is strict where it is
silent: a success has to be described in positive words, and any other answer is judged as that of
every sink is. ``load`` reads the file and checks what one table says about another.
"""

import json
from collections.abc import Mapping
from datetime import date, timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from auditrelay.descriptions.model import (
    VENDOR,
    BasicAuth,
    HeaderAuth,
    HeadersAuth,
    OAuth2Auth,
    SecretSetting,
    Setting,
    Status,
    Table,
    Text,
    Whole,
)
from auditrelay.descriptions.places import AnyPath
from auditrelay.events.forms import FORMS
from auditrelay.settings.values import Duration, Size


def _receiver(name: str) -> str:
    if not VENDOR.fullmatch(name):
        raise ValueError(
            f'{name!r} is not a name: write small letters, digits and _, such as "acme"'
        )
    return name


def check_form(name: str) -> str:
    """Return *name* if it is a form. Raises ValueError."""
    if name not in FORMS:
        raise ValueError(f"must be {' or '.join(map(json.dumps, sorted(FORMS)))}, not {name!r}")
    return name


FormName = Annotated[
    str,
    AfterValidator(check_form),
    WithJsonSchema({"type": "string", "enum": sorted(FORMS)}),
]


def _proves(value: object) -> object:
    if value == "nothing":
        raise ValueError("a receiver whose success proves nothing is no receiver for audit logs")
    return value


def _json_text(value: str) -> str:
    try:
        json.loads(value)
    except (ValueError, RecursionError):
        raise ValueError(
            f"{value!r} is not JSON: a text is written with quotes in it, such as '\"ok\"'"
        ) from None
    return value


JsonText = Annotated[str, AfterValidator(_json_text)]
"""A JSON value as it is written in JSON: ``'"true"'`` is a text, ``"true"`` is not."""

Values = Annotated[tuple[JsonText, ...], Field(min_length=1)]


class ReceiverSetting(Setting):
    """What an operator fills in."""

    scope: Literal[False] = False
    """Has no use here: what a receiver is sent has its ids."""
    means: dict[str, str] = Field(default_factory=dict)
    """What stands in the hole for a choice, where that is not the choice itself."""


class Request(Table):
    """The request that takes a batch."""

    url: Text
    """With its path, may have holes. ``"secret:NAME"``: the whole address is a secret."""
    method: Literal["POST", "PUT"] = "POST"
    params: dict[str, str] = Field(default_factory=dict)
    """Of the query."""
    headers: dict[str, str] = Field(default_factory=dict)
    """Headers without credentials."""
    content_type: str | None = None
    """By default that of the shape of the body."""
    gzip: bool = True
    """Whether the receiver unpacks gzip."""


class NoAuth(Table):
    """Nothing identifies us, or the address itself does."""

    kind: Literal["none"]


Auth = Annotated[
    NoAuth | HeaderAuth | HeadersAuth | BasicAuth | OAuth2Auth, Field(discriminator="kind")
]


class Body(Table):
    """How items are put together."""

    shape: Literal["array", "ndjson", "wrapped", "single"]
    """A list; a line each; a list within ``skeleton``; or one request for each event."""
    skeleton: str | None = None
    """For ``wrapped``: JSON with ``"$items"`` in the place of the list."""


TimeAs = Literal["iso_s", "iso_ms", "iso_us", "epoch_s", "epoch_ms", "epoch_us", "epoch_ns"]


class ItemTable(Table):
    """How an event is written."""

    form: FormName = "ocsf"
    """What ``$event`` and ``$text`` are; the operator's ``format`` replaces it."""
    skeleton: str = '"$event"'
    """JSON with names such as ``"$event"`` in the places of values."""
    uid: AnyPath | None = None
    """A path that is set to the event's uid."""
    time: AnyPath | None = None
    """A path that is set to the event's time."""
    time_as: TimeAs = "iso_ms"
    """How the time is written, there and for ``$time``; digits are exact."""
    time_text: bool = False
    """A number since 1970 is written as a text."""
    flat: bool = False
    """What is nested in ``$event`` gets dotted keys."""
    lists: Literal["keep", "text"] = "keep"
    """``"text"``: lists in ``$event`` become their JSON text."""


class Streams(Table):
    """Items are grouped by labels, as Loki wants it."""

    labels: dict[str, str] = Field(min_length=1)
    """By label its text; ``{source}`` and ``{vendor}`` are those of the event."""
    skeleton: str
    """JSON with ``"$labels"`` and ``"$items"``."""
    spread: Duration | None = Field(default=None, ge=timedelta(minutes=1))
    """What is older gets the label ``late``, the hour in which it happened."""


class Limits(Table):
    """The most that the receiver takes."""

    events: Whole | None = Field(default=None, ge=1)
    """Events of a request."""
    bytes: Size | None = None
    """Bytes of a request before it is compressed."""
    wire_bytes: Size | None = None
    """Bytes of a request as it is sent."""
    event_bytes: Size | None = None
    """Bytes of an item."""
    fields: Whole | None = Field(default=None, ge=2)
    """Values in ``$event`` that are not objects."""
    field_bytes: Size | None = Field(default=None, ge=16)
    """Bytes of a text in ``$event``."""
    depth: Whole | None = Field(default=None, ge=1)
    """Objects and lists within each other in ``$event``; what is deeper becomes JSON text."""
    cut: bool = False
    """Shorten what is too much, and mark it ``auditrelay.cut``; else it is a dead letter."""


class Age(Table):
    """Which times the receiver can find."""

    oldest: Duration | None = Field(default=None, gt=timedelta(minutes=2))
    """How long ago an event may have happened."""
    newest: Duration | None = Field(default=None, gt=timedelta(minutes=2))
    """How far in the future its time may be."""
    then: Literal["restamp", "dead_letter"] = "restamp"
    """What becomes of others: they get the time of sending, or are dead letters."""


class Success(Table):
    """What the receiver answers if it has taken a request; nothing else is a success."""

    statuses: tuple[Status, ...] = Field(min_length=1)
    """Statuses of 2xx."""
    body: Literal["empty", "json", "any"]
    """What the body must be; a web page is never a success."""
    where: dict[str, Values] = Field(default_factory=dict)
    """By path in the body the values, as JSON, of which one must stand there."""
    warn: tuple[AnyPath, ...] = ()
    """Paths whose texts are shown as warnings."""


class Items(Table):
    """A list in the success that has a verdict for each event."""

    at: AnyPath
    """The path of the list."""
    by: Text
    """``"order"``, or the path of the uid in an element."""
    verdict: AnyPath
    """The path of the verdict in an element."""
    ok: Values
    """Values of the verdict that mean that it is stored."""
    duplicate: tuple[JsonText, ...] = ()
    """Values that mean that it was stored before."""
    retry: tuple[JsonText, ...] = ()
    """Values that mean: later. Any other is a refusal."""
    message: AnyPath | None = None
    """The path in an element of why."""


class Count(Table):
    """A number in the success: how many events were refused, without saying which."""

    refused: AnyPath
    """The path of the number."""
    message: AnyPath | None = None
    """The path of why."""
    then: Literal["isolate", "dead_letter_batch"] = "isolate"
    """Send each alone, or give up the whole batch."""


Do = Literal["retry", "hold", "split", "isolate", "reject"]
Kept = Literal["nothing", "before_index", "the_valid", "unknown"]


class On(Table):
    """What an answer that is no success means; the first that fits counts."""

    statuses: tuple[Status, ...] = ()
    """Any, if none is given."""
    where: dict[str, Values] = Field(default_factory=dict)
    """By path in the body the values, as JSON, of which one must stand there."""
    words: tuple[Text, ...] = ()
    """Globs on the body in small letters, its first 4 KB, of which one fits."""
    do: Do
    """Send again later; wait for an operator; send in halves; each alone; or give up the batch."""
    stored: Kept | None = None
    """What the receiver has stored; by default nothing, for 5xx ``"unknown"``."""
    index: AnyPath | None = None
    """For ``before_index``: the path of the number, from 0, of the first that is not stored."""
    hint: str = ""
    """What the operator should do."""


class Wait(Table):
    """A header that says when to come back; ``Retry-After`` is always read."""

    header: Text
    unit: Literal["seconds", "epoch_s", "epoch_ms", "iso"] = "seconds"


class Key(Table):
    """Where the uid goes so that a repeat is harmless; the receiver then stores an event once."""

    header: str | None = None
    """Of a request, which then has one event."""
    path: AnyPath | None = None
    """In an item."""


class Check(Table):
    """A harmless request, and the answer that it must get."""

    url: Text | None = None
    """By default that of the request; may have holes."""
    method: Literal["GET", "HEAD", "POST", "PUT"] = "GET"
    body: str | None = None
    """Its content, as it is."""
    statuses: tuple[Status, ...] = Field(min_length=1)
    """Statuses of which one must come."""
    where: dict[str, Values] = Field(default_factory=dict)
    """By path in the body the values, as JSON, of which one must stand there."""


class Defaults(Table):
    """The receiver's own defaults of keys that every sink has."""

    batch_events: Whole | None = Field(default=None, ge=1)
    batch_bytes: Size | None = None
    linger: Duration | None = None
    concurrency: Whole | None = Field(default=None, ge=1, le=64)
    timeout: Duration | None = None

    def given(self) -> Mapping[str, Any]:
        """Return those that are given."""
        found = {key: getattr(self, key) for key in type(self).model_fields}
        return {key: value for key, value in found.items() if value is not None}


class Example(Table):
    """An answer, and what it must be taken for."""

    status: Status
    body: str = ""
    headers: dict[str, str] = Field(default_factory=dict)
    means: Literal["done", "retry", "hold", "split", "isolate", "reject"]


class ReceiverFile(Table):
    """The whole file."""

    receiver: Annotated[
        str,
        BeforeValidator(lambda value: value if not isinstance(value, str) else _receiver(value)),
        WithJsonSchema({"type": "string", "pattern": f"^{VENDOR.pattern}$"}),
    ]
    """Its name: small letters, digits and ``_``."""
    product: Text
    """The product's name."""
    docs: tuple[str, ...] = Field(min_length=1)
    """Addresses where its intake is documented."""
    checked: date
    """The date when the file was last compared with them."""
    evidence: Literal["documentation", "recorded"]
    """What it was compared with: the documentation, or a live account."""
    needs: tuple[str, ...] = ()
    """What an operator needs: a plan, a role, a key."""
    unsure: tuple[str, ...] = ()
    """What is not proved, and what happens if it is otherwise."""
    replaces: str | None = None
    """A shipped description that this file stands in for."""
    proves: Annotated[Literal["stored", "taken"], BeforeValidator(_proves)] = "taken"
    """What its success proves."""
    find: str = ""
    """How an event is searched for there; ``{uid}`` is its uid."""
    settings: dict[str, ReceiverSetting] = Field(default_factory=dict)
    secrets: dict[str, SecretSetting] = Field(default_factory=dict)
    request: Request
    auth: Auth
    body: Body
    item: ItemTable = ItemTable()
    streams: Streams | None = None
    limits: Limits = Limits()
    age: Age = Age()
    success: Success
    items: Items | None = None
    count: Count | None = None
    on: tuple[On, ...] = ()
    wait: Wait | None = None
    key: Key | None = None
    check: Check | None = None
    defaults: Defaults = Defaults()
    examples: tuple[Example, ...] = ()
