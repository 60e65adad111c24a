"""
Find the events of a batch that are already stored, across a rollover (docs/decisions/0015).

A cluster deduplicates by ``_id`` within one index only. So where a name has several backing
indices, the events of a batch that may be in an older one are searched for before it is sent.

A search that is down holds a batch up for a moment only (docs/decisions/0030): then the batch is
sent without one, and the events that a search was due for are counted as possible duplicates.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
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
from auditrelay.sinks.elasticsearch.outage import Outage

_FRESH_FOR: Final = 60.0
"""Seconds for which the backing indices of a name are cached."""

_STALE: Final = float("-inf")

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


_DOWN = (
    "the search for duplicates does not work, so events are sent without it: those that are resent "
    "after a rollover may be stored twice"
)


@dataclass(slots=True)
class Found:
    """
    What the cluster was asked about a batch.

    *stored* are the places of events that are already there; *unsearched* those of events that may
    be, where no search has said so or otherwise.
    """

    stored: set[int] = field(default_factory=set)
    unsearched: set[int] = field(default_factory=set)
    warnings: set[str] = field(default_factory=set)


class DuplicateFinder:
    """Caches the backing indices of each target, and searches them for duplicates."""

    def __init__(self, cluster: Cluster, clock: Clock) -> None:
        self._cluster = cluster
        self._clock = clock
        self._outage = Outage(clock)
        self._backing: dict[str, _BackingIndices] = {}
        self._reads = 0
        self._unexplained: dict[str, int] = {}
        """Indices that were written to and belong to no target, and the last read before that."""

    async def find(self, batch: Sequence[Item], targets: Mapping[str, Sequence[int]]) -> Found:
        """
        Return which events of *batch* are already stored, as far as the cluster can be asked.

        *targets* are the places in *batch* by the index, stream or pattern where the events may be
        already. Raises Retryable while a search that fails may still work in time, and Refused if
        the cluster refuses it; a missing privilege is a warning.
        """
        found = Found()
        for target, places in targets.items():
            if self._outage.is_due:
                try:
                    await self._outage.attempt(self._find_in(target, places, batch, found))
                    continue
                except Retryable:
                    if not self._outage.is_long:
                        raise
            backing = self._backing.get(target)
            found.unsearched.update(
                places if backing is None else _may_be_stored(target, backing, places, batch)
            )
            found.warnings.add(_DOWN)
        found.unsearched -= found.stored
        return found

    async def _find_in(
        self, target: str, places: Sequence[int], batch: Sequence[Item], found: Found
    ) -> None:
        """Add to *found* what a search in *target* says of the events at *places*."""
        backing = await self._backing_indices(target)
        if backing.unreadable:
            found.warnings.add(_UNREADABLE)
        old = _may_be_stored(target, backing, places, batch)
        for first in range(0, len(old), _MAX_IDS):
            part = {batch[place].uid: place for place in old[first : first + _MAX_IDS]}
            answer = await self._search(target, part)
            if answer is None:
                self._backing[target] = _BackingIndices(self._clock.monotonic(), unreadable=True)
                found.warnings.add(_UNREADABLE)
                return
            found.stored.update(part[uid] for uid in answer.uids if uid in part)
            if not answer.complete:
                found.unsearched.update(part.values())
                found.warnings.add(_INCOMPLETE)

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
        """Read the backing indices of *targets* again, unless a privilege is missing."""
        for target in targets:
            backing = self._backing.get(target)
            if backing is not None and not backing.unreadable:
                backing.known_at = _STALE

    def confirm(self, indices: Iterable[str | None]) -> frozenset[str]:
        """
        Extend the cache of the targets that *indices*, which were written to, belong to.

        Return which of them belong to no target: an ingest pipeline has moved events there. That is
        certain once the targets have been read twice since (a node may lag behind) and still do
        not have them.
        """
        written = {name for name in indices if name is not None}
        for target, backing in self._backing.items():
            if not written:
                return frozenset()
            if target in written or not backing.names.isdisjoint(written):
                written -= backing.names | {target}
                if not backing.unreadable and backing.known_at != _STALE:
                    backing.known_at = self._clock.monotonic()
        moved = frozenset(filter(self._is_explained_by_no_target, written))
        if written - moved:  # an index that is new: something has rolled over
            if len(self._unexplained) >= MAX_TARGETS:
                self._unexplained.clear()
            for name in written:
                self._unexplained.setdefault(name, self._reads)
            self.invalidate(list(self._backing))
        return moved

    def _is_explained_by_no_target(self, index: str) -> bool:
        seen = self._unexplained.get(index)
        return seen is not None and all(
            each.read > seen + 1 and not each.unreadable for each in self._backing.values()
        )

    async def _backing_indices(self, target: str) -> "_BackingIndices":
        """Return the backing indices of *target*, requested again once the cache has expired."""
        backing = self._backing.get(target)
        now = self._clock.monotonic()
        if backing is None or now - backing.known_at > (
            _UNREADABLE_RETRY if backing.unreadable else _FRESH_FOR
        ):
            if len(self._backing) >= MAX_TARGETS:
                self._backing.clear()
            self._reads = read = self._reads + 1
            settings_by_index = await self._creation_dates(target)
            backing = self._backing[target] = _BackingIndices.of(settings_by_index, now, read)
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
    privilege to list or search them is missing. *read* counts the requests for them.
    """

    known_at: float
    names: frozenset[str] = frozenset()
    search_before: int = 0
    unreadable: bool = False
    read: int = 0

    @classmethod
    def of(cls, settings_by_index: Mapping[str, Any] | None, known_at: float, read: int) -> Self:
        """Parse the settings of each index; None: not permitted."""
        if settings_by_index is None:
            return cls(known_at, unreadable=True)
        search_before = 0
        if len(settings_by_index) > 1:
            search_before = max(map(_created_at, settings_by_index.values())) + _CLOCK_SKEW
        return cls(known_at, frozenset(settings_by_index), search_before, read=read)


def _may_be_stored(
    target: str, backing: _BackingIndices, places: Sequence[int], batch: Sequence[Item]
) -> Sequence[int]:
    """Return which of *places* have an event that may be in another index of *target*."""
    if "*" in target:  # a pattern: the time of these events says nothing
        return places if backing.names else []
    return [place for place in places if batch[place].at < backing.search_before]


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
