"""The API of Initech, a vendor that does not exist."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal

from auditrelay.sandbox.history import Span, joined, parse_time
from auditrelay.sandbox.messages import Request, Response
from auditrelay.sandbox.vendors import Refusal, Vendor, by_setting


@dataclass(slots=True)
class Switches:
    """How this Initech behaves."""

    role: Literal["auditor", "guest"] = "auditor"
    page_size_cap: int = 50
    rate: int | None = None
    retry_after: Literal["seconds", "date", "absent"] = "seconds"


class Initech(Vendor):
    """Initech's API."""

    switches: Switches
    REFUSALS: ClassVar = (
        Refusal("wrong key", 401, "who are you?", by_setting({"api_key": "wrong-key-1"})),
        Refusal("guest", 403, "guests read nothing", by_setting(role="guest")),
        Refusal(
            "wrong address", 404, "nothing here", lambda it: {"base_url": f"{it.url}/elsewhere"}
        ),
    )
    MUST_FAIL: ClassVar = frozenset({("role", "guest")})
    ID_FIELDS: ClassVar = ("key",)
    REPORTS_TOTAL: ClassVar = False

    def __init__(self, *, clock: Callable[[], float] = time.time, seed: int = 0) -> None:
        super().__init__(clock=clock, seed=seed)
        self.switches = Switches()
        self.api_key = "initech-key-not-a-real-secret"
        self._made = 0

    def settings(self) -> dict[str, Any]:
        """Return the table of a source that reads this double."""
        return {"type": "initech", "base_url": self.url, "api_key": self.api_key}

    def add(
        self,
        at: datetime,
        *,
        visible_from: datetime | None = None,
        gone_from: datetime | None = None,
        **fields: Any,
    ) -> str:
        """Make one record that happened *at*; return its native id."""
        self._made += 1
        key = f"k{self._made:06d}"
        record = {"key": key, "when": at.astimezone(UTC).isoformat(), "what": "tick", **fields}
        self.history.add(record, id=key, at=at, visible_from=visible_from, gone_from=gone_from)
        return key

    def respond(self, request: Request) -> Response:
        """Answer as Initech would, if there were one."""
        if request.path != "/log":
            return _says(404, "nothing here")
        if request.headers.get("x-initech") != self.api_key:
            return _says(401, "who are you?")
        if self.switches.role == "guest":
            return _says(403, "guests read nothing")
        wait = self._over_rate()
        if wait:
            return _says(429, "not so fast", **self._retry_after(wait))
        return self._list(request.query)

    def _list(self, query: dict[str, str]) -> Response:
        number, _, after = query.get("after", "1-").partition("-")
        change = self.before_page.pop(int(number), None)
        if change is not None:
            change()
        span = Span(parse_time(query["from"]), parse_time(query["to"]))
        rows = [
            row
            for row in self.history.select(span, self.clock())
            if f"{row.at:020d} {row.id}" > after
        ]
        size = min(int(query["size"]), self.switches.page_size_cap)
        part, following = rows[:size], b"null"
        if len(rows) > size:
            following = f'"{int(number) + 1}-{part[-1].at:020d} {part[-1].id}"'.encode()
        return Response(
            200,
            b'{"rows":[%b],"after":%b}' % (joined(part), following),
            {"Content-Type": "application/json"},
        )


def _says(status: int, text: str, **more: str) -> Response:
    return Response(status, headers={"X-Initech-Says": text, **more})
