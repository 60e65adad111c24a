"""
The Logs Ingestion API of Azure Monitor, with a data collection rule and its tables behind it.

It takes whatever it is sent, and says so: what becomes of a row is decided later, and stands in
:attr:`AzureLogs.log_errors` alone. https://learn.microsoft.com/en-us/azure/azure-monitor/logs/
logs-ingestion-api-overview. Stricter than the product in two points: a body must be JSON by its
Content-Type, and more than 1 MB is refused before compression too, which is documented and not
always done.
"""

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Self

from auditrelay.sandbox.entra import CLIENT_ID, TENANT, Entra
from auditrelay.sandbox.faults import Action, answer, too_many
from auditrelay.sandbox.messages import BadRequest, Request, Response, json_response
from auditrelay.sandbox.siems import Intake, Refusal
from auditrelay.sandbox.stored import first_at, scan

RULE = "dcr-0123456789abcdef0123456789abcdef"
RESOURCE = "https://monitor.azure.com"

_BOTH = """
TimeGenerated:datetime EventUid EventCount:int EventStartTime:datetime EventEndTime:datetime
EventType EventResult EventResultDetails EventOriginalResultDetails EventSeverity EventVendor
EventProduct EventSchema EventSchemaVersion EventOriginalUid EventOriginalType EventOriginalSubType
EventMessage Dvc SrcIpAddr HttpUserAgent TargetAppName TargetAppType ActorUsername ActorUsernameType
ActorUserId ActorUserIdType ActorUserType ActorOriginalUserType AdditionalFields:dynamic
RecordText RecordText2 RecordText3 RecordText4 RecordText5 RecordText6 RecordText7 RecordText8
RecordText9 RecordText10 RecordText11 RecordText12 RecordText13 RecordText14 RecordText15
RecordText16
"""


def _columns(text: str) -> dict[str, str]:
    parts = (word.partition(":") for word in text.split())
    return {name: kind or "string" for name, _, kind in parts}


STREAMS: Mapping[str, Mapping[str, str]] = {
    "Custom-AuditRelay": _columns(f"{_BOTH} Operation Object ObjectId ObjectType NewValue"),
    "Custom-AuditRelayAuthentication": _columns(
        f"{_BOTH} TargetUsername TargetUsernameType TargetUserId TargetUserIdType TargetUserType "
        "TargetOriginalUserType"
    ),
}
"""The columns that the rule declares for each of its streams, with their types."""

_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "int": (int,),
    "dynamic": (dict, list, str, int, float, bool),
}

_PATH = re.compile(r"/dataCollectionRules/([^/]+)/streams/([^/]+)")


@dataclass(slots=True)
class Switches:
    """Limits, and what differs between rules; ages are in seconds."""

    max_bytes: int = 1_000_000
    """Of a body, as sent and decompressed."""
    field_bytes: int = 64 * 1024
    oldest: float = 2 * 86400
    newest: float = 86400
    granted: bool = True
    """Whether the application may send to the rule."""
    is_auxiliary: bool = False
    """Whether the rows of a request must be within 30 minutes."""
    not_found_above: int | None = None
    """The bytes of a body from which on the answer is 404."""


