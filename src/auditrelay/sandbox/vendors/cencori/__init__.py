"""
The audit-log route of Cencori's dashboard, and the files of its export buttons.

Both follow the vendor's source (``app/api/organizations/[orgSlug]/audit-logs/route.ts``,
``proxy.ts`` and ``lib/entitlements.ts`` in github.com/cencori/cencori); the documentation covers
the buttons only (https://cencori.com/docs/platform/audit-logs). Possible variations are switches.
"""

import json
import os
import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from itertools import groupby
from math import ceil
from pathlib import Path
from typing import Any, ClassVar, Literal

from auditrelay.sandbox.history import Entry, GeneratedRecords, Records, Span, second
from auditrelay.sandbox.messages import Request, Response, json_response
from auditrelay.sandbox.vendors import Refusal, SwitchValue, Vendor, by_setting
from auditrelay.sandbox.vendors.cencori.session import COOKIE, Session

ORGANIZATION_SLUG = "acme-labs"
ORGANIZATION = "4c1d5f0e-91a7-4a52-b1f4-6f0f5a1c2d3e"
ORGANIZATION_NAME = "Acme Labs"

HEADER = (
    "Timestamp,Category,Action,Resource Type,Resource ID,Project ID,Actor,IP Address,Description,"
    "Metadata"
)
MOST_EXPORTED = 50_000

_RANGES = {
    "1h": timedelta(hours=1),
    "24h": timedelta(hours=24),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
    "90d": timedelta(days=90),
    "all": None,
}
_TIERS = ("free", "pro", "team", "enterprise")
_NEEDED = {"1h": "pro", "24h": "pro", "7d": "pro", "30d": "team", "90d": "team"}
_IDENTITY = frozenset({"member", "api_key", "sso"})

Kind = Literal["json", "csv"]


@dataclass(slots=True)
class Switches:
    """
    Variations of the behaviour, and adjustable limits.

    *plan* is the organisation's, *role* that of the user in it (None: no member). *ties*: rows of
    equal time are in a fixed order, or in a new one for each request. *page_size_cap* is the
    largest page, *max_rows* the Supabase project's own limit on any select. *chunk* is the length
    beyond which a cookie is split, *session_life* the seconds after which the server renews a
    session automatically. *misconfigured* is a server without its settings. *rate* is the number of
    requests a minute, *retry_after* the form of the Retry-After of its 429: the vendor has none.
    """

    plan: Literal["free", "pro", "team", "enterprise"] = "enterprise"
    role: Literal["owner", "admin", "member"] | None = "owner"
    ties: Literal["stable", "swapping"] = "stable"
    page_size_cap: int = 100
    max_rows: int | None = None
    chunk: int = 3180
    session_life: float | None = None
    misconfigured: bool = False
    rate: int | None = None
    retry_after: Literal["seconds", "date", "absent"] = "absent"


