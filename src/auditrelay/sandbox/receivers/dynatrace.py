"""
Dynatrace's log ingestion: 204, and one record that is too old refuses the whole request.

https://docs.dynatrace.com/docs/shortlink/lma-limits and .../lma-ingest-drop-reasons.
"""

import json
from typing import Any, ClassVar

from auditrelay.sandbox.messages import Response
from auditrelay.sandbox.receivers import Receiver
from auditrelay.sandbox.receivers.description import Item

_OLDEST = 24 * 3600
_MOST_ATTRIBUTES = 500
_LONGEST = 32_000
_MOST_VALUES = 32
_DEEPEST = 5


class Dynatrace(Receiver):
    """Dynatrace; ``partial`` are uids that it drops with a 200, for a reason of its own."""

    NAME: ClassVar = "dynatrace"
    SECRET_KEY: ClassVar = "token"  # noqa: S105  # the name of a key
    INDEXES_OLD_EVENTS: ClassVar = False

    partial: frozenset[str | None] = frozenset()
    trimmed = 0
    """Values that were cut or left out without a word."""

    def problem(self, item: Item) -> str | None:
        """Return why a record, and its request with it, is refused."""
        if self.clock() - (item.at or 0) > _OLDEST:
            return "timestamps_out_of_range"
        return None

    def conclude(self, good: list[Item], bad: list[tuple[Item, str]]) -> Response:
        """Refuse all, or store all but what is dropped with a 200."""
        if bad:
            return self.refusal(400, bad[0][1])
        if not good:
            return self.refusal(400, "empty_messages")
        kept = [item for item in good if item.uid not in self.partial]
        for item in kept:
            self._trim(item.value)
        self.store(kept)
        dropped = len(good) - len(kept)
        if not dropped:
            return Response(204)
        why = f"{dropped} events were not ingested because of timestamp out of correct time range"
        body = json.dumps({"details": {"code": 200, "message": why}}).encode()
        return Response(200, body, {"Content-Type": "application/json"})

    def _trim(self, record: dict[str, Any]) -> None:
        leaves = list(_leaves(record, 1))
        self.trimmed += max(len(leaves) - _MOST_ATTRIBUTES, 0)
        for depth, value in leaves:
            is_long = isinstance(value, str) and len(value.encode(errors="replace")) > _LONGEST
            is_many = isinstance(value, list) and len(value) > _MOST_VALUES
            self.trimmed += is_long or is_many or depth > _DEEPEST


def _leaves(value: Any, depth: int) -> list[tuple[int, Any]]:
    if isinstance(value, dict):
        return [leaf for each in value.values() for leaf in _leaves(each, depth + 1)]
    return [(depth, value)]