class AzureLogs(Intake):
    """
    One data collection rule: :attr:`stored` has the rows as its tables have them.

    :attr:`entra` gives the tokens. What a table does to a row is counted: :attr:`undeclared` and
    :attr:`mistyped` columns, values that were cut off (:attr:`truncated`), and times that were
    replaced (:attr:`restamped`). In lean mode a body is only scanned for uids.
    """

    NAME: ClassVar = "sentinel"
    PLACE: ClassVar = 4
    ON_REQUEST: ClassVar = True
    SECRET_KEY: ClassVar = "client_secret"  # noqa: S105  # the name of a key, not its value
    INDEXES_OLD_EVENTS: ClassVar = False
    REFUSALS: ClassVar = (
        Refusal("wrong secret", 401, "AADSTS7000215", lambda _: {"client_secret": "wrong-one-1"}),
        Refusal("no rights", 403, "Monitoring Metrics Publisher", lambda it: it.take_rights()),
        Refusal("other cloud", 401, "check cloud", lambda _: {"cloud": "government"}),
        Refusal("wrong rule", 404, "check endpoint", lambda _: {"rule_id": f"dcr-{'f' * 32}"}),
        Refusal("wrong stream", 400, "InvalidStream", lambda _: {"stream": "Custom-Elsewhere"}),
        Refusal("wrong address", 404, "endpoint", lambda it: {"endpoint": f"{it.url}/elsewhere"}),
    )
    MISBEHAVIOURS: ClassVar = {
        "429 for a while": lambda double: double.fail_batches(too_many(retry_after=3)),
        "tokens end": lambda double: double.entra.revoke(),
        "no tokens": lambda double: double.entra.faults.add(answer(503), times=2),
        "aborted": lambda double: double.fail_batches(aborted(), times=2),
        "400": lambda double: double.fail_batches(answer(400, b"{}")),
        "500 of its own": lambda double: double.fail_batches(answer(500, process=True)),
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
        self.entra = Entra(clock=clock)
        self.streams = STREAMS
        self.undeclared: Counter[str] = Counter()
        self.mistyped: Counter[str] = Counter()
        self.truncated: Counter[str] = Counter()
        self.restamped = 0
        self.log_errors: list[str] = []
        """The table DCRLogErrors."""
        self.tables: Counter[str] = Counter()
        """The rows of each stream."""

    async def start(self) -> Self:
        """Start it, and what gives its tokens."""
        await self.entra.start()
        return await super().start()

    async def stop(self) -> None:
        """Stop both."""
        await super().stop()
        await self.entra.stop()

    @property
    def secret(self) -> str:
        """The secret of the application."""
        return self.entra.client_secret

    def settings(self) -> dict[str, Any]:
        """Return the settings of a sink that sends to this double."""
        return {"type": "azure_logs", "endpoint": self.url, "rule_id": RULE, **self.credentials()}

    def credentials(self) -> dict[str, str]:
        """Return what identifies the application, and where it gets its tokens."""
        return {
            "authority": self.entra.url,
            "tenant_id": TENANT,
            "client_id": CLIENT_ID,
            "client_secret": self.secret,
        }

    def limit_body(self, size: int) -> None:
        """Answer 413 to a body of more than *size* bytes."""
        self.switches.max_bytes = size

    def rotate(self, secret: str) -> None:
        """Accept only *secret* from now on, and no token that was given before."""
        self.entra.client_secret = secret
        self.entra.revoke()

    def take_rights(self) -> dict[str, Any]:
        """Take the role away."""
        self.switches.granted = False
        return {}

    def fail_batches(self, action: Action, times: int | None = 1) -> None:
        """Apply *action* to the next requests that carry rows: not to an empty list."""
        self.faults.add(action, method="POST", when=_has_rows, times=times)

    def respond(  # noqa: PLR0911  # one check after the other
        self, request: Request
    ) -> Response:
        """Answer as the endpoint of a data collection rule would."""
        found = _PATH.fullmatch(request.path)
        if found is None:
            return _error(404, "NotFound", "The requested path does not exist.")
        if request.method != "POST":
            return _error(405, "MethodNotAllowed", "The method is not allowed.")
        refusal = self._refusal(request, *found.groups())
        if refusal is not None:
            return refusal
        try:
            body = request.content("gzip")
        except BadRequest as error:
            return _error(error.status, "InvalidContentEncoding", error.reason)
        limit = self.switches.not_found_above
        if limit is not None and len(body) > limit:
            return Response(404)
        if max(len(body), len(request.body)) > self.switches.max_bytes:
            why = f"Maximum allowed content length: {self.switches.max_bytes} bytes"
            return _error(413, "ContentLengthLimitExceeded", why)
        if not body:
            return Response(500)
        return self._receive(body, found[2])

    def _refusal(  # noqa: PLR0911  # as above
        self, request: Request, rule: str, stream: str
    ) -> Response | None:
        """Return why *request* is refused before its body is looked at."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme != "Bearer" or not self.entra.accepts(token, RESOURCE):
            return _error(401, "AuthenticationFailed", "The token is invalid, or of no use here.")
        if request.query != {"api-version": "2023-01-01"}:
            return _error(400, "InvalidApiVersionParameter", "The api-version is invalid.")
        if rule != RULE:
            return _error(404, "NotFound", f"Data collection rule '{rule}' not found.")
        if not self.switches.granted:
            why = f"The token has no access to ingest data for the rule '{rule}'."
            return _error(403, "OperationFailed", why)
        if stream not in self.streams:
            return _error(400, "InvalidStream", f"The rule has no stream '{stream}'.")
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            return _error(415, "UnsupportedMediaType", "Content-Type must be application/json")
        return None

    def _receive(self, body: bytes, stream: str) -> Response:
        """Take *body*, whatever it is; what can be made rows of is stored."""
        if self.lean:
            self._count(body)
            return Response(204)
        try:
            rows = json.loads(body)
        except (ValueError, RecursionError):
            self.log_errors.append("the body is not JSON")
            return Response(204)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            self.log_errors.append("the body is not a list of objects")
            return Response(204)
        if self.switches.is_auxiliary:
            times = [at for row in rows if (at := _seconds(row.get("TimeGenerated"))) is not None]
            if times and max(times) - min(times) > 1800:
                why = "The time range of the records is more than 30 minutes."
                return _error(400, "RecordsTimeRangeIsMoreThan30Minutes", why)
        for row in rows:
            self._store(row, stream)
        return Response(204)

    def _count(self, body: bytes) -> None:
        uids = scan(body, b'"EventUid":', b"")
        self.stored.total += len(uids)
        self.stored.by_uid.update(uids)
        self.stored.by_native_id.update(scan(body, b'"EventOriginalUid":', b""))
        self.stored.note_heads(body)

    def _store(self, row: dict[str, Any], stream: str) -> None:
        """Store *row* as the rule and the table leave it."""
        declared = self.streams[stream]
        kept = {}
        for name, value in row.items():
            if name not in declared:
                self.undeclared[name] += 1
                continue
            kept[name] = self._typed(name, declared[name], value)
        kept["TimeGenerated"] = self._time(kept.get("TimeGenerated"))
        self.tables[stream] += 1
        record = kept.get("AdditionalFields") or {}
        uid = first_at(kept, ("EventUid",))
        self.stored.add(kept, uid, first_at(kept, ("EventOriginalUid",)) or self._id_of(record))

    def _typed(self, name: str, kind: str, value: Any) -> Any:
        if kind == "datetime":
            good = _seconds(value) is not None
        else:
            good = isinstance(value, _TYPES[kind]) and not (
                kind == "int" and isinstance(value, bool)
            )
        if not good:
            self.mistyped[name] += 1
            return None
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        limit = self.switches.field_bytes
        # Whichever way 64 KB are counted.
        if max(len(text.encode(code, "replace")) for code in ("utf-8", "utf-16-le")) <= limit:
            return value
        self.truncated[name] += 1
        return text.encode("utf-16-le", "replace")[:limit].decode("utf-16-le", "ignore")

    def _time(self, value: Any) -> str:
        """Return the time of a row: that of receipt, if its own is too far off."""
        at, now = _seconds(value), self.clock()
        if at is not None and -self.switches.newest <= now - at <= self.switches.oldest:
            return str(value)
        if at is not None:
            self.restamped += 1
        return datetime.fromtimestamp(now).astimezone().isoformat()

    def _id_of(self, fields: Any) -> str | None:
        vendor = first_at(fields, ("auditrelay.vendor",)) or ""
        record = fields.get("record") if isinstance(fields, dict) else None
        return first_at(record, self.id_fields.get(vendor, ("id",)))


def aborted() -> Action:
    """Answer as Azure does where it stopped reading a body: most often one that is too large."""
    why = "The connection was aborted by the client."
    return answer(400, _error(400, "ReadyBody_ClientConnectionAbort", why).body)


def _has_rows(request: Request) -> bool:
    try:
        return request.content("gzip") != b"[]"
    except BadRequest:
        return True


def _seconds(value: Any) -> float | None:
    """Return the time *value* in epoch seconds, None if it is none."""
    try:
        at = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return None if at.tzinfo is None else at.timestamp()


def _error(status: int, code: str, text: str) -> Response:
    return json_response(
        status, {"error": {"code": code, "message": text}}, {"x-ms-error-code": code}
    )
