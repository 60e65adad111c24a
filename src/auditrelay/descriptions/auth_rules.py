"""What credentials and refusals of a description need of its other tables."""

from collections.abc import Iterator, Mapping
from typing import Final

from auditrelay.descriptions.draft import Declaring, Draft
from auditrelay.descriptions.model import (
    BasicAuth,
    DuoAuth,
    HeaderAuth,
    HeadersAuth,
    OAuth2Auth,
)
from auditrelay.descriptions.places import parse_spot
from auditrelay.descriptions.request_rules import address_problems, header_problems, is_header
from auditrelay.descriptions.tables import Problem
from auditrelay.settings.wording import KeyPath, suggestion

# --- credentials -------------------------------------------------------------

_GRANTS: Final[Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "client_credentials": (("client_id", "client_secret"), ("audience", "scope")),
    "account_credentials": (("client_id", "client_secret"), ("audience", "scope")),
    "refresh_token": (("client_id", "refresh_token"), ("client_secret", "scope")),
    "jwt": (("key",), ("issuer", "subject", "audience", "scope", "client_id", "client_secret")),
}
"""The keys that a grant needs, and those that it may have."""
_OF_GRANTS: Final = (
    "client_id",
    "client_secret",
    "refresh_token",
    "key",
    "issuer",
    "subject",
    "audience",
    "scope",
)
_SET_BY_GRANT: Final = ("grant_type", "client_id", "client_secret", "refresh_token", "assertion")


def auth_problems(draft: Declaring) -> Iterator[Problem]:
    """Yield what is wrong with the credentials."""
    auth = draft.file.auth
    if not draft.has("auth"):
        return
    for at, name in secret_names(draft):
        if name not in draft.secrets:
            hint = suggestion(name, draft.secrets)
            yield at, f'there is no secret "{name}"{hint or ": declare [secrets.NAME]"}'
    if isinstance(auth, HeaderAuth):
        yield from header_problems(("auth", "header"), auth.header)
        if not auth.prefix.isascii() or not auth.prefix.isprintable():
            yield ("auth", "prefix"), "must have printable ASCII characters only"
    elif isinstance(auth, HeadersAuth):
        for name in auth.headers:
            yield from header_problems(("auth", "headers", name), name)
    elif isinstance(auth, BasicAuth):
        yield from _basic(draft, auth)
    elif isinstance(auth, OAuth2Auth):
        yield from _oauth2(draft, auth)


def secret_names(draft: Declaring) -> Iterator[tuple[KeyPath, str]]:
    """Yield each secret that the credentials are made of, and the key that names it."""
    auth = draft.file.auth
    if isinstance(auth, HeaderAuth):
        yield ("auth", "secret"), auth.secret
    elif isinstance(auth, HeadersAuth):
        yield from ((("auth", "headers", name), secret) for name, secret in auth.headers.items())
    elif isinstance(auth, BasicAuth):
        for key in ("user", "password"):
            kind, _, name = getattr(auth, key).partition(":")
            if kind == "secret":
                yield ("auth", key), name
    elif isinstance(auth, DuoAuth | OAuth2Auth):
        keys = (
            ("integration_key", "secret_key")
            if isinstance(auth, DuoAuth)
            else ("client_id", "client_secret", "refresh_token", "key")
        )
        yield from ((("auth", key), name) for key in keys if (name := getattr(auth, key)))


def basic_settings(draft: Declaring) -> Iterator[str]:
    """Yield the settings that the credentials are made of."""
    auth = draft.file.auth
    if draft.has("auth") and isinstance(auth, BasicAuth):
        for text in (auth.user, auth.password):
            kind, _, name = text.partition(":")
            if kind == "setting":
                yield name


def _basic(draft: Declaring, auth: BasicAuth) -> Iterator[Problem]:
    for key in ("user", "password"):
        kind, colon, name = getattr(auth, key).partition(":")
        if not colon or kind not in ("secret", "setting", "text"):
            yield ("auth", key), 'must be "secret:NAME", "setting:NAME" or "text:..."'
        elif kind == "setting" and name not in draft.settings:
            hint = suggestion(name, draft.settings)
            yield ("auth", key), f'there is no setting "{name}"{hint}'


def _oauth2(draft: Declaring, auth: OAuth2Auth) -> Iterator[Problem]:
    yield from address_problems(draft, ("auth", "token_url"), auth.token_url)
    needed, allowed = _GRANTS[auth.grant]
    for key in _OF_GRANTS:
        if key in needed and getattr(auth, key) is None:
            yield ("auth", key), f'is missing; grant = "{auth.grant}" needs it'
        elif key not in (*needed, *allowed) and getattr(auth, key) is not None:
            yield ("auth", key), f'has no use with grant = "{auth.grant}"'
    if auth.send == "basic" and auth.client_id is None and "client_id" not in needed:
        yield ("auth", "send"), 'is "basic", and there is no client_id to send'
    for name in auth.params:
        if name in _SET_BY_GRANT:
            yield ("auth", "params", name), "is set by the grant: leave it out"
        elif name in ("audience", "scope") and getattr(auth, name) is not None:
            yield ("auth", "params", name), f"is set by auth.{name}: leave it out"
    if not auth.prefix.isascii() or not auth.prefix.isprintable():
        yield ("auth", "prefix"), "must have printable ASCII characters only"


# --- refusals ----------------------------------------------------------------


def refusal_problems(draft: Draft) -> Iterator[Problem]:
    """Yield what is wrong with what a refusal says."""
    if draft.has("limits"):
        yield from _limits(draft)
    if draft.has("errors"):
        yield from _errors(draft)


def _limits(draft: Draft) -> Iterator[Problem]:
    limits, errors = draft.file.limits, draft.file.errors
    for key in ("reset", "remaining", "limit"):
        name = getattr(limits, key)
        if name is not None and not is_header(name):
            yield ("limits", key), f"{name!r} is not the name of a header"
    if limits.reset is None and "reset_is" in limits.model_fields_set:
        yield ("limits", "reset_is"), "has no use without limits.reset"
    if limits.keep is not None and None in (limits.reset, limits.remaining, limits.limit):
        yield ("limits", "keep"), "needs limits.remaining, limits.limit and limits.reset"
    for status in limits.statuses:
        if status < 400:
            yield ("limits", "statuses"), f"{status} is not a refusal"
        elif status == 401:
            yield ("limits", "statuses"), "401 means that the credentials are not accepted"
        elif status == 403 and limits.remaining is None and not errors.retry:
            yield (
                ("limits", "statuses"),
                (
                    "403 is a rate limit only where limits.remaining is 0 or errors.retry fits: "
                    "give one of them"
                ),
            )


def _errors(draft: Draft) -> Iterator[Problem]:
    errors = draft.file.errors
    if errors.retry and not errors.words:
        yield ("errors", "retry"), "needs errors.words, the texts that it is compared with"
    for spot, values in errors.retry_at.items():
        try:
            parse_spot(spot)
        except ValueError as error:
            yield ("errors", "retry_at", spot), str(error)
        if not values:
            yield ("errors", "retry_at", spot), "must have at least one text"
    for status in errors.hints:
        if not (len(status) == 3 and status.isascii() and status.isdigit()):
            yield ("errors", "hints", status), "is not a status: write three digits, such as 403"
    for number in errors.none:
        if number in (200, 401, 403, 429) or number >= 500:
            yield ("errors", "none"), f"{number} never means that there are no records"
