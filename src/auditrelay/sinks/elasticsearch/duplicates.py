"""
Which events of a batch a cluster holds already, behind a rollover (docs/decisions/0015).

A cluster recognises an ``_id`` within one index only. So where several indices stand behind a name,
those of a batch's events that may be in an older one are searched for before the batch is sent.
"""

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Self
from urllib.parse import quote

from auditrelay.errors import Refused, Retryable
from auditrelay.http.replies import Reply
from auditrelay.sinks import Item
from auditrelay.sinks._requests import unproven
from auditrelay.sinks.elasticsearch.cluster import Cluster, answer_of

_TRUSTED: Final = 60.0
"""Seconds for which it is taken for known which indices stand behind a name."""


_BLIND: Final = 3600.0
"""Seconds until a cluster that refused to say it is asked again: its audit log notes each time."""


_AHEAD: Final = 3_600_000_000
"""How far, in microseconds, a vendor's clock may be ahead of the cluster's."""


_MOST_TARGETS: Final = 10_000


_MOST_IDS = 1000
"""Ids in one search, which must stay below index.max_result_window even if many are there twice."""


_MOST_HITS = 10_000


_ALWAYS: Final = 2**63


_NO_HITS: Final[Mapping[str, Any]] = MappingProxyType(
    {"_shards": {"failed": 0}, "timed_out": False}
)


_UNREADABLE = (
    "the key or user may not read what is stored, so an event that is sent again after a rollover "
    "is stored twice: grant read and view_index_metadata on the index, or put a date into its name"
)


_HALF_READ = (
    "some shards did not say which events they hold: what is sent again may be stored twice"
)


class Duplicates:
    """What is known of the indices behind each target, and the searches in them."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._behind: dict[str, _Behind] = {}

    async def find(
        self, batch: Sequence[Item], targets: Mapping[str, Sequence[int]]
    ) -> tuple[set[int], set[str]]:
        """
        Return the indices in *batch* of the events that are stored already, and warnings.

        *targets* are the indices in *batch* by the name that the events go to. Raises Retryable
        or Refused if the cluster does not answer; where it may not be asked, that is a warning.
        """
        stored: set[int] = set()
        warnings: set[str] = set()
        for target, places in targets.items():
            behind = await self._indices_behind(target)
            if behind.blind:
                warnings.add(_UNREADABLE)
            old = [place for place in places if batch[place].event.at < behind.since]
            for first in range(0, len(old), _MOST_IDS):
                part = {batch[place].event.uid: place for place in old[first : first + _MOST_IDS]}
                found = await self._search(target, part)
                if found is None:
                    self._behind[target] = _Behind(time.monotonic(), blind=True)
                    warnings.add(_UNREADABLE)
                    break
                stored.update(part[uid] for uid in found.uids if uid in part)
                if not found.whole:
                    warnings.add(_HALF_READ)
        return stored, warnings

    async def stored(self, targets: Mapping[str, Sequence[str]]) -> frozenset[str]:
        """
        Return which of the uids, listed by target, the cluster finds, in whatever index they lie.

        What was stored a moment ago is found only after the index's next refresh. Raises Refused
        if the cluster will not say, and Retryable if a shard has not answered.
        """
        stored: set[str] = set()
        for target, uids in targets.items():
            for first in range(0, len(uids), _MOST_IDS):
                found = await self._search(target, uids[first : first + _MOST_IDS])
                if found is None:
                    raise Refused(
                        f"the cluster does not let us search {target}: give the key the privilege "
                        "read on it"
                    )
                if not found.whole:
                    raise Retryable(f"a shard of {target} has not answered", reason="shard_failed")
                stored.update(found.uids)
        return frozenset(stored)

    async def searchable(self, target: str) -> bool:
        """Ask, as for a batch, whether the cluster lists the indices of *target* and searches."""
        listed = await self._creation_dates(target)
        return listed is not None and await self._search(target, ()) is not None

    def forget(self, targets: Iterable[str]) -> None:
        """Ask again what stands behind *targets*, unless it may not be asked."""
        for target in targets:
            behind = self._behind.get(target)
            if behind is not None and not behind.blind:
                del self._behind[target]

    def confirm(self, results: Sequence[Mapping[str, Any]]) -> None:
        """Trust on, without asking, what is known of where *results* say that events went."""
        written = {result.get("_index") for result in results} - {None}
        for target, behind in self._behind.items():
            if not written:
                return
            if target in written or not behind.names.isdisjoint(written):
                written -= behind.names | {target}
                if not behind.blind:
                    behind.known_at = time.monotonic()
        if written:  # an index that is new: something has rolled over
            self.forget(list(self._behind))

    async def _indices_behind(self, target: str) -> "_Behind":
        """Return what stands behind *target*, asked again if that was long ago."""
        behind = self._behind.get(target)
        now = time.monotonic()
        if behind is None or now - behind.known_at > (_BLIND if behind.blind else _TRUSTED):
            if len(self._behind) >= _MOST_TARGETS:
                self._behind.clear()
            listed = await self._creation_dates(target)
            behind = self._behind[target] = _Behind.of(listed, now)
        return behind

    async def _creation_dates(self, target: str) -> Mapping[str, Any] | None:
        """Return the settings by index of all that stand behind *target*; None: it will not say."""
        path = f"/{quote(target, safe='*')}/_settings/index.creation_date"
        return answer_of(await self._cluster.request("GET", path))

    async def _search(self, target: str, uids: Collection[str]) -> "_Found | None":
        """Return which of *uids* stand in *target*, or None if the cluster will not say."""
        reply = await self._cluster.request_json(
            "POST",
            f"/{quote(target, safe='*')}/_search",
            {
                "query": {"ids": {"values": list(uids)}},
                "size": _MOST_HITS,
                "_source": False,
                "track_total_hits": False,
            },
            {"filter_path": "timed_out,_shards.failed,hits.hits._id"},
        )
        answer = answer_of(reply, absent=_NO_HITS)
        return None if answer is None else _Found.of(answer, reply)


@dataclass(slots=True)
class _Behind:
    """
    What stands behind a target: the *names* of the indices, *known_at* that time (monotonic).

    An event that happened before *since* (microseconds since 1970) may lie in another of them than
    the one that is written to; 0 if there is one alone. *blind* says that the cluster will not
    tell.
    """

    known_at: float
    names: frozenset[str] = frozenset()
    since: int = 0
    blind: bool = False

    @classmethod
    def of(cls, listed: Mapping[str, Any] | None, known_at: float) -> Self:
        """Read it out of the settings by index."""
        if listed is None:
            return cls(known_at, blind=True)
        since = 0
        if len(listed) > 1:
            since = max(_created_at(settings) for settings in listed.values()) + _AHEAD
        return cls(known_at, frozenset(listed), since)


def _created_at(settings: Any) -> int:
    """Return when an index was made, in microseconds since 1970; if it does not say, just now."""
    try:
        return int(settings["settings"]["index"]["creation_date"]) * 1000
    except (KeyError, TypeError, ValueError):
        return _ALWAYS


@dataclass(frozen=True, slots=True)
class _Found:
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
