"""
Signed claims of a client, for which an authorisation server gives a token.

The form is that of RFC 7519 and RFC 7515 with the algorithm RS256, and the claims those of RFC 7523
with the ``scope`` that Google adds to them
(https://developers.google.com/identity/protocols/oauth2/service-account#authorizingrequests). Only
the module that signs them imports ``cryptography``, and only for a source with such a grant.
"""

import base64
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

LIFE: Final = 600
"""Seconds for which the claims hold: servers accept up to an hour, and need a moment."""

_SMALLEST_KEY: Final = 2048
"""Bits of an RSA key that RS256 needs at least (RFC 7518, 3.3)."""


class KeyProblem(ValueError):
    """A text that is no key; the message says why, and nothing of the text."""


@dataclass(frozen=True, slots=True)
class Key:
    """A private key, with what a service account's file says beside it."""

    private: RSAPrivateKey = field(repr=False)
    id: str = ""
    account: str = ""


def read_key(text: str) -> Key:
    """
    Return the key in *text*: a service account's JSON as Google gives it, or an RSA key in PEM.

    Raises KeyProblem.
    """
    if not text.lstrip().startswith("{"):
        return Key(_private(text))
    try:
        account = json.loads(text)
    except (ValueError, RecursionError):
        raise KeyProblem("is not JSON, though it begins like that") from None
    pem = account.get("private_key")
    if not isinstance(pem, str):
        raise KeyProblem(
            "has no private_key: it must be the JSON file of a service account's key, as it was "
            "downloaded"
        )
    names = (account.get(key) for key in ("private_key_id", "client_email"))
    return Key(_private(pem), *(name if isinstance(name, str) else "" for name in names))


def _private(pem: str) -> RSAPrivateKey:
    # No error of the library is a cause of ours: its text could quote the key.
    try:
        key = load_pem_private_key(pem.encode(), password=None)
    except TypeError:
        raise KeyProblem("is encrypted: give the key without a passphrase") from None
    except (ValueError, UnsupportedAlgorithm):
        raise KeyProblem(
            "is neither a private key in PEM form nor a service account's JSON file"
        ) from None
    if not isinstance(key, RSAPrivateKey):
        raise KeyProblem("is not an RSA key: only RS256 is supported")
    if key.key_size < _SMALLEST_KEY:
        raise KeyProblem(f"has {key.key_size} bits: RS256 needs {_SMALLEST_KEY} at least")
    return key


def assertion(
    document: str, *, issuer: str, subject: str, audience: str, scope: str, now: datetime
) -> str:
    """
    Return a JWT signed with the key in *document*, which holds from *now* on for LIFE seconds.

    An empty text is left out; the *issuer* is then the service account of *document*. Raises
    KeyProblem.
    """
    key = read_key(document)
    claims: dict[str, str | int] = {
        "iss": issuer or key.account,
        "sub": subject,
        "aud": audience,
        "scope": scope,
        # Each is new: some servers accept none twice (RFC 7523, 3).
        "jti": secrets.token_hex(16),
    }
    if not claims["iss"]:
        raise KeyProblem("has no client_email, and the description names no issuer")
    claims = {name: text for name, text in claims.items() if text}
    began = int(now.timestamp())
    claims |= {"iat": began, "exp": began + LIFE}
    head = {"alg": "RS256", "typ": "JWT"} | ({"kid": key.id} if key.id else {})
    text = f"{_encoded(head)}.{_encoded(claims)}"
    signature = key.private.sign(text.encode(), PKCS1v15(), SHA256())
    return f"{text}.{_base64(signature)}"


def _encoded(value: Mapping[str, Any]) -> str:
    return _base64(json.dumps(value, separators=(",", ":")).encode())


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