class Cencori(Vendor):
    """
    Cencori's dashboard, see :class:`auditrelay.sandbox.vendors.Vendor`.

    *before_page* counts the pages of the list from the start of the double, since clients may ask
    for pages of any size. *failures* has a sentence for each forbidden request, such as a page
    beyond the reported total.
    """

    switches: Switches
    REFUSALS: ClassVar = (
        Refusal(
            "another session",
            401,
            "Unauthorized; ",
            by_setting({"cookie": f"{COOKIE}=base64-wrong"}),
        ),
        Refusal("plan without it", 403, "This feature requires the ", by_setting(plan="free")),
        Refusal("no member", 403, "Forbidden; ", by_setting(role=None)),
        Refusal("no owner or admin", 403, "Insufficient permissions; ", by_setting(role="member")),
        Refusal(
            "wrong organization",
            404,
            "Organization not found; ",
            by_setting({"organization_slug": "acme-lab"}),
        ),
        Refusal("wrong address", 404, "404 ", lambda it: {"base_url": f"{it.url}/elsewhere"}),
    )
    MUST_FAIL: ClassVar[frozenset[SwitchValue]] = frozenset(
        {("plan", "free"), ("role", None), ("role", "member"), ("misconfigured", True)}
    )
    SILENT_LOSS: ClassVar[frozenset[SwitchValue]] = frozenset({("plan", "pro")})
    UNSTABLE_ORDER: ClassVar[frozenset[SwitchValue]] = frozenset({("ties", "swapping")})
    MIN_PAGE_SIZE: ClassVar[int] = 20
    EXTRA_REQUESTS: ClassVar[int] = 1  # to find out whether the plan hides categories
    EXPORTS: ClassVar = ("json", "csv")
    REPORTS_TOTAL = False  # its total is of the range, not of a window

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
        self.organization_slug = ORGANIZATION_SLUG
        self.failures: list[str] = []
        self._session = Session()
        self._pages = 0
        self._random = random.Random(seed)  # noqa: S311  # repeatable, not secret
        self._made = 0
        self._reported_totals: dict[tuple[str, ...], int] = {}

    def settings(self) -> dict[str, Any]:
        """Return the settings of a source that reads this double; it must have been started."""
        return {
            "type": "cencori",
            "mode": "dashboard",
            "base_url": self.url,
            "organization_slug": self.organization_slug,
            "cookie": self.cookie,
        }

    def file_settings(self, directory: Path) -> dict[str, Any]:
        """Return the settings of a source that reads the exports in *directory*."""
        return {"type": "cencori", "mode": "files", "directory": str(directory)}

    def load(self, count: int, start: datetime, end: datetime, record_bytes: int) -> None:
        """Serve *count* records of about *record_bytes* bytes, generated when they are read."""
        self.records = generated(count, start, end - start, record_bytes)

    # -- the session -------------------------------------------------------------------------------

    @property
    def cookie(self) -> str:
        """The header ``Cookie`` of the current session."""
        cookies = self._session.cookies(self.switches.chunk)
        return "; ".join(f"{name}={value}" for name, value in cookies.items())

    @property
    def secret(self) -> str:
        """The credential of a source, which must not be sent to any other host."""
        return self._session.token

    def renew_session(self) -> None:
        """Renew the session at the next request; from then on the old cookies are refused."""
        self._session.expire()

    def end_session(self) -> None:
        """Sign the user out: the client's cookies are refused."""
        self._session.begin()

    def rotate(self, key: str) -> None:
        """Sign the user out and in again, with a new session *key*."""
        self._session.begin(key)

    # -- rows --------------------------------------------------------------------------------------

    def add(
        self,
        at: datetime,
        *,
        visible_from: datetime | None = None,
        gone_from: datetime | None = None,
        **fields: Any,
    ) -> str:
        """Add one row with the time *at* and given *fields*; return its native id."""
        self._made += 1
        record = make_record(self._made, at)
        record.update(fields)
        native_id = str(record["id"])
        self.history.add(
            record, id=native_id, at=at, visible_from=visible_from, gone_from=gone_from
        )
        return native_id

    def backfill(self, at: datetime, **fields: Any) -> str:
        """Add a row as the vendor once did for past events: its description says so."""
        return self.add(at, description="Created project (backfilled)", **fields)

    def delete_project(self, project_id: str) -> int:
        """Clear the project of its rows, as when it is deleted; return their number."""
        changed = 0
        for entry in self.history.select(Span(), self.clock()):
            record = entry.record
            if record["project_id"] == project_id:
                record["project_id"] = None
                entry.text = _compact(record)
                changed += 1
        return changed

    def _select(self, query: dict[str, str]) -> Sequence[Entry]:
        """Return the rows of a query, oldest first; rows of equal time as *ties* says."""
        length = _RANGES[self._range(query)]
        now = self.clock()
        lower = None if length is None else int((now - length.total_seconds()) * 1_000_000)
        found: Sequence[Entry] = self.records.select(Span(lower, None), now)
        category, project, search = (
            query.get(name, "") for name in ("category", "project_id", "search")
        )
        hides = self.switches.plan == "pro" and category in ("", "all")
        if hides or category not in ("", "all") or project or search:
            found = [
                entry
                for entry, record in ((entry, entry.record) for entry in found)
                if not (hides and record["category"] in (*_IDENTITY,))
                and category in ("", "all", record["category"])
                and project in ("", record["project_id"])
                and search.lower() in str(record["description"]).lower()
            ]
        if self.switches.ties == "stable":
            return found
        mixed: list[Entry] = []
        for _, group in groupby(found, key=lambda entry: entry.at):
            tied = list(group)
            self._random.shuffle(tied)
            mixed += tied
        return mixed

    def _range(self, query: dict[str, str]) -> str:
        range_ = query.get("time_range", "7d")
        return range_ if range_ in _RANGES else "7d"

    # -- the route ---------------------------------------------------------------------------------

    def respond(self, request: Request) -> Response:
        """Answer as cencori.com would."""
        response = self._respond(request)
        response.headers["Date"] = formatdate(self.clock(), usegmt=True)
        return response

    def _respond(self, request: Request) -> Response:
        switches = self.switches
        route = re.fullmatch(r"/api/organizations/([^/]+)/audit-logs", request.path)
        if route is None:
            return Response(404, b"<html>404</html>", {"Content-Type": "text/html"})
        if request.method != "GET":
            return Response(405)
        wait = self._over_rate()
        if wait:
            return json_response(429, {"error": "Too many requests"}, self._retry_after(wait))
        if switches.misconfigured:
            return json_response(503, {"error": "Server misconfiguration"})
        if not self._session.admits(request):
            return json_response(401, {"error": "Unauthorized"})
        response = self._for_user(route[1], request.query)
        response.headers.update(
            self._session.renewal(
                request, now=self.clock(), life=switches.session_life, chunk=switches.chunk
            )
        )
        return response

    def _for_user(self, slug: str, query: dict[str, str]) -> Response:
        if slug != self.organization_slug:
            return json_response(404, {"error": "Organization not found"})
        if self.switches.role is None:
            return json_response(403, {"error": "Forbidden"})
        if self.switches.role == "member":
            return json_response(403, {"error": "Insufficient permissions"})
        gate = self._gate(query)
        if gate is not None:
            return gate
        kind = query.get("format")
        if kind in ("csv", "json"):
            name, body = self.export("csv" if kind == "csv" else "json", query=query)
            return Response(
                200,
                body,
                {
                    "Content-Type": "text/csv" if kind == "csv" else "application/json",
                    "Content-Disposition": f'attachment; filename="{name}"',
                },
            )
        return self._list(query)

    def _gate(self, query: dict[str, str]) -> Response | None:
        """Return the refusal if the plan does not include the request."""
        needed = _NEEDED.get(self._range(query), "enterprise")
        if query.get("format") in ("csv", "json") or query.get("category") in _IDENTITY:
            needed = max(needed, "team", key=_TIERS.index)
        if _TIERS.index(self.switches.plan) >= _TIERS.index(needed):
            return None
        return json_response(
            403,
            {
                "error": f"This feature requires the {needed} plan",
                "code": "FEATURE_NOT_INCLUDED",
                "required_tier": needed,
                "upgrade_url": "/billing",
            },
        )

    def _list(self, query: dict[str, str]) -> Response:
        if "category" not in query:
            self._pages += 1
            change = self.before_page.pop(self._pages, None)
            if change is not None:
                change()
        page = _number(query.get("page"), 1)
        size = min(_number(query.get("per_page"), 50), self.switches.page_size_cap)
        found = self._select(query)
        total, offset = len(found), (page - 1) * size
        asked = tuple(query.get(name, "") for name in ("time_range", "category", "search"))
        reported = self._reported_totals.get(asked)
        if offset and (reported is None or offset >= reported):
            known = "no total" if reported is None else f"{reported} rows"
            self.failures.append(
                f"page {page} of {size} was requested, after {known} were reported"
            )
        if offset and offset >= total:
            return json_response(500, {"error": "Failed to fetch audit logs"})
        self._reported_totals[asked] = total
        rows = found[max(0, total - offset - size) : total - offset][::-1]
        return Response(
            200,
            b'{"logs":[%b],"pagination":{"page":%d,"per_page":%d,"total":%d,"total_pages":%d}}'
            % (self._rows(rows), page, size, total, ceil(total / size)),
            {"Content-Type": "application/json"},
        )

    # -- exports -----------------------------------------------------------------------------------

    def export(
        self, kind: Kind, time_range: str = "7d", *, query: dict[str, str] | None = None
    ) -> tuple[str, bytes]:
        """Return the name and the content of an export file, as of now."""
        query = {"time_range": time_range} if query is None else query
        most = min(MOST_EXPORTED, self.switches.max_rows or MOST_EXPORTED)
        found = self._select(query)
        rows = [entry.record for entry in found[max(0, len(found) - most) :][::-1]]
        now = datetime.fromtimestamp(self.clock(), UTC)
        range_ = self._range(query)
        name = f"audit-log-{self.organization_slug}-{range_}-{now.date().isoformat()}.{kind}"
        if kind == "csv":
            return name, to_csv(rows).encode()
        whole = {"organization": ORGANIZATION_NAME, "exported_at": stamp(now), "logs": rows}
        return name, json.dumps(whole, indent=2, ensure_ascii=False).encode()

    def drop(
        self,
        directory: Path,
        kind: Kind,
        time_range: str = "7d",
        *,
        name: str | None = None,
        age: float = 60,
    ) -> Path:
        """
        Export into *directory*, under the browser's file name or another *name*.

        The modification time of the file is *age* seconds ago.
        """
        documented, content = self.export(kind, time_range)
        path = directory / (name or documented)
        path.write_bytes(content)
        written = self.clock() - age
        os.utime(path, (written, written))
        return path


