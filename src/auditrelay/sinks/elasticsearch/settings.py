"""The settings of an Elasticsearch or OpenSearch sink."""

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from auditrelay.settings import Proves, SinkSettings
from auditrelay.settings.addresses import Address
from auditrelay.settings.secrets import Secret
from auditrelay.settings.values import Size
from auditrelay.sinks import Form
from auditrelay.sinks.elasticsearch.names import check_index

REQUEST_BYTES = 100 * 1024 * 1024
"""The default http.max_content_length of both products."""


class Settings(SinkSettings):
    """The keys of an ``elasticsearch`` sink."""

    type: Literal["elasticsearch"]
    urls: list[Address] = Field(min_length=1)
    """Nodes of one cluster; the next is tried when one cannot be reached."""
    api_key: Secret | None = None
    """``id:key``, or the "encoded" form of both."""
    username: str | None = Field(None, min_length=1)
    password: Secret | None = None
    index: str = "logs-auditrelay.{vendor}-default"
    """A data stream or an index; ``{vendor}``, ``{source}`` and %Y %m %d... are filled in."""
    pipeline: str | None = Field(None, min_length=1)
    """The ingest pipeline that every event goes through."""
    format: Form = "ecs"
    batch_bytes: Size = Field(5_000_000, le=REQUEST_BYTES)

    @property
    def proves(self) -> Proves:
        """Each event's own answer says that it is in the translog of its index."""
        return "stored"

    @property
    def addresses(self) -> Mapping[str, str]:
        """The address of each node."""
        return {f"urls[{number}]": url for number, url in enumerate(self.urls)}

    @field_validator("urls", mode="before")
    @classmethod
    def _one_or_more(cls, urls: object) -> object:
        return [url.strip() for url in urls.split(",")] if isinstance(urls, str) else urls

    @field_validator("index")
    @classmethod
    def _is_an_index(cls, index: str) -> str:
        check_index(index)
        return index

    @model_validator(mode="after")
    def _one_identity(self) -> Self:
        if self.api_key is not None and (self.username is not None or self.password is not None):
            raise ValueError("api_key excludes username and password")
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password go together")
        if self.username is not None and (":" in self.username or not self.username.isprintable()):
            raise ValueError("username must not contain a colon or a control character")
        return self


EXAMPLE = """\
[sinks.elastic]
type = "elasticsearch"

# The nodes of one cluster; the next one is tried when one cannot be reached or fails.
urls = ["https://es.example.com:9200"]
# Either an API key ("id:key", or the encoded form) or a user name and password.
api_key = "${env:ELASTIC_API_KEY}"
# username = "auditrelay"  # no default
# password = "${env:ELASTIC_PASSWORD}"  # no default
# A data stream or an index. {vendor}, {source} and the time of the event (%Y %m %d) are filled in.
# With a date ("audit-{vendor}-%Y.%m") repeats are deduplicated at any time; in a data stream that
# has rolled over, only if the key has the rights read and view_index_metadata as well.
# index = "logs-auditrelay.{vendor}-default"
# An ingest pipeline that every event goes through.
# pipeline = "audit"  # no default
# format = "ecs"
# batch_bytes = "5MB"
"""
"""Its table in config.example.toml: every key, those with a default commented out."""
