"""
The audit-log API of JITSudo, as documented, with switches for undocumented behaviour.

https://jitsudo-docs.pages.dev/api/operations/listauditlog/. The switches: order, bounds, limits,
the life of a cursor, most errors.
"""

import base64
import json
import re
import time
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Literal, NamedTuple

from auditrelay.sandbox.faults import HTML
from auditrelay.sandbox.history import (
    Entry,
    GeneratedRecords,
    Records,
    Span,
    parse_time,
    second,
)
from auditrelay.sandbox.messages import Request, Response, json_response
from auditrelay.sandbox.vendors import Refusal, SwitchValue, Vendor, by_setting

PATH = "/v1/audit-log"
API_KEY = "jsk_sandbox-jitsudo-key-not-a-real-secret"
TENANT = "2489e9ad-2ee2-4e00-8ec9-32d5f69181c0"
TOKEN_LIFE = 3600.0
"""Seconds for which a bearer token is accepted."""

_FILTERS = ("actor_id", "resource_type", "resource_id", "action")
_PARAMETERS = frozenset({"limit", "cursor", "from", "to", *_FILTERS})
_JSON = {"Content-Type": "application/json"}
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII)


@dataclass(slots=True)
class Switches:
    """
    Undocumented behaviour, and adjustable limits.

    *order* of the list; "shuffled" is the same on every request. *limit* is the default, *oversize*
    the answer to a limit outside 1..*page_size_cap*. *cursor_life* is the number of seconds for
    which a cursor is accepted, *cursor_status* the answer to an expired, damaged or foreign one.
    *more* is the ``next_cursor`` of a page that is not the last one; "repeating" is the cursor of
    the page itself. *at_end* is ``next_cursor`` on the last page. *failing* is answered to every
    list instead of the list. *envelope* is the form of errors: the vendor's own, another JSON, or a
    proxy's page; the vendor's own has *details* and *notices* where they are given. *rate* is the
    number of requests a minute, *retry_after* the form of the Retry-After of its 429.
    """

    order: Literal["newest", "oldest", "shuffled"] = "newest"
    lower_inclusive: bool = True
    upper_inclusive: bool = True
    limit: int = 50
    page_size_cap: int = 250
    oversize: Literal["clamp", "refuse"] = "clamp"
    unknown: Literal["ignore", "refuse"] = "ignore"
    cursor_life: float = float("inf")
    cursor_status: Literal[400, 404, 410, 422] = 400
    more: Literal["honest", "absent", "null", "empty", "repeating"] = "honest"
    at_end: Literal["null", "absent", "empty"] = "null"
    failing: int | None = None
    envelope: Literal["own", "foreign", "html"] = "own"
    details: bool = False
    notices: tuple[str, ...] = ()
    rate: int | None = None
    retry_after: Literal["seconds", "date", "absent"] = "absent"


class _Refusal(Exception):  # an answer, not a bug of ours
    """An error answer; *wait* is the number of seconds in its Retry-After."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        details: dict[str, str] | None = None,
        *,
        wait: int = 0,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.details = details or {}
        self.wait = wait


class _Cursor(NamedTuple):
    """The content of a cursor: its page, the row before, the walk's filters, its creation time."""

    page: int
    after: tuple[int, int, str]
    filters: int
    born: float

    def written(self) -> str:
        """Return it in encoded form: opaque, and protected against tampering."""
        text = json.dumps(self, separators=(",", ":")).encode()
        return base64.urlsafe_b64encode(b"%08x%b" % (zlib.crc32(text), text)).decode().rstrip("=")

    @classmethod
    def read(cls, text: str) -> "_Cursor | None":
        """Return the decoded cursor, or None if *text* is not one of ours."""
        try:
            whole = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except ValueError:
            return None
        if whole[:8] != b"%08x" % zlib.crc32(whole[8:]):
            return None
        page, (rank, at, native_id), filters, born = json.loads(whole[8:])
        return cls(page, (rank, at, native_id), filters, born)


_OTHER_TENANT = "2489e9ad-2ee2-4e00-8ec9-000000000000"


