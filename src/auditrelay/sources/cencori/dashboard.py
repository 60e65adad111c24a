"""
Cencori's dashboard, read with the session of an operator who is signed in (experimental).

**The route is undocumented.** The vendor promises nothing about it, and it may change on any day.
An answer of another shape is not believed: the source is held, or its walks break.

**The list moves.** It is newest first, its pages are counted from a top that grows, rows of equal
time stand in any order, and no bound but "the last hour, day, week..." can be given. What holds is
that one page is one look at it: between the time of its first row and that of its last, it shows
everything. So each page is asked for such that it begins with a row *newer* than the last one of
the page before; then nothing can lie between them, however the list moved meanwhile. That is why
pages have odd sizes: page *n* of *q* rows begins where we want it to. Only rows of one and the same
time that fill more than a page cannot be shown so; they are read over until as many are known as
there are.

**What the plan hides.** Lower plans show shorter ranges, and leave whole categories out without a
word. The first is a gap of each window that reaches further back. For the second one such category
is asked for by name before each walk: then the plan says so, and the window is told as partial.
"""

import math
from collections.abc import AsyncGenerator, Callable
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from auditrelay.errors import Refused, Retryable, WalkBroken
from auditrelay.events.decode import Undecodable
from auditrelay.events.decode import decode as decode_record
from auditrelay.events.timestamps import parse
from auditrelay.http.peer import Peer
from auditrelay.http.replies import Reply, check, decode, http_date
from auditrelay.sources import Page
from auditrelay.sources.cencori.export_span import RANGES
from auditrelay.sources.cencori.session import Session
from auditrelay.sources.cencori.settings import Settings
from auditrelay.telemetry.scrubber import scrub
from auditrelay.window import Interval, micros

PLAN_RANGE = "plan_range"
"""Why a span is a gap: the plan shows nothing that is so old."""


PLAN_CATEGORIES = "plan_categories"
"""Why a window is a gap: the plan leaves the events of members, API keys and SSO out."""


IDENTITY = "member"
"""The category that is asked for to see whether the plan shows it: those three go together."""


CLOCKS = timedelta(minutes=1)
"""How far the clock that writes ``Date`` may be from the one that a range is reckoned by."""


MOST_IDLE = 32
"""Looks in a row that bring a walk no further: then the list does not hold still."""


T = TypeVar("T")


class _Pagination(msgspec.Struct):
    page: int
    per_page: int
    total: int


class _Answer(msgspec.Struct):
    """One page. Rows keep their text byte for byte."""

    logs: list[msgspec.Raw]
    pagination: _Pagination


class _Head(msgspec.Struct):
    id: Any = None
    created_at: Any = None


_HEAD = msgspec.json.Decoder(_Head)


class _Look:
    """
    One page of the list, as it was in one instant.

    *offset* is how many rows were before it, *total* how many there were in all, *now* the
    vendor's time. Times are microseconds; those that cannot be read are passed over.
    """

    def __init__(self, answer: _Answer, now: datetime) -> None:
        self.now = now
        self.size = answer.pagination.per_page
        self.offset = (answer.pagination.page - 1) * self.size
        self.total = answer.pagination.total
        self.rows = [_row(bytes(text)) for text in answer.logs]
        self.times = [at for _, at, _ in self.rows if at is not None]
        if any(later > before for before, later in pairwise(self.times)):
            raise WalkBroken("Cencori's list is not in order of time", reason="not_in_order")

    @property
    def end(self) -> int:
        """How many rows were up to the end of this page."""
        return self.offset + len(self.rows)

    @property
    def exhausted(self) -> bool:
        """Whether the list ended with this page."""
        return self.end >= self.total

    @property
    def first(self) -> float:
        """The time of the first row: nothing newer that is not before it."""
        return math.inf if self.offset == 0 else max(self.times, default=-math.inf)

    @property
    def last(self) -> float:
        """The time of the last row: everything newer, down from the first, is shown."""
        return -math.inf if self.exhausted else min(self.times, default=math.inf)

    def border(self, reached: float) -> int:
        """Return the offset of the last row that is newer than *reached*."""
        older = sum(at is None or at <= reached for _, at, _ in self.rows)
        return max(0, self.end - older - 1)


