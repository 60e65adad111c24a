"""
The audit-log API of Bland AI, as documented, with switches for undocumented behaviour.

https://docs.bland.ai/api-v1/get/audit-logs. The switches: bounds, page sizes, accounts without the
feature, pages past the end.
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from math import ceil
from typing import Any, ClassVar, Literal

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

PATH = "/v1/audit/logs"
API_KEY = "org_sandbox-bland-key-not-a-real-secret"
ORGANIZATION = "0d5c1f2e-7a44-4c5e-9b7d-000000000100"

_PARAMETERS = frozenset(
    {"event_type", "actor_id", "created_after", "created_before", "page", "page_size"}
)


@dataclass(slots=True)
class Switches:
    """
    Undocumented behaviour, and adjustable limits.

    *ties*: rows of equal time are in no particular order; "swapping" changes it for every request,
    also across a page boundary. *bearer* is the treatment of ``Bearer KEY``. *oversize* is the
    answer to a page size outside 1..*page_size_cap*, *past_end* to a page beyond the last,
    *feature* to an account that may or may not read audit logs. *envelope* is the form of errors
    and *unauthorized* the code of a 401. *errors* puts errors into a 200, instead of the data or
    next to it. *rate* is the number of requests a minute, *retry_after* the form of the Retry-After
    of its 429.
    """

    ties: Literal["stable", "swapping"] = "stable"
    lower_inclusive: bool = False
    upper_inclusive: bool = False
    page_size: int = 50
    page_size_cap: int = 100
    oversize: Literal["clamp", "refuse"] = "clamp"
    past_end: Literal["empty", "404"] = "empty"
    unknown: Literal["ignore", "refuse"] = "ignore"
    bearer: Literal["refuse", "accept"] = "refuse"
    feature: Literal["enabled", "403", "404", "empty"] = "enabled"
    envelope: Literal["modern", "older"] = "modern"
    unauthorized: Literal["AUTH_FAILURE", "UNAUTHORIZED"] = "AUTH_FAILURE"
    errors: Literal["never", "without data", "with data"] = "never"
    rate: int | None = None
    retry_after: Literal["seconds", "date", "absent"] = "absent"


class Bland(Vendor):
    """Bland AI's API, see :class:`auditrelay.sandbox.vendors.Vendor`."""

    switches: Switches
    REFUSALS: ClassVar = (
        Refusal(
            "wrong key", 401, "Unauthorized (AUTH_FAILURE)", by_setting({"api_key": "wrong-key-1"})
        ),
        Refusal(
            "key of a non-admin",
            401,
            "Invalid API key or insufficient permissions (UNAUTHORIZED)",
            by_setting({"api_key": "wrong-key-1"}, unauthorized="UNAUTHORIZED"),
        ),
        Refusal(
            "wrong key, in the older form",
            401,
            "Unauthorized",
            by_setting({"api_key": "wrong-key-1"}, envelope="older"),
        ),
        Refusal(
            "feature not enabled",
            403,
            "Audit logs are not enabled for this organization (FEATURE_NOT_ENABLED)",
            by_setting(feature="403"),
        ),
        Refusal("feature missing", 404, "Not found (NOT_FOUND)", by_setting(feature="404")),
        Refusal(
            "wrong page size",
            400,
            "Invalid page or page_size (BAD_REQUEST)",
            by_setting({"page_size": 4}, oversize="refuse", page_size_cap=3),
        ),
        Refusal(
            "wrong address",
            404,
            "Route not found (NOT_FOUND)",
            lambda it: {"base_url": f"{it.url}/elsewhere"},
        ),
    )
    MUST_FAIL: ClassVar[frozenset[SwitchValue]] = frozenset(
        {
            ("feature", "403"),
            ("feature", "404"),
            ("errors", "without data"),
            ("errors", "with data"),
        }
    )
    SILENT_LOSS: ClassVar[frozenset[SwitchValue]] = frozenset({("feature", "empty")})
    UNSTABLE_ORDER: ClassVar[frozenset[SwitchValue]] = frozenset({("ties", "swapping")})

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
        self._random = random.Random(seed)  # noqa: S311  # repeatable, not secret
        self._made = 0

    def settings(self) -> dict[str, Any]:
        """Return the settings of a source that reads this double; it must have been started."""
        return {"type": "bland", "base_url": self.url, "api_key": self.api_key}

    def load(self, count: int, start: datetime, end: datetime, record_bytes: int) -> None:
        """Serve *count* records of about *record_bytes* bytes, generated when they are read."""
        self.records = generated(count, start, end - start, record_bytes)

    def add(
        self,
        at: datetime,
        *,
        visible_from: datetime | None = None,
        gone_from: datetime | None = None,
        **fields: Any,
    ) -> str:
        """Add one record with the time *at* and given *fields*; return its native id."""
        self._made += 1
        record = make_record(self._made, at)
        record.update(fields)
        native_id = str(record["id"])
        self.history.add(
            record, id=native_id, at=at, visible_from=visible_from, gone_from=gone_from
        )
        return native_id

    def respond(self, request: Request) -> Response:
        """Answer as api.bland.ai would."""
        if request.path != PATH:
            return self._error(404, "NOT_FOUND", "Route not found")
        if request.method != "GET":
            return self._error(405, "METHOD_NOT_ALLOWED", "Method not allowed")
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        if self.switches.errors == "without data":
            return json_response(200, {"data": None, "errors": [_SERVER_ERROR]})
        return self._list(request.query)

    def _refusal(self, request: Request) -> Response | None:
        switches = self.switches
        key = request.headers.get("authorization", "")
        if switches.bearer == "accept":
            key = key.removeprefix("Bearer ")
        if key != self.api_key:
            text = (
                "Unauthorized"
                if switches.unauthorized == "AUTH_FAILURE"
                else "Invalid API key or insufficient permissions"
            )
            return self._error(401, switches.unauthorized, text)
        wait = self._over_rate()
        if wait:
            body = {"status": "error", "message": "Rate limit exceeded"}
            return json_response(429, body, self._retry_after(wait))
        if switches.feature == "403":
            text = "Audit logs are not enabled for this organization"
            return self._error(403, "FEATURE_NOT_ENABLED", text)
        if switches.feature == "404":
            return self._error(404, "NOT_FOUND", "Not found")
        return None

    def _list(  # noqa: C901  # filter, page, and write, in that order
        self, query: dict[str, str]
    ) -> Response:
        switches = self.switches
        bounds: dict[str, int | None] = {"created_after": None, "created_before": None}
        for name in bounds:
            if name in query:
                try:
                    bounds[name] = parse_time(query[name])
                except ValueError:
                    return self._error(400, "BAD_REQUEST", f"Invalid {name}")
        if switches.unknown == "refuse" and query.keys() - _PARAMETERS:
            return self._error(400, "BAD_REQUEST", "Unknown parameter")
        page, size = self._number(query, "page", 1), self._size(query)
        if page is None or size is None:
            return self._error(400, "BAD_REQUEST", "Invalid page or page_size")
        change = self.before_page.pop(page, None)
        if change is not None:
            change()
        span = Span(
            bounds["created_after"],
            bounds["created_before"],
            lower_inclusive=switches.lower_inclusive,
            upper_inclusive=switches.upper_inclusive,
        )
        found: Sequence[Entry] = self.records.select(span, self.clock())
        if switches.feature == "empty":
            found = []
        for name in ("event_type", "actor_id"):
            if query.get(name):
                found = [entry for entry in found if entry.record[name] == query[name]]
        pages = ceil(len(found) / size)
        if page > max(1, pages) and switches.past_end == "404":
            return self._error(404, "NOT_FOUND", "Page not found")
        rows = self._rows(self._slice(found, page, size))
        errors = b"[" + _SERVER_ERROR_TEXT + b"]" if switches.errors == "with data" else b"null"
        return Response(
            200,
            b'{"data":{"events":[%b],"total":%d,"total_pages":%d,"current_page":%d,"page_size":%d},'
            b'"errors":%b}' % (rows, len(found), pages, page, size, errors),
            {"Content-Type": "application/json; charset=utf-8"},
        )

    def _number(self, query: dict[str, str], name: str, default: int) -> int | None:
        """Return a number of at least 1; None if it is refused."""
        text = query.get(name)
        if text is None:
            return default
        if text.isascii() and text.isdigit() and int(text):
            return int(text)
        return None if self.switches.oversize == "refuse" else default

    def _size(self, query: dict[str, str]) -> int | None:
        size = self._number(query, "page_size", self.switches.page_size)
        if size is None or size <= self.switches.page_size_cap:
            return size
        return self.switches.page_size_cap if self.switches.oversize == "clamp" else None

    def _slice(self, found: Sequence[Entry], page: int, size: int) -> Sequence[Entry]:
        """Return one page, newest first."""
        total = len(found)
        if self.switches.ties == "swapping":
            mixed: list[Entry] = []
            for _, group in groupby(reversed(found), key=lambda entry: entry.at):
                tied = list(group)
                self._random.shuffle(tied)
                mixed += tied
            return mixed[(page - 1) * size : page * size]
        return found[max(0, total - page * size) : max(0, total - (page - 1) * size)][::-1]

    def _error(self, status: int, code: str, text: str) -> Response:
        if self.switches.envelope == "older":
            return json_response(status, {"status": "error", "message": text})
        value: dict[str, Any] = {"data": None, "errors": [{"error": code, "message": text}]}
        if code == "UNAUTHORIZED":
            value["status"] = "error"
        return json_response(status, value)


