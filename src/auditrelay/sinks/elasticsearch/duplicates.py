"""Which events of a batch a cluster holds already, behind a rollover."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Self

from auditrelay.http.replies import Reply
from auditrelay.sinks._requests import unproven

TRUSTED: Final = 60.0
"""Seconds for which it is taken for known which indices stand behind a name."""


BLIND: Final = 3600.0
"""Seconds until a cluster that refused to say it is asked again: its audit log notes each time."""


_AHEAD: Final = 3_600_000_000
"""How far, in microseconds, a vendor's clock may be ahead of the cluster's."""


MOST_IDS = 1000
"""Ids in one search, which must stay below index.max_result_window even if many are there twice."""


MOST_HITS = 10_000


ALWAYS: Final = 2**63


NO_HITS: Final[Mapping[str, Any]] = MappingProxyType({"_shards": {"failed": 0}, "timed_out": False})


UNREADABLE = (
    "the key or user may not read what is stored, so an event that is sent again after a rollover "
    "is stored twice: grant read and view_index_metadata on the index, or put a date into its name"
)


HALF_READ = "some shards did not say which events they hold: what is sent again may be stored twice"


@dataclass(slots=True)
class BehindRollover:
    """
    What stands behind a name: the *names* of the indices, as *told* by the cluster (monotonic).

    An event that happened before *since* (microseconds since 1970) may lie in another of them than
    the one that is written to; 0 if there is one alone. *blind* says that the cluster will not
    tell.
    """

    told: float
    names: frozenset[str] = frozenset()
    since: int = 0
    blind: bool = False

    @classmethod
    def of(cls, listed: Mapping[str, Any] | None, told: float) -> Self:
        """Read it out of the settings by index."""
        if listed is None:
            return cls(told, blind=True)
        since = 0
        if len(listed) > 1:
            since = max(made_at(settings) for settings in listed.values()) + _AHEAD
        return cls(told, frozenset(listed), since)


def made_at(settings: Any) -> int:
    """Return when an index was made, in microseconds since 1970; if it does not say, just now."""
    try:
        return int(settings["settings"]["index"]["creation_date"]) * 1000
    except (KeyError, TypeError, ValueError):
        return ALWAYS


@dataclass(frozen=True, slots=True)
class FoundEvents:
    """The *uids* that a search has found; *whole* says that every shard has answered."""

    uids: list[str]
    whole: bool

    @classmethod
    def of(cls, answer: Mapping[str, Any], reply: Reply) -> Self:
        """Read it out of a search's *answer*. Raises Retryable if that is no such."""
        try:
            whole = answer["_shards"]["failed"] == 0 and answer["timed_out"] is False
            hits = answer.get("hits", {}).get("hits", [])  # filter_path leaves out what is empty
            return cls([hit["_id"] for hit in hits], whole)
        except (KeyError, TypeError, AttributeError) as error:
            raise unproven(reply, "a search's") from error
