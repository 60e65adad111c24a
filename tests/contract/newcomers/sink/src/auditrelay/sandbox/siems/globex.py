"""The intake of Globex, a SIEM that does not exist."""

import json
import time
from collections.abc import Callable
from typing import Any, ClassVar

from auditrelay.sandbox import faults
from auditrelay.sandbox.messages import BadRequest, Request, Response, json_response
from auditrelay.sandbox.siems import Intake, Refusal


class Globex(Intake):
    """Globex's intake: a batch is stored whole or not at all, and each uid once."""

    NAME: ClassVar = "globex"
    SECRET_KEY: ClassVar = "key"
    DEDUPLICATES: ClassVar = True
    REFUSALS: ClassVar = (
        Refusal("wrong key", 401, "who are you", lambda _: {"key": "wrong-key-1"}),
        Refusal("wrong address", 404, "nothing here", lambda it: {"url": f"{it.url}/elsewhere"}),
    )
    MISBEHAVIOURS: ClassVar = {"busy": lambda it: it.fail_batches(faults.html(503), times=2)}

    def __init__(self, *, clock: Callable[[], float] = time.time, seed: int = 0) -> None:
        super().__init__(clock=clock, seed=seed)
        self.key = "globex-key-not-a-real-secret"
        self.most_bytes = 2_000_000

    @property
    def secret(self) -> str:
        """The key."""
        return self.key

    def settings(self) -> dict[str, Any]:
        """Return the settings of a sink that sends to this double."""
        return {"type": "globex", "url": self.url, "key": self.key}

    def rotate(self, secret: str) -> None:
        """Accept only the key *secret* from now on."""
        self.key = secret

    def limit_body(self, size: int) -> None:
        """Answer 413 to a body of more than *size* bytes."""
        self.most_bytes = size

    def respond(self, request: Request) -> Response:
        """Answer as Globex would, if there were one."""
        if request.headers.get("x-globex") != self.key:
            return _error(401, "who are you?")
        match request.method, request.path:
            case "GET", "/key":
                return json_response(200, {"valid": True})
            case "POST", "/events":
                return self._receive(request)
        return _error(404, "nothing here")

    def _receive(self, request: Request) -> Response:
        try:
            body = request.content("gzip")
            events = json.loads(body)
        except (BadRequest, ValueError):
            return _error(400, "not a list of events")
        if len(body) > self.most_bytes:
            return _error(413, "too long")
        new = [event for event in events if event["uid"] not in self.stored.by_uid]
        for event in new:
            self.stored.add(event["event"], event["uid"], event["native_id"])
        return json_response(200, {"received": len(events), "known": len(events) - len(new)})


def _error(status: int, text: str) -> Response:
    return json_response(status, {"error": text})
