"""
Datadog's log intake and its key check: all or nothing, and silent about logs it does not index.

https://docs.datadoghq.com/api/latest/logs/#send-logs. Stricter than the product in one point: only
``application/json`` is accepted, since nothing here sends plain text.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from auditrelay.sandbox.faults import Action, answer
from auditrelay.sandbox.messages import BadRequest, Request, Response, json_response
from auditrelay.sandbox.siems import Intake, Refusal
from auditrelay.sandbox.stored import Stored, first_at, scan

API_KEY = "00000000sandboxdatadogkeynotreal"
DATES = ("timestamp", "date", "_timestamp", "Timestamp", "eventTime", "published_date")


@dataclass(slots=True)
class Switches:
    """The documented limits: entries, bytes (decompressed), and age in seconds."""

    max_entries: int = 1000
    max_bytes: int = 5_000_000
    max_log_bytes: int = 1_000_000
    oldest: float = 18 * 3600
    newest: float = 2 * 3600


class Datadog(Intake):
    """
    The intake ``/api/v2/logs`` and the check ``/api/v1/validate``, on one host.

    :attr:`stored` is what can be searched afterwards. :attr:`not_indexed` was answered 202 too, but
    is outside the time window. :attr:`truncated` counts logs that were cut to the limit. In lean
    mode (:attr:`lean`) a body is only decompressed and scanned for ``evt.id``: neither the number
    of entries, nor times, nor the length of a log is checked.
    """

    NAME: ClassVar = "datadog"
    PLACE: ClassVar = 2
    INDEXES_OLD_EVENTS: ClassVar = False
    REFUSALS: ClassVar = (
        Refusal("wrong key", 403, "missing or invalid", lambda _: {"api_key": "wrong-key-1"}),
        Refusal("wrong address", 404, "Not found", lambda it: {"url": f"{it.url}/elsewhere"}),
    )
    MISBEHAVIOURS: ClassVar = {
        "400": lambda double: double.fail_batches(answer(400, b"{}")),
        "429 for a while": lambda double: double.fail_batches(throttled(reset=3)),
    }

    def __init__(
        self,
        *,
        switches: Switches | None = None,
        clock: Callable[[], float] = time.time,
        seed: int = 0,
    ) -> None:
        super().__init__(clock=clock, seed=seed)
        self.switches = switches or Switches()
        self.api_key = API_KEY
        self.not_indexed: Stored = Stored()
        self.truncated = 0
        self.uid_paths = ("evt.id", "ocsf.metadata.uid", "metadata.uid")
        self.native_id_paths = (
            "evt.native_id",
            "ocsf.metadata.original_event_uid",
            "metadata.original_event_uid",
        )

    @property
    def lean(self) -> bool:
        """Whether logs are only counted; for load tests."""
        return self.stored.lean

    @lean.setter
    def lean(self, lean: bool) -> None:
        self.stored.lean = self.not_indexed.lean = lean

    @property
    def secret(self) -> str:
        """The API key."""
        return self.api_key

    def settings(self) -> dict[str, Any]:
        """Return the settings of a sink that sends to this double."""
        return {"type": "datadog", "url": self.url, "api_key": self.api_key}

    def limit_body(self, size: int) -> None:
        """Answer 413 to a body of more than *size* bytes."""
        self.switches.max_bytes = size

    def rotate(self, secret: str) -> None:
        """Accept only the key *secret* from now on."""
        self.api_key = secret

    def respond(self, request: Request) -> Response:
        """Answer as http-intake.logs and api of a Datadog site would."""
        routes = {
            "/api/v2/logs": ("POST", self._receive),
            "/api/v1/validate": ("GET", self._validate),
        }
        if request.path not in routes:
            return _error(404, "Not Found", "Not found")
        method, handle = routes[request.path]
        if request.method != method:
            return _error(405, "Method Not Allowed", "Method not allowed")
        return handle(request)

    def _validate(self, request: Request) -> Response:
        if request.headers.get("dd-api-key") != self.api_key:
            return json_response(403, {"status": "error", "code": 403, "errors": ["Forbidden"]})
        return json_response(200, {"valid": True})

    def _receive(  # noqa: C901, PLR0911  # one check after the other, in the order of the product
        self, request: Request
    ) -> Response:
        key = request.headers.get("dd-api-key")
        if not key:
            return _error(401, "Unauthorized", "API key is missing")
        if key != self.api_key:
            return _error(403, "Forbidden", "API key is missing or invalid")
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            return _error(415, "Unsupported Media Type", "Content-Type must be application/json")
        try:
            body = request.content("gzip", "deflate")
        except BadRequest as error:
            title = "Unsupported Media Type" if error.status == 415 else "Bad Request"
            return _error(error.status, title, error.reason)
        if len(body) > self.switches.max_bytes:
            return _error(413, "Request Entity Too Large", "Request too large")
        if self.lean:
            uids = scan(body, b'"evt":{', b'"id":')
            self.stored.total += len(uids)
            self.stored.by_uid.update(uids)
            self.stored.by_native_id.update(scan(body, b'"vendor":{', b'"id":'))
            self.stored.note_heads(body)
            return json_response(202, {})
        try:
            logs = json.loads(body, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            return _error(400, "Bad Request", "Invalid JSON")
        if isinstance(logs, dict):
            logs = [logs]
        if not isinstance(logs, list) or not all(isinstance(log, dict) for log in logs):
            return _error(400, "Bad Request", "Expected an array of logs")
        if len(logs) > self.switches.max_entries:
            return _error(413, "Request Entity Too Large", "Too many logs in one request")
        for log in logs:
            self._store(log)
        return json_response(202, {})

    def _store(self, log: dict[str, Any]) -> None:
        uid = first_at(log, self.uid_paths)
        native_id = first_at(log, self.native_id_paths) or self._id_of_record(log)
        text = json.dumps(log, ensure_ascii=False, separators=(",", ":"))
        if len(text.encode(errors="surrogatepass")) > self.switches.max_log_bytes:
            self.truncated += 1
            cut = text.encode(errors="surrogatepass")[: self.switches.max_log_bytes]
            log = {"truncated": True, "message": cut.decode(errors="ignore")}
        age = self.clock() - self._time(log)
        indexed = -self.switches.newest <= age <= self.switches.oldest
        (self.stored if indexed else self.not_indexed).add(log, uid, native_id)

    def _id_of_record(self, log: dict[str, Any]) -> str | None:
        """Return the id of the vendor's record in *log*, an object or a text under its name."""
        records = log.get("vendor")
        for vendor, record in records.items() if isinstance(records, dict) else ():
            try:
                value = json.loads(record) if isinstance(record, str) else record
            except (ValueError, RecursionError):
                continue
            found = first_at(value, self.id_fields.get(vendor, ("id",)))
            if found is not None:
                return found
        return None

    def _time(self, log: dict[str, Any]) -> float:
        """Return the time of *log* in epoch seconds; now, if it has none."""
        value = next((log[name] for name in DATES if name in log), None)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return value / 1000
        if isinstance(value, str):
            if value.isdigit():
                return int(value) / 1000
            try:
                at = datetime.fromisoformat(value)
            except ValueError:
                return self.clock()
            if at.tzinfo is not None:
                return at.timestamp()
        return self.clock()


def throttled(*, reset: float | None = None) -> Action:
    """Answer 429; *reset* seconds go into X-Ratelimit-Reset; None omits the header."""
    headers = {"Content-Type": "application/json"}
    if reset is not None:
        headers["X-Ratelimit-Reset"] = str(reset)
    return answer(429, _error(429, "Too Many Requests", "Rate limit reached").body, headers)


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _error(status: int, title: str, detail: str) -> Response:
    return json_response(
        status, {"errors": [{"status": str(status), "title": title, "detail": detail}]}
    )