_SERVER_ERROR = {"error": "INTERNAL_ERROR", "message": "Could not read all audit logs"}
_SERVER_ERROR_TEXT = b'{"error":"INTERNAL_ERROR","message":"Could not read all audit logs"}'

_KINDS: tuple[tuple[str, str | None], ...] = (
    ("auth.sso_login", None),
    ("auth.logout", None),
    ("pathway.created", "convo_pathway"),
    ("pathway.updated", "convo_pathway"),
    ("pathway.deleted", "convo_pathway"),
    ("pathway.published", "convo_pathway"),
    ("kb.content_updated", "knowledge_base"),
    ("kb.file_replaced", "knowledge_base"),
    ("kb.urls_replaced", "knowledge_base"),
    ("kb.version_restored", "knowledge_base"),
    ("phone_number.ported", "phone_number"),
)


def stamp(at: datetime) -> str:
    """Write a time as JavaScript does: milliseconds, always, and ``Z``."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def make_record(number: int, at: datetime, *, record_bytes: int = 0) -> dict[str, Any]:
    """
    Return audit log *number*; the types rotate through the documented ones and an unknown one.

    Its time is cut to whole milliseconds. Metadata is of several shapes and sometimes null; with
    *record_bytes* it is padded until the record is about that long.
    """
    event_type, resource = _KINDS[number % len(_KINDS)]
    metadata: dict[str, Any] | None = None
    if event_type == "auth.sso_login":
        metadata = {"provider_id": "okta", "email": f"user{number % 17}@acme.example"}
    elif event_type == "pathway.published":
        metadata = {"version_number": number % 9, "environment": "production"}
    elif event_type.startswith("kb."):
        metadata = {"urls": [f"https://acme.example/{number}"], "diff": {"added": number % 5}}
    record: dict[str, Any] = {
        "id": native_id(number),
        "org_id": ORGANIZATION,
        "actor_id": f"a3c1b6de-93f0-4f2b-8d11-{200 + number % 17:012d}",
        "event_type": event_type,
        "resource_type": resource,
        "resource_id": None if resource is None else f"f1b7e6aa-0c59-4d3a-8a77-{number:012x}",
        "metadata": metadata,
        "created_at": stamp(at),
    }
    missing = record_bytes - len(str(record))
    if missing > 0:
        record["metadata"] = {**(metadata or {}), "note": "lorem ipsum " * (missing // 12)}
    return record


def native_id(number: int) -> str:
    """Return the id of record *number*."""
    return f"6b2f9f3e-0c1e-4b8e-9f3e-{number:012x}"


def generated(count: int, start: datetime, span: timedelta, record_bytes: int) -> GeneratedRecords:
    """Return *count* records of about *record_bytes* bytes, with nested metadata, for a load."""
    note = b"x" * max(0, record_bytes - 590)
    text = (
        b'{"id":"6b2f9f3e-0c1e-4b8e-9f3e-%012x","org_id":"' + ORGANIZATION.encode() + b'",'
        b'"actor_id":"a3c1b6de-93f0-4f2b-8d11-%012d","event_type":"pathway.published",'
        b'"resource_type":"convo_pathway","resource_id":"f1b7e6aa-0c59-4d3a-8a77-%012x",'
        b'"metadata":{"name":"Inbound support %d","version_number":%d,"environment":"production",'
        b'"nodes":{"added":["greeting","triage"],"removed":[],'
        b'"edited":{"prompt":"You are a helpful agent on the phone","turns":4}},'
        b'"client":{"app":"dashboard","release":"2026.11.3","locale":"en-GB"},'
        b'"note":"' + note + b'"},'
        b'"created_at":"%b"}'
    )

    def write(number: int, at: int) -> bytes:
        seconds, fraction = divmod(at // 1000, 1000)
        when = b"%b.%03dZ" % (second(seconds), fraction)
        return text % (number, number % 97, number % 997, number % 50, number % 9, when)

    return GeneratedRecords(count, start, span, native_id, write)
