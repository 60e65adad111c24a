"""A small configuration with a vendor and a product, and what loading it returns."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

import pytest
from pydantic import Field, field_validator, model_validator

from auditrelay.config import load
from auditrelay.config.model import Config
from auditrelay.errors import ConfigError
from auditrelay.settings import SinkSettings, SourceSettings
from auditrelay.settings.addresses import Address
from auditrelay.settings.secrets import Secret


class Vendor(SourceSettings):
    """A source with every kind of value."""

    type: Literal["vendor"]
    base_url: Address = "https://api.vendor.example"
    organization_id: str
    api_key: Secret
    region: str = "eu"
    weight: float = 1.0

    @field_validator("region")
    @classmethod
    def _is_known(cls, region: str) -> str:
        if region not in ("eu", "us"):
            raise ValueError(f"{region!r} is not a region")
        return region

    @model_validator(mode="after")
    def _check_owner(self) -> Self:
        if self.organization_id == "wrong":
            raise ValueError(f"the key {self.api_key.reveal()} is of another organisation")
        return self


class Product(SinkSettings):
    """A sink."""

    type: Literal["product"]
    format: Literal["raw", "ecs"] = "raw"
    url: Address
    token: Secret
    label: Annotated[str, Field(min_length=2, max_length=4, pattern="^[a-z]*$")] = "abc"


SOURCES: Mapping[str, type[SourceSettings]] = {"vendor": Vendor}


SINKS: Mapping[str, type[SinkSettings]] = {"product": Product}


GOOD = """
[sources.acme-voice]
type = "vendor"
organization_id = "42"
api_key = "literal-key-1"
[sinks.splunk]
type = "product"
url = "https://splunk.example:8088"
token = "literal-token-1"
"""


HOME = {"HOME": "/home/op"}


def read(path: Path | None, environ: Mapping[str, str] | None = None) -> Config:
    return load(path, {**HOME, **(environ or {})}, sources=SOURCES, sinks=SINKS)


def problems(path: Path | None, environ: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(path, environ)
    return list(caught.value.problems)


def vendor(config: Config, name: str = "acme-voice") -> Vendor:
    settings = config.sources[name]
    assert isinstance(settings, Vendor)
    return settings
