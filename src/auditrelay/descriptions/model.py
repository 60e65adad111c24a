"""
A description of an audit-log API: the tables of its file, as they are written.

A description says where things are; the engine knows what to do. It has no expressions, no
conditions and no state: a cursor cannot be moved here. ``load`` reads the file and checks what one
table says about another.
"""

import re
from collections.abc import Mapping
from datetime import date, timedelta
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    WithJsonSchema,
)

from auditrelay.descriptions.places import AnyPath, AnySlot, AnySpot, Paths
from auditrelay.settings.values import Duration

Text = Annotated[str, Field(min_length=1)]
Whole = Annotated[int, Strict()]  # or true would be 1
Status = Annotated[Whole, Field(ge=100, le=599)]


VENDOR: Final = re.compile(r"[a-z][a-z0-9_]{1,31}")
"""A vendor's name: it is in uids, source types and names of indices."""


def _vendor(name: str) -> str:
    if not VENDOR.fullmatch(name):
        raise ValueError(
            f'{name!r} is not a name: write small letters, digits and _, such as "acme"'
        )
    return name


def _text_or_texts(value: object) -> object:
    if isinstance(value, str) or (
        isinstance(value, list) and value and all(isinstance(each, str) for each in value)
    ):
        return value
    raise ValueError("must be a text in quotes, or a list of texts")


def _meaning(value: object) -> object:
    if isinstance(value, str) or (
        isinstance(value, dict) and all(isinstance(each, str) for each in value.values())
    ):
        return value
    raise ValueError(
        'must be a text such as "user/create", or a table of such texts by event.refine'
    )


class Table(BaseModel):
    """A table of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class Setting(Table):
    """What an operator fills in."""

    about: Text
    """What it is, in one line."""
    example: Text
    """A value, shown in errors and by ``auditrelay init``."""
    pattern: str | None = None
    """The whole value must match it."""
    choices: tuple[str, ...] | None = None
    """The only values."""
    default: str | None = None
    """The value if the operator gives none."""
    scope: bool = False
    """Part of what ids are unique in."""


class SecretSetting(Table):
    """A credential that an operator fills in."""

    about: Text
    """What it is, and where it is made."""
    default: str | None = None
    """Only "" makes sense: a secret that some accounts do not have."""


class HeaderAuth(Table):
    """One secret in one header."""

    kind: Literal["header"]
    secret: Text
    """The secret."""
    header: Text = "authorization"
    """The header that it is sent in."""
    prefix: str = ""
    """As it is written, with its space."""


class HeadersAuth(Table):
    """Several secrets, each in a header."""

    kind: Literal["headers"]
    headers: dict[str, str] = Field(min_length=1)
    """The secret by header."""


class BasicAuth(Table):
    """Basic authentication; each part is ``secret:NAME``, ``setting:NAME`` or ``text:...``."""

    kind: Literal["basic"]
    user: Text
    """``"secret:NAME"``, ``"setting:NAME"``, or ``"text:..."``, which may be empty."""
    password: Text
    """Like *user*."""


Grant = Literal["client_credentials", "refresh_token", "jwt", "account_credentials"]


class OAuth2Auth(Table):
    """A token of an authorisation server (RFC 6749, RFC 7523)."""

    kind: Literal["oauth2"]
    grant: Grant
    """What is shown for a token. A refresh token must not rotate."""
    token_url: Text
    """The authorisation server; the operator's key of that name replaces it."""
    client_id: str | None = None
    """The name of a secret, as all that follow to *key*."""
    client_secret: str | None = None
    """The secret with the client's secret."""
    refresh_token: str | None = None
    """The secret with the refresh token."""
    key: str | None = None
    """Of a JWT grant: a service account's JSON file, or a private key in PEM."""
    issuer: str | None = None
    """For ``jwt``: who signs; by default what the service account's JSON says."""
    subject: str | None = None
    """For ``jwt``: in whose name."""
    audience: str | None = None
    """For whom the token is."""
    scope: str | None = None
    """What it is for."""
    params: dict[str, str] = {}
    """Further parameters of the token request."""
    send: Literal["form", "json", "basic"] = "form"
    """How the client's id and secret are sent: basic is in a header."""
    prefix: str = "Bearer "
    """What stands before the token."""


class DuoAuth(Table):
    """Duo's signature (https://duo.com/docs/adminapi#authentication)."""

    kind: Literal["duo"]
    integration_key: Text
    """The secret with the integration key."""
    secret_key: Text
    """The secret with the secret key."""


