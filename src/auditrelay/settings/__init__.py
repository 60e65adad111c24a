"""
The kinds of value that a configuration is made of, and the keys that every source and sink has.

What is special to one vendor or product stands in its own module, in a class that derives from
:class:`SourceSettings` or :class:`SinkSettings`. Reading the file is ``config``'s business.
"""

import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from auditrelay.settings.addresses import Address, is_loopback
from auditrelay.settings.secrets import Secret
from auditrelay.settings.values import (
    Duration,
    Identifying,
    Labels,
    Size,
    Words,
    comma_list,
    redact_patterns,
)


class PeerSettings(BaseModel):
    """How to reach one HTTP peer. TLS verification cannot be switched off."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    timeout: Duration = Field(timedelta(seconds=30), gt=timedelta(0))
    """Total, for one request."""
    ca_file: Path | None = None
    """Certificates to trust instead of the public ones (PEM)."""
    client_cert: Path | None = None
    client_key: Path | None = None
    proxy: Address | None = None
    allow_insecure_http: bool = False
    """Allow plain http to a host that is not loopback."""

    @property
    def addresses(self) -> Mapping[str, str]:
        """Each address that will be spoken to, by the name of its key."""
        return {}

    @property
    def address_key(self) -> str:
        """The key that says where the peer is, for whoever has to mend it."""
        return next(iter(self.addresses), "url").partition("[")[0]

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        for key, address in self.addresses.items():
            if address.startswith("http:") and not (
                self.allow_insecure_http or is_loopback(address)
            ):
                raise ValueError(
                    f"{key}: plain http would show the credentials to everybody on the way; "
                    "use https, or set allow_insecure_http = true"
                )
        if (self.client_cert is None) != (self.client_key is None):
            raise ValueError("client_cert and client_key go together")
        for key in ("ca_file", "client_cert", "client_key"):
            path = getattr(self, key)
            if path is not None and not os.access(path, os.R_OK):
                raise ValueError(f"{key}: cannot read {path}")
        return self


class SourceSettings(PeerSettings):
    """The keys of every source. A vendor's module sets its own defaults, with the reason."""

    type: str
    enabled: bool = True
    base_url: Address
    poll_interval: Duration = Field(timedelta(minutes=5), ge=timedelta(seconds=1))
    settle: Duration = Field(timedelta(minutes=1), ge=timedelta(0))
    """How long after an instant it is trusted to be complete. No vendor so far states a delay."""
    overlap: Duration = Field(timedelta(minutes=10), ge=timedelta(seconds=1))
    """How far each window starts before the checkpoint: two polls, for records that are stamped
    before they are stored."""
    resweep: Annotated[
        list[Annotated[Duration, Field(gt=timedelta(0))]], BeforeValidator(comma_list)
    ] = [
        timedelta(hours=1),
        timedelta(hours=24),
    ]
    """Second looks: a covered span is read again that long after it ended."""
    max_window: Duration = Field(timedelta(days=30), ge=timedelta(seconds=2), le=timedelta(days=30))
    """Most event time that one request window spans."""
    initial_lookback: Duration = Field(timedelta(days=7), ge=timedelta(0), le=timedelta(days=30))
    """Where the very first checkpoint lies."""
    catch_up_limit: Duration | None = Field(None, gt=timedelta(0))
    """Time older than this is declared a gap instead of being caught up."""
    retention: Duration | None = Field(None, gt=timedelta(0))
    """How long the vendor keeps its records: what is older is declared a gap, not asked for."""
    page_size: int = Field(100, ge=1)
    requests_per_minute: int | None = Field(None, ge=1)
    """The daemon's own ceiling."""
    max_silence: Duration | None = Field(None, gt=timedelta(0))
    """A source without new events for this long is reported as stale."""
    redact: Annotated[Literal["default", "off"] | list[str], BeforeValidator(redact_patterns)] = (
        "default"
    )
    """Whose values are redacted: keys that look secret, none, or keys that match these globs."""
    pseudonymize: Annotated[list[Identifying], BeforeValidator(comma_list)] = []
    """The fields of an event whose values are replaced by pseudonyms, wherever they stand."""
    pseudonym_key: Secret | None = None
    """What pseudonyms are made with; another key makes others."""
    tags: Labels = {}
    """Static labels put on every event."""

    @property
    def addresses(self) -> Mapping[str, str]:
        """The API's address."""
        return {"base_url": self.base_url}

    @property
    def export_directory(self) -> Path | None:
        """The folder that export files are put into, if the source reads files."""
        return None

    @property
    def record_paths(self) -> Mapping[str, list[str]]:
        """Where records have their id and their time, as ``Normalizer`` takes it, if it is set."""
        return {}

    @field_validator("pseudonym_key")
    @classmethod
    def _cannot_be_guessed(cls, key: Secret | None) -> Secret | None:
        if key is not None and len(key.reveal()) < 16:
            raise ValueError("must have at least 16 characters: a shorter one can be guessed")
        return key

    @model_validator(mode="after")
    def _has_a_key(self) -> Self:
        if self.pseudonymize and self.pseudonym_key is None:
            raise ValueError("pseudonym_key: is missing, and pseudonymize needs it")
        return self

    @model_validator(mode="after")
    def _moves_on(self) -> Self:
        if self.overlap >= self.max_window:
            raise ValueError(
                "overlap must be shorter than max_window, or the checkpoint never moves"
            )
        return self


class SinkSettings(PeerSettings):
    """The keys of every sink. A product's module sets its own defaults, with the reason."""

    type: str
    enabled: bool = True
    sources: Words = ["*"]
    """Names or globs of the sources that it receives."""
    format: str
    """The form in which events are sent."""
    batch_events: int = Field(1000, ge=1)
    batch_bytes: Size = 1_000_000
    """Counted before compression."""
    linger: Duration = Field(timedelta(seconds=1), ge=timedelta(0))
    """How long a batch waits to fill."""
    concurrency: int = Field(4, ge=1, le=64)
    """Most requests in flight."""
    compression: Literal["gzip", "none"] = "gzip"
