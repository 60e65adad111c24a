"""
Signature Version 4: that of AWS, and Google's, which differs in its names alone.

docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html and
cloud.google.com/storage/docs/authentication/canonical-requests. Signed are the method, the path as
it is sent (S3 normalises none), the query, the body, and each header that says what is stored.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, quote

import httpx


class Keys(NamedTuple):
    """An access key; *token* is the session's, if it is a temporary one."""

    id: str
    secret: str
    token: str = ""


@dataclass(frozen=True, slots=True)
class Scheme:
    """What AWS and Google call the parts of a signature."""

    algorithm: str
    key: str
    """In front of the secret."""
    end: str
    """The last part of the scope."""
    prefix: str
    """Of the headers."""


AWS: Final = Scheme("AWS4-HMAC-SHA256", "AWS4", "aws4_request", "x-amz-")
GOOGLE: Final = Scheme("GOOG4-HMAC-SHA256", "GOOG4", "goog4_request", "x-goog-")

_SIGNED: Final = frozenset({"host", "content-type", "if-none-match"})
"""The headers that are signed besides those with the prefix of the scheme."""


def signature(
    request: httpx.Request,
    keys: Keys,
    *,
    region: str,
    service: str,
    now: datetime,
    scheme: Scheme = AWS,
) -> dict[str, str]:
    """Return the headers by which *request*, sent *now*, is signed with *keys*."""
    at = now.strftime("%Y%m%dT%H%M%SZ")
    digest = hashlib.sha256(request.content).hexdigest()
    added = {f"{scheme.prefix}date": at, f"{scheme.prefix}content-sha256": digest}
    if keys.token:
        added[f"{scheme.prefix}security-token"] = keys.token
    headers = _signed({**request.headers, **added}, scheme)
    path, _, query = request.url.raw_path.decode("ascii").partition("?")
    names = ";".join(headers)
    canonical = "\n".join(
        (
            request.method,
            path,
            _query(query),
            *(f"{name}:{value}" for name, value in headers.items()),
            "",
            names,
            digest,
        )
    )
    scope = f"{at[:8]}/{region}/{service}/{scheme.end}"
    text = "\n".join((scheme.algorithm, at, scope, hashlib.sha256(canonical.encode()).hexdigest()))
    key = (scheme.key + keys.secret).encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    added["authorization"] = (
        f"{scheme.algorithm} Credential={keys.id}/{scope}, SignedHeaders={names}, "
        f"Signature={hmac.digest(key, text.encode(), 'sha256').hex()}"
    )
    return added


def _signed(headers: Mapping[str, str], scheme: Scheme) -> dict[str, str]:
    """Return those of *headers* that are signed, sorted, with their inner spaces as one."""
    return {
        name: " ".join(headers[name].split())
        for name in sorted(headers)
        if name in _SIGNED or name.startswith(scheme.prefix)
    }


def _query(query: str) -> str:
    pairs = parse_qsl(query, keep_blank_values=True)
    encoded = sorted((quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in pairs)
    return "&".join(f"{name}={value}" for name, value in encoded)
