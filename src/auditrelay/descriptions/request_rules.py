"""What one table of a description says about another: addresses, holes, slots, pages, times."""

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from pydantic import TypeAdapter, ValidationError

from auditrelay.descriptions import holes, times
from auditrelay.descriptions.draft import Declaring, Draft, Part
from auditrelay.descriptions.model import (
    HeaderAuth,
    HeadersAuth,
    OAuth2Auth,
    Pages,
    Records,
    Request,
    Time,
)
from auditrelay.descriptions.places import Path, Slot, parse_path
from auditrelay.descriptions.tables import Problem
from auditrelay.settings.addresses import Address, is_loopback
from auditrelay.settings.values import format_duration
from auditrelay.settings.wording import KeyPath, suggestion

_ADDRESS: Final[TypeAdapter[str]] = TypeAdapter(Address)
_TOKEN: Final = frozenset(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-.^_`|~"
)
"""The characters of a header's name, https://www.rfc-editor.org/rfc/rfc9110#section-5.6.2."""
CREDENTIALS: Final = frozenset(("authorization", "cookie", "proxy-authorization"))
"""Headers that only ``[auth]`` may set."""
_OURS: Final = frozenset(
    (
        "accept-encoding",
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
"""Headers that the connection sets."""


class Use(NamedTuple):
    """A text that may have holes, and where it stands."""

    at: KeyPath
    text: str


class Claim(NamedTuple):
    """A slot, and the key that fills it."""

    slot: Slot
    at: KeyPath

    @property
    def key(self) -> str:
        """The key as an author calls it: ``pages.size``."""
        return ".".join(str(part) for part in self.at[-2:])


def request_problems(draft: Draft, part: Part) -> Iterator[Problem]:
    """Yield what is wrong with how *part* asks: its request, times, pages and records."""
    if part.request is not None:
        yield from _request(draft, part, part.request)
    if part.time is not None:
        yield from _time(part, part.time)
    if part.pages is not None:
        yield from _pages(part, part.pages)
    if part.records is not None:
        yield from _records(part, part.records)
    yield from _claims(draft, part)
    yield from _misplaced_holes(draft, part)
    yield from _value_problems(draft, part)
    yield from _beside_the_list(draft, part)


# --- addresses and holes -----------------------------------------------------


def _request(draft: Draft, part: Part, request: Request) -> Iterator[Problem]:
    at = part.at["request"]
    yield from address_problems(draft, (*at, "base_url"), request.base_url)
    yield from path_problems((*at, "path"), request.path)
    for name, value in request.headers.items():
        lower = name.lower()
        if lower in CREDENTIALS:
            yield (*at, "headers", name), "belongs into [auth]"
        else:
            yield from header_problems((*at, "headers", name), name)
            if not value.isascii() or not value.isprintable():
                yield (*at, "headers", name), "must have printable ASCII characters only"
    if request.body is not None and request.method != "POST":
        yield (*at, "body"), 'only a POST has one: set method = "POST", or remove it'


def address_problems(draft: Declaring, at: KeyPath, address: str) -> Iterator[Problem]:
    """Yield what is wrong with the *address*, which may have holes in its host and path."""
    host = holes.split_address(address)[0]
    for name in dict.fromkeys(holes.names(host)):
        setting = draft.file.settings.get(name)
        if setting is not None and setting.pattern is None and setting.choices is None:
            yield (
                at,
                (
                    f"{{{name}}} stands in the host, so settings.{name} needs a pattern: otherwise "
                    "any host could get the credentials"
                ),
            )
    settings = draft.file.settings
    examples = {
        name: settings[name].example if name in settings else "x" for name in holes.names(address)
    }
    try:
        filled = _ADDRESS.validate_python(holes.fill_address(address, examples))
    except ValidationError as error:
        yield at, str(error.errors()[0]["ctx"]["error"])
        return
    if filled.startswith("http:") and not is_loopback(filled):
        yield at, "must begin with https://, or the credentials would be sent in clear text"


def _value_problems(draft: Draft, part: Part) -> Iterator[Problem]:
    """Yield each example or default that cannot stand where its hole is."""
    for at, text in uses(draft, part):
        if at[-1] in ("base_url", "token_url"):
            host, path = holes.split_address(text)
        elif at[-1] == "path" and at[-2] in ("request", "pages"):
            host, path = "", text
        else:
            continue
        for problem, names in (
            (holes.host_problem, holes.names(host)),
            (holes.path_problem, holes.names(path)),
        ):
            for name in names:
                setting = draft.file.settings.get(name)
                for key in ("example", "default") if setting is not None else ():
                    value = getattr(setting, key)
                    sentence = problem(value) if value is not None else None
                    if sentence is not None:
                        yield ("settings", name, key), sentence


def path_problems(at: KeyPath, path: str) -> Iterator[Problem]:
    """Yield what is wrong with the *path* of an address."""
    if not path.startswith("/"):
        yield at, f'must begin with a slash: "/{path}"'
    if "?" in path:
        yield at, "holds a query: put it into request.params"
    elif "#" in path or not path.isprintable() or not path.isascii() or " " in path:
        yield at, "must have printable ASCII characters only, and no space or #"


def is_header(name: str) -> bool:
    """Return whether *name* can be the name of a header."""
    return bool(name) and _TOKEN.issuperset(name)


def header_problems(at: KeyPath, name: str) -> Iterator[Problem]:
    """Yield what is wrong with a header's *name*."""
    if not is_header(name):
        yield at, f"{name!r} is not the name of a header"
    elif name.lower() in _OURS:
        yield at, "is set by auditrelay itself: leave it out"


def uses(draft: Draft, part: Part) -> Iterator[Use]:
    """Yield each text that may have holes."""
    request, pages = part.request, part.pages
    if request is not None:
        at = part.at["request"]
        yield Use((*at, "base_url"), request.base_url)
        yield Use((*at, "path"), request.path)
        for key in ("params", "headers", "body"):
            for path, text in holes.texts(getattr(request, key) or {}, (*at, key)):
                yield Use(path, text)
    if pages is not None and pages.path is not None:
        yield Use((*part.at["pages"], "path"), pages.path)
    auth = draft.file.auth
    if draft.has("auth") and isinstance(auth, OAuth2Auth):
        for key in ("token_url", "audience", "scope", "subject", "issuer", "params"):
            for path, text in holes.texts(getattr(auth, key) or {}, ("auth", key)):
                yield Use(path, text)


def _hole_problems(draft: Draft, part: Part) -> Iterator[Problem]:
    """Yield each hole that nothing can fill."""
    for at, text in uses(draft, part):
        for name in dict.fromkeys(holes.names(text)):
            if name in draft.secrets:
                yield (
                    at,
                    (
                        f"{{{name}}} is a secret, and secrets go into [auth] only, where they are "
                        "kept out of logs"
                    ),
                )
            elif name not in draft.settings:
                hint = suggestion(name, draft.settings)
                yield at, f"{{{name}}} is not a setting{hint or ': declare [settings.NAME]'}"


def _misplaced_holes(draft: Draft, part: Part) -> Iterator[Problem]:
    """Yield each hole that stands where none is filled."""
    yield from _hole_problems(draft, part)
    allowed = {at for at, _ in uses(draft, part)}
    wheres = [part.at[key] for key in ("request", "time", "pages", "records", "event")]
    for where in (*wheres, ("auth",), ("limits",), ("errors",)):
        for at, text in holes.texts(draft.raw_at(where), where):
            found = next(
                (name for name in holes.names(text) if name in draft.settings | draft.secrets), None
            )
            if found is not None and at not in allowed and not _is_time_text(at, found):
                yield (
                    at,
                    (
                        f"{{{found}}} is not filled here: settings may stand in request, "
                        "pages.path and some keys of [auth]"
                    ),
                )


def _is_time_text(at: KeyPath, name: str) -> bool:
    return at[-2:] == ("time", "text") and name in ("start", "end")


# --- times -------------------------------------------------------------------


def _time(part: Part, time: Time) -> Iterator[Problem]:
    at = part.at["time"]
    if time.end is not None and time.start is None:
        yield (*at, "end"), "an upper bound alone finds no window; give time.start too"
    yield from _text(at, time)
    try:
        times.writer(time.format)
    except ValueError as error:
        yield (*at, "format"), str(error)
    if time.start is None and time.text is None and time.end is None:
        yield from _no_filter(at, time)
    longest, window = time.longest, part.defaults.max_window
    if longest is not None and window is not None and window > longest:
        sentence = f"the vendor refuses windows longer than {format_duration(longest)}"
        yield (*part.at["defaults"], "max_window"), f"{sentence} (time.longest)"


def _text(at: KeyPath, time: Time) -> Iterator[Problem]:
    if (time.text is None) != (time.at is None):
        missing, given = ("at", "text") if time.at is None else ("text", "at")
        yield (*at, missing), f"is missing; {given} needs it"
    if time.text is None:
        return
    if time.start is not None or time.end is not None:
        yield (*at, "text"), "says both bounds: leave start and end out"
    if sorted(holes.names(time.text)) != ["end", "start"]:
        yield (*at, "text"), "must hold {start} and {end} once each, and no other hole"


def _no_filter(at: KeyPath, time: Time) -> Iterator[Problem]:
    if time.order != "newest_first":
        problem = (
            "without a time filter the list must be newest first, or every window would read all "
            "of it"
        )
        yield (*at, "order"), problem
    if time.longest is not None:
        yield (*at, "longest"), "has no use without a time filter"


# --- pages -------------------------------------------------------------------

_CURSORS: Final = ("cursor", "url")
_NUMBERS: Final = ("number", "offset")
_KINDS_OF: Final[Mapping[str, tuple[str, ...]]] = {
    "from": _CURSORS,
    "to": ("cursor", *_NUMBERS),
    "first": _NUMBERS,
    "skip_first": _NUMBERS,
    "more": (*_CURSORS, *_NUMBERS),
    "until_empty": (*_CURSORS, *_NUMBERS),
    "count": _NUMBERS,
    "total": (*_CURSORS, *_NUMBERS),
    "empty": (*_CURSORS, *_NUMBERS),
    "alone": ("cursor",),
    "path": (*_CURSORS, *_NUMBERS),
    "expired": (*_CURSORS, *_NUMBERS),
    "join": ("cursor",),
    "gone": _NUMBERS,
    "says": ("url",),
}
"""The kinds of paging in which a key has a use."""
_SIGNS: Final = ("more", "count", "total", "until_empty")


def _pages(part: Part, pages: Pages) -> Iterator[Problem]:
    at = part.at["pages"]
    given = {key for name in pages.model_fields_set if (key := name.rstrip("_"))}
    for key, kinds in _KINDS_OF.items():
        if key in given and pages.kind not in kinds:
            known = " or ".join(f'"{kind}"' for kind in kinds)
            yield (*at, key), f'has no use with kind = "{pages.kind}", only with {known}'
    for key, kinds in (("from", _CURSORS), ("to", ("cursor", *_NUMBERS))):
        if pages.kind in kinds and key not in given:
            what = "spot of the next cursor or address" if key == "from" else "slot that it fills"
            yield (*at, key), f'is missing: kind = "{pages.kind}" needs the {what}'
    yield from _signs(at, pages)
    if pages.largest is not None and pages.size is None:
        yield (*at, "largest"), "has no use without size, the slot of the page size"
    if pages.until_empty and pages.empty == "go_on":
        yield (*at, "empty"), "until_empty ends at the first empty page: leave one of them out"
    if pages.path is not None:
        yield from path_problems((*at, "path"), pages.path)
    yield from _spots(at, pages)
    yield from _page_size(part, pages)


def _signs(at: KeyPath, pages: Pages) -> Iterator[Problem]:
    """Yield what is wrong with the signs of the end."""
    if pages.kind == "none":
        return
    signs = [sign for sign in _SIGNS if getattr(pages, sign)]
    if pages.kind in _NUMBERS and not signs:
        yield (
            at,
            (
                "nothing says when the pages end: give more, count, total or until_empty (a page "
                "that is shorter than asked for proves nothing)"
            ),
        )
    if "total" in signs and (pages.kind in _CURSORS or len(signs) > 1):
        signs.remove("total")  # here it only tells whether pages move
    if len(signs) > 1:
        yield at, f"{' and '.join(signs)} both say when the pages end: keep one of them"


def _spots(at: KeyPath, pages: Pages) -> Iterator[Problem]:
    from_ = pages.from_
    if from_ is not None and from_.place == "link" and pages.kind == "cursor":
        yield (*at, "from"), 'a link is an address, not a cursor: set kind = "url"'
    if pages.says and (from_ is None or from_.place != "link"):
        yield (*at, "says"), 'has no use without a link: set from = "link:next"'
    for key in ("more", "count", "total"):
        spot = getattr(pages, key)
        if spot is not None and spot.place not in ("body", "header"):
            yield (*at, key), f"{str(spot)!r} must be in the body or a header"
    if pages.join is not None and pages.to is not None and pages.to.place == "body":
        yield (*at, "join"), "has no use here: a slot in the body takes the list as it is"


def _page_size(part: Part, pages: Pages) -> Iterator[Problem]:
    size = part.defaults.page_size
    at = (*part.at["defaults"], "page_size")
    if size is None:
        return
    if pages.size is None:
        yield at, "has no use without pages.size, the slot that it fills"
    elif pages.largest is not None and size > pages.largest:
        yield at, f"the vendor gives at most {pages.largest} (pages.largest)"


# --- records -----------------------------------------------------------------


def _records(part: Part, records: Records) -> Iterator[Problem]:
    at = part.at["records"]
    ways = [records.id is not None, records.id_parts is not None, records.no_id]
    if ways.count(True) != 1:
        yield at, "say what a record is known by: id, id_parts, or no_id = true"
    if records.id_parts is not None and len(records.id_parts) < 2:
        yield (*at, "id_parts"), "must have at least two paths; a single one is id"
    if records.without and not records.no_id:
        yield (
            (*at, "without"),
            "only a record that has no id is known by its content: set no_id = true, or remove it",
        )
    try:
        if not all(isinstance(step, str) for step in parse_path(records.at).steps):
            yield (*at, "at"), f"{records.at!r} must be plain keys with dots between them"
    except ValueError as error:
        yield (*at, "at"), str(error)
    if records.split is not None and not all(isinstance(each, str) for each in records.split.steps):
        yield (*at, "split"), f"{str(records.split)!r} must be plain keys with dots between them"
    try:
        times.reader(records.time_format)
    except ValueError as error:
        yield (*at, "time_format"), str(error)


def _beside_the_list(draft: Draft, part: Part) -> Iterator[Problem]:
    """Yield each spot of an object where the body is a list."""
    if part.records is None or part.records.at:
        return
    found: list[tuple[KeyPath, Path | None]] = []
    if part.pages is not None:
        for key in ("from_", "more", "count", "total"):
            spot = getattr(part.pages, key)
            if spot is not None and spot.place == "body":
                found.append(((*part.at["pages"], key.rstrip("_")), spot.path))
    if draft.has("errors") and draft.file.errors.ok is not None:
        found.append((("errors", "ok"), draft.file.errors.ok))
    for at, path in found:
        if path is not None and not isinstance(path.steps[0], int):
            yield at, f'"{path}" is not in the body, which is the list itself (records.at = "")'


# --- slots -------------------------------------------------------------------


def _claims(draft: Draft, part: Part) -> Iterator[Problem]:
    """Yield each slot that two keys fill, or that the request has no place for."""
    claims = [*_slots(part), *_auth_slots(draft)]
    request = part.request
    for claim in claims:
        slot = claim.slot
        if claim.at[0] != "auth" and slot.place == "header":
            if slot.name.lower() in CREDENTIALS:
                yield claim.at, f"{slot.name} belongs into [auth]"
            else:
                yield from header_problems(claim.at, slot.name)
        if request is None:
            continue
        if slot.place == "body" and request.method != "POST":
            yield claim.at, f'{slot} needs a body: set request.method = "POST"'
        for taken in _taken(request, slot):
            by = "belongs into [auth]" if claim.at[0] == "auth" else f"is set by {claim.key}"
            hint = "" if claim.at[0] == "auth" else "; leave it out"
            yield (*part.at["request"], *taken), f"{by}{hint}"
    for number, claim in enumerate(claims):
        for other in claims[:number]:
            if _meet(claim.slot, other.slot) and not _is_pair(other, claim):
                yield claim.at, f"{claim.slot} is filled by {other.key} already"
                break


def _slots(part: Part) -> Iterator[Claim]:
    """Yield the slots of bounds and pages."""
    for table, keys in (("time", ("start", "end", "at")), ("pages", ("to", "size"))):
        for key in keys:
            slot = getattr(getattr(part, table), key, None)
            if slot is not None:
                yield Claim(slot, (*part.at[table], key))


def _auth_slots(draft: Draft) -> Iterator[Claim]:
    auth = draft.file.auth
    if not draft.has("auth"):
        return
    if isinstance(auth, HeaderAuth):
        yield Claim(Slot("header", auth.header), ("auth", "header"))
    elif isinstance(auth, HeadersAuth):
        for name in auth.headers:
            yield Claim(Slot("header", name), ("auth", "headers", name))


def _is_pair(first: Claim, second: Claim) -> bool:
    """Return whether they are the two bounds in one parameter, which is then sent twice."""
    return (
        first.slot.place == "query"
        and (first.at[-1], second.at[-1]) == ("start", "end")
        and first.at[:-1] == second.at[:-1]
    )


def _meet(one: Slot, other: Slot) -> bool:
    """Return whether the two slots are the same place, or one is inside of the other."""
    if one.place != other.place:
        return False
    if one.place == "header":
        return one.name.lower() == other.name.lower()
    if one.place == "query":
        return one.name == other.name
    shorter, longer = sorted((parse_path(one.name).steps, parse_path(other.name).steps), key=len)
    return longer[: len(shorter)] == shorter


def _taken(request: Request, slot: Slot) -> Iterator[KeyPath]:
    """Yield what the *request* itself has in the place of *slot*."""
    if slot.place == "query" and slot.name in request.params:
        yield ("params", slot.name)
    if slot.place == "header":
        same = (name for name in request.headers if name.lower() == slot.name.lower())
        yield from (("headers", name) for name in same if name.lower() not in CREDENTIALS)
    if slot.place == "body" and request.body is not None:
        node: Any = request.body
        steps = [str(step) for step in parse_path(slot.name).steps]
        for number, step in enumerate(steps):
            if not isinstance(node, Mapping):
                yield ("body", *steps[:number])
                return
            if step not in node:
                return
            node = node[step]
        yield ("body", *steps)
