"""
Axiom's ingest API: a 200 that counts what failed, without saying which events that were.

https://axiom.co/docs/restapi/ingest: the events that are right are stored.
"""

import json
from typing import Any, ClassVar

from auditrelay.sandbox.faults import Action, answer
from auditrelay.sandbox.messages import Response
from auditrelay.sandbox.receivers import Receiver
from auditrelay.sandbox.receivers.description import Item

_MOST_BYTES_OF_AN_EVENT = 1_000_000


class Axiom(Receiver):
    """Axiom; ``refuse_uids`` are events that it does not take, for a reason of its own."""

    NAME: ClassVar = "axiom"
    SECRET_KEY: ClassVar = "token"  # noqa: S105  # the name of a key
    UNAUTHORIZED: ClassVar = (403, "forbidden")

    refuse_uids: frozenset[str | None] = frozenset()

    def problem(self, item: Item) -> str | None:
        """Return why an event fails."""
        if item.uid in self.refuse_uids:
            return "cannot parse the event"
        if len(json.dumps(item.value)) > _MOST_BYTES_OF_AN_EVENT:
            return "the event is too large"
        return None

    def conclude(self, good: list[Item], bad: list[tuple[Item, str]]) -> Response:
        """Store what is right, and count the rest."""
        self.store(good)
        value: dict[str, Any] = {
            "ingested": len(good),
            "failed": len(bad),
            "failures": [{"timestamp": item.value.get("_time"), "error": why} for item, why in bad],
            "processedBytes": 0,
        }
        return Response(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def refusal(self, status: int, why: str) -> Response:
        """Answer in Axiom's form."""
        body = json.dumps({"code": status, "message": why}).encode()
        return Response(status, body, {"Content-Type": "application/json"})


def throttled(reset: float) -> Action:
    """Answer 429; the limit is reset at *reset*, in epoch seconds."""
    headers = {"Content-Type": "application/json", "X-RateLimit-Reset": f"{reset:.0f}"}
    return answer(429, b'{"code": 429, "message": "rate limit exceeded"}', headers)
