"""
A request for a token, and the answer: what RFC 6749 and RFC 7523 say, and what servers do.

An answer is judged as anything from outside is: it may be a page of HTML with status 200, have no
token, one that cannot be sent, or a life that makes no sense.
"""

import asyncio
import hashlib
import math
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote_plus, urlencode

import orjson

from auditrelay.clock import Clock
from auditrelay.descriptions import holes
from auditrelay.descriptions.credentials import Filled
from auditrelay.descriptions.credentials.basic import basic
from auditrelay.descriptions.model import OAuth2Auth
from auditrelay.errors import ConfigError, Refused, Rejected, Retryable
from auditrelay.http.headers import retry_after
from auditrelay.http.replies import Reply, check, misshapen
from auditrelay.settings.secrets import Secret
from auditrelay.telemetry.scrubber import scrub, scrubber

MAX_REPLY_BYTES: Final = 256 * 1024
"""Of a token endpoint's reply: with the longest token it has a few kB."""

_MAX_TOKEN: Final = 16 * 1024
"""Characters of a token: more no server accepts in a header."""

_JWT_BEARER: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"

_REFUSALS: Final = frozenset(
    {
        "invalid_request",
        "invalid_client",
        "invalid_grant",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_scope",
        "access_denied",
    }
)
"""Codes that mean that an operator must act (RFC 6749, 5.2 and 4.1.2.1)."""

_HINTS: Final = {
    "invalid_client": "check the client's id and secret, and whether the secret has expired",
    "invalid_scope": "the client may not ask for this scope",
    "unauthorized_client": "the client may not use this grant; check its settings at the vendor",
    "access_denied": "the client is not authorised for this API; check its settings at the vendor",
}

_WRONG_ADDRESS: Final = "check that this is the address of a token endpoint"

_GRANT_HINTS: Final = {
    "client_credentials": "check the client's settings at the vendor",
    "account_credentials": "check the account's id and the app's settings at the vendor",
    "refresh_token": "the refresh token is not accepted: authorise the app again",
    "jwt": (
        "check the key, in whose name it asks (subject), the delegation of the scope, and the "
        "clock of this machine"
    ),
}


@dataclass(frozen=True, slots=True)
class Granted:
    """A token, and for how many seconds it holds, if that is known."""

    token: Secret
    life: float | None
    rotates: bool
    """Whether another refresh token came with it, in place of ours."""


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

    def read(self, reply: Reply) -> Granted:
        """
        Return the token in *reply*.

        Raises Refused if an operator must act, and Retryable for anything else.
        """
        answer = reply.object() or {}
        if not 200 <= reply.status < 300:
            raise self._failure(reply, answer)
        token = answer.get("access_token")
        if not isinstance(token, str) or not token:
            if _code(answer) in _REFUSALS:
                raise self._refused(reply, answer)
            raise misshapen(reply, "it has no access_token")
        # Known to the scrubber before anything else is done with it.
        scrubber.learn_renewed(token, whole=True)
        if len(token) > _MAX_TOKEN:
            raise misshapen(reply, f"its access_token is longer than {_MAX_TOKEN:,} characters")
        if not (token.isascii() and token.isprintable()) or " " in token:
            raise misshapen(reply, "its access_token has a character that no header may have")
        return Granted(Secret(token), _life(answer.get("expires_in")), self._rotates(answer))

    def refuses_client(self, reply: Reply) -> bool:
        """Return whether *reply* refuses our secrets, so that reading them again may help."""
        if 200 <= reply.status < 300 or reply.status in (400, 401, 403):
            return reply.status == 401 or _code(reply.object() or {}) in _REFUSALS
        return False

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

    def _rotates(self, answer: dict[str, Any]) -> bool:
        other = answer.get("refresh_token")
        if not isinstance(other, str) or not other:
            return False
        scrubber.learn_renewed(other, whole=True)  # some send one with every grant
        return self._refresh_token is not None and other != self._refresh_token.reveal()

    def _failure(self, reply: Reply, answer: dict[str, Any]) -> Refused | Retryable:
        """Return the error for a *reply* that is no success."""
        refused = _code(answer) in _REFUSALS
        if reply.status == 400 and refused:
            return self._refused(reply, answer)
        words = _words(answer)
        try:
            check(reply, message=words, hint=self._hint(answer) if refused else "")
        except Rejected as error:
            if reply.status != 400:
                return Refused(f"{error}; {_WRONG_ADDRESS}", status=error.status)
            asked = retry_after(reply.headers, reply.at)
            return Retryable(str(error), reason=error.reason, retry_after=asked, sent=True)
        except (Refused, Retryable) as error:
            return error
        raise AssertionError("a failure that is none")  # pragma: no cover  # check raises

    def _refused(self, reply: Reply, answer: dict[str, Any]) -> Refused:
        words = scrub(_words(answer), 200)
        return Refused(
            f"{reply.status} from {reply.where}: {words}; {self._hint(answer)}", status=reply.status
        )

    def _hint(self, answer: dict[str, Any]) -> str:
        return _HINTS.get(_code(answer)) or _GRANT_HINTS[self._auth.grant]


def _secret(settings: Filled, name: str | None) -> Secret | None:
    return None if name is None else settings.secret(name)


def _text(secret: Secret | None) -> str:
    return "" if secret is None else secret.reveal()


def _code(answer: dict[str, Any]) -> str:
    """Return the code of RFC 6749 in *answer*, empty if there is none."""
    code = answer.get("error")
    return code if isinstance(code, str) else ""


def _words(answer: dict[str, Any]) -> str:
    """Return what the server says in a refusal; the code of RFC 6749 in brackets."""
    code = _code(answer)
    # The latter two where a vendor's own form has them (OneLogin).
    places = (answer, answer.get("error"), answer.get("status"))
    for place in places:
        if isinstance(place, dict):
            for key in ("error_description", "message", "reason"):
                text = place.get(key)
                if isinstance(text, str) and text:
                    return f"{text} ({code})" if code and code != text else text
    return code


def _life(value: object) -> float | None:
    """Return the seconds that ``expires_in`` says, None if it says nothing that makes sense."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        life = float(value[:20] if isinstance(value, str) else value)
    except (ValueError, OverflowError):
        return None
    return life if math.isfinite(life) and life > 0 else None
