"""
Find the events of a batch that are already stored, across a rollover (docs/decisions/0015).

A cluster deduplicates by ``_id`` within one index only. So where a name has several backing
indices, the events of a batch that may be in an older one are searched for before it is sent.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Self
from urllib.parse import quote

from auditrelay.clock import Clock
from auditrelay.errors import Refused, Retryable
from auditrelay.http.replies import Reply
from auditrelay.sinks import Item
from auditrelay.sinks._requests import unexpected_body
from auditrelay.sinks.elasticsearch.cluster import Cluster, answer_of
from auditrelay.sinks.elasticsearch.names import MAX_TARGETS

_FRESH_FOR: Final = 60.0
"""Seconds for which the backing indices of a name are cached."""

_UNREADABLE_RETRY: Final = 3600.0
"""Seconds until a cluster that refused is asked again: its audit log records each refusal."""

_CLOCK_SKEW: Final = 3_600_000_000
"""How far, in microseconds, a vendor's clock may be ahead of the cluster's."""

_MAX_IDS = 1000
"""Ids in one search; the hits must stay below index.max_result_window even with duplicates."""

_MAX_HITS = 10_000

_UNKNOWN_DATE: Final = 2**63

_NO_HITS: Final[Mapping[str, Any]] = MappingProxyType(
    {"_shards": {"failed": 0}, "timed_out": False}
)

_UNREADABLE = (
    "the key or user may not search the index, so an event that is resent after a rollover is "
    "stored twice: grant read and view_index_metadata on the index, or put a date into its name"
)

_INCOMPLETE = (
    "some shards did not answer the search for duplicates: events that are resent may be stored "
    "twice"
)


class DuplicateFinder:
    """Caches the backing indices of each target, and searches them for duplicates."""

    def __init__(self, cluster: Cluster, clock: Clock) -> None:
        self._cluster = cluster
        self._clock = clock
        self._backing: dict[str, _BackingIndices] = {}

    async def find(
        self, batch: Sequence[Item], targets: Mapping[str, Sequence[int]]
    ) -> tuple[set[int], set[str]]:
        """
        Return the places in *batch* of the events that are already stored, and warnings.

        *targets* are the places in *batch* by the index or stream that the events go to. Raises
        Retryable or Refused if the cluster does not answer; a missing privilege is a warning.
        """
        stored: set[int] = set()
        warnings: set[str] = set()
        for target, places in targets.items():
            backing = await self._backing_indices(target)
            if backing.unreadable:
                warnings.add(_UNREADABLE)
            old = [place for place in places if batch[place].at < backing.search_before]
            for first in range(0, len(old), _MAX_IDS):
                part = {batch[place].uid: place for place in old[first : first + _MAX_IDS]}
                found = await self._search(target, part)
                if found is None:
                    self._backing[target] = _BackingIndices(
                        self._clock.monotonic(), unreadable=True
                    )
                    warnings.add(_UNREADABLE)
                    break
                stored.update(part[uid] for uid in found.uids if uid in part)
                if not found.complete:
                    warnings.add(_INCOMPLETE)
        return stored, warnings

    async def stored(self, targets: Mapping[str, Sequence[str]]) -> frozenset[str]:
        """
        Return which of the uids, given by target, a search finds, in any index.

        New documents are found only after the index's next refresh. Raises Refused if the search is
        not permitted, and Retryable if a shard has not answered.
        """
        stored: set[str] = set()
        for target, uids in targets.items():
            for first in range(0, len(uids), _MAX_IDS):
                found = await self._search(target, uids[first : first + _MAX_IDS])
                if found is None:
                    raise Refused(
                        f"no permission to search {target}: grant the key or user the privilege "
                        "read on it"
                    )
                if not found.complete:
                    raise Retryable(f"a shard of {target} has not answered", reason="shard_failed")
                stored.update(found.uids)
        return frozenset(stored)

    async def searchable(self, target: str) -> bool:
        """Return whether the cluster permits the requests that :meth:`find` makes for *target*."""
        settings_by_index = await self._creation_dates(target)
        return settings_by_index is not None and await self._search(target, ()) is not None

    def invalidate(self, targets: Iterable[str]) -> None:
        """Drop the cached backing indices of *targets*, unless a privilege is missing."""
        for target in targets:
            backing = self._backing.get(target)
            if backing is not None and not backing.unreadable:
                del self._backing[target]

    def confirm(self, indices: Iterable[str | None]) -> None:
        """Extend the cache of the targets that *indices*, which were written to, belong to."""
        written = {*indices} - {None}
        for target, backing in self._backing.items():
            if not written:
                return
            if target in written or not backing.names.isdisjoint(written):
                written -= backing.names | {target}
                if not backing.unreadable:
                    backing.known_at = self._clock.monotonic()
        if written:  # an index that is new: something has rolled over
            self.invalidate(list(self._backing))

    async def _backing_indices(self, target: str) -> "_BackingIndices":
        """Return the backing indices of *target*, requested again once the cache has expired."""
        backing = self._backing.get(target)
        now = self._clock.monotonic()
        if backing is None or now - backing.known_at > (
            _UNREADABLE_RETRY if backing.unreadable else _FRESH_FOR
        ):
            if len(self._backing) >= MAX_TARGETS:
                self._backing.clear()
            settings_by_index = await self._creation_dates(target)
            backing = self._backing[target] = _BackingIndices.of(settings_by_index, now)
        return backing

    async def _creation_dates(self, target: str) -> Mapping[str, Any] | None:
        """Return the settings of each backing index of *target*; None: not permitted."""
        path = f"/{quote(target, safe='*')}/_settings/index.creation_date"
        return answer_of(await self._cluster.request("GET", path))

    async def _search(self, target: str, uids: Collection[str]) -> "_SearchResult | None":
        """Return which of *uids* are stored in *target*, or None if the search is not permitted."""
        reply = await self._cluster.request_json(
            "POST",
            f"/{quote(target, safe='*')}/_search",
            {
                "query": {"ids": {"values": list(uids)}},
                "size": _MAX_HITS,
                "_source": False,
                "track_total_hits": False,
            },
            {"filter_path": "timed_out,_shards.failed,hits.hits._id"},
        )
        answer = answer_of(reply, absent=_NO_HITS)
        return None if answer is None else _SearchResult.of(answer, reply)


@dataclass(slots=True)
class _BackingIndices:
    """
    The backing indices of a target, by name, as of *known_at* (monotonic).

    An event that happened before *search_before* (microseconds since 1970, plus clock skew) may be
    in another of them than the one that is written to; 0 if there is only one. *unreadable*: a
    privilege to list or search them is missing.
    """

    known_at: float
    names: frozenset[str] = frozenset()
    search_before: int = 0
    unreadable: bool = False

    @classmethod
    def of(cls, settings_by_index: Mapping[str, Any] | None, known_at: float) -> Self:
        """Parse the settings of each index; None: not permitted."""
        if settings_by_index is None:
            return cls(known_at, unreadable=True)
        search_before = 0
        if len(settings_by_index) > 1:
            search_before = max(map(_created_at, settings_by_index.values())) + _CLOCK_SKEW
        return cls(known_at, frozenset(settings_by_index), search_before)


def _created_at(settings: Any) -> int:
    """Return when an index was created, in microseconds since 1970; far ahead if unknown."""
    try:
        return int(settings["settings"]["index"]["creation_date"]) * 1000
    except (KeyError, TypeError, ValueError):
        return _UNKNOWN_DATE


@dataclass(frozen=True, slots=True)
class _SearchResult:
    """The *uids* that a search has found; *complete* if every shard has answered."""

    uids: list[str]
    complete: bool

    @classmethod
    def of(cls, answer: Mapping[str, Any], reply: Reply) -> Self:
        """Parse the *answer* to a search. Raises Retryable if it is not one."""
        try:
            complete = answer["_shards"]["failed"] == 0 and answer["timed_out"] is False
            hits = answer.get("hits", {}).get("hits", [])  # filter_path leaves out what is empty
            return cls([hit["_id"] for hit in hits], complete)
        except (KeyError, TypeError, AttributeError) as error:
            raise unexpected_body(reply, "the search API") from error
