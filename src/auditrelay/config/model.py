"""
The configuration as values: the tables of the file, and ``Config``, the whole after the checks.

The keys of one source or sink are the ``Settings`` in the module of its type, found here by the
type's name.
"""

import importlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Generic, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

import auditrelay.sinks
import auditrelay.sources
from auditrelay.config.names import NAME
from auditrelay.descriptions import HTTP, REST, shipped, shipped_receivers
from auditrelay.errors import ConfigError
from auditrelay.evidence.heads import Keys
from auditrelay.settings import PeerSettings, SinkSettings, SourceSettings
from auditrelay.settings.secrets import Secret, SecretAddress
from auditrelay.settings.values import Duration, Size
from auditrelay.store.postgres.address import check_address

AnySettings = TypeVar("AnySettings", bound=PeerSettings)


def _listen(value: str) -> str:
    host, colon, port = value.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ValueError(
            f'{value!r} is not an address to listen on: write host:port, such as "127.0.0.1:9464"'
        )
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError(f"{value!r}: an IPv6 address must be in brackets, [::1]:9464")
    return value


class Status(BaseModel):
    """The status port: page, health and metrics."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    listen: Annotated[str, AfterValidator(_listen)] = "127.0.0.1:9464"
    token: Secret | None = None
    """Token required to access the status port; none by default."""

    @field_validator("token")
    @classmethod
    def _check_token(cls, token: Secret | None) -> Secret | None:
        if token is not None and len(token.reveal()) < 16:
            raise ValueError("must have at least 16 characters: a shorter one can be guessed")
        return token


class Log(BaseModel):
    """The level and the format of the log."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"


class Spool(BaseModel):
    """How much the store keeps, and for how long."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_bytes: Size = 2 * 2**30
    retention: Duration = timedelta(days=7)
    remember: Duration = Field(default=timedelta(days=400), ge=timedelta(days=1))


class Alerts(BaseModel):
    """Whether problems of the instance itself are also sent to the sinks."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    events: bool = True
    """Send an event when a problem begins and when it ends."""


class Evidence(BaseModel):
    """The evidence: how often it is sealed, by which key, and where its heads go as well."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    every: Duration = Field(
        default=timedelta(hours=1), ge=timedelta(minutes=5), le=timedelta(hours=24)
    )
    key: Secret | None = None
    """Signs heads and tags what may change until it is sealed; none by default."""
    key_before: Secret | None = None
    """The key that *key* replaces, until one start has seen both."""
    heads: Path | None = None
    """A file that each head is appended to, a line each."""

    @property
    def keys(self) -> Keys | None:
        """The keys that come of *key*."""
        return None if self.key is None else Keys(bytes.fromhex(self.key.reveal()))

    @property
    def keys_before(self) -> Keys | None:
        """The keys that come of *key_before*."""
        return None if self.key_before is None else Keys(bytes.fromhex(self.key_before.reveal()))

    @field_validator("key", "key_before")
    @classmethod
    def _check_key(cls, key: Secret | None) -> Secret | None:
        if key is not None and not _KEY.fullmatch(key.reveal()):
            raise ValueError("must be 32 bytes in hexadecimal, 64 digits: openssl rand -hex 32")
        return key

    @model_validator(mode="after")
    def _has_a_successor(self) -> Self:
        if self.key_before is not None and self.key is None:
            raise ValueError("key_before: is the key that key replaces, and there is no key")
        return self


_KEY: Final = re.compile("[0-9a-fA-F]{64}")


class ConfigFile(BaseModel):
    """The whole file, with the sources and sinks still unchecked, as written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    state_dir: Path | None = None
    store: SecretAddress | None = None
    """The address of a PostgreSQL that several replicas share; SQLite in state_dir by default."""
    replica: str | None = None
    """This process's name among the replicas, for people; the host's name by default."""
    status: Status = Status()
    log: Log = Log()
    spool: Spool = Spool()
    alerts: Alerts = Alerts()
    evidence: Evidence = Evidence()
    sources: dict[str, dict[str, Any]] = {}
    sinks: dict[str, dict[str, Any]] = {}

    @field_validator("store")
    @classmethod
    def _is_an_address(cls, store: SecretAddress | None) -> SecretAddress | None:
        if store is not None:
            check_address(store)
        return store

    @field_validator("replica")
    @classmethod
    def _is_a_name(cls, replica: str | None) -> str | None:
        if replica is not None and NAME.fullmatch(replica) is None:
            raise ValueError(
                "a name consists of letters, digits and single - _ . between them, at most 64"
            )
        return replica


