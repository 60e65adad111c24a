"""
The double of an authorisation server, and a check of requests that are signed as Duo wants it.

The server speaks RFC 6749 and RFC 7523, and is as strict as the strictest vendor. It refuses what
real ones refuse: secrets in the address, another content type than the client's way of identifying
itself, parameters that are missing, unknown or given twice, a grant that the client may not use,
claims that are signed with another key, for another server, or too old.
"""

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from itertools import count
from typing import Any, Literal
from urllib.parse import parse_qsl, quote, unquote_plus

from auditrelay.sandbox.messages import Request, Response, json_response
from auditrelay.sandbox.server import Double

_FORM = "application/x-www-form-urlencoded"
_JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"

_MAX_LIFE = 3600
"""Seconds that claims may hold (Google's limit)."""

_SKEW = 60
"""Seconds that a client's clock may be ahead."""


_DUO_SKEW = 300


class _Refusal(Exception):  # an answer, not a bug of ours
    def __init__(self, status: int, code: str, text: str) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.text = text


@dataclass(slots=True)
class Switches:
    """What servers do differently; change them at any time."""

    expires_in: object = "life"
    """What it says of a token's life: the truth for "life", nothing for None."""
    rotates: bool = False
    """Each answer has another refresh token."""
    ends_former: bool = False
    """A new token ends the client's former ones."""
    status: int = 200
    """Of a success."""
    more: Mapping[str, object] = field(default_factory=dict)
    """Further keys of an answer, or other values of its keys."""


@dataclass(slots=True)
class Client:
    """
    The one client of the server, and what it must send.

    *public_key* is in PEM, for a JWT grant; *claims* must be in the JWT as they are here.
    """

    grant: str = "client_credentials"
    id: str = ""
    secret: str = ""
    send: Literal["form", "json", "basic"] = "form"
    params: dict[str, str] = field(default_factory=dict)
    """The parameters that it must send beside those of the grant."""
    refresh_token: str = ""
    public_key: bytes = b""
    key_id: str | None = None
    claims: dict[str, str] = field(default_factory=dict)


