"""
The audit-log API of S-Launch, as documented, with switches for undocumented behaviour.

https://docs.s-launch.com/api/logging/audit, with ``/api/conventions``, ``/api/authentication`` and
``/api/scopes`` there. The documentation shows the envelope of a page, but neither a record nor the
body of an error: the records are invented in several shapes, the errors are FastAPI's
(https://fastapi.tiangolo.com/tutorial/handling-errors/).
"""

import json
import secrets
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal
from urllib.parse import parse_qs
from zlib import crc32

from auditrelay.sandbox.history import Entry, Span
from auditrelay.sandbox.messages import Request, Response, json_response
from auditrelay.sandbox.vendors import Refusal, SwitchValue, Vendor, by_setting

PATH = "/api/logging/audit/"
LOGIN = "/api/login/access-token"
API_KEY = "sla_live_sandbox-key-not-a-real-secret"
USERNAME = "auditor@acme.example"
PASSWORD = "sandbox-password-not-a-real-secret"  # noqa: S105  # valid for this double only

_PARAMETERS = frozenset({"cursor", "limit", "sort_by", "sort_order", "include_total"})
_MOST = 250
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


@dataclass(slots=True)
class Switches:
    """
    Undocumented behaviour, and adjustable limits.

    *id_field*, *time_field* and *zone* are the shape of records added from now on. *cursors*
    contain the position of a row or only a row count; one is refused with *bad_cursor* if it is
    damaged, of another sort or filter, or older than *cursor_life* seconds. *next_cursor* is its
    value while *next_page* is true: the last three values are faults. *order* "as stored" is a list
    that is not really sorted by time. *page_size_cap* silently reduces large pages.
    *filters_by_key*: ``/filters`` accepts an API key. *rate* is the number of requests a minute,
    *retry_after* the form of the Retry-After of its 429.
    """

    id_field: Literal["id", "_id", "none"] = "id"
    time_field: Literal["timestamp", "created"] = "timestamp"
    zone: Literal["Z", "+00:00", "none"] = "+00:00"
    order: Literal["by time", "as stored"] = "by time"
    cursors: Literal["place", "count"] = "place"
    bad_cursor: Literal[400, 422] = 400
    cursor_life: float | None = None
    next_cursor: Literal["given", "null", "empty", "absent", "repeating"] = "given"
    unknown: Literal["ignore", "refuse"] = "ignore"
    filters_by_key: Literal["refuse", "accept"] = "refuse"
    page_size_cap: int = _MOST
    rate: int | None = None
    retry_after: Literal["seconds", "date", "absent"] = "absent"


def _expired_key(double: "SLaunch") -> dict[str, Any]:
    double.key_expires = double.clock()
    return {}


def _other_scope(double: "SLaunch") -> dict[str, Any]:
    double.scopes = {"assets:read"}
    return {}


