"""
What identifies us to a peer that a description describes, made of its table ``auth``.

Sources and sinks that are described share it: the operator's own secrets are here, ``grants`` has
what is asked for a token of OAuth 2. Secrets go into headers only.
"""

from collections.abc import Callable, Mapping
from typing import Protocol, assert_never

from auditrelay.descriptions.credentials.basic import basic
from auditrelay.descriptions.model import BasicAuth, HeaderAuth, HeadersAuth
from auditrelay.http.credentials import KeyCredentials
from auditrelay.settings.secrets import Secret


class Filled(Protocol):
    """The settings of a described source or sink, as its credentials need them."""

    @property
    def values(self) -> Mapping[str, str]:
        """The texts that fill holes, by their name."""

    @property
    def token_address(self) -> str:
        """The address of the authorisation server, for OAuth 2."""

    def secret(self, name: str) -> Secret:
        """Return the secret that the description calls *name*; an optional one may be empty."""


def key_credentials(auth: HeaderAuth | HeadersAuth | BasicAuth, settings: Filled) -> KeyCredentials:
    """Return the credentials that *auth* makes of secrets in *settings*, without any request."""
    match auth:
        case HeaderAuth():
            return _headers(settings, {auth.header: auth.secret}, auth.prefix)
        case HeadersAuth():
            return _headers(settings, auth.headers)
        case BasicAuth():
            return _basic(settings, auth)
    assert_never(auth)


def _headers(settings: Filled, names: Mapping[str, str], prefix: str = "") -> KeyCredentials:
    """Return credentials that are a secret in each header; *names* are the secrets' by header."""
    secrets = {header: settings.secret(name) for header, name in names.items()}

    def headers() -> dict[str, str]:
        # An optional secret that is not set is not sent: "Bearer " alone would be malformed.
        return {
            header: prefix + value
            for header, secret in secrets.items()
            if (value := secret.reveal())
        }

    return KeyCredentials(headers, list(secrets.values()))


def _basic(settings: Filled, auth: BasicAuth) -> KeyCredentials:
    secrets: list[Secret] = []
    user, password = (_part(settings, text, secrets) for text in (auth.user, auth.password))

    def headers() -> dict[str, str]:
        both = user(), password()
        # Neither is set where they are optional: then nothing identifies us, as it is meant.
        return {"authorization": basic(*both)} if any(both) else {}

    return KeyCredentials(headers, secrets)


def _part(settings: Filled, text: str, secrets: list[Secret]) -> Callable[[], str]:
    """Return what gives the part ``secret:NAME``, ``setting:NAME`` or ``text:...`` of Basic."""
    kind, _, rest = text.partition(":")
    if kind == "secret":
        secret = settings.secret(rest)
        secrets.append(secret)
        return secret.reveal
    value = settings.values[rest] if kind == "setting" else rest
    return lambda: value
