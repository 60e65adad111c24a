"""What the evidence tells of the configuration: a digest of all of it, and what decides plainly."""

import json
from collections.abc import Iterator, Mapping
from datetime import timedelta
from hashlib import sha256
from typing import Final

from pydantic import BaseModel

from auditrelay.config.model import Config
from auditrelay.evidence import facts
from auditrelay.settings.secrets import Secret
from auditrelay.settings.values import format_duration

_HOW: Final = frozenset(
    {
        "allow_insecure_http",
        "base_url",
        "ca_file",
        "client_cert",
        "client_key",
        "compression",
        "heads",
        "listen",
        "proxy",
        "timeout",
        "url",
    }
)
"""Keys that say how a peer is reached, not what is read and forwarded: only in the digest."""

Value = str | int | bool | None


def configured(config: Config) -> facts.Body:
    """Return the fact that *config* is in force. No secret is in it, and none in its digest."""
    tables: dict[str, BaseModel] = {
        "spool": config.spool,
        "alerts": config.alerts,
        "evidence": config.evidence,
        **{f"sources.{name}": settings for name, settings in config.sources.items()},
        **{f"sinks.{name}": settings for name, settings in config.sinks.items()},
    }
    whole = {
        f"{table}.{key}": value
        for table, settings in tables.items()
        for key, value in settings_of(settings)
    }
    return facts.configured(
        digest=sha256(facts.text(whole).encode()).digest(),
        settings={
            path: value for path, value in whole.items() if path.rpartition(".")[2] not in _HOW
        },
    )


def settings_of(settings: BaseModel) -> Iterator[tuple[str, Value]]:
    """Yield the keys of *settings* that are no secrets, with values as one would write them."""
    for key in type(settings).model_fields:
        value = getattr(settings, key)
        if not isinstance(value, Secret):
            yield key, _written(value)


def _written(value: object) -> Value:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, timedelta):
        return format_duration(value)
    if isinstance(value, list | tuple):
        return ", ".join(str(_written(each)) for each in value)
    if isinstance(value, Mapping):
        return json.dumps({str(key): str(value[key]) for key in sorted(value)})
    return str(value)