class Jitsudo(Vendor):
    """JITSudo's API, see :class:`auditrelay.sandbox.vendors.Vendor`."""

    switches: Switches
    REFUSALS: ClassVar = (
        Refusal(
            "wrong key",
            401,
            "invalid API key (unauthorized)",
            by_setting({"api_key": "wrong-key-1"}),
        ),
        Refusal(
            "expired token",
            401,
            "token is invalid or has expired (unauthorized)",
            by_setting({"api_key": None, "bearer_token": "expired-token-1"}),
        ),
        Refusal(
            "another tenant",
            403,
            "does not belong to the requested tenant (tenant_mismatch)",
            by_setting({"tenant_id": _OTHER_TENANT}),
        ),
        Refusal(
            "another tenant, with details",
            403,
            "requested_tenant",
            by_setting({"tenant_id": _OTHER_TENANT}, details=True),
        ),
        Refusal(
            "missing right",
            403,
            "notices: auditors only",
            by_setting(failing=403, notices=("auditors only",)),
        ),
        Refusal(
            "wrong page size",
            400,
            "limit must be between 1 and 3",
            by_setting({"page_size": 4}, oversize="refuse", page_size_cap=3),
        ),
        Refusal(
            "wrong address",
            404,
            "no such resource (not_found)",
            lambda it: {"base_url": f"{it.url}/elsewhere"},
        ),
    )
    MUST_FAIL: ClassVar[frozenset[SwitchValue]] = frozenset(
        ("more", answer) for answer in ("absent", "null", "empty", "repeating")
    )
    REPORTS_TOTAL: ClassVar[bool] = False

    def __init__(
        self,
        *,
        switches: Switches | None = None,
        history: Records | None = None,
        clock: Callable[[], float] = time.time,
        seed: int = 0,
    ) -> None:
        super().__init__(history=history, clock=clock, seed=seed)
        self.switches = switches or Switches()
        self.api_key = API_KEY
        self.tenant = TENANT
        self._seed = seed
        self._made = 0
        self._tokens: dict[str, float] = {}

    def settings(self) -> dict[str, Any]:
        """Return the settings of a source that reads this double; it must have been started."""
        return {
            "type": "jitsudo",
            "base_url": self.url,
            "tenant_id": self.tenant,
            "api_key": self.api_key,
        }

    def load(self, count: int, start: datetime, end: datetime, record_bytes: int) -> None:
        """Serve *count* records of about *record_bytes* bytes, generated when they are read."""
        self.records = generated(count, start, end - start, record_bytes)

    def issue(self) -> str:
        """Return a new bearer token, which is accepted for an hour."""
        token = f"eyJhbGciOiJFUzI1NiJ9.sandbox-token-{len(self._tokens):08d}.not-a-real-signature"
        self._tokens[token] = self.clock() + TOKEN_LIFE
        return token

    def add(
        self,
        at: datetime,
        *,
        nanos: int = 0,
        visible_from: datetime | None = None,
        gone_from: datetime | None = None,
        **fields: Any,
    ) -> str:
        """
        Add one record with the time *at* and given *fields*; return its native id.

        *nanos* are added to its time, beyond microseconds.
        """
        self._made += 1
        record = make_record(self._made, at)
        record["created_at"] = stamp(at, nanos)
        record.update(fields)
        native_id = str(record["id"])
        self.history.add(
            record, id=native_id, at=at, visible_from=visible_from, gone_from=gone_from
        )
        return native_id

    def fill(self, count: int, start: datetime, end: datetime) -> list[str]:
        """Add *count* records at equal intervals over ``[start, end)``; return their ids."""
        return [
            self.add(start + (end - start) * number / count, nanos=number * 10 % 1000)
            for number in range(count)
        ]

    def respond(self, request: Request) -> Response:
        """Answer as a server of JITSudo would."""
        if request.path == "/healthz":
            return json_response(200, {"status": "ok"})
        try:
            self._admit(request)
            if request.path == PATH:
                return self._list(request.query)
            return Response(200, self._entry(request.path).text, dict(_JSON))
        except _Refusal as refusal:
            return self._error(refusal)

    def _admit(self, request: Request) -> None:
        """Raise _Refusal unless *request* may read."""
        bearer = request.headers.get("authorization", "")
        if "x-api-key" in request.headers:
            if request.headers["x-api-key"] != self.api_key:
                raise _Refusal(401, "unauthorized", "invalid API key")
        elif not bearer.startswith("Bearer "):
            raise _Refusal(401, "unauthorized", "authentication required")
        elif self._tokens.get(bearer.removeprefix("Bearer "), 0) <= self.clock():
            raise _Refusal(401, "unauthorized", "token is invalid or has expired")
        tenant = request.headers.get("x-tenant-id", "")
        if _UUID.fullmatch(tenant) is None:
            raise _Refusal(400, "invalid_request", "X-Tenant-ID must be a UUID")
        if tenant.lower() != self.tenant:
            raise _Refusal(
                403,
                "tenant_mismatch",
                "the credential does not belong to the requested tenant",
                {"credential_tenant": self.tenant, "requested_tenant": tenant},
            )
        wait = self._over_rate()
        if wait:
            raise _Refusal(429, "rate_limited", "too many requests", wait=wait)
        if request.method != "GET":
            raise _Refusal(405, "method_not_allowed", "method not allowed")

    def _entry(self, path: str) -> Entry:
        entry = self.records.find(path.removeprefix(f"{PATH}/"), self.clock())
        if entry is None:
            raise _Refusal(404, "not_found", "no such resource")
        return entry

    def _list(self, query: dict[str, str]) -> Response:
        switches = self.switches
        if switches.failing is not None:
            raise _Refusal(switches.failing, "failed", "the audit log cannot be read")
        if switches.unknown == "refuse" and query.keys() - _PARAMETERS:
            raise _Refusal(400, "invalid_request", "unknown parameter")
        span = self._span(query)
        limit = self._limit(query)
        cursor = self._cursor(query)
        page = cursor.page if cursor else 1
        change = self.before_page.pop(page, None)
        if change is not None:
            change()
        found: Sequence[Entry] = self.records.select(span, self.clock())
        for name in _FILTERS:
            if name in query:
                found = [entry for entry in found if entry.record[name] == query[name]]
        part, more = self._part(found, cursor, limit)
        given = {}
        if more:
            following = _Cursor(page + 1, self._place(part[-1]), _digest(query), self.clock())
            given = self._next(following.written(), query.get("cursor"))
        elif switches.at_end != "absent":
            given = {"next_cursor": None if switches.at_end == "null" else ""}
        rest = json.dumps({**given, "has_more": more}, separators=(",", ":")).encode()
        return Response(200, b'{"data":[%b],%b' % (self._rows(part), rest[1:]), dict(_JSON))

    def _span(self, query: dict[str, str]) -> Span:
        bounds: dict[str, int | None] = {"from": None, "to": None}
        for name in bounds:
            if name in query:
                try:
                    bounds[name] = _time(query[name])
                except ValueError as error:
                    raise _Refusal(400, "invalid_request", f"{name}: {error}") from error
        return Span(
            bounds["from"],
            bounds["to"],
            lower_inclusive=self.switches.lower_inclusive,
            upper_inclusive=self.switches.upper_inclusive,
        )

    def _cursor(self, query: dict[str, str]) -> _Cursor | None:
        if "cursor" not in query:
            return None
        cursor = _Cursor.read(query["cursor"])
        if (
            cursor is None
            or cursor.filters != _digest(query)
            or self.clock() >= cursor.born + self.switches.cursor_life
        ):
            status = self.switches.cursor_status
            raise _Refusal(status, "invalid_cursor", "the cursor is invalid or has expired")
        return cursor

    def _limit(self, query: dict[str, str]) -> int:
        """Return the number of rows of a page."""
        switches, text = self.switches, query.get("limit")
        if text is None:
            return switches.limit
        number = int(text) if text.isascii() and text.isdigit() else 0
        if 1 <= number <= switches.page_size_cap:
            return number
        if switches.oversize == "refuse":
            most = switches.page_size_cap
            raise _Refusal(400, "invalid_request", f"limit must be between 1 and {most}")
        return switches.page_size_cap if number else switches.limit

    def _place(self, entry: Entry) -> tuple[int, int, str]:
        """Return the sort key of *entry*, oldest first; it is unique."""
        shuffled = self.switches.order == "shuffled"
        rank = zlib.crc32(entry.id.encode(), self._seed) if shuffled else 0
        return rank, entry.at, entry.id

    def _part(
        self, found: Sequence[Entry], cursor: _Cursor | None, limit: int
    ) -> tuple[Sequence[Entry], bool]:
        """Return one page of *found*, and whether there are more."""
        # Generated records are in order already, and too many to be sorted.
        if not isinstance(found, GeneratedRecords) or self.switches.order == "shuffled":
            found = sorted(found, key=self._place)
        if self.switches.order == "newest":
            end = len(found)
            if cursor is not None:
                end = bisect_left(found, cursor.after, key=self._place)
            return found[max(0, end - limit) : end][::-1], end > limit
        start = 0
        if cursor is not None:
            start = bisect_right(found, cursor.after, key=self._place)
        return found[start : start + limit], len(found) > start + limit

    def _next(self, cursor: str, own: str | None) -> dict[str, str | None]:
        """Return ``next_cursor`` of a page that was reached by the cursor *own*."""
        match self.switches.more:
            case "absent":
                return {}
            case "null":
                return {"next_cursor": None}
            case "empty":
                return {"next_cursor": ""}
            case "repeating":
                return {"next_cursor": own or cursor}
        return {"next_cursor": cursor}

    def _error(self, refusal: _Refusal) -> Response:
        switches = self.switches
        if switches.envelope == "html":
            title = str(refusal.status).encode()
            body = HTML % (title, title)
            return Response(refusal.status, body, {"Content-Type": "text/html; charset=utf-8"})
        if switches.envelope == "foreign":
            value: dict[str, Any] = {"error": {"status": refusal.status, "reason": "upstream"}}
        else:
            value = {"code": refusal.code, "message": refusal.message}
            if switches.details:
                value["details"] = refusal.details
            if switches.notices:
                value["notices"] = list(switches.notices)
        headers = self._retry_after(refusal.wait) if refusal.wait else {}
        return json_response(refusal.status, value, headers)


