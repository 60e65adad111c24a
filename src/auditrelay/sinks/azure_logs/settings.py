"""The settings of a sink to the Azure Monitor Logs Ingestion API."""

import re
from collections.abc import Mapping
from typing import Final, Literal

from pydantic import Field, field_validator

from auditrelay.settings.addresses import Address
from auditrelay.settings.values import Size
from auditrelay.sinks import Form
from auditrelay.sinks._entra import Cloud, EntraSettings

REQUEST_BYTES: Final = 1_000_000
"""
Bytes of a body, before compression, that are sure to be taken.

The limit is 1 MB "both compressed and uncompressed"; whether 1,000,000 or 1,048,576 is not said.
"""

RESOURCES: Final[Mapping[Cloud, str]] = {
    "public": "https://monitor.azure.com",
    "government": "https://monitor.azure.us",
    "china": "https://monitor.azure.cn",
}
"""For what a token is asked, by cloud."""

_RULE: Final = re.compile(r"dcr-[0-9a-f]{32}")
_STREAM: Final = re.compile(r"(Custom|Microsoft)-[A-Za-z0-9_.-]{1,100}")


class Settings(EntraSettings):
    """The keys of an ``azure_logs`` sink."""

    type: Literal["azure_logs"]
    endpoint: Address
    """The logs ingestion endpoint of the data collection rule, or of a data collection endpoint."""
    rule_id: str
    """The immutable id of the data collection rule."""
    stream: str = "Custom-AuditRelay"
    """The stream of the rule that events go to."""
    stream_authentication: str = "Custom-AuditRelayAuthentication"
    """The stream for who signs in, signs out or acts as another."""
    format: Form = "asim"
    batch_bytes: Size = Field(REQUEST_BYTES, le=REQUEST_BYTES)

    @property
    def addresses(self) -> Mapping[str, str]:
        """The endpoint, and where tokens are given, which are both sent something secret."""
        authority = self.token_authority
        return {"endpoint": self.endpoint, **({"authority": authority} if authority else {})}

    @property
    def resource(self) -> str:
        """For what a token is asked."""
        return RESOURCES[self.cloud]

    @field_validator("endpoint")
    @classmethod
    def _is_an_endpoint(cls, endpoint: str) -> str:
        if "/datacollectionrules" in endpoint.lower():
            raise ValueError(
                "write the logs ingestion endpoint alone, without /dataCollectionRules/...; the "
                "rule and the stream are rule_id and stream"
            )
        if ".handler.control.monitor." in endpoint.lower():
            raise ValueError(
                "is the configuration access endpoint; the logs ingestion endpoint is "
                "https://NAME.REGION-N.ingest.monitor.azure.com"
            )
        return endpoint

    @field_validator("rule_id")
    @classmethod
    def _is_a_rule(cls, rule: str) -> str:
        if not _RULE.fullmatch(rule):
            raise ValueError(
                f"{rule!r} is not the immutable id of a data collection rule: dcr- and 32 hex "
                "digits, in its JSON view under immutableId; not its name, nor its resource id"
            )
        return rule

    @field_validator("stream", "stream_authentication")
    @classmethod
    def _is_a_stream(cls, stream: str) -> str:
        if not _STREAM.fullmatch(stream):
            raise ValueError(
                f"{stream!r} is not a stream: Custom- and a name that streamDeclarations of the "
                "rule has, or Microsoft- and a table of Microsoft's"
            )
        return stream