class SLaunch(Vendor):
    """
    S-Launch's API, see :class:`auditrelay.sandbox.vendors.Vendor`.

    *scopes* are those of the key, *key_expires* its expiry (epoch seconds). *failures* has a
    sentence for each forbidden request.
    """

    switches: Switches
    REFUSALS: ClassVar = (
        Refusal(
            "wrong key",
            401,
            "Could not validate credentials",
            by_setting({"api_key": "wrong-key-1"}),
        ),
        Refusal("expired key", 401, "API key has expired", _expired_key),
        Refusal("missing scope", 403, "Not enough permissions: audit:read", _other_scope),
        Refusal(
            "unknown parameter",
            422,
            "query.colour: Extra inputs are not permitted",
            by_setting({"params": {"colour": "red"}}, unknown="refuse"),
        ),
        Refusal("wrong address", 404, "Not Found", lambda it: {"base_url": f"{it.url}/elsewhere"}),
    )
    MUST_FAIL: ClassVar[frozenset[SwitchValue]] = frozenset(
        ("next_cursor", answer) for answer in ("null", "empty", "absent", "repeating")
    )
    # Newest first is documented; a list in another order cannot be read without a time filter.
    SILENT_LOSS: ClassVar[frozenset[SwitchValue]] = frozenset({("order", "as stored")})
    ID_FIELDS: ClassVar[tuple[str, ...]] = ("id", "_id")
    REPORTS_TOTAL: ClassVar[bool] = False

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
        self.key_expires: float | None = None
        self.scopes = {"audit:read"}
        self.failures: list[str] = []
        self._made = 0
        self._stored: dict[str, int] = {}
        self._era = 0
        self._tokens: set[str] = set()

    def settings(self) -> dict[str, Any]:
        """Return the settings of a source that reads this double; it must have been started."""
        return {"type": "slaunch", "base_url": self.url, "api_key": self.api_key}

    def expire_cursors(self) -> None:
        """Expire all cursors that were given out so far."""
        self._era += 1

    def add(
        self,
        at: datetime,
        *,
        visible_from: datetime | None = None,
        gone_from: datetime | None = None,
        **fields: Any,
    ) -> str:
        """
        Add one record with the time *at* and given *fields*; return its native id.

        A record without an id is identified by its number.
        """
        self._made += 1
        record = make_record(self._made, at, self.switches)
        record.update(fields)
        id_field = self.switches.id_field
        known = str(self._made) if id_field == "none" else str(record[id_field])
        self.history.add(record, id=known, at=at, visible_from=visible_from, gone_from=gone_from)
        self._stored[known] = self._made
        return known

    def respond(self, request: Request) -> Response:
        """Answer as a tenant of s-launch.com would."""
        if request.path == LOGIN:
            return self._login(request)
        if request.path == PATH.rstrip("/"):
            target = request.target.replace(request.path, PATH, 1)
            return Response(307, b"", {"Location": f"http://{request.headers['host']}{target}"})
        if not request.path.startswith(PATH):
            return _error(404, "Not Found")
        if request.method == "DELETE":
            self.failures.append(f"DELETE {request.path}: a client must never delete audit entries")
        return self._refusal(request) or self._answer(request, request.path.removeprefix(PATH))

    def _answer(self, request: Request, rest: str) -> Response:
        if request.method != "GET" and not (request.method == "DELETE" and rest):
            return _error(405, "Method Not Allowed")
        if rest == "":
            return self._list(request.query)
        if rest == "filters":
            return self._filters(request)
        return self._single(request, rest)

    # -- authentication ----------------------------------------------------------------------------

    def _login(self, request: Request) -> Response:
        if request.method != "POST":
            return _error(405, "Method Not Allowed")
        form = parse_qs(request.body.decode("latin-1"))
        if form.get("username") != [USERNAME] or form.get("password") != [PASSWORD]:
            return _error(400, "Incorrect username or password")
        token = secrets.token_hex(16)
        self._tokens.add(token)
        return json_response(
            200,
            {"access_token": token, "token_type": "bearer"},
            {"Set-Cookie": f"slaunch_refresh_cookie={token[::-1]}; HttpOnly; Path=/"},
        )

    def _refusal(self, request: Request) -> Response | None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if not (scheme.lower() == "bearer" and token in self._tokens):
            if request.headers.get("x-api-key") != self.api_key:
                return _error(401, "Could not validate credentials")
            if self.key_expires is not None and self.clock() >= self.key_expires:
                return _error(401, "API key has expired")
        wait = self._over_rate()
        if wait:
            body = {"detail": "Too many requests"}
            return json_response(429, body, self._retry_after(wait))
        needed = "audit:write" if request.method == "DELETE" else "audit:read"
        if not {needed, "admin"} & self.scopes:
            return _error(403, f"Not enough permissions: {needed} is required")
        return None

    # -- requests ----------------------------------------------------------------------------------

    def _filters(self, request: Request) -> Response:
        if "authorization" not in request.headers and self.switches.filters_by_key == "refuse":
            return _error(401, "Not authenticated")
        return json_response(200, {"sort": {"fields": sorted(self._sortable())}, "filters": {}})

    def _single(self, request: Request, native_id: str) -> Response:
        entry = self.history.find(native_id, self.clock())
        if entry is None:
            return _error(404, "Audit log not found")
        if request.method == "DELETE":
            self.history.remove(native_id)
            return Response(204)
        return Response(200, entry.text, {"Content-Type": "application/json"})

    def _sortable(self) -> set[str]:
        return {"id", "timestamp", self.switches.time_field}

    def _list(self, query: dict[str, str]) -> Response:
        switches = self.switches
        wrong = self._wrong_parameter(query)
        if wrong is not None:
            return wrong
        limit = int(query.get("limit", "50"))
        # A cursor is bound to all parameters except the page length.
        free = {"cursor", "limit", "include_total"}
        binding = json.dumps(sorted(item for item in query.items() if item[0] not in free))
        number: int = 1
        after: int | tuple[int, int] | None = None
        if "cursor" in query:
            position = self._read_cursor(query["cursor"], binding)
            if position is None:
                if switches.bad_cursor == 422:
                    return _invalid("cursor", "Invalid or expired cursor", "value_error")
                return _error(400, "Invalid or expired cursor")
            number, after = position
        change = self.before_page.pop(number, None)
        if change is not None:
            change()
        rows = self._sorted(query)
        total = len(rows)
        if isinstance(after, int):
            rows = rows[after:]
        elif after is not None:
            keys = [self._key(row, query) for row in rows]
            rising = query.get("sort_order") == "asc"
            rows = [
                row
                for row, key in zip(rows, keys, strict=True)
                if (key > after if rising else key < after)
            ]
        size = min(limit, switches.page_size_cap)
        shown, more = rows[:size], len(rows) > size
        page: dict[str, Any] = {"next_cursor": None, "next_page": more, "limit": limit}
        if more:
            count = (after if isinstance(after, int) else 0) + size
            place = count if switches.cursors == "count" else self._key(shown[-1], query)
            page["next_cursor"] = self._write_cursor(number + 1, place, binding)
            self._spoil(page, query)
        page["collection_total"] = total if _BOOLEANS[query.get("include_total", "true")] else 0
        return Response(
            200,
            b'{"items":[%b],%b' % (self._rows(shown), json.dumps(page).encode()[1:]),
            {"Content-Type": "application/json"},
        )

    def _spoil(self, page: dict[str, Any], query: dict[str, str]) -> None:
        """Replace a good cursor as the switch *next_cursor* says."""
        match self.switches.next_cursor:
            case "null":
                page["next_cursor"] = None
            case "empty":
                page["next_cursor"] = ""
            case "absent":
                del page["next_cursor"]
            case "repeating":
                page["next_cursor"] = query.get("cursor", page["next_cursor"])

    def _wrong_parameter(self, query: dict[str, str]) -> Response | None:
        """Return the refusal of the first invalid parameter, if any."""
        limit = query.get("limit", "50")
        if not limit.removeprefix("-").isdecimal():
            return _invalid("limit", "Input should be a valid integer", "int_parsing")
        unknown = query.keys() - _PARAMETERS if self.switches.unknown == "refuse" else ()
        checks = (
            ("limit", int(limit) < 1, "Input should be greater than or equal to 1"),
            ("limit", int(limit) > _MOST, f"Input should be less than or equal to {_MOST}"),
            (
                "sort_order",
                query.get("sort_order", "desc") not in ("asc", "desc"),
                "Input should be 'asc' or 'desc'",
            ),
            (
                "sort_by",
                query.get("sort_by", "timestamp") not in self._sortable(),
                "Unknown sort field",
            ),
            (
                "include_total",
                query.get("include_total", "true") not in _BOOLEANS,
                "Input should be a valid boolean",
            ),
            *((name, True, "Extra inputs are not permitted") for name in sorted(unknown)),
        )
        wrong = next(((name, text) for name, fails, text in checks if fails), None)
        return None if wrong is None else _invalid(*wrong, "value_error")

    def _sorted(self, query: dict[str, str]) -> list[Entry]:
        falling = query.get("sort_order", "desc") == "desc"
        found = self.history.select(Span(), self.clock())
        return sorted(found, key=lambda entry: self._key(entry, query), reverse=falling)

    def _key(self, entry: Entry, query: dict[str, str]) -> tuple[int, int]:
        """Return the sort key of a row; it is unique."""
        stored = self._stored[entry.id]
        by_time = query.get("sort_by") != "id" and self.switches.order == "by time"
        return (entry.at if by_time else 0, stored)

    # -- cursors ---------------------------------------------------------------------------------

    def _write_cursor(self, number: int, place: int | tuple[int, int], binding: str) -> str:
        text = json.dumps([number, place, binding, self._era, self.clock()]).encode()
        return urlsafe_b64encode(b"%08x%b" % (crc32(text), text)).decode()

    def _read_cursor(self, cursor: str, binding: str) -> tuple[int, int | tuple[int, int]] | None:
        """Return the page number and the position before it; None for a bad cursor."""
        try:
            text = urlsafe_b64decode(cursor)
        except ValueError:
            return None
        if text[:8] != b"%08x" % crc32(text[8:]):
            return None
        number, place, bound, era, given = json.loads(text[8:])
        life = self.switches.cursor_life
        if bound != binding or era != self._era:
            return None
        if life is not None and self.clock() - given > life:
            return None
        return number, place if isinstance(place, int) else (place[0], place[1])


