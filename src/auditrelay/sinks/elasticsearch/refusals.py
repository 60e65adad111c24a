"""
What the refusal of one document in a bulk response means, and who must act on it.

A refusal lies in the **document** (it becomes a dead letter), in the **target** (the index, its
template, pipeline or alias, the cluster: the sink is held until an operator has acted), or it
passes (the document is sent again).

A document is put aside only if the refusal can lie in it. It cannot where the cluster refuses
access, where the error's type names a thing of the cluster (``index_closed_exception``,
``validation_exception``), and for the few reasons of :data:`_OF_THE_TARGET` that share the type
``illegal_argument_exception`` with faults of documents. They are matched from their beginning:
further on a reason may quote the document, whose author must not be able to hold a sink.

Types and reasons: github.com/elastic/elasticsearch (``ElasticsearchException``,
``ShardLimitValidator``, ``IndexNameExpressionResolver``, ``IngestService``, ``MappingLookup``).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

from auditrelay.sinks._requests import clean

Cause = Literal["duplicate", "pressure", "target", "document"]
"""``pressure``: it may pass by itself."""

_REASONS: Final = {
    "document_parsing_exception": "mapping",
    "mapper_parsing_exception": "mapping",
    "strict_dynamic_mapping_exception": "mapping",
    "illegal_argument_exception": "illegal_argument",
    "max_bytes_length_exceeded_exception": "too_large",
}

_NO_ACCESS: Final = frozenset((401, 403, 404))
"""A document cannot change what the key may do, nor which indices there are."""

_TYPES_OF_THE_TARGET: Final = re.compile(
    r"(?:^|_)(?:index|indices|alias|aliases|template|pipeline|cluster|node|shard|shards|routing"
    r"|security|license|resource|validation|block)_"
)

_OF_THE_TARGET: Final = re.compile(
    r"(?:\[\d+:\d+\] )?(?:failed to parse: )?(?:"
    r"validation failed: 1: this action would add"
    r"|limit of total fields"
    r"|number of documents in the index"
    r"|no write index is defined"
    r"|only write ops with an op_type of create"
    r"|(?:default |final )?pipeline with id \["
    r"|no matching index template|(?:composable |index )?template \["
    r"|alias \[|(?:index|data stream) \[[^\]]*\]|\[[^\]]*\] is (?:not )?an? (?:alias|data stream)"
    r"|an index or data stream exists|the provided expression \["
    r"|\[require_(?:alias|data_stream)\]"
    r"|unknown setting \["
    r")",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """The error of one document in a bulk response."""

    status: int
    type: str
    reason: str

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> Self:
        """Parse the *result* of one document."""
        error = result.get("error")
        error = error if isinstance(error, dict) else {}
        return cls(result["status"], str(error.get("type") or ""), str(error.get("reason") or ""))

    @property
    def cause(self) -> Cause:
        """Where the refusal lies."""
        if self.status == 409 and self.type.startswith("version_conflict"):
            return "duplicate"
        if self.status in (408, 425, 429) or self.status >= 500:
            return "pressure"
        if (
            self.status in _NO_ACCESS
            or _TYPES_OF_THE_TARGET.search(self.type)
            or _OF_THE_TARGET.match(self.reason)
        ):
            return "target"
        return "document"

    @property
    def code(self) -> str:
        """The reason as metrics and dead letters show it."""
        return _REASONS.get(self.type, f"status_{self.status}")

    @property
    def message(self) -> str:
        """The error as shown, such as ``400, mapper_parsing_exception: failed to parse``."""
        return clean(f"{self.status}, {self.type or 'no type'}: {self.reason}")
