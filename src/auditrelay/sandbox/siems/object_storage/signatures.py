"""
How S3, STS and Google's XML API verify Signature Version 4: all of it, and in their words.

docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import parse_qsl, quote, unquote

from auditrelay.sandbox.messages import Request

SKEW = 15 * 60
"""Seconds by which a client's clock may differ."""

UNSIGNED = "UNSIGNED-PAYLOAD"

_HEADER = re.compile(
    r"(AWS4|GOOG4)-HMAC-SHA256 Credential=([^/,\s]+)/(\d{8})/([^/,]+)/([^/,]+)/([^/,]+), ?"
    r"SignedHeaders=([^,\s]+), ?Signature=([0-9a-f]{64})"
)


class Denied(Exception):  # an answer, not a bug of ours
    """The request is refused with *status* and *code*; *also* are further elements."""

    def __init__(self, status: int, code: str, message: str, **also: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.also = also


@dataclass(frozen=True, slots=True)
class Key:
    """An access key; a temporary one has a *token*, and *ends* at some time."""

    secret: str
    token: str = ""
    ends: float | None = None


def verify(
    request: Request, keys: Mapping[str, Key], *, scheme: str, region: str, service: str
) -> None:
    """Raise Denied unless *request* is signed with one of *keys* for *service* in *region*."""
    prefix = "x-goog-" if scheme == "GOOG4" else "x-amz-"
    given = request.headers.get("authorization")
    if given is None:
        raise Denied(403, "AccessDenied", "Access Denied")
    found = _HEADER.fullmatch(given)
    if found is None or found[1] != scheme or found[6] != f"{scheme.lower()}_request":
        raise Denied(400, "AuthorizationHeaderMalformed", "The authorization header is malformed")
    _, key_id, day, named_region, named_service, _, names, signature = found.groups()
    key = keys.get(key_id)
    if key is None:
        raise Denied(
            403,
            "InvalidAccessKeyId",
            "The AWS Access Key Id you provided does not exist in our records.",
        )
    if named_region != region or named_service != service:
        raise Denied(
            400,
            "AuthorizationHeaderMalformed",
            f"The authorization header is malformed; the region '{named_region}' is wrong; "
            f"expecting '{region}'",
            Region=region,
        )
    at = request.headers.get(f"{prefix}date", "")
    _check_time(at, day, request.at)
    _check_session(key, request.headers.get(f"{prefix}security-token", ""), request.at)
    signed = names.split(";")
    for name in request.headers:
        if (name.startswith(prefix) or name == "host") and name not in signed:
            raise Denied(
                403,
                "AccessDenied",
                "There were headers present in the request which were not signed",
                HeadersNotSigned=name,
            )
    digest = request.headers.get(f"{prefix}content-sha256", "")
    own = hashlib.sha256(request.body).hexdigest()
    expected = _signature(
        request,
        key.secret,
        signed,
        scheme=scheme,
        at=at,
        digest=digest or own,
        scope=(day, region, service, f"{scheme.lower()}_request"),
    )
    if not hmac.compare_digest(expected, signature):
        raise Denied(
            403,
            "SignatureDoesNotMatch",
            "The request signature we calculated does not match the signature you provided. Check "
            "your key and signing method.",
        )
    if digest not in ("", UNSIGNED, own):
        raise Denied(
            400,
            "XAmzContentSHA256Mismatch",
            f"The provided '{prefix}content-sha256' header does not match what was computed.",
        )


def _check_session(key: Key, token: str, now: float) -> None:
    if token != key.token:
        raise Denied(403, "InvalidAccessKeyId", "The security token is missing or another one.")
    if key.ends is not None and now >= key.ends:
        raise Denied(400, "ExpiredToken", "The provided token has expired.")


def _check_time(at: str, day: str, now: float) -> None:
    try:
        sent = datetime.strptime(at, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise Denied(403, "AccessDenied", "AWS authentication requires a valid Date") from None
    if abs(sent.timestamp() - now) > SKEW:
        raise Denied(
            403,
            "RequestTimeTooSkewed",
            "The difference between the request time and the current time is too large.",
        )
    if not at.startswith(day):
        raise Denied(403, "SignatureDoesNotMatch", "Invalid credential date.")


def _signature(
    request: Request,
    secret: str,
    signed: list[str],
    *,
    scheme: str,
    at: str,
    digest: str,
    scope: tuple[str, str, str, str],
) -> str:
    path, _, query = request.target.partition("?")
    pairs = sorted(
        (quote(name, safe="-_.~"), quote(value, safe="-_.~"))
        for name, value in parse_qsl(query, keep_blank_values=True)
    )
    lines = [
        request.method,
        quote(unquote(path), safe="/-_.~"),
        "&".join(f"{name}={value}" for name, value in pairs),
        *(f"{name}:{' '.join(request.headers.get(name, '').split())}" for name in signed),
        "",
        ";".join(signed),
        digest,
    ]
    hashed = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    text = "\n".join((f"{scheme}-HMAC-SHA256", at, "/".join(scope), hashed))
    key = f"{scheme}{secret}".encode()
    for part in scope:
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