def _row(text: bytes) -> tuple[bytes, int | None, str | bytes]:
    """Return a row's text, its time in microseconds, and what it is known by."""
    try:
        head = _HEAD.decode(text)
    except (msgspec.DecodeError, RecursionError):
        head = _odd(text)
    at = parse(head.created_at) if isinstance(head.created_at, str) else None
    return text, None if at is None else at[0], head.id if isinstance(head.id, str) else text


def _odd(text: bytes) -> _Head:
    """Return what can be read of a row that is not strict JSON, or no object."""
    try:
        value = decode_record(text).value
    except Undecodable:
        return _Head()
    return _Head(value.get("id"), value.get("created_at")) if isinstance(value, dict) else _Head()


class Source:
    """The list of the dashboard, with the session of somebody who is signed in."""

    def __init__(self, settings: Settings, peer: Peer, session: Session) -> None:
        self._peer = peer
        self._session = session
        self._slug = settings.organization_slug or ""
        self._size = settings.page_size

    @property
    def scope(self) -> str:
        """The organisation; rows name theirs, too."""
        return self._slug

    def keep_in(self, folder: Path) -> None:
        """Keep the session's cookies in *folder*."""
        self._session.keep_in(folder)

    async def walk(self, window: Interval) -> AsyncGenerator[Page]:
        """Yield every page of *window*, see :class:`auditrelay.sources.Source`."""
        start, end = micros(window.start), micros(window.end)
        now, partial = await self._plan()
        wanted = _smallest(now - window.start + CLOCKS)
        shown: set[int] = set()
        held: list[bytes] = []  # the page before: whether it is the last is not known yet
        gaps: tuple[tuple[Interval, str], ...] = ()
        while True:
            top, limited, range_ = await self._top(wanted)
            look, floor = top, _floor(range_, top.now)
            if floor is None or floor < window.end:
                async for look in self._looks(top, range_, window):
                    inside = [
                        text
                        for text, at, known in look.rows
                        if (at is None or start <= at < end) and hash(known) not in shown
                    ]
                    shown.update(hash(known) for _, _, known in look.rows)
                    if inside and held:
                        yield Page(held, last=False)
                    held = inside or held
            # The list's lower end moves up all the time: what the last look can have shown counts.
            floor = _floor(range_, look.now)
            if floor is None or floor <= window.start:
                break
            if limited:
                gaps = ((Interval(window.start, min(floor, window.end)), PLAN_RANGE),)
                break
            wanted = _LONGER[range_]
        yield Page(held, last=True, partial=partial, gaps=gaps)

    async def close(self) -> None:
        """Release connections."""
        await self._peer.aclose()

    async def _plan(self) -> tuple[datetime, str | None]:
        """Return the vendor's time, and why its list leaves events out, if the plan does so."""
        params = {"time_range": "1h", "category": IDENTITY, "page": "1", "per_page": "1"}

        def read(reply: Reply) -> tuple[datetime, str | None]:
            if _is_gate(reply):
                return date_of(reply), PLAN_CATEGORIES
            self._answer(reply)
            return date_of(reply), None

        return await self._ask(params, read)

    async def _top(self, wanted: str) -> tuple[_Look, bool, str]:
        """
        Return the first page of the range *wanted*, or of the longest one that the plan shows.

        Also returns whether the plan would show no longer one, and which range it is.
        """
        limited = False
        for range_ in reversed(_ORDER[: _ORDER.index(wanted) + 1]):
            try:
                look = await self._look(range_, 0)
            except _Gated as gate:
                if range_ == _ORDER[0]:
                    raise Refused(str(gate), status=403) from gate
                limited = True
                continue
            assert look is not None  # noqa: S101  # the first page is always there
            return look, limited, range_
        raise AssertionError("the shortest range is shown or refused")  # pragma: no cover

    async def _looks(
        self, top: _Look, range_: str, window: Interval
    ) -> AsyncGenerator[_Look, None]:
        """Yield looks, each joined to the one before, that show all of *window* together."""
        start, end = micros(window.start), micros(window.end)
        look = await self._skip(top, range_, end)
        yield look
        reached = look.last  # everything newer than that is shown
        behind = idle = 0
        crowded, known = math.inf, set[str | bytes]()
        while not look.exhausted and reached >= start:
            idle += 1
            if idle > MOST_IDLE:
                raise WalkBroken("Cencori's list does not hold still", reason="pages_moved")
            # *behind* is how much further up to begin after rows above have vanished.
            aim = max(0, look.border(reached) - behind)
            found = await self._look(range_, aim)
            if found is None or found.first <= reached:
                behind = max(1, behind * 2)
                continue
            behind = 0
            look = found
            if found.last < reached:
                reached, idle = found.last, 0
                yield found
            elif found.border(reached) == aim:
                # The next look would be the same: rows of one time that fill more than a page,
                # or small pages that all end here.
                if crowded != reached:
                    crowded = reached
                    known.clear()
                async for each, whole in self._crowd(found, reached, known, range_):
                    yield each
                    if whole:
                        look, reached, idle = each, each.last, 0

    async def _skip(self, top: _Look, range_: str, end: int) -> _Look:
        """Return a look whose first row is not older than *end*, as far down as it is easy."""
        look, step = top, top.size
        beyond: int | None = None
        while not look.exhausted and look.last >= end:
            if beyond is None:
                aim, step = min(look.end - 1 + step, look.total - 1), step * 2
            elif beyond - look.end > look.size:
                aim = (look.end + beyond) // 2
            else:
                break
            found = await self._look(range_, aim)
            if found is None:
                beyond = aim
            elif found.first < end:
                beyond = found.offset
            elif found.end <= look.end:
                break
            else:
                look = found
        return look

    async def _crowd(
        self, first: _Look, at: float, known: set[str | bytes], range_: str
    ) -> AsyncGenerator[tuple[_Look, bool], None]:
        """
        Yield looks, from *first* on, at all rows of the time *at* and a little beyond.

        They fill more than a page, and their order may be another in each look. So they are
        counted in a list that holds still, and are shown when as many are *known*, which is added
        to: then the last look comes with True.
        """
        look = first
        begins = look.offset + sum(when is not None and when > at for _, when, _ in look.rows)
        while True:
            known.update(key for _, when, key in look.rows if when == at)
            if look.last < at:
                older = sum(when is not None and when < at for _, when, _ in look.rows)
                yield look, len(known) >= look.end - older - begins
                return
            yield look, False
            found = await self._look(range_, look.end)
            if found is None or found.total != look.total or found.end <= look.end:
                return  # it moved
            look = found

    async def _look(self, range_: str, offset: int) -> _Look | None:
        """
        Return a page that begins at *offset*, or a few rows before it.

        None if the list has become shorter than that: then the vendor answers 500, as it does
        when it is down, in which case the next request will tell.
        """
        number, size = _page_at(offset, self._size)

        def read(reply: Reply) -> _Look | None:
            if number and reply.status == 500:
                return None
            answer = self._answer(reply)
            told = answer.pagination
            # A cache that does not look at the query would show the look at the plan again, which
            # is of one row, and often empty.
            probe = told.total == 0 and told.per_page == 1 < size
            if told.page != number + 1 or not 0 < told.per_page <= size or probe:
                raise WalkBroken(
                    f"Cencori was asked for page {number + 1} of {size} rows and shows page "
                    f"{told.page} of {told.per_page}",
                    reason="repeated_page",
                )
            look = _Look(answer, date_of(reply))
            if not look.rows and not look.exhausted:
                raise WalkBroken(
                    "Cencori shows an empty page that is not the last", reason="no_progress"
                )
            return look

        params = {"time_range": range_, "page": str(number + 1), "per_page": str(size)}
        look = await self._ask(params, read)
        if look is not None and look.size < size:
            self._size = look.size  # the vendor's maximum has changed
        return look

    async def _ask(self, params: dict[str, str], read: Callable[[Reply], T]) -> T:
        """Return what *read* makes of the reply, whose cookies are kept in any case."""

        def absorb(reply: Reply) -> T:
            self._session.absorb(reply.headers.get_list("set-cookie"))
            return read(reply)

        return await self._peer.get(f"/api/organizations/{self._slug}/audit-logs", params, absorb)

    def _answer(self, reply: Reply) -> _Answer:
        """Return the page that *reply* holds. Raises what the caller should do."""
        if reply.status != 200:
            said = _explained(reply)
            try:
                check(reply, explanation=said.error, hint=self._hint(reply.status, said))
            except Refused as error:
                if _is_gate(reply):
                    raise _Gated(str(error), status=403) from error
                raise
        return decode(reply, _Answer)

    def _hint(self, status: int, said: "_Explained") -> str:
        """Return what the operator should do about a refusal."""
        if status == 401:
            return (
                "the session in cookie has ended: sign in to the dashboard as an owner or admin "
                "and put its cookies sb-...-auth-token there anew"
            )
        if status == 404:
            return f"check organization_slug: the user of the cookie sees no {self._slug}"
        if status != 403:
            return ""
        if said.code == _GATE:
            tier = scrub(said.required_tier, 40) or "higher"
            return f"the organisation's plan has no audit log: it takes the plan {tier}"
        if said.error == "Insufficient permissions":
            return (
                "the user of the cookie is a member of the organisation, but must be an owner or "
                "admin of it"
            )
        return (
            f"the user of the cookie is no member of {self._slug}: check organization_slug, or "
            "sign in as somebody who is"
        )