Auth = Annotated[
    HeaderAuth | HeadersAuth | BasicAuth | OAuth2Auth | DuoAuth, Field(discriminator="kind")
]


class Request(Table):
    """The request, without what the window, the pages and the credentials add to it."""

    base_url: Text
    """May have holes in host and path; the operator's key of that name replaces it."""
    path: Text
    """From ``/`` on; keep or leave out the slash at its end as the vendor wants it."""
    method: Literal["GET", "POST"] = "GET"
    """A POST must only read: it is repeated like a GET."""
    params: dict[str, Annotated[str | tuple[str, ...], BeforeValidator(_text_or_texts)]] = {}
    """Of the query: a text, or a list of texts for a parameter that is given several times."""
    headers: dict[str, str] = {}
    """Headers without credentials."""
    body: dict[str, Any] | None = None
    """Of a POST: a table, sent as JSON. Slots add to it."""


Order = Literal["none", "newest_first", "oldest_first"]


class Time(Table):
    """How a window is asked for."""

    start: AnySlot | None = None
    """The slot of the lower bound."""
    end: AnySlot | None = None
    """The slot of the upper bound; with the slot of *start* the parameter is sent twice."""
    text: str | None = None
    """A text with ``{start}`` and ``{end}``, in the slot *at*."""
    at: AnySlot | None = None
    """The slot of *text*."""
    format: str = "iso_ms"
    """How a bound is written."""
    longest: Duration | None = None
    """The vendor refuses longer windows."""
    order: Order = "none"
    """As asked for or promised; it saves requests, no event depends on it."""
    axis: Literal["event", "recorded"] = "event"
    """Which time the filter speaks of: the record's own, or when the vendor stored it."""


class Pages(Table):
    """How pages are turned, and which sign is the end."""

    kind: Literal["none", "cursor", "url", "number", "offset"]
    """What the next page is asked for with."""
    from_: AnySpot | None = Field(default=None, alias="from")
    """The spot of the next cursor or address."""
    to: AnySlot | None = None
    """The slot of the cursor, number or offset."""
    first: Whole | None = Field(default=None, ge=0)
    """The first number: 1, of an offset 0."""
    skip_first: bool = False
    """The first page is asked for without its number."""
    size: AnySlot | None = None
    """The slot of the page size."""
    largest: Whole | None = Field(default=None, ge=1)
    """The vendor's largest page; the default of ``page_size``."""
    more: AnySpot | None = None
    """End sign: the spot of what is true until the last page."""
    until_empty: bool = False
    """End sign: a page without records."""
    count: AnySpot | None = None
    """End sign: the spot of the number of pages."""
    total: AnySpot | None = None
    """End sign: the spot of the number of records. With a cursor it only shows that pages move."""
    empty: Literal["broken", "go_on"] = "broken"
    """An empty page that is not the last: an error, or ``"go_on"``."""
    alone: bool = False
    """Later pages carry the cursor and nothing else."""
    path: str | None = None
    """Later pages go to this path."""
    most: Whole | None = Field(default=None, ge=1)
    """The vendor shows no more records than this of one query."""
    expired: tuple[Status, ...] = (400, 404, 410, 422)
    """Statuses of a later page that mean that the cursor is not accepted."""
    join: str | None = None
    """What joins a cursor that is a list of texts, for a slot in the query."""
    gone: str | None = None
    """A text in a 404 of a later page that means that there is no such page: the end."""
    says: dict[str, str] = {}
    """Attributes that the Link must have."""


class Records(Table):
    """Where the records are, what one is known by, and its time."""

    at: str
    """Path of the list in the body, of plain keys; empty if the body is the list."""
    id: Paths | None = None
    """What a record is known by."""
    id_parts: tuple[AnyPath, ...] | None = None
    """Paths that only together are unique."""
    no_id: bool = False
    """The vendor gives no id: a record is known by its content."""
    without: tuple[str, ...] = ()
    """Keys left out of the content by which a record without an id is known."""
    time: Paths
    """When it happened."""
    time_format: str = "iso"
    """How that is written."""
    organisation: AnyPath | None = None
    """What ids are unique in, where records name it."""
    split: AnyPath | None = None
    """A list in a record: each of its elements becomes a record of its own."""
    absent: Literal["broken", "none"] = "broken"
    """What a body without the list means: an error, or no records."""
    fields: tuple[str, ...] | None = None
    """The documented keys; by default the first keys of all paths."""


