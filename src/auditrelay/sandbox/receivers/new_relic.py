"""
New Relic's Log API: 202 for what has the right form, and silence about what becomes of it.

https://docs.newrelic.com/docs/logs/log-api/introduction-log-api/: what is older than 48 hours may
be dropped, of an event 255 attributes are kept, and a value that is an object or a list is an
error that is shown later.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from auditrelay.sandbox.messages import Response
from auditrelay.sandbox.receivers import Receiver
from auditrelay.sandbox.receivers.description import Item
from auditrelay.sandbox.stored import Stored

_OLDEST = 48 * 3600
_MOST_ATTRIBUTES = 255
_LONGEST = 4094


class NewRelic(Receiver):
    """:attr:`errors` are the events NrIntegrationError; what is dropped is in ``not_indexed``."""

    NAME: ClassVar = "new_relic"
    SECRET_KEY: ClassVar = "license_key"  # noqa: S105  # the name of a key
    INDEXES_OLD_EVENTS: ClassVar = False
    UNAUTHORIZED: ClassVar = (403, "Invalid license key")

    def __init__(
        self, *, clock: Callable[[], float] = time.time, seed: int = 0, file: Path | None = None
    ) -> None:
        super().__init__(clock=clock, seed=seed, file=file)
        self.not_indexed: Stored = Stored()
        self.errors: list[str] = []
        self.blobs = 0
        """Values that were too long for an attribute, and are kept apart."""

    def problem(self, item: Item) -> str | None:
        """Return why an event is dropped after it was taken."""
        attributes: dict[str, Any] = item.value["attributes"]
        if any(isinstance(value, dict | list) for value in attributes.values()):
            return "an attribute is an object or a list"
        if self.clock() - (item.at or 0) > _OLDEST:
            return "older than 48 hours"
        return None

    def conclude(self, good: list[Item], bad: list[tuple[Item, str]]) -> Response:
        """Answer 202 whatever comes, and keep what can be kept."""
        for item in good:
            attributes: dict[str, Any] = item.value["attributes"]
            for key in list(attributes)[_MOST_ATTRIBUTES:]:
                del attributes[key]
            texts = [each for each in attributes.values() if isinstance(each, str)]
            self.blobs += sum(len(text) > _LONGEST for text in texts)
        self.store(good)
        for item, why in bad:
            self.errors.append(why)
            self.not_indexed.add(item.value, item.uid, None)
        body = json.dumps({"requestId": f"sandbox-{self.requests}"}).encode()
        return Response(202, body, {"Content-Type": "application/json"})
