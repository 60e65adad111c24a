"""
The audit-log API of Cekura, as documented, with switches for undocumented behaviour.

https://docs.cekura.ai/api-reference/user/list-audit-logs. The switches: order, bounds, page sizes.
Refusals follow Django REST framework, on which the API is evidently built.
"""

import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import ceil
from typing import Any, ClassVar, Literal
from urllib.parse import urlencode

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

PATH = "/user/v1/audit-logs/"
API_KEY = "sandbox-cekura-key-not-a-real-secret"
ORGANIZATION = 42

_DAY = 86_400_000_000
_PARAMETERS = frozenset(
    {
        "organization_id",
        "page",
        "page_size",
        "start_time",
        "end_time",
        "project_id",
        "user_email",
        "object_type",
        "object_id",
        "action_type",
        "operation_type",
    }
)
_CHOICES = {
    "action_type": {
        "object",
        "run_scenarios",
        "run_scenarios_text",
        "generate_scenarios",
        "observability",
    },
    "operation_type": {"create", "update", "delete"},
}
_FILTERS = {
    "project_id": "project",
    "user_email": "user_email",
    "object_type": "object_type",
    "object_id": "object_id",
    "action_type": "action_type",
    "operation_type": "operation_type",
}


@dataclass(slots=True)
class Switches:
    """
    Undocumented behaviour, and adjustable limits.

    *order* of the list; "shuffled" is the same on every request. *next_at_end*: ``next`` is null on
    the last page, missing there, or "never" present at all. *next_base* replaces scheme and host of
    ``next``: a proxy that hides TLS, an internal host, or a foreign one. *past_end* is the answer
    to a page beyond the last, *oversize* to a page_size above *page_size_cap*, *unknown* to unknown
    parameters. *key_scope* "project" refuses the key. *rate* is the number of requests a minute,
    *retry_after* the form of the Retry-After of its 429.
    """

    order: Literal["newest", "oldest", "shuffled"] = "newest"
    lower_inclusive: bool = True
    upper_inclusive: bool = True
    page_size: int = 50
    page_size_cap: int = 200
    oversize: Literal["clamp", "refuse"] = "clamp"
    next_at_end: Literal["null", "absent", "never"] = "null"
    next_base: str = ""
    past_end: Literal["404", "empty"] = "404"
    unknown: Literal["ignore", "refuse"] = "ignore"
    key_scope: Literal["organization", "project"] = "organization"
    max_window_days: int = 30
    retention_days: int = 365
    rate: int | None = None
    retry_after: Literal["seconds", "date", "absent"] = "seconds"