def _number(text: str | None, default: int) -> int:
    """Return a number as ``parseInt(...) || default`` does, and at least 1."""
    found = re.match(r"\s*(-?\d+)", text or "")
    return max(1, (int(found[1]) if found else 0) or default)


def _compact(record: dict[str, Any]) -> bytes:
    return json.dumps(record, separators=(",", ":"), ensure_ascii=False).encode()


def stamp(at: datetime) -> str:
    """Format a time as JavaScript does: milliseconds, truncated, and ``Z``."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def postgrest(at: datetime) -> str:
    """Format a time as PostgREST does: as many digits as needed, and ``+00:00``."""
    text = at.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00")
    whole, _, fraction = text.partition(".")
    fraction = fraction.rstrip("0")
    return f"{whole}.{fraction}+00:00" if fraction else f"{whole}+00:00"


def to_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Format *rows* as the route does: quoted only for comma, quote and line feed."""
    return "\n".join([HEADER, *(",".join(map(_field, _columns(row))) for row in rows)])


def _columns(row: dict[str, Any]) -> list[str]:
    metadata = row["metadata"]
    return [
        stamp(datetime.fromisoformat(row["created_at"])),
        row["category"],
        row["action"],
        row["resource_type"],
        row["resource_id"] or "-",
        row["project_id"] or "-",
        row["actor_email"] or row["actor_type"] or "System",
        row["actor_ip"] or "-",
        row["description"],
        "-"
        if metadata is None
        else json.dumps(metadata, separators=(",", ":"), ensure_ascii=False),
    ]