@dataclass(frozen=True, slots=True)
class Config:
    """
    A configuration without errors.

    *path* is the file, or None if all keys came from the environment. *warnings* are sentences
    about settings that work but should be fixed. *store* is the address of the shared store, None
    for SQLite in *state_dir*, and *replica* the name of this process there.
    """

    path: Path | None
    state_dir: Path
    status: Status
    log: Log
    spool: Spool
    alerts: Alerts
    sources: Mapping[str, SourceSettings]
    sinks: Mapping[str, SinkSettings]
    warnings: tuple[str, ...] = ()
    evidence: Evidence = field(default_factory=Evidence)
    store: SecretAddress | None = None
    replica: str = ""

    def sources_of(self, sink: str) -> tuple[str, ...]:
        """Return the names of the sources that *sink* receives."""
        globs = self.sinks[sink].sources
        return tuple(
            name for name in self.sources if any(fnmatchcase(name, glob) for glob in globs)
        )

    def secrets(self) -> Iterator[Secret]:
        """Yield every secret, for the scrubber."""
        if self.store is not None:
            yield self.store
        for settings in (self.status, self.evidence, *self.sources.values(), *self.sinks.values()):
            for _path, secret in secrets_in(settings):
                yield secret

    def require_work(self) -> None:
        """Raise ConfigError unless there is a source to poll and a sink to deliver to."""
        problems = [
            f"{kind}: none is enabled, so there is nothing to do; configure or enable one"
            for kind, components in (("sources", self.sources), ("sinks", self.sinks))
            if not any(settings.enabled for settings in components.values())
        ]
        if problems:
            raise ConfigError(*problems)


class Components(Mapping[str, type[AnySettings]], Generic[AnySettings]):
    """
    The settings of each member of *package*, by type: the name of its module.

    A module is imported when its settings are first used, so a type that is not in use costs
    nothing.
    """

    def __init__(self, package: Any) -> None:
        self._package: str = package.__name__
        self._names: list[str] = package.available()

    def __getitem__(self, name: str) -> type[AnySettings]:
        if name not in self._names:
            raise KeyError(name)
        settings: type[AnySettings] = importlib.import_module(f"{self._package}.{name}").Settings
        return settings

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class Described(Components[AnySettings], ABC):
    """
    The settings of each member that is a module, and of those that are described in files.

    A description is read when a source or sink names it.
    """

    OWN: ClassVar[str]
    """The type whose description is a file of the operator's."""

    @property
    @abstractmethod
    def shipped(self) -> tuple[str, ...]:
        """The types whose descriptions come with auditrelay."""

    @property
    def described(self) -> tuple[str, ...]:
        """The types that are described in files; the last one is the operator's own files."""
        return *self.shipped, self.OWN

    def of(self, name: str, table: Mapping[str, Any], folder: Path) -> type[AnySettings]:
        """
        Return the settings of type *name* for the keys *table*; paths are relative to *folder*.

        Raises ConfigError if the description has problems, ValueError if the key that names it
        has, and KeyError for an unknown type.
        """
        if name in self._names or name not in self.described:
            return self[name]
        return self._read(name, table, folder)

    @abstractmethod
    def _read(self, name: str, table: Mapping[str, Any], folder: Path) -> type[AnySettings]:
        """Return what :meth:`of` returns for a type that is described."""


class Sources(Described[SourceSettings]):
    """The settings of every source."""

    OWN = REST

    def __init__(self) -> None:
        super().__init__(auditrelay.sources)

    @property
    def shipped(self) -> tuple[str, ...]:
        """The vendors that are described."""
        return shipped()

    def _read(self, name: str, table: Mapping[str, Any], folder: Path) -> type[SourceSettings]:
        from auditrelay.descriptions.load import settings_for  # noqa: PLC0415  # most need none

        return settings_for(name, table, folder)


class Sinks(Described[SinkSettings]):
    """The settings of every sink."""

    OWN = HTTP

    def __init__(self) -> None:
        super().__init__(auditrelay.sinks)

    @property
    def shipped(self) -> tuple[str, ...]:
        """The receivers that are described."""
        return shipped_receivers()

    def _read(self, name: str, table: Mapping[str, Any], folder: Path) -> type[SinkSettings]:
        from auditrelay.descriptions.receiver.load import settings_for  # noqa: PLC0415  # likewise

        return settings_for(name, table, folder)


SOURCES = Sources()

SINKS = Sinks()


def secrets_in(settings: BaseModel) -> Iterator[tuple[str, Secret]]:
    """Yield the path and the value of each secret in *settings*."""
    for key in type(settings).model_fields:
        value = getattr(settings, key)
        if isinstance(value, Secret):
            yield key, value
        elif isinstance(value, Mapping):
            for name, each in value.items():
                if isinstance(each, Secret):
                    yield f"{key}.{name}", each