class Cekura(Vendor):
    """Cekura's API, see :class:`auditrelay.sandbox.vendors.Vendor`."""

    switches: Switches
    REFUSALS: ClassVar = (
        Refusal("wrong key", 401, "Invalid API key.", by_setting({"api_key": "wrong-key-1"})),
        Refusal(
            "key of a project", 403, "You do not have permission", by_setting(key_scope="project")
        ),
        Refusal(
            "another organisation",
            403,
            "You do not have permission",
            by_setting({"organization_id": "43"}),
        ),
        Refusal(
            "not an organisation",
            400,
            "organization_id: A valid integer is required.",
            by_setting({"organization_id": "acme"}),
        ),
        Refusal(
            "wrong page size",
            400,
            "page_size: Ensure this value",
            by_setting({"page_size": 4}, oversize="refuse", page_size_cap=3),
        ),
        Refusal("wrong address", 404, "Not found.", lambda it: {"base_url": f"{it.url}/elsewhere"}),
    )
    MUST_FAIL: ClassVar[frozenset[SwitchValue]] = frozenset({("key_scope", "project")})

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
        self.organization_id = ORGANIZATION
        self._next_id = 90_000

    def settings(self) -> dict[str, Any]:
        """Return the settings of a source that reads this double; it must have been started."""
        return {
            "type": "cekura",
            "base_url": self.url,
            "organization_id": str(self.organization_id),
            "api_key": self.api_key,
        }

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
        self._next_id += 1
        record = make_record(self._next_id, at)
        record.update({"organization": self.organization_id, **fields})
        native_id = str(record["id"])
        self.history.add(
            record, id=native_id, at=at, visible_from=visible_from, gone_from=gone_from
        )
        return native_id

    def respond(self, request: Request) -> Response:  # noqa: PLR0911  # an answer a line
        """Answer as api.cekura.ai would."""
        path = request.path
        if not path.endswith("/"):
            query = request.target.partition("?")[2]
            return Response(301, headers={"Location": f"{path}/{'?' if query else ''}{query}"})
        one = re.fullmatch(re.escape(PATH) + r"(\d+)/", path)
        if path not in {PATH, "/user/organizations/"} and one is None:
            return _detail(404, "Not found.")
        if request.method != "GET":
            return _detail(405, f'Method "{request.method}" not allowed.')
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        if path == "/user/organizations/":
            return json_response(200, [{"id": self.organization_id, "name": "Acme Voice"}])
        if one is not None:
            entry = self.records.find(one[1], self.clock())
            return _raw(entry.text) if entry else _detail(404, "Not found.")
        return self._list(request.query)

    def _refusal(self, request: Request) -> Response | None:
        switches = self.switches
        key = request.headers.get("x-cekura-api-key")
        if key is None:
            return _detail(401, "Authentication credentials were not provided.")
        if key != self.api_key:
            return _detail(401, "Invalid API key.")
        if switches.key_scope == "project":
            return _detail(403, "You do not have permission to perform this action.")
        wait = self._over_rate()
        if wait:
            text = f"Request was throttled. Expected available in {wait} seconds."
            return json_response(429, {"detail": text}, self._retry_after(wait))
        return None

    def _list(self, query: dict[str, str]) -> Response:
        problem = self._problem(query)
        if problem:
            return json_response(400, problem)
        if query["organization_id"] != str(self.organization_id):
            return _detail(403, "You do not have permission to perform this action.")
        span = self._span(query)
        if isinstance(span, Response):
            return span
        size = self._size(query.get("page_size"))
        if size is None:
            cap = self.switches.page_size_cap
            return json_response(
                400, {"page_size": [f"Ensure this value is less than or equal to {cap}."]}
            )
        page = query.get("page", "1")
        if page.isascii() and page.isdigit():
            change = self.before_page.pop(int(page), None)
            if change is not None:
                change()
        found = self._filtered(self.records.select(span, self.clock()), query)
        last = max(1, ceil(len(found) / size))
        number = last if page == "last" else int(page) if page.isascii() and page.isdigit() else 0
        if number < 1 or (number > last and self.switches.past_end == "404"):
            return _detail(404, "Invalid page.")
        return self._page(self._slice(found, number, size), len(found), number, last, query)

    def _problem(self, query: dict[str, str]) -> dict[str, list[str]]:
        problem: dict[str, list[str]] = {}
        if not query.get("organization_id"):
            problem["organization_id"] = ["This field is required."]
        elif not query["organization_id"].isdigit():
            problem["organization_id"] = ["A valid integer is required."]
        if query.get("object_id") and not query.get("object_type"):
            problem["object_id"] = ["object_type is required when object_id is given."]
        for name, choices in _CHOICES.items():
            if name in query and query[name] not in choices:
                problem[name] = [f'"{query[name]}" is not a valid choice.']
        for name in ("project_id", "object_id"):
            if name in query and not query[name].isdigit():
                problem[name] = ["A valid integer is required."]
        if self.switches.unknown == "refuse":
            for name in query.keys() - _PARAMETERS:
                problem[name] = ["Unknown parameter."]
        return problem

    def _span(self, query: dict[str, str]) -> Span | Response:
        """Return the time filter, or the refusal of one that is malformed or too long."""
        switches = self.switches
        now = int(self.clock() * 1_000_000)
        bounds = {"start_time": now - 7 * _DAY, "end_time": now}
        for name in bounds:
            if name in query:
                try:
                    bounds[name] = parse_time(query[name])
                except ValueError:
                    text = "Datetime has wrong format. Use one of these formats instead: ISO 8601."
                    return json_response(400, {name: [text]})
        start, end = bounds["start_time"], bounds["end_time"]
        if end - start > switches.max_window_days * _DAY:
            text = f"The time range cannot exceed {switches.max_window_days} days."
            return json_response(400, {"start_time": [text]})
        oldest = now - switches.retention_days * _DAY
        return Span(
            max(start, oldest),
            end,
            lower_inclusive=switches.lower_inclusive or start < oldest,
            upper_inclusive=switches.upper_inclusive,
        )

    def _size(self, asked: str | None) -> int | None:
        """Return the page size to use; None if it is refused."""
        switches = self.switches
        if asked is None:
            return switches.page_size
        if not (asked.isascii() and asked.isdigit() and int(asked)):
            # Django REST framework silently uses the default
            return switches.page_size if switches.oversize == "clamp" else None
        if int(asked) > switches.page_size_cap and switches.oversize == "refuse":
            return None
        return min(int(asked), switches.page_size_cap)

    def _filtered(self, found: Sequence[Entry], query: dict[str, str]) -> Sequence[Entry]:
        wanted = {field: query[name] for name, field in _FILTERS.items() if query.get(name)}
        if not wanted:
            return found
        return [
            entry
            for entry in found
            if all(str(entry.record.get(field)) == value for field, value in wanted.items())
        ]

    def _slice(self, found: Sequence[Entry], page: int, size: int) -> Sequence[Entry]:
        first, last = (page - 1) * size, page * size
        if self.switches.order == "oldest":
            return found[first:last]
        if self.switches.order == "newest":
            total = len(found)
            return found[max(0, total - last) : max(0, total - first)][::-1]
        # by a number derived from the id, so that the relative order of records is stable
        shuffled = sorted(found, key=lambda entry: random.Random(entry.id).random())  # noqa: S311
        return shuffled[first:last]

    def _page(
        self, part: Sequence[Entry], count: int, page: int, last: int, query: dict[str, str]
    ) -> Response:
        links = b""
        if self.switches.next_at_end != "never" and (
            page < last or self.switches.next_at_end == "null"
        ):
            links += b'"next":' + self._link(query, page + 1 if page < last else None) + b","
        links += b'"previous":' + self._link(query, page - 1 if page > 1 else None) + b","
        rows = self._rows(part)
        return _raw(b'{"count":%d,%b"results":[%b]}' % (count, links, rows))

    def _link(self, query: dict[str, str], page: int | None) -> bytes:
        if page is None:
            return b"null"
        base = self.switches.next_base or self.url
        return f'"{base}{PATH}?{urlencode({**query, "page": page})}"'.encode()


