"""
The kinds of value in a configuration, and the keys that every source and sink has.

The keys of one vendor or product are in its own module, in a class that derives from
:class:`SourceSettings` or :class:`SinkSettings`. The module ``config`` reads the file.
"""

import os
from collections.abc import Mapping
from datetime import timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from auditrelay.settings.addresses import Address, is_loopback
from auditrelay.settings.secrets import Secret
from auditrelay.settings.values import (
    Duration,
    Glob,
    IdentityField,
    Labels,
    Size,
    TextList,
    comma_list,
    redact_patterns,
)


class PeerSettings(BaseModel):
    """How to reach one HTTP peer. TLS verification cannot be switched off."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    timeout: Duration = Field(timedelta(seconds=30), gt=timedelta(0))
    """For one request, in total."""
    ca_file: Path | None = None
    """Certificates to trust instead of the public ones (PEM)."""
    client_cert: Path | None = None
    client_key: Path | None = None
    proxy: Address | None = None
    allow_insecure_http: bool = False
    """Allow plain http to a host that is not loopback."""
    replicas: TextList = ["*"]
    """Names or globs of the replicas that may serve it, of those that share a store."""

    def may_be_served_by(self, replica: str) -> bool:
        """Return whether the replica of that name may serve it."""
        return any(fnmatchcase(replica, glob) for glob in self.replicas)

    @field_validator("replicas")
    @classmethod
    def _check_replicas(cls, replicas: list[str]) -> list[str]:
        if not replicas:
            raise ValueError("names no replica, so none would serve it; leave it out for all")
        return replicas

    @property
    def addresses(self) -> Mapping[str, str]:
        """Each address that requests go to, by the name of its key."""
        return {}

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences, each beginning with its key, about what works and should be looked at."""
        return ()

    @property
    def address_key(self) -> str:
        """The key with the peer's address, for an operator who has to fix it."""
        return next(iter(self.addresses), "url").partition("[")[0]

    @model_validator(mode="after")
    def _check_connection(self) -> Self:
        for key, address in self.addresses.items():
            if address.startswith("http:") and not (
                self.allow_insecure_http or is_loopback(address)
            ):
                raise ValueError(
                    f"{key}: plain http would send the credentials in clear text; "
                    "use https, or set allow_insecure_http = true"
                )
        if (self.client_cert is None) != (self.client_key is None):
            raise ValueError("client_cert and client_key: set both or neither")
        for key in ("ca_file", "client_cert", "client_key"):
            path = getattr(self, key)
            if path is not None and not os.access(path, os.R_OK):
                raise ValueError(f"{key}: cannot read {path}")
        return self