def _time(text: str) -> int:
    """Return an RFC 3339 *text* in microseconds since the epoch. Raises ValueError."""
    if _RFC3339.fullmatch(text) is None:
        raise ValueError(f"{text!r} is not a time of RFC 3339")
    return parse_time(text)


def _digest(query: dict[str, str]) -> int:
    """Return a digest of the filters of a walk."""
    filters = sorted((name, query[name]) for name in ("from", "to", *_FILTERS) if name in query)
    return zlib.crc32(json.dumps(filters).encode())


_KINDS = (
    ("request.create", "access_request"),
    ("request.pending", "access_request"),
    ("request.approve", "access_request"),
    ("request.denied", "access_request"),
    ("grant.active", "grant"),
    ("grant.expire", "grant"),
    ("grant.revoke", "grant"),
    ("policy.updated", "policy"),
    ("policy_rule.created", "policy_rule"),
    ("teleport", "device"),
)
"""The second and the fifth are documented, as names of notifications; the others are invented."""

_ACTORS = (
    ("oidc", "user|user{}@acme.example"),
    ("api_key", "key_{}"),
    ("system", "system"),
    ("oidc", "user|user{}@acme.example"),
    ("workload", "spiffe://acme.example/{}"),
)
"""The last type is not among the documented ones."""


