"""Our signatures are those of AWS's own library, and of Google's documentation."""

import hashlib
from datetime import UTC, datetime
from unittest.mock import patch

import httpx
import pytest
from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from auditrelay.sinks.object_storage.sigv4 import GOOGLE, Keys, signature

NOW = datetime(2026, 1, 1, 12, 30, 59, tzinfo=UTC)
KEYS = Keys("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
TEMPORARY = KEYS._replace(token="IQoJb3JpZ2luX2VjEJr//token+with/odd==")

PATHS = [
    "/audit/voice/2026/01/01/12/log-00000000000000000000-5-0badcafe.ndjson.gz",
    "/bucket/dt%3D2026-01-01/a%20b%2Bc~d_e-f.g",
    "/bucket/f%C3%BCnf/%E2%98%83//x",
    "/",
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("query", ["", "?list-type=2&prefix=a%2Fb&empty="])
@pytest.mark.parametrize("keys", [KEYS, TEMPORARY])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {
            "content-type": "application/gzip",
            "if-none-match": "*",
            "x-amz-meta-auditrelay-digest": "0badcafe",
            "x-amz-storage-class": "STANDARD_IA",
            "x-amz-odd": "  two   spaces ",
        },
    ],
)
def test_s3_requests_are_signed_as_by_botocore(
    path: str, query: str, keys: Keys, headers: dict[str, str]
) -> None:
    content = b"\x1f\x8b some bytes"
    url = f"https://audit.s3.eu-central-1.amazonaws.com{path}{query}"
    request = httpx.Request("PUT", url, headers=headers, content=content)
    ours = signature(request, keys, region="eu-central-1", service="s3", now=NOW)
    theirs = AWSRequest("PUT", url, headers=headers, data=content)
    credentials = Credentials(keys.id, keys.secret, keys.token or None)
    with patch("botocore.auth.get_current_datetime", return_value=NOW.replace(tzinfo=None)):
        S3SigV4Auth(credentials, "s3", "eu-central-1").add_auth(theirs)
    # They sign each header that is there; we those that say what is stored, and others may be
    # changed on the way. Here both have the same.
    assert ours["authorization"] == theirs.headers["Authorization"]
    assert ours["x-amz-content-sha256"] == hashlib.sha256(content).hexdigest()
    assert ours.get("x-amz-security-token") == (keys.token or None)


def test_sts_requests_are_signed_as_by_botocore() -> None:
    url, content = (
        "https://sts.eu-central-1.amazonaws.com/",
        b"Action=AssumeRole&Version=2011-06-15",
    )
    headers = {"content-type": "application/x-www-form-urlencoded"}
    request = httpx.Request("POST", url, headers=headers, content=content)
    ours = signature(request, KEYS, region="eu-central-1", service="sts", now=NOW)
    theirs = AWSRequest(
        "POST",
        url,
        headers={**headers, "x-amz-content-sha256": hashlib.sha256(content).hexdigest()},
        data=content,
    )
    with patch("botocore.auth.get_current_datetime", return_value=NOW.replace(tzinfo=None)):
        SigV4Auth(Credentials(KEYS.id, KEYS.secret), "sts", "eu-central-1").add_auth(theirs)
    assert ours["authorization"] == theirs.headers["Authorization"]


def test_google_s_signature_differs_in_its_names() -> None:
    request = httpx.Request(
        "PUT",
        "https://storage.googleapis.com/b/k",
        headers={"x-goog-if-generation-match": "0", "x-amz-odd": "not signed"},
        content=b"x",
    )
    made = signature(request, KEYS, region="auto", service="storage", now=NOW, scheme=GOOGLE)
    assert set(made) == {"x-goog-date", "x-goog-content-sha256", "authorization"}
    assert made["authorization"].startswith(
        f"GOOG4-HMAC-SHA256 Credential={KEYS.id}/20260101/auto/storage/goog4_request, "
        "SignedHeaders=host;x-goog-content-sha256;x-goog-date;x-goog-if-generation-match, "
        "Signature="
    )
