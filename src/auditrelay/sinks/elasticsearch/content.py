"""
Whether an event that the cluster has already is the same there.

A ``create`` that meets its own id says that an event of this uid is stored, not that it is this
one: a vendor, or something in between, may show another record under a known id. So the digest of
the record is compared with the one that is stored, for those events alone, by one request for a
batch. Records that differ in spelling only are the same.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
import orjson

from auditrelay.clock import Clock
from auditrelay.errors import RelayError
from auditrelay.sinks import Item
from auditrelay.sinks.elasticsearch.cluster import Cluster, answer_of
from auditrelay.sinks.elasticsearch.outage import Outage

_REMEMBERED: Final = 8
_SMALL: Final = 100
_SMALL_BYTES: Final = 128 * 1024
"""Batches that are remembered, and how small they are: a resend of those needs no request."""

_MOST_ORIGINALS: Final = 100
"""Differing records of a batch that are fetched to be compared; any others count as changed."""


class _Event(msgspec.Struct):
    hash: str | None = None
    original: str | None = None


class _Document(msgspec.Struct):
    event: _Event


_decode = msgspec.json.Decoder(_Document).decode


class ContentCheck:
    """Compares events in the form ``ecs`` with what a cluster has stored under their uid."""

    def __init__(self, cluster: Cluster, clock: Clock) -> None:
        self._cluster = cluster
        self._outage = Outage(clock)
        self._sent = deque[Sequence[Item]](maxlen=_REMEMBERED)

    def sent(self, batch: Sequence[Item]) -> None:
        """Remember *batch*: that it meets itself again is no change."""
        if len(batch) <= _SMALL and sum(len(item.text) for item in batch) <= _SMALL_BYTES:
            self._sent.append(batch)

    async def count_changed(self, stored: Sequence[tuple[str | None, Item]]) -> int:
        """
        Return how many of the events *stored*, each with its index, differ from what is there.

        0 if the cluster cannot say: this holds up no delivery.
        """
        own = {item.uid: item.text for batch in self._sent for item in batch}
        asked = [
            (index, item)
            for index, item in stored
            if index is not None and own.get(item.uid) != item.text
        ]
        if not asked or not self._outage.is_due:
            return 0
        try:
            return await self._outage.attempt(self._compare(asked))
        except RelayError:
            return 0

    async def _compare(self, asked: Sequence[tuple[str, Item]]) -> int:
        documents = {item.uid: _document_of(item) for _, item in asked}
        hashes = await self._fetch([(index, item.uid) for index, item in asked], "hash")
        differing = [
            (index, item.uid)
            for index, item in asked
            if hashes.get(item.uid, documents[item.uid].hash) != documents[item.uid].hash
        ]
        looked_at = differing[:_MOST_ORIGINALS]
        originals = await self._fetch(looked_at, "original") if looked_at else {}
        same = sum(_is_same(originals.get(uid), documents[uid].original) for _, uid in looked_at)
        return len(differing) - same

    async def _fetch(self, where: Iterable[tuple[str, str]], field: str) -> dict[str, str]:
        """Return *field* of the events that are stored, by uid; {} if it may not be read."""
        path = f"event.{field}"
        reply = await self._cluster.request_json(
            "POST",
            "/_mget",
            {"docs": [{"_index": index, "_id": uid, "_source": [path]} for index, uid in where]},
            {"filter_path": f"docs._id,docs._source.{path}"},
        )
        listed = (answer_of(reply) or {}).get("docs")
        found = {}
        for document in listed if isinstance(listed, list) else ():
            value = _at(document, "_source", "event", field)
            if isinstance(value, str):
                found[str(_at(document, "_id"))] = value
        return found


def _document_of(item: Item) -> _Event:
    return _decode(item.text.partition(b"\n")[2]).event


def _at(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _is_same(one: str | None, other: str | None) -> bool:
    """Return whether two records are the same, but for how they are written."""
    if one is None or other is None:
        return False
    try:
        return bool(orjson.loads(one) == orjson.loads(other))
    except orjson.JSONDecodeError:
        return one == other