def _field(text: str) -> str:
    if any(mark in text for mark in ',"\n'):
        return '"' + text.replace('"', '""') + '"'
    return text


_KINDS: tuple[tuple[str, str, str], ...] = (
    ("project", "created", "Created project"),
    ("api_key", "created", 'Created secret API key "ci" for production'),
    ("member", "role_changed", "Changed role of sam@acme.example from member to admin"),
    ("webhook", "created", "Created webhook"),
    ("sso", "enforced", "Enforced SSO for acme.example, with no exception"),
    ("budget", "configured", "Set budget"),
    ("export", "exported", "Exported audit log"),
    ("teleporter", "calibrated", "Calibrated the teleporter"),
)


def make_record(number: int, at: datetime) -> dict[str, Any]:
    """
    Return row *number*; the categories rotate through several known ones and an unknown one.

    Nullable fields are sometimes null; some rows have an unknown field; descriptions and metadata
    contain characters that CSV has to quote.
    """
    category, action, description = _KINDS[number % len(_KINDS)]
    by = ("user", "system", "api", "webhook")[number % 4]
    metadata: dict[str, Any] | None = None
    if category == "member":
        metadata = {"before": {"role": "member"}, "after": {"role": "admin"}}
    elif number % 3:
        metadata = {"key_name": f"key {number}", "note": 'two\nlines, "quoted"'}
    record: dict[str, Any] = {
        "id": native_id(number),
        "organization_id": ORGANIZATION,
        "project_id": f"9a77d1aa-5d5e-4c1b-8a10-{number % 5:012x}" if number % 2 else None,
        "category": category,
        "action": action,
        "resource_type": category,
        "resource_id": f"res_{number}" if number % 5 else None,
        "actor_id": f"51aa7c9e-2b1d-4f6a-9c3e-{number % 17:012x}" if by == "user" else None,
        "actor_email": f"user{number % 17}@acme.example" if by == "user" else None,
        "actor_ip": f"203.0.113.{number % 250}" if number % 7 else None,
        "actor_type": by,
        "description": f"{description} #{number}",
        "metadata": metadata,
        "created_at": postgrest(at),
    }
    if number % 11 == 0:
        record["request_id"] = f"req_{number}"
    return record


def native_id(number: int) -> str:
    """Return the id of row *number*."""
    return f"b7e2a0de-3f0d-4b8b-8c60-{number:012x}"


def generated(count: int, start: datetime, span: timedelta, record_bytes: int) -> GeneratedRecords:
    """Return *count* records of about *record_bytes* bytes for a load test."""
    note = b"x" * max(0, record_bytes - 600)
    text = (
        b'{"id":"b7e2a0de-3f0d-4b8b-8c60-%012x","organization_id":"' + ORGANIZATION.encode() + b'",'
        b'"project_id":"9a77d1aa-5d5e-4c1b-8a10-%012x","category":"project","action":"updated",'
        b'"resource_type":"project","resource_id":"res_%d",'
        b'"actor_id":"51aa7c9e-2b1d-4f6a-9c3e-%012x","actor_email":"user%d@acme.example",'
        b'"actor_ip":"203.0.113.7","actor_type":"user","description":"Updated project",'
        b'"metadata":{"environment":"production","note":"' + note + b'"},"created_at":"%b"}'
    )

    def write(number: int, at: int) -> bytes:
        seconds, fraction = divmod(at, 1_000_000)
        when = b"%b.%06d+00:00" % (second(seconds), fraction)
        return text % (number, number % 5, number % 997, number % 17, number % 17, when)

    return GeneratedRecords(count, start, span, native_id, write)