def stamp(at: datetime) -> str:
    """Format a time as Django does: ``Z``, and no fraction if it is zero."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


_KINDS: tuple[tuple[str | None, str | None, str | None], ...] = (
    ("object", "update", "aiagent"),
    ("object", "create", "scenario"),
    ("object", "delete", "metric"),
    ("run_scenarios", None, None),
    ("run_scenarios_text", None, None),
    ("generate_scenarios", None, None),
    ("observability", None, None),
    ("object", "create", "api_key"),
    ("object", "update", "cronjob"),
    ("object", "delete", "user"),
    ("object", "archive", "voice_clone"),
    ("quantum_replay", None, "timeline"),
    (None, None, None),
)


def make_record(number: int, at: datetime) -> dict[str, Any]:
    """
    Return audit log *number*; the kinds rotate through the documented ones and an unknown one.

    Every third actor is an API key, every fifth record has no project; some records have an
    undocumented field.
    """
    action, operation, kind = _KINDS[number % len(_KINDS)]
    by_key = number % 3 == 0
    project = None if number % 5 == 0 else 700 + number % 4
    record: dict[str, Any] = {
        "id": number,
        "organization": ORGANIZATION,
        "organization_name": "Acme Voice",
        "project": project,
        "project_name": None if project is None else f"project {project}",
        "user": None if by_key else 100 + number % 17,
        "user_email": None if by_key else f"user{number % 17}@acme.example",
        "api_key_name": "ci-pipeline" if by_key else None,
        "action_type": action,
        "operation_type": operation,
        "object_type": kind,
        "object_id": None if kind is None else 5000 + number % 997,
        "timestamp": stamp(at),
    }
    if number % 29 == 0:
        record["trace"] = {"request": f"req-{number}"}
    return record


def generated(count: int, start: datetime, span: timedelta, record_bytes: int) -> GeneratedRecords:
    """Return *count* records of about *record_bytes* bytes for a load test."""
    sample = make_record(10_000_001, start) | {"id": 0, "timestamp": ""}
    frame = len(str(sample)) + 40
    name = "Acme Voice " + "x" * max(0, record_bytes - frame)
    text = (
        b'{"id":%d,"organization":42,"organization_name":"' + name.encode() + b'",'
        b'"project":742,"project_name":"prod","user":%d,"user_email":"user%d@acme.example",'
        b'"api_key_name":null,"action_type":"object","operation_type":"update",'
        b'"object_type":"aiagent","object_id":%d,"timestamp":"%b"}'
    )

    def write(number: int, at: int) -> bytes:
        user, (seconds, fraction) = number % 97, divmod(at, 1_000_000)
        when = second(seconds) + (b".%06dZ" % fraction if fraction else b"Z")
        return text % (1_000_000 + number, user, user, number % 997, when)

    return GeneratedRecords(count, start, span, lambda number: str(1_000_000 + number), write)


def _detail(status: int, text: str) -> Response:
    return json_response(status, {"detail": text})


def _raw(body: bytes) -> Response:
    return Response(200, body, {"Content-Type": "application/json"})
