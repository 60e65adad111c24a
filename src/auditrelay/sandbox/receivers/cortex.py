"""
The HTTP log collector of Cortex XSIAM: ``{"ok": "true"}``, and 400 if it has no dataset.

https://docs-cortex.paloaltonetworks.com/, "Set up an HTTP log collector to receive logs".
"""

import json
from typing import ClassVar

from auditrelay.sandbox.messages import Response
from auditrelay.sandbox.receivers import Receiver
from auditrelay.sandbox.receivers.description import Item


class Cortex(Receiver):
    """A collector; without ``has_dataset`` it takes nothing."""

    NAME: ClassVar = "cortex"
    SECRET_KEY: ClassVar = "api_key"  # noqa: S105  # the name of a key

    has_dataset = True

    def conclude(self, good: list[Item], bad: list[tuple[Item, str]]) -> Response:
        """Store all or nothing."""
        if not self.has_dataset:
            return self.refusal(400, "missing dataset")
        return super().conclude(good, bad)

    def refusal(self, status: int, why: str) -> Response:
        """Answer in the collector's form."""
        body = json.dumps({"error": why}).encode()
        return Response(status, body, {"Content-Type": "application/json"})