class SourceSettings(PeerSettings):
    """The keys of every source. A vendor's module sets its own defaults, with the reason."""

    IDENTITIES: ClassVar[frozenset[IdentityField]] = frozenset()
    """The identities that the vendor's records are known to have."""

    type: str
    enabled: bool = True
    base_url: Address
    poll_interval: Duration = Field(timedelta(minutes=5), ge=timedelta(seconds=1))
    settle: Duration = Field(timedelta(minutes=1), ge=timedelta(0))
    """How long to wait before assuming the source has published everything up to an instant.
    No vendor so far documents a delay."""
    overlap: Duration = Field(timedelta(minutes=10), ge=timedelta(seconds=1))
    """How far each window starts before the checkpoint, for records that are published later than
    their timestamps. By default two polls."""
    resweep: Annotated[
        list[Annotated[Duration, Field(gt=timedelta(0))]], BeforeValidator(comma_list)
    ] = [
        timedelta(hours=1),
        timedelta(hours=24),
    ]
    """How long after its end a covered span is read again (resweep), once for each duration."""
    max_window: Duration = Field(timedelta(days=30), ge=timedelta(seconds=2), le=timedelta(days=30))
    """Most event time that one request window spans."""
    initial_lookback: Duration = Field(timedelta(days=7), ge=timedelta(0), le=timedelta(days=30))
    """How long before its first poll a source's first checkpoint is."""
    catch_up_limit: Duration | None = Field(None, gt=timedelta(0))
    """Time older than this is declared a gap instead of being caught up."""
    retention: Duration | None = Field(None, gt=timedelta(0))
    """How long the vendor keeps its records: older time is declared a gap and not requested."""
    page_size: int = Field(100, ge=1)
    requests_per_minute: int | None = Field(None, ge=1)
    """The daemon's own rate limit."""
    max_silence: Duration | None = Field(None, gt=timedelta(0))
    """A source without new events for this long is reported as silent."""
    redact: Annotated[Literal["default", "off"] | list[str], BeforeValidator(redact_patterns)] = (
        "default"
    )
    """Keys whose values are redacted: those that look secret, none, or those that match globs."""
    pseudonymize: Annotated[list[IdentityField], BeforeValidator(comma_list)] = []
    """Fields of an event whose values are replaced by pseudonyms, wherever these values occur."""
    pseudonym_key: Secret | None = None
    """The key of the pseudonyms; with another key they differ."""
    tags: Labels = {}
    """Static labels put on every event."""

    @property
    def vendor(self) -> str:
        """The vendor's name in events: in source types and names of indices."""
        return self.type

    @property
    def vendor_key(self) -> str:
        """The vendor's part of uids. Lists of one vendor with ids of their own have their own."""
        return self.type

    @property
    def product(self) -> str | None:
        """The product as a SIEM shows it, unless a module of the vendor has it."""
        return None

    @property
    def identity(self) -> Mapping[str, object]:
        """By what a described vendor's records are known: alike in all sources of its key."""
        return {}

    @property
    def addresses(self) -> Mapping[str, str]:
        """The API's address."""
        return {"base_url": self.base_url}

    @property
    def filters_time(self) -> bool:
        """Whether the API shows a window alone, instead of everything from the newest record on."""
        return True

    @property
    def reach(self) -> timedelta | None:
        """How far back the vendor is asked; None if it keeps everything."""
        return self.retention

    @property
    def axis(self) -> Literal["event", "recorded"]:
        """Which time windows are of: the events' own, or when the vendor recorded them."""
        return "event"

    @property
    def not_shared(self) -> str | None:
        """A sentence, beginning with its key, if it must not be used with a shared store."""
        return None

    @property
    def export_directory(self) -> Path | None:
        """The folder that export files are put into, if the source reads files."""
        return None

    @property
    def record_paths(self) -> Mapping[str, list[str]]:
        """The configured paths to a record's id and time, as arguments of ``Normalizer``."""
        return {}

    @field_validator("pseudonym_key")
    @classmethod
    def _check_pseudonym_key(cls, key: Secret | None) -> Secret | None:
        if key is not None and len(key.reveal()) < 16:
            raise ValueError("must have at least 16 characters: a shorter one can be guessed")
        return key

    @model_validator(mode="after")
    def _check_identities(self) -> Self:
        # Addresses are found by what they look like, in any record.
        missing = [
            field
            for field in self.pseudonymize
            if field not in self.IDENTITIES and not field.endswith((".email", ".ip"))
        ]
        if missing:
            raise ValueError(
                f"pseudonymize: {', '.join(missing)}: records of type {self.type} are not known to "
                "say that, so nothing would be replaced; remove it, or list the keys in redact"
            )
        return self

    @model_validator(mode="after")
    def _check_pseudonymize(self) -> Self:
        if self.pseudonymize and self.pseudonym_key is None:
            raise ValueError("pseudonym_key: is missing; pseudonymize needs it")
        return self

    @model_validator(mode="after")
    def _check_overlap(self) -> Self:
        if self.overlap >= self.max_window:
            raise ValueError(
                "overlap must be shorter than max_window, or the checkpoint never advances"
            )
        return self


Proves = Literal["stored", "taken", "nothing"]
"""
What a success of a sink proves: that the event is stored for good, that the product has taken
charge of it (what becomes of it then it never tells), or nothing.
"""


class SinkSettings(PeerSettings):
    """The keys of every sink. A product's module sets its own defaults, with the reason."""

    type: str
    enabled: bool = True
    sources: TextList = ["*"]
    """Names or globs of the sources that it receives."""
    exclude: Annotated[list[Glob], BeforeValidator(comma_list)] = []
    """Globs over ``kind.verb`` and over the vendor's own actions: what fits one is not sent."""
    format: str
    """The form in which events are sent."""
    batch_events: int = Field(1000, ge=1)
    batch_bytes: Size = 1_000_000
    """Size before compression."""
    linger: Duration = Field(timedelta(seconds=1), ge=timedelta(0))
    """How long a batch waits to fill."""
    concurrency: int = Field(4, ge=1, le=64)
    """Most requests in flight."""
    parts: int = Field(1, ge=1, le=64)
    """How many replicas may deliver to it at a time, each the events of some of its sources."""
    compression: Literal["gzip", "none"] = "gzip"

    @property
    def not_divided(self) -> str | None:
        """Why it cannot be delivered in parts, if it cannot."""
        return None

    @model_validator(mode="after")
    def _check_parts(self) -> Self:
        if self.parts > 1 and self.not_divided is not None:
            raise ValueError(f"parts: must be 1: {self.not_divided}")
        if self.parts > self.concurrency:
            raise ValueError(
                f"parts: must not be more than concurrency, which is {self.concurrency}: each part "
                "has a request in flight"
            )
        return self

    @property
    def proves(self) -> Proves:
        """What a success of the sink, as configured, proves; an intake mostly takes only."""
        return "taken"