_GATE = "FEATURE_NOT_INCLUDED"


class _Gated(Refused):
    """The plan does not include the range that was asked for."""


_ORDER = [*RANGES, "all"]


_LONGER = dict(pairwise(_ORDER))


def _is_gate(reply: Reply) -> bool:
    """Tell whether *reply* says that the plan does not include what was asked for."""
    return reply.status == 403 and _explained(reply).code == _GATE


def _smallest(age: timedelta) -> str:
    """Return the shortest range that reaches back for *age*."""
    return next((name for name, length in RANGES.items() if length >= age), "all")


def _floor(range_: str, now: datetime) -> datetime | None:
    """Return from when on the range shows everything, None if it is all there is."""
    return None if range_ == "all" else now - RANGES[range_] + CLOCKS


def _page_at(offset: int, most: int) -> tuple[int, int]:
    """
    Return number, from 0, and size of a page that holds the row at *offset*.

    Of all sizes up to *most* it is the one whose page goes furthest. At some places the pages of
    all small sizes end; but those of up to 20 rows do so only once in 232,792,560 rows.
    """
    if offset <= 0:
        return 0, most
    size = max(range(1, most + 1), key=lambda size: (offset // size + 1) * size)
    return offset // size, size


class _Explained(msgspec.Struct):
    """The body of a refusal."""

    error: str = ""
    code: str = ""
    required_tier: str = ""


def _explained(reply: Reply) -> _Explained:
    """Return the vendor's words for a failure, as far as it has some."""
    body = reply.object() or {}
    words = {key: body.get(key) for key in _Explained.__struct_fields__}
    return _Explained(**{key: word for key, word in words.items() if isinstance(word, str)})


def date_of(reply: Reply) -> datetime:
    """Return the vendor's time. Raises Retryable if it does not tell: it has to."""
    at = http_date(reply.headers.get("date", ""))
    if at is None:
        raise Retryable(
            f"the reply to {reply.where} has no Date, without which it cannot be told which time "
            "it is about",
            reason="bad_reply",
            sent=True,
        )
    return at
