"""A described peer's request for a token, as RFC 6749, RFC 7523 and its servers want it."""

import asyncio
import hashlib
from typing import Final
from urllib.parse import quote_plus, urlencode

import orjson

from auditrelay.clock import Clock
from auditrelay.descriptions import holes
from auditrelay.descriptions.credentials import Filled
from auditrelay.descriptions.credentials.basic import basic
from auditrelay.descriptions.model import OAuth2Auth
from auditrelay.errors import ConfigError, Refused
from auditrelay.http.grants import Granted, read_grant
from auditrelay.http.peer import Peer
from auditrelay.http.replies import Reply
from auditrelay.settings.secrets import Secret
from auditrelay.telemetry.scrubber import scrubber

_JWT_BEARER: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"

_GRANT_HINTS: Final = {
    "client_credentials": "check the client's settings at the vendor",
    "account_credentials": "check the account's id and the app's settings at the vendor",
    "refresh_token": "the refresh token is not accepted: authorise the app again",
    "jwt": (
        "check the key, in whose name it asks (subject), the delegation of the scope, and the "
        "clock of this machine"
    ),
}


class TokenRequest:
    """
    What the source or sink *name* sends to its token endpoint, and what it reads in the answer.

    Raises ConfigError for a key that is none.
    """

    def __init__(self, name: str, settings: Filled, auth: OAuth2Auth, clock: Clock) -> None:
        self._name = name
        self._auth = auth
        self._clock = clock
        self._endpoint = settings.token_address
        self._values = settings.values
        self._client_id = _secret(settings, auth.client_id)
        self._client_secret = _secret(settings, auth.client_secret)
        self._refresh_token = _secret(settings, auth.refresh_token)
        self._key = _secret(settings, auth.key)
        if self._key is not None:
            try:
                self._assertion(self._key)
            except ValueError as error:
                raise ConfigError(f"{name}.{auth.key}: {error}") from None

    @property
    def secrets(self) -> list[Secret]:
        """The operator's secrets in it."""
        each = (self._client_id, self._client_secret, self._refresh_token, self._key)
        return [secret for secret in each if secret is not None]

    @property
    def client(self) -> str:
        """What tells this client, and what it asks for, from any other: a digest."""
        auth = self._auth
        secrets = (self._client_id, self._refresh_token, self._key)
        asked = (
            self._endpoint,
            auth.grant,
            *("" if each is None else each.reveal() for each in secrets),
            *(
                self._filled(each)
                for each in (auth.issuer, auth.subject, auth.audience, auth.scope)
            ),
            *(f"{name}={self._filled(text)}" for name, text in sorted(auth.params.items())),
        )
        return hashlib.sha256(orjson.dumps(asked)).hexdigest()

    async def content(self) -> tuple[bytes, dict[str, str]]:
        """Return body and headers of the request. Raises Refused for a key that is none."""
        auth = self._auth
        fields = {name: self._filled(text) for name, text in auth.params.items()}
        match auth.grant:
            case "jwt":
                fields |= {"grant_type": _JWT_BEARER, "assertion": await self._signed()}
            case "refresh_token":
                fields |= {
                    "grant_type": "refresh_token",
                    "refresh_token": _text(self._refresh_token),
                }
            case grant:
                fields["grant_type"] = grant
        if auth.grant != "jwt":  # there they are claims
            fields |= {"scope": self._filled(auth.scope), "audience": self._filled(auth.audience)}
        headers = {"content-type": "application/x-www-form-urlencoded"}
        client_id, client_secret = _text(self._client_id), _text(self._client_secret)
        if auth.send == "basic":
            # Each half is encoded like a field of a form first (RFC 6749, 2.3.1).
            credential = basic(quote_plus(client_id), quote_plus(client_secret))
            scrubber.learn_renewed(credential.removeprefix("Basic "))
            headers["authorization"] = credential
        else:
            fields |= {"client_id": client_id, "client_secret": client_secret}
        # A parameter without a value counts as left out (RFC 6749, 3.2).
        fields = {name: text for name, text in fields.items() if text}
        if auth.send == "json":
            return orjson.dumps(fields), {"content-type": "application/json"}
        return urlencode(fields).encode(), headers

    async def send(self, endpoint: Peer) -> Reply:
        """Ask *endpoint* for a token; return its answer, whatever it is."""
        content, headers = await self.content()
        return await endpoint.request("POST", "", headers=headers, content=content)

    def read(self, reply: Reply) -> Granted:
        """
        Return the token in *reply*.

        Raises Refused if an operator must act, and Retryable for anything else.
        """
        hint = _GRANT_HINTS[self._auth.grant]
        return read_grant(reply, hint=hint, refresh_token=self._refresh_token)

    def _filled(self, text: str | None) -> str:
        return holes.fill(text or "", self._values)

    async def _signed(self) -> str:
        assert self._key is not None  # noqa: S101  # a description with this grant names one
        try:
            # In a thread: it takes some milliseconds to check the key.
            text = await asyncio.to_thread(self._assertion, self._key)
        except ValueError as error:
            raise Refused(f"{self._name}.{self._auth.key}: {error}") from None
        scrubber.learn_renewed(text, whole=True)
        return text

    def _assertion(self, key: Secret) -> str:
        # Only here: cryptography takes 7 MB of memory.
        from auditrelay.descriptions.credentials import jwt  # noqa: PLC0415

        auth = self._auth
        return jwt.assertion(
            key.reveal(),
            issuer=self._filled(auth.issuer),
            subject=self._filled(auth.subject),
            audience=self._filled(auth.audience) or self._endpoint,
            scope=self._filled(auth.scope),
            now=self._clock.now(),
        )


def _secret(settings: Filled, name: str | None) -> Secret | None:
    return None if name is None else settings.secret(name)


def _text(secret: Secret | None) -> str:
    return "" if secret is None else secret.reveal()
