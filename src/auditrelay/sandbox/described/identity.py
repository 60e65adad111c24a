"""Who asks: the credentials that a request must have, by the description's table ``auth``."""

import base64
import json
from collections.abc import Callable
from functools import cache

from auditrelay.sandbox.authorization import AuthorizationServer, Client, duo_problem
from auditrelay.sandbox.described.description import Description
from auditrelay.sandbox.messages import Request

_KEY_ID = "sandbox-key-1"
_ACCOUNT = "reader@sandbox.example"


class Identity:
    """
    Judges the credentials of requests for the API of *description*.

    *server* is its authorisation server, None if it needs none.
    """

    def __init__(self, description: Description, clock: Callable[[], float]) -> None:
        self._description = description
        self._auth = description.auth
        self._clock = clock
        self.server: AuthorizationServer | None = None
        if self._auth["kind"] == "oauth2":
            if "key" in self._auth:
                description.secrets[self._auth["key"]] = _service_account()
            self.server = AuthorizationServer(self._client(), clock=clock)

    def problem(self, request: Request) -> str | None:
        """Return why *request* is not let in, or None."""
        auth, secrets, sent = self._auth, self._description.secrets, request.headers
        match auth["kind"]:
            case "header":
                name = auth.get("header", "authorization")
                wanted = {name: auth.get("prefix", "") + secrets[auth["secret"]]}
            case "headers":
                wanted = {name: secrets[secret] for name, secret in auth["headers"].items()}
            case "basic":
                pair = f"{self._part(auth['user'])}:{self._part(auth['password'])}"
                wanted = {"authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
            case "duo":
                keys = (secrets[auth["integration_key"]], secrets[auth["secret_key"]])
                return duo_problem(request, *keys, self._clock())
            case _:
                prefix = auth.get("prefix", "Bearer ")
                token = sent.get("authorization", "")
                known = self.server is not None and token.startswith(prefix)
                if known and self.server.accepts(token.removeprefix(prefix)):  # type: ignore[union-attr]  # known
                    return None
                return "the token is not accepted"
        if any(sent.get(name.lower()) != value for name, value in wanted.items()):
            return "the credentials are not accepted"
        return None

    def _part(self, text: str) -> str:
        kind, _, name = text.partition(":")
        known = {"secret": self._description.secrets, "setting": self._description.values}
        return known[kind][name] if kind in known else name

    def _client(self) -> Client:
        auth, filled, secrets = self._auth, self._description.filled, self._description.secrets
        params = {name: filled(text) for name, text in auth.get("params", {}).items()}
        asked = {
            name: filled(auth[key])
            for key, name in (("scope", "scope"), ("audience", "aud"), ("subject", "sub"))
            if key in auth
        }
        if auth["grant"] == "jwt":
            issuer = filled(auth["issuer"]) if "issuer" in auth else _ACCOUNT
            return Client(
                "jwt",
                public_key=_key_pair()[1],
                key_id=_KEY_ID,
                params=params,
                claims={**asked, "iss": issuer},
            )
        if "aud" in asked:
            asked["audience"] = asked.pop("aud")
        return Client(
            auth["grant"],
            secrets.get(auth.get("client_id", ""), ""),
            secrets.get(auth.get("client_secret", ""), ""),
            auth.get("send", "form"),
            {**params, **asked},
            refresh_token=secrets.get(auth.get("refresh_token", ""), ""),
        )


def _service_account() -> str:
    """Return a service account's key as a JSON file, on one line."""
    return json.dumps(
        {
            "type": "service_account",
            "private_key_id": _KEY_ID,
            "private_key": _key_pair()[0].decode(),
            "client_email": _ACCOUNT,
        }
    )


@cache
def _key_pair() -> tuple[bytes, bytes]:
    """Return a private and a public key, in PEM."""
    # Only here: a demo without such a vendor needs no cryptography.
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import rsa  # noqa: PLC0415

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return private, public
