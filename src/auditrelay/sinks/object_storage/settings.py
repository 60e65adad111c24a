"""The settings of an object storage: of S3 and its like, Google Cloud Storage, Azure Blob."""

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Final, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from auditrelay.settings import PeerSettings, Proves, SinkSettings
from auditrelay.settings.addresses import Address
from auditrelay.settings.secrets import Secret
from auditrelay.settings.values import Duration, Size
from auditrelay.sinks import Form
from auditrelay.sinks._entra import EntraSettings

_BUCKETS: Final = {
    "s3": re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", re.ASCII),
    "gcs": re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]", re.ASCII),
    "azure": re.compile(r"(?=.{3,63}$)[a-z0-9]+(-[a-z0-9]+)*", re.ASCII),
}

_OF_ONE: Final = {
    "access_key_id": ("s3", "gcs"),
    "secret_access_key": ("s3", "gcs"),
    "region": ("s3",),
    "role_arn": ("s3",),
    "external_id": ("s3",),
    "kms_key_id": ("s3",),
    "storage_class": ("s3", "gcs"),
    "expected_bucket_owner": ("s3",),
    "account": ("azure",),
    "authority": ("azure",),
    "tenant_id": ("azure",),
    "client_id": ("azure",),
    "client_secret": ("azure",),
    "identity": ("azure",),
}
"""The keys that not every provider has, with those that do."""

_ENTRA: Final = ("authority", "tenant_id", "client_id", "client_secret", "identity")

_PREFIX_BYTES: Final = 512
"""Most of a prefix: a key may have 1,024 bytes, and what follows needs some 150."""


class Settings(SinkSettings):
    """The keys of an ``object_storage`` sink."""

    type: Literal["object_storage"]
    provider: Literal["s3", "gcs", "azure"] = "s3"
    bucket: str
    """At Azure the container."""
    region: str | None = Field(None, pattern=r"^[a-z0-9-]{2,40}$")
    prefix: str = ""
    """What each key begins with, as it is written."""
    endpoint: Address | None = None
    """Instead of the provider's own address; the bucket is in the path then."""
    access_key_id: str | None = Field(None, min_length=1)
    """Of S3, or an HMAC key of Google's."""
    secret_access_key: Secret | None = None
    role_arn: str | None = Field(None, pattern=r"^arn:[a-z-]+:iam::\d{12}:role/.+$")
    """A role that is assumed with whichever keys there are."""
    external_id: str | None = Field(None, min_length=2)
    partition: Literal["sealed", "event"] = "sealed"
    """Whether keys have the hour at which a batch was sealed, or the day at which events were."""
    kms_key_id: str | None = Field(None, min_length=1)
    storage_class: str | None = Field(None, pattern=r"^[A-Z_]+$")
    expected_bucket_owner: str | None = Field(None, pattern=r"^\d{12}$")
    account: str | None = Field(None, pattern=r"^[a-z0-9]{3,24}$")
    """Of Azure's storage."""
    authority: Address | None = None
    """Where Entra ID gives tokens, in another cloud of Azure's."""
    tenant_id: str | None = None
    client_id: str | None = None
    client_secret: Secret | None = None
    identity: Literal["managed", "workload"] | None = None
    format: Form = "ocsf"
    batch_events: int = Field(50_000, ge=1, le=100_000)
    batch_bytes: Size = Field(8_000_000, le=64_000_000)
    """Small objects are slow to read, and each PUT costs."""
    linger: Duration = Field(timedelta(seconds=60), ge=timedelta(0))
    """Likewise: an event is in the bucket as much later."""
    concurrency: int = Field(1, ge=1, le=16)
    """Objects are large: each one in flight takes its size in memory."""

    @property
    def not_divided(self) -> str:
        """What an object has is sealed before it is sent, whatever its source."""
        return "an object has events of all sources"

    @property
    def proves(self) -> Proves:
        """A success is an object that can be read from then on."""
        return "stored"

    @property
    def base_url(self) -> str:
        """The address that requests go to, without the path."""
        if self.endpoint is not None:
            return self.endpoint
        if self.provider == "azure":
            return f"https://{self.account}.blob.core.windows.net"
        if self.provider == "gcs":
            return "https://storage.googleapis.com"
        host = f"s3.{self.region}.{domain(self.region or '')}"
        return f"https://{host}" if self._bucket_in_path else f"https://{self.bucket}.{host}"

    @property
    def path(self) -> str:
        """The path of the bucket at that address."""
        return f"/{self.bucket}" if self._bucket_in_path else ""

    @property
    def _bucket_in_path(self) -> bool:
        # A certificate is for one level of names, so a bucket with a dot cannot be one.
        return self.endpoint is not None or self.provider != "s3" or "." in self.bucket

    @property
    def addresses(self) -> Mapping[str, str]:
        """The address of the bucket, and at Azure where tokens come from."""
        found = {"bucket" if self.endpoint is None else "endpoint": self.base_url}
        return found if self.authority is None else {**found, "authority": self.authority}

    @field_validator("prefix")
    @classmethod
    def _is_a_prefix(cls, prefix: str) -> str:
        if prefix.startswith("/") or "//" in prefix or not prefix.isprintable():
            raise ValueError(
                f"{prefix!r} must not begin with a slash or have two in a row, nor a control "
                'character: write "audit/"'
            )
        if set(prefix.split("/")) & {".", ".."}:
            raise ValueError(f"{prefix!r} must not have a part that is . or ..")
        if len(prefix.encode()) > _PREFIX_BYTES:
            raise ValueError(f"has more than {_PREFIX_BYTES} bytes")
        return prefix

    @model_validator(mode="after")
    def _fits_its_provider(self) -> Self:
        for key, providers in _OF_ONE.items():
            if self.provider not in providers and getattr(self, key) is not None:
                of = " or ".join(f'provider = "{each}"' for each in providers)
                raise ValueError(f"{key}: is for {of}")
        if not _BUCKETS[self.provider].fullmatch(self.bucket):
            what = "a container" if self.provider == "azure" else "a bucket"
            raise ValueError(f"bucket: {self.bucket!r} is not the name of {what}")
        return self

    @model_validator(mode="after")
    def _has_what_its_provider_needs(self) -> Self:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("access_key_id and secret_access_key: set both or neither")
        if self.external_id is not None and self.role_arn is None:
            raise ValueError("external_id: is for role_arn")
        if self.provider == "s3" and self.region is None:
            raise ValueError(
                'region: is missing; a storage that has none takes "us-east-1", and R2 "auto"'
            )
        if self.provider == "gcs" and self.access_key_id is None:
            raise ValueError(
                "access_key_id: is missing; at Google an HMAC key of a service account"
            )
        if self.provider == "azure":
            self._check_azure()
        return self

    def _check_azure(self) -> None:
        if self.account is None and self.endpoint is None:
            raise ValueError("account: is missing; the name of the storage account")
        try:
            self.entra  # noqa: B018  # reading it is the check
        except ValidationError as error:
            raise ValueError(str(error.errors()[0]["ctx"]["error"])) from None

    @property
    def entra(self) -> EntraSettings:
        """What identifies the sink to Azure."""
        keys = (*PeerSettings.model_fields, "format", *_ENTRA)
        return EntraSettings.model_validate(
            {"type": self.type, **{key: getattr(self, key) for key in keys}}
        )