def stamp(at: datetime, nanos: int = 0) -> str:
    """Format a time as Go does: as many fraction digits as needed, 0 to 9, and ``Z``."""
    at = at.astimezone(UTC)
    fraction = f"{at.microsecond * 1000 + nanos:09d}".rstrip("0")
    return at.strftime("%Y-%m-%dT%H:%M:%S") + (f".{fraction}" if fraction else "") + "Z"


def make_record(number: int, at: datetime, *, record_bytes: int = 0) -> dict[str, Any]:
    """
    Return entry *number* of the audit log.

    Reasoning is in turn a text, null or absent, and metadata empty, flat or nested deeply; some
    entries have an undocumented field. With *record_bytes* the metadata is padded until the record
    is about that long.
    """
    action, resource = _KINDS[number % len(_KINDS)]
    actor_type, actor = _ACTORS[number % len(_ACTORS)]
    metadata: dict[str, Any] = {}
    if number % 4 == 1:
        metadata = {"approval_mode": "require", "duration_seconds": 900 * (number % 17)}
    elif number % 4 == 2:
        metadata = {"ip": f"203.0.113.{number % 251}", "before": {"ttl": 1}, "after": {"ttl": 2}}
    elif number % 4 == 3:
        for level in range(40):
            metadata = {f"level_{40 - level}": metadata}
    record: dict[str, Any] = {
        "id": native_id(number),
        "actor_id": actor.format(number % 17),
        "actor_type": actor_type,
        "action": action,
        "resource_type": resource,
        "resource_id": f"5f1c3f2a-11d4-4c3e-8a58-{number:012x}",
        "metadata": metadata,
        "created_at": stamp(at),
    }
    if number % 3:
        record["reasoning"] = f"On-call incident INC-{number}" if number % 3 == 1 else None
    if number % 7 == 0:
        record["region"] = "eu-central-1"
    missing = record_bytes - len(str(record))
    if missing > 0:
        record["metadata"] = {**metadata, "note": "lorem ipsum " * (missing // 12)}
    return record


def native_id(number: int) -> str:
    """Return the id of entry *number*."""
    return f"7c0b0d3e-6a52-4f0a-9a2f-{number:012x}"


def generated(count: int, start: datetime, span: timedelta, record_bytes: int) -> GeneratedRecords:
    """Return *count* records of about *record_bytes* bytes for a load test."""
    note = b"x" * max(0, record_bytes - 370)
    text = (
        b'{"id":"7c0b0d3e-6a52-4f0a-9a2f-%012x","actor_id":"user|user%d@acme.example",'
        b'"actor_type":"oidc","action":"grant.active","resource_type":"grant",'
        b'"resource_id":"5f1c3f2a-11d4-4c3e-8a58-%012x","metadata":{"duration_seconds":%d,'
        b'"note":"' + note + b'"},"reasoning":"On-call incident INC-%d","created_at":"%b"}'
    )

    def write(number: int, at: int) -> bytes:
        seconds, fraction = divmod(at, 1_000_000)
        when = b"%b.%06dZ" % (second(seconds), fraction)
        return text % (number, number % 97, number % 997, number % 9 * 900, number, when)

    return GeneratedRecords(count, start, span, native_id, write)
