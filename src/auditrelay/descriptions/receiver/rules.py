"""What one table of a receiver's description says about another: problems, and notes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Final

from auditrelay.descriptions import holes
from auditrelay.descriptions.auth_rules import auth_problems, basic_settings, secret_names
from auditrelay.descriptions.model import OAuth2Auth
from auditrelay.descriptions.receiver.answer_rules import answer_problems
from auditrelay.descriptions.receiver.body_rules import body_problems
from auditrelay.descriptions.receiver.model import ReceiverFile
from auditrelay.descriptions.receiver.settings import OWN_URL, SECRET, name_problem, secret_url
from auditrelay.descriptions.request_rules import CREDENTIALS, address_problems, header_problems
from auditrelay.descriptions.setting_rules import declared_problems
from auditrelay.descriptions.tables import Problem
from auditrelay.settings.wording import KeyPath, suggestion

OF_A_STREAM: Final = ("source", "vendor")
"""The holes in a label that are filled by the event."""
_OF_THE_EVENT: Final[Mapping[object, tuple[str, ...]]] = {
    "find": ("uid",),
    "streams": OF_A_STREAM,
}
"""The holes that are filled by the event, by where they stand."""


@dataclass(frozen=True)
class ReceiverDraft:
    """A file of which each table is right by itself; see :class:`descriptions.draft.Draft`."""

    file: ReceiverFile
    raw: Mapping[str, Any]
    broken: frozenset[KeyPath]
    settings: frozenset[str]
    secrets: frozenset[str]

    def has(self, *path: str) -> bool:
        """Return whether what stands at *path* is there, and not broken."""
        return path not in self.broken and path[:1] not in self.broken


def problems(draft: ReceiverDraft) -> Iterator[Problem]:
    """Yield what is wrong with a description; what is used nowhere is not reported here."""
    file = draft.file
    for number, address in enumerate(file.docs):
        if not address.startswith("https://"):
            yield ("docs", number), "must begin with https://"
    has_own_url = file.request.url.startswith((OWN_URL, f"{SECRET}url"))
    yield from declared_problems(draft, lambda name: name_problem(name, has_own_url=has_own_url))
    if draft.has("settings"):
        yield from _means(file)
    yield from auth_problems(draft)
    yield from _grants(draft)
    if draft.has("request"):
        yield from _request(draft)
    yield from _holes(draft)
    yield from _misplaced_holes(draft)
    yield from body_problems(file, draft.has)
    yield from answer_problems(file, draft.has)
    if draft.has("find") and file.find and "uid" not in holes.names(file.find):
        yield ("find",), "does not find an event: the uid is not in it, write {uid}"
    if draft.has("check"):
        yield from _check(draft)


def notes(draft: ReceiverDraft, today: date) -> Iterator[Problem]:
    """Yield what works, and was hardly meant. What *today* is says our clock alone."""
    file = draft.file
    if file.checked > today + timedelta(days=1):
        yield ("checked",), f"{file.checked} is in the future"
    if file.check is None:
        yield ("check",), "is not there: only an event shows whether address and credentials work"


def unused(draft: ReceiverDraft) -> Iterator[Problem]:
    """Yield each setting and secret that nothing uses in a description without problems."""
    file = draft.file
    used = {name for _, text in _uses(draft) for name in holes.names(text)}
    used.update(basic_settings(draft))
    for name in file.settings:
        if name not in used:
            yield ("settings", name), "is used nowhere: remove it, or write it as a hole, {name}"
    named = {name for _, name in secret_names(draft)} | {secret_url(file.request.url)}
    for name in file.secrets:
        if name not in named:
            yield ("secrets", name), "is used nowhere: remove it, or name it in [auth]"


def _means(file: ReceiverFile) -> Iterator[Problem]:
    for name, setting in file.settings.items():
        for choice in setting.means:
            if choice not in (setting.choices or ()):
                hint = suggestion(choice, setting.choices or ())
                yield ("settings", name, "means", choice), f"is none of the choices{hint}"


def _grants(draft: ReceiverDraft) -> Iterator[Problem]:
    auth = draft.file.auth
    if draft.has("auth") and isinstance(auth, OAuth2Auth) and auth.grant != "client_credentials":
        yield ("auth", "grant"), 'must be "client_credentials": a sink has no other grant'


# --- the request --------------------------------------------------------------------------------


def _request(draft: ReceiverDraft) -> Iterator[Problem]:
    request = draft.file.request
    yield from _address(draft, ("request", "url"), request.url)
    taken = {name.lower() for name in _auth_headers(draft)}
    for name, value in request.headers.items():
        at: KeyPath = ("request", "headers", name)
        lower = name.lower()
        if lower in CREDENTIALS:
            yield at, "belongs into [auth]"
        elif lower in taken:
            yield at, "is set by [auth]: leave it out"
        elif lower == "content-type":
            yield at, "is set by request.content_type: write it there"
        elif lower == "content-encoding":
            yield at, "is set by request.gzip: leave it out"
        else:
            yield from header_problems(at, name)
            if not value.isascii() or not value.isprintable():
                yield at, "must have printable ASCII characters only"
    kind = request.content_type
    if kind is not None and not (kind.isascii() and kind.isprintable() and "/" in kind):
        yield ("request", "content_type"), f'{kind!r} is not a type, such as "application/json"'


def _auth_headers(draft: ReceiverDraft) -> Iterator[str]:
    auth = draft.file.auth
    if draft.has("auth"):
        yield from getattr(auth, "headers", ())
        yield getattr(auth, "header", "authorization")


def _address(draft: ReceiverDraft, at: KeyPath, address: str) -> Iterator[Problem]:
    secret = secret_url(address)
    if secret is not None:
        if at != ("request", "url"):
            yield at, "cannot be a secret: leave it out, then it is request.url"
        elif secret not in draft.secrets:
            hint = suggestion(secret, draft.secrets)
            yield at, f'there is no secret "{secret}"{hint or ": declare [secrets.NAME]"}'
        return
    if address.startswith(OWN_URL):
        if not address.startswith(f"{OWN_URL}/"):
            yield at, 'must go on with the path: "{url}/path"'
        if "url" not in draft.settings:
            yield at, "{url} is the operator's own address: declare [settings.url]"
        address = "https://host" + address.removeprefix(OWN_URL)
    if any(name in draft.secrets for name in holes.names(address)):
        return  # _holes says so
    yield from address_problems(draft, at, address)
    if holes.split_address(address)[1] == "":
        yield at, "has no path: write where events are sent to, such as https://host/v1/logs"


def _uses(draft: ReceiverDraft) -> Iterator[tuple[KeyPath, str]]:
    """Yield each text that may have holes, and where it stands."""
    file = draft.file
    if draft.has("find"):
        yield ("find",), file.find
    if draft.has("request"):
        yield ("request", "url"), file.request.url
        for key in ("params", "headers"):
            yield from holes.texts(getattr(file.request, key), ("request", key))
    if draft.has("auth") and isinstance(file.auth, OAuth2Auth):
        for key in ("token_url", "audience", "scope", "params"):
            yield from holes.texts(getattr(file.auth, key) or {}, ("auth", key))
    if draft.has("streams") and file.streams is not None:
        yield from holes.texts(file.streams.labels, ("streams", "labels"))
    if draft.has("check") and file.check is not None and file.check.url is not None:
        yield ("check", "url"), file.check.url


def _holes(draft: ReceiverDraft) -> Iterator[Problem]:
    """Yield each hole that nothing can fill."""
    for at, text in _uses(draft):
        for name in dict.fromkeys(holes.names(text)):
            if name in draft.secrets and at == ("request", "url"):
                yield (
                    at,
                    f'{{{name}}} is a secret; if the address itself is secret, write "secret:NAME"',
                )
            elif name in draft.secrets:
                yield (
                    at,
                    (
                        f"{{{name}}} is a secret, and secrets go into [auth] only, where they are "
                        "kept out of logs"
                    ),
                )
            elif name in _OF_THE_EVENT.get(at[0], ()):
                continue
            elif name not in draft.settings and not (name == "url" and text.startswith(OWN_URL)):
                hint = suggestion(name, draft.settings)
                yield at, f"{{{name}}} is not a setting{hint or ': declare [settings.NAME]'}"


def _misplaced_holes(draft: ReceiverDraft) -> Iterator[Problem]:
    """Yield each hole that stands where none is filled."""
    allowed = {at for at, _ in _uses(draft)}
    for table in ("request", "auth", "body", "item", "streams", "success", "check"):
        for at, text in holes.texts(draft.raw.get(table, {}), (table,)):
            for name in holes.names(text):
                if at not in allowed and name in draft.settings | draft.secrets:
                    yield (
                        at,
                        (
                            f"{{{name}}} is not filled here: settings may stand in request, "
                            "streams.labels, check.url and some keys of [auth]"
                        ),
                    )


def _check(draft: ReceiverDraft) -> Iterator[Problem]:
    check = draft.file.check
    if check is None:
        return
    if check.url is not None:
        yield from _address(draft, ("check", "url"), check.url)
    if check.body is not None and check.method not in ("POST", "PUT"):
        yield ("check", "body"), 'only a POST or PUT has one: set method = "POST", or remove it'
    for status in check.statuses:
        if status in (401, 403) or status >= 500:
            yield ("check", "statuses"), f"{status} is never what a check must get"