def domain(region: str) -> str:
    """Return what the addresses of AWS in *region* end with."""
    return "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"


EXAMPLE = """\
[sinks.bucket]
type = "object_storage"

# S3 and what speaks like it ("s3"), Google Cloud Storage ("gcs"), Azure Blob ("azure").
# provider = "s3"
# At Azure the container.
bucket = "audit-archive"
region = "eu-central-1"
# Each key begins with this, as it is written.
# prefix = ""
# Another address than the provider's own: MinIO, R2, Ceph... The bucket is in the path then.
# endpoint = "https://minio.example.com:9000"  # no default
# Without both, S3 takes the keys of the environment, of the pod, or of the machine.
# access_key_id = "AKIAIOSFODNN7EXAMPLE"  # no default
# secret_access_key = "${env:AWS_SECRET_ACCESS_KEY}"  # no default
# A role that is assumed with whichever keys there are, as in another account.
# role_arn = "arn:aws:iam::123456789012:role/audit-writer"  # no default
# external_id = "agreed-with-the-owner"  # no default
# Keys have the hour at which a batch was sealed ("sealed"), or the day of its events ("event").
# partition = "sealed"
# kms_key_id = "arn:aws:kms:eu-central-1:123456789012:key/1234abcd"  # no default
# storage_class = "STANDARD_IA"  # no default
# The account that must own the bucket.
# expected_bucket_owner = "123456789012"  # no default
# At Azure: the storage account, and an application's secret, or the identity of the machine
# ("managed") or of the pod ("workload").
# account = "auditarchive"  # no default
# authority = "https://login.microsoftonline.us"  # no default
# tenant_id = "00000000-0000-0000-0000-000000000000"  # no default
# client_id = "00000000-0000-0000-0000-000000000001"  # no default
# client_secret = "${env:AZURE_CLIENT_SECRET}"  # no default
# identity = "managed"  # no default
# format = "ocsf"
# An object is closed at this size, or after linger.
# batch_events = 50000
# batch_bytes = "8MB"
# linger = "1m"
# Objects in flight: each takes its size in memory.
# concurrency = 1
"""
"""Its table in config.example.toml: every key, those with a default commented out."""
