"""What a configuration of object storage may say, and what is said about one that may not."""

from typing import Any

import pytest
from pydantic import ValidationError

from auditrelay.sinks.object_storage import Settings

S3 = {"bucket": "audit-archive", "region": "eu-central-1"}
GCS = {
    "provider": "gcs",
    "bucket": "audit_archive",
    "access_key_id": "GOOG1",
    "secret_access_key": "secret",
}
AZURE = {
    "provider": "azure",
    "bucket": "audit",
    "account": "auditarchive",
    "tenant_id": "contoso.onmicrosoft.com",
    "client_id": "22222222-aaaa-4bbb-8ccc-000000000002",
    "client_secret": "secret",
}


def settings(given: dict[str, Any], **keys: Any) -> Settings:
    values = {"type": "object_storage", **given, **keys}
    return Settings.model_validate({key: each for key, each in values.items() if each is not None})


@pytest.mark.parametrize(
    ("given", "url", "path"),
    [
        (S3, "https://audit-archive.s3.eu-central-1.amazonaws.com", ""),
        ({**S3, "bucket": "a.b.c"}, "https://s3.eu-central-1.amazonaws.com", "/a.b.c"),
        (
            {**S3, "region": "cn-north-1"},
            "https://audit-archive.s3.cn-north-1.amazonaws.com.cn",
            "",
        ),
        (
            {**S3, "endpoint": "https://minio.example.com:9000/"},
            "https://minio.example.com:9000",
            "/audit-archive",
        ),
        (GCS, "https://storage.googleapis.com", "/audit_archive"),
        (AZURE, "https://auditarchive.blob.core.windows.net", "/audit"),
    ],
)
def test_the_address_is_that_of_the_provider(given: dict[str, Any], url: str, path: str) -> None:
    made = settings(given)
    assert (made.base_url, made.path) == (url, path)


def test_the_defaults_are_those_of_an_archive() -> None:
    made = settings(S3)
    assert (made.format, made.partition, made.linger.total_seconds()) == ("ocsf", "sealed", 60)
    assert made.proves == "stored"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({**S3, "region": None}, "region: is missing"),
        ({**S3, "region": "eu central"}, "region"),
        ({**S3, "bucket": "No"}, "bucket: 'No' is not the name of a bucket"),
        ({**S3, "bucket": "a/b/c"}, "is not the name of a bucket"),
        ({**S3, "prefix": "/audit"}, "must not begin with a slash"),
        ({**S3, "prefix": "a//b"}, "two in a row"),
        ({**S3, "prefix": "a/../b"}, "a part that is . or .."),
        ({**S3, "prefix": "a\n"}, "control character"),
        ({**S3, "prefix": "x" * 513}, "more than 512 bytes"),
        ({**S3, "access_key_id": "AKIA"}, "set both or neither"),
        ({**S3, "role_arn": "audit-writer"}, "role_arn"),
        ({**S3, "external_id": "x1"}, "external_id: is for role_arn"),
        ({**S3, "expected_bucket_owner": "me"}, "expected_bucket_owner"),
        ({**S3, "account": "auditarchive"}, 'account: is for provider = "azure"'),
        ({**S3, "identity": "managed"}, 'identity: is for provider = "azure"'),
        ({**S3, "endpoint": "http://minio.example.com"}, "endpoint: plain http"),
        ({**S3, "endpoint": "http://169.254.169.254"}, "cloud metadata service"),
        ({**S3, "provider": "r2"}, "provider"),
        ({**S3, "batch_bytes": "65MB"}, "batch_bytes"),
        ({**S3, "parts": 2}, "parts: must be 1: an object has events of all sources"),
        ({**GCS, "access_key_id": None, "secret_access_key": None}, "HMAC key"),
        ({**GCS, "region": "eu"}, 'region: is for provider = "s3"'),
        ({**GCS, "kms_key_id": "k"}, 'kms_key_id: is for provider = "s3"'),
        ({**AZURE, "bucket": "a.b"}, "is not the name of a container"),
        ({**AZURE, "bucket": "a--b"}, "is not the name of a container"),
        ({**AZURE, "account": None}, "account: is missing"),
        ({**AZURE, "client_secret": None}, "client_secret and identity: set one"),
        ({**AZURE, "client_id": "my app"}, "is not the id of an application"),
        ({**AZURE, "tenant_id": None}, "tenant_id: is missing"),
        ({**AZURE, "access_key_id": "AKIA"}, 'access_key_id: is for provider = "s3" or'),
        ({**AZURE, "authority": "http://login.example.com"}, "authority: plain http"),
    ],
)
def test_a_wrong_setting_is_named(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        settings(given)
    assert words in str(caught.value)