class Limits(Table):
    """How the vendor says that it is too fast."""

    reset: str | None = None
    """The header that says when to come back."""
    reset_is: Literal["epoch_s", "epoch_ms", "seconds", "iso"] = "epoch_s"
    """What stands in it."""
    remaining: str | None = None
    """The header with the requests that are left."""
    limit: str | None = None
    """The header with the requests of a whole period, for *keep*."""
    keep: float | None = Field(default=None, gt=0, lt=1)
    """The share of the vendor's quota that is left to others."""
    statuses: tuple[Status, ...] = (429,)
    """Statuses of "too fast". 403 is one only if ``remaining`` is 0 or ``errors.retry`` fits."""


class Errors(Table):
    """What a refusal says."""

    words: tuple[AnyPath, ...] = ()
    """Paths in a refusal: what stands there is shown."""
    found: AnyPath | None = None
    """With status 200 this means a failure, if it holds something."""
    ok: AnyPath | None = None
    """With status 200 this must be true."""
    retry: tuple[str, ...] = ()
    """Globs on the words that mean "later"."""
    retry_at: dict[str, tuple[str, ...]] = {}
    """By spot the values that mean "later", whatever the status."""
    hints: dict[str, str] = {}
    """What the operator should do, by status."""
    none: tuple[Status, ...] = ()
    """Statuses that mean that there are no records."""


class Defaults(Table):
    """The vendor's own defaults of keys that every source has."""

    settle: Duration | None = None
    """How late records appear."""
    overlap: Duration | None = None
    """How far they appear out of order."""
    max_window: Duration | None = None
    """The most time of one window."""
    retention: Duration | None = None
    """How long the vendor keeps records."""
    resweep: tuple[Duration, ...] | None = None
    """When a span is read again."""
    poll_interval: Duration | None = None
    """How often it is polled."""
    initial_lookback: Duration | None = None
    """How far back the first poll begins."""
    requests_per_minute: Whole | None = Field(default=None, ge=1)
    """The most requests."""
    page_size: Whole | None = Field(default=None, ge=1)
    """The size of a page, if not ``pages.largest``."""

    def given(self) -> Mapping[str, timedelta | int | list[timedelta]]:
        """Return those that are given."""
        found = {key: getattr(self, key) for key in type(self).model_fields}
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in found.items()
            if value is not None
        }


ActorKind = Literal["user", "api_key", "service", "system", "unknown"]
Outcome = Literal["success", "failure", "unknown"]


class ActorPaths(Table):
    """One alternative for who acted: taken if its id, name or email finds something."""

    kind: ActorKind | None = None
    """The same for all events."""
    type: Paths | None = None
    """Instead: what tells it."""
    kinds: dict[str, ActorKind] = {}
    """By what stands at ``type``: the kind; ``"*"`` for any other."""
    id: Paths | None = None
    name: Paths | None = None
    email: Paths | None = None


class TargetPaths(Table):
    """One alternative for what was acted on: taken if its id, name or email finds something."""

    type: Paths | None = None
    """What it is, by the record."""
    type_is: str | None = None
    """What it always is."""
    id: Paths | None = None
    name: Paths | None = None
    email: Paths | None = None


class ChangePaths(Table):
    """
    What changed.

    With *list* each element is a change, and the other paths are inside of it; with *field* alone
    *before* and *after* are the values; without either they are two objects, which are compared.
    """

    list: AnyPath | None = None
    """A list of changes: the other paths are inside of each element."""
    field: AnyPath | None = None
    """The name of what changed; without it *before* and *after* are objects to compare."""
    before: AnyPath | None = None
    after: AnyPath | None = None