def _error(status: int, text: str) -> Response:
    return json_response(status, {"detail": text})


def _invalid(name: str, text: str, kind: str) -> Response:
    return json_response(422, {"detail": [{"loc": ["query", name], "msg": text, "type": kind}]})


_EVENTS = (
    "sign-in",
    "permission change",
    "scope-set edit",
    "API-key creation",
    "auth.login",
    "store.asset.upload",
)


def stamp(at: datetime, zone: Literal["Z", "+00:00", "none"] = "+00:00") -> str:
    """Format a time as Python does, with six digits of microseconds and *zone*."""
    text = at.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00")
    return text if zone == "none" else f"{text}{zone}"


def make_record(number: int, at: datetime, switches: Switches | None = None) -> dict[str, Any]:
    """
    Return audit log *number* in the shape that *switches* define.

    All fields but the id and the time are invented; some are present in some records only.
    """
    switches = switches or Switches()
    record: dict[str, Any] = {}
    if switches.id_field != "none":
        record[switches.id_field] = native_id(number)
    record[switches.time_field] = stamp(at, switches.zone)
    record["event"] = _EVENTS[number % len(_EVENTS)]
    record["user"] = f"6650000000000000{number % 17:08x}"
    record["ip"] = f"203.0.113.{number % 250}"
    record["detail"] = {"method": "password", "number": number} if number % 3 else None
    if number % 5 == 0:
        record["hologram"] = [number]
    return record


def native_id(number: int) -> str:
    """Return the id of record *number*."""
    return f"6650f0c2a1b2c3d4{number:08x}"
