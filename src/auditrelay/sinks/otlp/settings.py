"""The settings of a sink that sends log records by OTLP over HTTP."""

import re
from collections.abc import Mapping
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, field_validator

from auditrelay.events.secret_keys import looks_secret, may_be_secret
from auditrelay.settings import SinkSettings
from auditrelay.settings.addresses import Address
from auditrelay.settings.secrets import Secret
from auditrelay.settings.values import Size, table
from auditrelay.sinks import Form

PATH: Final = "/v1/logs"

REQUEST_BYTES: Final = 20 * 2**20
"""Bytes of a body, before compression, that receivers take by default."""

_GRPC_PORT: Final = 4317

_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OURS: Final = frozenset(
    {
        *("accept", "accept-encoding", "connection", "content-encoding", "content-length"),
        *("content-type", "expect", "host", "te", "trailer", "transfer-encoding", "upgrade"),
    }
)
"""The headers that every request has, or none may have."""
_CREDENTIALS: Final = frozenset({"authorization", "cookie", "proxy-authorization"})


class _Shown(Secret):
    """The value of a header that is no secret, such as a tenant: it may stand in logs."""

    __slots__ = ()

    @property
    def hidden(self) -> tuple[str, ...]:
        """Nothing."""
        return ()


def _checked(headers: dict[str, Secret]) -> dict[str, Secret]:
    """Check the names of *headers*, and tell plain words in the configuration from secrets."""
    for name in headers:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of a header")
        if name.lower() in _OURS:
            raise ValueError(f"{name} is a header that auditrelay sets itself: leave it out")
    if len({name.lower() for name in headers}) < len(headers):
        raise ValueError("a header is there twice: upper and lower case are the same")
    return {
        name: secret if _is_secret(name, secret) else _Shown(secret.reveal())
        for name, secret in headers.items()
    }


def _is_secret(name: str, value: Secret) -> bool:
    of_secrets = name.lower() in _CREDENTIALS or looks_secret(name)
    return of_secrets or not value.literal or may_be_secret(value.reveal())


class Settings(SinkSettings):
    """The keys of an ``otlp`` sink."""

    type: Literal["otlp"]
    endpoint: Address
    """The receiver, without ``/v1/logs``: ``https://collector.example.com:4318``."""
    headers: Annotated[dict[str, Secret], BeforeValidator(table), AfterValidator(_checked)] = Field(
        {}
    )
    """Headers of each request, such as those that identify us."""
    encoding: Literal["protobuf", "json"] = "protobuf"
    """How requests are written; every receiver reads protobuf."""
    partial: Literal["isolate", "count"] = "isolate"
    """
    What is done if a receiver refuses some records of a request, which it never names: each is sent
    again alone, or they are counted as dropped.
    """
    format: Form = "ocsf"
    batch_bytes: Size = Field(1_000_000, ge=10_000, le=REQUEST_BYTES)

    @property
    def addresses(self) -> Mapping[str, str]:
        """The endpoint."""
        return {"endpoint": self.endpoint}

    @property
    def notes(self) -> tuple[str, ...]:
        """What the port of the other transport most likely means."""
        if urlsplit(self.endpoint).port == _GRPC_PORT:
            return ("endpoint: 4317 is the port of OTLP over gRPC; over HTTP it is 4318",)
        return ()

    @field_validator("endpoint")
    @classmethod
    def _is_the_base(cls, endpoint: str) -> str:
        if endpoint.endswith(PATH):
            raise ValueError(f"leave out {PATH}: it is added")
        return endpoint