class EventPaths(Table):
    """From a record to an event: who did what to what."""

    action: Paths | None = None
    """The vendor's word for what happened."""
    action_parts: tuple[AnyPath, ...] | None = None
    """Paths whose values are joined with dots."""
    action_prefix: str = ""
    """What stands before it; all of it, where a feed has one action."""
    refine: AnyPath | None = None
    """A second word, by which a table in ``[actions]`` is looked up."""
    category: Paths | None = None
    """The vendor's group of actions."""
    names: dict[str, str] = {}
    """Readable names of actions that are numbers."""
    outcome: Paths | None = None
    """Whether it succeeded."""
    outcomes: dict[str, Outcome] = {}
    """By what stands at *outcome*; ``*`` stands for any other text."""
    outcome_default: Outcome | None = None
    """The outcome of documented actions where nothing tells it."""
    message: Paths | None = None
    """A sentence."""
    reason: Paths | None = None
    """Why."""
    privilege: Paths | None = None
    """A role or permission that was given."""
    group: Paths | None = None
    """The group that the target, a person, was added to or removed from: its name."""
    metadata: Paths | None = None
    """Details of free form."""
    project_id: Paths | None = None
    project_name: Paths | None = None
    org_name: Paths | None = None
    guess: bool = False
    """An action in no table is guessed by its words, and marked."""
    actor: tuple[ActorPaths, ...] = ()
    """Who: alternatives, see below."""
    actor_ip: Paths | None = None
    """The actor's address."""
    actor_agent: Paths | None = None
    """The actor's program."""
    target: tuple[TargetPaths, ...] = ()
    """On what: alternatives, see below."""
    changes: ChangePaths | None = None
    """What changed, see below."""


Actions = dict[str, Annotated[str | dict[str, str], BeforeValidator(_meaning)]]
"""By native action ``kind/verb`` or ``kind/verb/outcome``; a table is looked up by *refine*."""


class FeedTables(Table):
    """One feed; a table here replaces the whole table of the same name at the top."""

    about: str = ""
    """A sentence about it."""
    request: Request | None = None
    time: Time | None = None
    pages: Pages | None = None
    records: Records | None = None
    event: EventPaths | None = None
    actions: Actions | None = None
    defaults: Defaults | None = None


class DescriptionFile(FeedTables):
    """The whole file."""

    vendor: Annotated[
        str,
        AfterValidator(_vendor),
        WithJsonSchema({"type": "string", "pattern": f"^{VENDOR.pattern}$"}),
    ]
    """The name in uids, source types and names of indices: small letters, digits and ``_``."""
    product: Text
    """The product as a SIEM shows it."""
    docs: tuple[str, ...] = Field(min_length=1)
    """Addresses where the API is documented."""
    checked: date
    """The date when the file was last compared with them."""
    evidence: Literal["documentation", "recorded"]
    """What it was compared with: the documentation, or a live account."""
    needs: tuple[str, ...] = ()
    """What an operator needs: a plan, a role, a scope."""
    leaves_out: tuple[str, ...] = ()
    """What the vendor does not record, or only in another list."""
    unsure: tuple[str, ...] = ()
    """What is not proved, and what happens if it is otherwise."""
    replaces: str | None = None
    """A shipped description that this file stands in for; ids must stay as they are there."""
    default_feed: str | None = None
    """The feed that is read if the operator names none."""
    settings: dict[str, Setting] = {}
    secrets: dict[str, SecretSetting] = {}
    auth: Auth
    limits: Limits = Limits()
    errors: Errors = Errors()
    feeds: dict[str, FeedTables] = {}


class Feed(Table):
    """One feed of a description with all tables that hold for it: what the engine runs on."""

    vendor: str
    product: str
    name: str | None
    """None if the description has no feeds."""
    feeds: tuple[str, ...] = ()
    """The names of all feeds of the description."""
    default_feed: str | None = None
    docs: tuple[str, ...]
    needs: tuple[str, ...]
    leaves_out: tuple[str, ...]
    unsure: tuple[str, ...]
    settings: dict[str, Setting]
    secrets: dict[str, SecretSetting]
    auth: Auth
    limits: Limits
    errors: Errors
    request: Request
    time: Time
    pages: Pages
    records: Records
    event: EventPaths
    actions: Actions
    defaults: Defaults

    @property
    def key(self) -> str:
        """The vendor's part of uids: ``vendor``, or ``vendor:feed``."""
        return self.vendor if self.name is None else f"{self.vendor}:{self.name}"


TABLES: Final = ("request", "time", "pages", "records", "event", "actions", "defaults")
"""The tables that a feed may have of its own."""


def feed_of(file: DescriptionFile, name: str | None) -> Feed:
    """Return the feed *name* of a *file* without problems; None is the whole, without feeds."""
    own = None if name is None else file.feeds[name]
    tables = {key: getattr(own, key, None) for key in TABLES}
    tables = {key: getattr(file, key) if table is None else table for key, table in tables.items()}
    tables["actions"] = tables["actions"] or {}
    tables["defaults"] = tables["defaults"] or Defaults()
    of_file = {key: getattr(file, key) for key in Feed.model_fields if hasattr(file, key)}
    return Feed.model_construct(**{**of_file, **tables, "name": name, "feeds": tuple(file.feeds)})
