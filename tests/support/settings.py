"""A source and a sink with minimal settings, and the error for wrong settings."""

from typing import Any, Literal

import pytest
from pydantic import ValidationError

from auditrelay.settings import SinkSettings, SourceSettings
from auditrelay.settings.addresses import Address
from auditrelay.settings.secrets import Secret


class Vendor(SourceSettings):
    type: Literal["vendor"] = "vendor"
    base_url: Address = "https://api.vendor.example"
    api_key: Secret


class Product(SinkSettings):
    type: Literal["product"] = "product"
    format: str = "raw"
    url: Address = "https://product.example"


def vendor(**changes: Any) -> Vendor:
    return Vendor(**{"api_key": "key-0123456789", **changes})


def error_of(**changes: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        vendor(**changes)
    return "\n".join(
        f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in caught.value.errors()
    )