class AuthorizationServer(Double):
    """An authorisation server with one *client*. ``accepts`` says whether a token holds."""

    def __init__(
        self, client: Client, *, life: float = 3600, clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__(clock=clock)
        self.client = client
        self.life = life
        self.switches = Switches()
        self.granted: list[str] = []
        """Every token that it gave."""
        self.refresh_tokens: list[str] = []
        """Every refresh token that it gave in place of the client's."""
        self.accepted: set[str] = set()
        """Tokens that hold for ever, though another server gave them."""
        self._ends: dict[str, float] = {}
        self._numbers = count(1)
        self._used: set[str] = set()

    @property
    def token_url(self) -> str:
        """The address of its token endpoint."""
        return f"{self.url}/oauth/token"

    def accepts(self, token: str) -> bool:
        """Return whether *token* is one of its own and has not ended, or *accepted*."""
        return token in self.accepted or self._ends.get(token, 0) > self.clock()

    def revoke(self) -> None:
        """End every token."""
        self._ends.clear()

    def respond(self, request: Request) -> Response:
        """Give a token, or refuse."""
        try:
            self._check(request)
        except _Refusal as refusal:
            answer = {"error": refusal.code, "error_description": refusal.text}
            headers = {"WWW-Authenticate": 'Basic realm="x"'} if refusal.status == 401 else {}
            return json_response(refusal.status, answer, headers)
        return json_response(self.switches.status, self._grant(), {"Cache-Control": "no-store"})

    def _grant(self) -> dict[str, object]:
        number = next(self._numbers)
        seed = f"{self.port}/{number}".encode()
        token = f"at-{number}-{hashlib.sha256(seed).hexdigest()}"
        if self.switches.ends_former:
            self.revoke()
        self.granted.append(token)
        self._ends[token] = self.clock() + self.life
        answer: dict[str, object] = {"access_token": token, "token_type": "Bearer"}
        said = self.switches.expires_in
        if said is not None:
            answer["expires_in"] = self.life if said == "life" else said
        if self.switches.rotates:
            self.refresh_tokens.append(f"rt-{number}-{hashlib.sha256(seed).hexdigest()}")
            answer["refresh_token"] = self.refresh_tokens[-1]
        return {**answer, **self.switches.more}

    def _check(self, request: Request) -> None:
        _check_form(request)
        client = self.client
        given = self._parameters(request)
        self._check_client(request, given)
        if given.pop("grant_type", "") != (_JWT_BEARER if client.grant == "jwt" else client.grant):
            raise _Refusal(400, "unsupported_grant_type", "the client may not use this grant")
        if client.grant == "jwt":
            self._check_assertion(given.pop("assertion", ""))
        if client.grant == "refresh_token" and given.pop("refresh_token", "") != (
            client.refresh_token
        ):
            raise _Refusal(400, "invalid_grant", "the refresh token is not known")
        self._check_params(given)

    def _check_params(self, given: dict[str, str]) -> None:
        client = self.client
        if missing := client.params.keys() - given.keys():
            raise _Refusal(400, "invalid_request", f"missing: {', '.join(sorted(missing))}")
        if unknown := given.keys() - client.params.keys():
            raise _Refusal(400, "invalid_request", f"unknown: {', '.join(sorted(unknown))}")
        for name, value in client.params.items():
            if given[name] != value:
                code = "invalid_scope" if name == "scope" else "access_denied"
                raise _Refusal(400 if name == "scope" else 403, code, f"not for this {name}")

    def _parameters(self, request: Request) -> dict[str, str]:
        kind = request.headers.get("content-type", "")
        if kind != ("application/json" if self.client.send == "json" else _FORM):
            raise _Refusal(400, "invalid_request", "the content type is not accepted")
        if self.client.send == "json":
            try:
                given = json.loads(request.body)
            except ValueError:
                raise _Refusal(400, "invalid_request", "the body is not JSON") from None
            if not isinstance(given, dict) or not all(isinstance(v, str) for v in given.values()):
                raise _Refusal(400, "invalid_request", "the body is not an object of texts")
            return given
        pairs = parse_qsl(request.body.decode(), keep_blank_values=True, strict_parsing=True)
        if len(dict(pairs)) != len(pairs):
            raise _Refusal(400, "invalid_request", "a parameter is given twice")
        if any(not value for _, value in pairs):
            raise _Refusal(400, "invalid_request", "a parameter has no value")
        return dict(pairs)

    def _check_client(self, request: Request, given: dict[str, str]) -> None:
        client = self.client
        header = request.headers.get("authorization")
        if client.send == "basic":
            if header is None or "client_secret" in given:
                raise _Refusal(401, "invalid_client", "the client identifies itself by Basic")
            try:
                pair = base64.b64decode(header.removeprefix("Basic "), validate=True).decode()
            except (binascii.Error, UnicodeDecodeError):
                raise _Refusal(401, "invalid_client", "malformed Basic") from None
            user, _, password = pair.partition(":")
            identity = unquote_plus(user), unquote_plus(password)
        elif header is not None:
            raise _Refusal(400, "invalid_request", "the client identifies itself in the body")
        else:
            identity = given.pop("client_id", ""), given.pop("client_secret", "")
        if identity != (client.id, client.secret):
            raise _Refusal(401, "invalid_client", "the client's secret is not valid")

    def _check_assertion(self, text: str) -> None:
        client, now = self.client, self.clock()
        try:
            signed, _, signature = text.rpartition(".")
            head, claims = (json.loads(_unbase64(part)) for part in signed.split("."))
        except ValueError:
            raise _Refusal(400, "invalid_grant", "the assertion is no JWT") from None
        if not isinstance(head, dict) or not isinstance(claims, dict):
            raise _Refusal(400, "invalid_grant", "the assertion is no JWT")
        if head.get("alg") != "RS256" or head.get("kid") != client.key_id:
            raise _Refusal(400, "invalid_grant", "another algorithm or key")
        if not _is_signed(signed.encode(), signature, client.public_key):
            raise _Refusal(400, "invalid_grant", "Invalid JWT Signature.")
        times: list[Any] = [claims.pop("iat", None), claims.pop("exp", None)]
        if not all(type(at) is int for at in times):
            raise _Refusal(400, "invalid_grant", "iat and exp must be numbers")
        if not now - _MAX_LIFE <= times[0] <= now + _SKEW or not now < times[1] <= (
            times[0] + _MAX_LIFE
        ):
            raise _Refusal(400, "invalid_grant", "Check your iat and exp values in the JWT claim.")
        number = claims.pop("jti", "")
        if number in self._used:
            raise _Refusal(400, "invalid_grant", "the assertion was used before")
        self._used.add(number)
        if claims != client.claims:
            raise _Refusal(400, "invalid_grant", "the claims are not those of the client")


def _check_form(request: Request) -> None:
    if request.path != "/oauth/token":
        raise _Refusal(404, "not_found", "there is nothing here")
    if request.method != "POST":
        raise _Refusal(405, "invalid_request", "the method must be POST")
    if request.query:
        raise _Refusal(400, "invalid_request", "parameters belong into the body")
    if "cookie" in request.headers:
        raise _Refusal(400, "invalid_request", "a client has no cookies")


def _unbase64(text: str) -> bytes:
    if "=" in text:
        raise ValueError("padding")
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def _is_signed(text: bytes, signature: str, public_key: bytes) -> bool:
    # Only here: a demo without such a vendor needs no cryptography.
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415

    key = load_pem_public_key(public_key)
    assert isinstance(key, RSAPublicKey)  # noqa: S101  # the test's own
    try:
        key.verify(_unbase64(signature), text, PKCS1v15(), SHA256())
    except (InvalidSignature, ValueError):
        return False
    return True


def duo_problem(request: Request, integration_key: str, secret_key: str, now: float) -> str | None:
    """Return why Duo would refuse the signature (version 5) of *request* at *now*, or None."""
    date = request.headers.get("date", "")
    try:
        sent = parsedate_to_datetime(date).timestamp()
    except ValueError:
        return "Missing or malformed date"
    if abs(sent - now) > _DUO_SKEW:
        return "Bad request timestamp"
    path, _, query = request.target.partition("?")
    # What was sent is read as a form, and written as for OAuth 1.0.
    pairs = [
        (quote(name, safe="~"), quote(value, safe="~"))
        for name, value in parse_qsl(query, keep_blank_values=True)
    ]
    lines = [date, request.method, request.headers["host"].lower(), path]
    lines.append("&".join("=".join(pair) for pair in sorted(pairs)))
    lines += [hashlib.sha512(request.body).hexdigest(), hashlib.sha512(b"").hexdigest()]
    digest = hmac.new(secret_key.encode(), "\n".join(lines).encode(), "sha512").hexdigest()
    wanted = base64.b64encode(f"{integration_key}:{digest}".encode()).decode()
    if request.headers.get("authorization") != f"Basic {wanted}":
        return "Invalid signature in request credentials"
    return None
