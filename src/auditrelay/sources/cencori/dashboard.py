"""
Cencori's dashboard, read with the session of an operator who is signed in (experimental).

**The route is undocumented.** The vendor promises nothing about it, and it may change on any day.
An answer of another shape is not trusted: the source is held, or its walks break.

**The list moves.** It is newest first, its pages are counted from a top that grows, rows of equal
time are in any order, and the only bounds are "the last hour, day, week...". What is certain is
that one page is a snapshot of the list: between the time of its first row and that of its last, it
shows everything. So each page is requested such that it begins with a row *newer* than the last one
of the page before; then no row can be between them, however the list moved meanwhile. That is why
pages have odd sizes: page *n* of *q* rows begins where we want it to. The exception are ties, rows
of equal time, that fill more than a page: they are read again until as many are known as there are,
and then once more from scratch, until two readings show the same rows.

**What the plan hides.** Lower plans show shorter ranges, and leave out whole categories without
notice. The first is a gap of each window that reaches further back. For the second, one such
category is requested by name before each walk: the vendor then reports the limit of the plan, and
the window is marked as partial.
"""

import functools
import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, TypeVar

import msgspec

from auditrelay.errors import Refused, Retryable, WalkBroken, may_be_due_to_size
from auditrelay.events.decode import NOT_DECODED, Undecodable
from auditrelay.events.decode import decode as decode_record
from auditrelay.events.timestamps import parse
from auditrelay.http.fields import Count, Records, texts
from auditrelay.http.headers import date
from auditrelay.http.paging import CursorPages
from auditrelay.http.peer import Peer
from auditrelay.http.replies import Reply, check, decode
from auditrelay.sources import UNREADABLE, Keeping, Page
from auditrelay.sources.cencori.export_span import RANGES
from auditrelay.sources.cencori.session import Session
from auditrelay.sources.cencori.settings import Settings
from auditrelay.telemetry.scrubber import scrub
from auditrelay.window import Interval, micros, moment

PLAN_RANGE = "plan_range"
"""Reason of a gap: the plan shows nothing that is so old."""

PLAN_CATEGORIES = "plan_categories"
"""Reason of a gap: the plan leaves out the events of members, API keys and SSO."""

IDENTITY_CATEGORY = "member"
"""The category requested to see whether the plan shows it: a plan has all three or none."""

CLOCK_SKEW = timedelta(minutes=1)
"""How far the clock that writes ``Date`` may be from the one that ranges are computed with."""

MAX_PASSED_OVER = 8
"""Rows among which one that is unreadable is passed over."""

MIN_JOINED = 4
"""Rows of a page that can be joined to the one before."""

MAX_IDLE = 32
"""Consecutive requests without progress, after which the list is too unstable for a walk."""

T = TypeVar("T")


class _Pagination(msgspec.Struct):
    page: Count
    per_page: Count
    total: Count


class _Answer(msgspec.Struct):
    """One page. Rows keep their text byte for byte."""

    logs: Records
    pagination: _Pagination


class _Head(msgspec.Struct):
    id: Any = None
    created_at: Any = None


_HEAD = msgspec.json.Decoder(_Head)


class _Snapshot:
    """
    One page of the list, as it was at one time.

    *offset* is the number of rows before it, *total* that of all rows, *now* the vendor's time.
    Times are microseconds; *times* leaves out those that cannot be read.
    """

    def __init__(self, answer: _Answer, now: datetime) -> None:
        self.now = now
        self.size = int(answer.pagination.per_page)
        self.offset = (answer.pagination.page - 1) * self.size
        self.total = answer.pagination.total
        self.rows = list(map(_row, texts(answer.logs)))
        self.times = [at for _, at, _ in self.rows if at is not None]
        if any(later > before for before, later in pairwise(self.times)):
            raise WalkBroken("Cencori's list is not in order of time", reason="not_in_order")

    @property
    def end(self) -> int:
        """The number of rows up to the end of this page."""
        return self.offset + len(self.rows)

    @property
    def exhausted(self) -> bool:
        """Whether the list ended with this page."""
        return self.end >= self.total

    @property
    def first(self) -> float:
        """The time of the first row: every newer row is before this page."""
        return math.inf if self.offset == 0 else max(self.times, default=-math.inf)

    @property
    def last(self) -> float:
        """The time of the last row: the page has every newer row, up to the first."""
        return -math.inf if self.exhausted else min(self.times, default=math.inf)

    def last_offset_newer_than(self, reached: float) -> int:
        """Return the offset of the last row that is newer than the time *reached*."""
        older = sum(at is None or at <= reached for _, at, _ in self.rows)
        return max(0, self.end - older - 1)


@dataclass(slots=True)
class _Ties:
    """
    The rows of the time *at* that were seen while the list had *total* rows.

    A key of a row that was deleted since would stand for one that was not seen: so the keys are
    collected again whenever the total changes, and have to be as many as there *most* were. A
    deletion and an arrival at once keep the total: so they are collected once more from scratch,
    and have to be the same as *before*.
    """

    at: float
    total: int
    keys: set[str | bytes] = field(default_factory=set)
    most: int = 0
    before: set[str | bytes] | None = None

    def collected(self) -> bool:
        """Return whether the keys are proved complete; start from scratch if only collected."""
        if len(self.keys) < self.most:
            return False
        if self.keys == self.before:
            return True
        self.before, self.keys, self.most = self.keys, set(), 0
        return False


def _row(text: bytes) -> tuple[bytes, int | None, str | bytes]:
    """Return a row's text, its time in microseconds, and the key that it is deduplicated by."""
    try:
        head = _HEAD.decode(text)
    except NOT_DECODED:
        head = _lenient_head(text)
    at = parse(head.created_at) if isinstance(head.created_at, str) else None
    return text, None if at is None else at[0], head.id if isinstance(head.id, str) else text


def _lenient_head(text: bytes) -> _Head:
    """Return what can be read of a row that is not strict JSON, or not an object."""
    try:
        value = decode_record(text).value
    except Undecodable:
        return _Head()
    return _Head(value.get("id"), value.get("created_at")) if isinstance(value, dict) else _Head()


_Fetch = Callable[[int], Awaitable[_Snapshot | None]]
"""Requests the page of one range that begins at an offset, see :meth:`Source._fetch`."""

_FetchRange = Callable[..., Awaitable[_Snapshot | None]]
"""The same of any range: :meth:`Source._fetch`, or one that makes smaller what fails."""


class Source:
    """The list of the dashboard, with the session of an operator who is signed in."""

    def __init__(self, settings: Settings, peer: Peer, session: Session) -> None:
        self._peer = peer
        self._session = session
        self._slug = settings.organization_slug or ""
        self._size = settings.page_size
        self._reached = 0
        """The number of rows before the last page of the last walk."""

    @property
    def scope(self) -> str:
        """The organisation; rows name theirs as well."""
        return self._slug

    def keep_in(self, keeping: Keeping) -> None:
        """Keep the session's cookies in *keeping*."""
        self._session.keep_in(keeping)

    async def walk(
        self, window: Interval, *, background: bool = False, finely: bool = False
    ) -> AsyncGenerator[Page]:
        """Yield every page of *window*, see :class:`auditrelay.sources.Source`."""
        start, end = micros(window.start), micros(window.end)
        now, partial = await self._check_plan(background=background)
        fetch_range: _FetchRange = self._fetch
        if finely:
            paging = CursorPages(self._size, finely=True)
            fetch_range = functools.partial(self._fetch_finely, paging)
        wanted = _shortest_range(now - window.start + CLOCK_SKEW)
        shown: set[int] = set()
        waiting: list[bytes] = []  # the page before: it may turn out to be the last one
        gaps: tuple[tuple[Interval, str], ...] = ()
        while True:
            top, limited, range_ = await self._top(wanted, fetch_range, background=background)
            fetch = functools.partial(fetch_range, range_, background=background)
            holes: list[Interval] | None = [] if finely else None
            snapshot, floor = top, _floor(range_, top.now)
            if floor is None or floor < window.end:
                async for snapshot in self._snapshots(top, fetch, window, holes):
                    inside = [
                        text
                        for text, at, key in snapshot.rows
                        if (at is None or start <= at < end) and hash(key) not in shown
                    ]
                    shown.update(hash(key) for _, _, key in snapshot.rows)
                    if inside and waiting:
                        yield Page(waiting, last=False, at_most=top.total)
                    waiting = inside or waiting
                    self._reached = snapshot.offset
                gaps += tuple((hole, UNREADABLE) for hole in holes or ())
            # The list's lower end moves up all the time: that of the last snapshot counts.
            floor = _floor(range_, snapshot.now)
            if floor is None or floor <= window.start:
                break
            if limited:
                gaps += ((Interval(window.start, min(floor, window.end)), PLAN_RANGE),)
                break
            wanted = _LONGER[range_]
        yield Page(waiting, last=True, partial=partial, gaps=gaps)

    async def close(self) -> None:
        """Release connections."""
        await self._peer.aclose()

    async def _check_plan(self, *, background: bool) -> tuple[datetime, str | None]:
        """Return the vendor's time, and a reason if the plan leaves out events."""
        params = {"time_range": "1h", "category": IDENTITY_CATEGORY, "page": "1", "per_page": "1"}

        def read(reply: Reply) -> tuple[datetime, str | None]:
            if _is_plan_limit(reply):
                return _date_of(reply), PLAN_CATEGORIES
            self._answer(reply)
            return _date_of(reply), None

        return await self._get(params, read, background=background)

    async def _top(
        self, wanted: str, fetch: _FetchRange, *, background: bool
    ) -> tuple[_Snapshot, bool, str]:
        """
        Return the first page of the range *wanted*, or of the longest one that the plan shows.

        Also return whether the plan allows no longer range, and which range it is.
        """
        limited = False
        for range_ in reversed(_ORDER[: _ORDER.index(wanted) + 1]):
            try:
                snapshot = await fetch(range_, 0, background=background)
            except _PlanLimit as error:
                if range_ == _ORDER[0]:
                    raise Refused(str(error), status=403) from error
                limited = True
                continue
            assert snapshot is not None  # noqa: S101  # the first page is always there
            return snapshot, limited, range_
        raise AssertionError("the shortest range is shown or refused")  # pragma: no cover

    async def _snapshots(  # noqa: C901  # one loop, whose ways out belong together
        self, top: _Snapshot, fetch: _Fetch, window: Interval, holes: list[Interval] | None
    ) -> AsyncGenerator[_Snapshot, None]:
        """
        Yield snapshots, each joined to the one before, that together show all of *window*.

        Where a row cannot be read, they are not joined, and the time between them is one of the
        *holes*, if these are wanted.
        """
        start, end = micros(window.start), micros(window.end)
        snapshot = await self._skip_newer(top, fetch, end)
        yield snapshot
        reached = snapshot.last  # everything newer than that is shown
        margin = idle = 0
        behind = snapshot.end
        ties = _Ties(math.inf, top.total)
        while not snapshot.exhausted and reached >= start:
            idle += 1
            if idle > MAX_IDLE:
                raise WalkBroken("Cencori's list keeps changing", reason="pages_moved")
            if holes is not None and idle > 1:
                async for each in self._pass_over(behind, reached, snapshot.total, fetch):
                    if each is not None:
                        yield each
                holes += _hole(each, reached, window)
                if each is None:
                    return
                snapshot, reached, idle, behind = each, each.last, 0, each.end
                continue
            # *margin* is how many rows further up to begin after rows above were deleted.
            aim = max(0, snapshot.last_offset_newer_than(reached) - margin)
            found = await fetch(aim)
            if found is None or found.first <= reached:
                margin = max(1, margin * 2)
                continue
            margin = 0
            snapshot = found
            if found.last < reached:
                reached, idle, behind = found.last, 0, found.end
                yield found
            elif found.last_offset_newer_than(reached) == aim:
                # The next snapshot would be the same: ties that fill more than a page, or small
                # pages that all end here.
                if (ties.at, ties.total) != (reached, found.total):
                    ties = _Ties(reached, found.total)
                async for each, whole in self._read_ties(found, ties, fetch):
                    yield each
                    if whole:
                        snapshot, reached, idle, behind = each, each.last, 0, each.end

    async def _pass_over(
        self, behind: int, reached: float, total: int, fetch: _Fetch
    ) -> AsyncGenerator[_Snapshot | None, None]:
        """
        Yield snapshots from the row at *behind* on, up to one that is behind an unreadable row.

        They are not joined. None comes last if the list of *total* rows ends with unreadable ones.
        """
        passed = shown = False
        for offset in range(behind, behind + MAX_PASSED_OVER):
            found = None if offset >= total else await fetch(offset)
            if offset >= total or (found is not None and passed):
                yield found
                return
            passed |= found is None
            if found is not None and found.last < reached:
                shown = True
                yield found
        if shown:  # pages that could be joined would have the unreadable row, too
            return
        raise WalkBroken("rows of Cencori's list cannot be read", reason=UNREADABLE)

    async def _skip_newer(self, top: _Snapshot, fetch: _Fetch, end: int) -> _Snapshot:
        """Return a snapshot near *end* whose first row is not older, found in few requests."""
        snapshot, step = top, top.size
        beyond: int | None = None
        guess = self._reached  # the next part often begins where the last one ended
        while not snapshot.exhausted and snapshot.last >= end:
            if snapshot.end < guess < snapshot.total:
                aim, guess = guess, 0
            elif beyond is None:
                aim, step = min(snapshot.end - 1 + step, snapshot.total - 1), step * 2
            elif beyond - snapshot.end > snapshot.size:
                aim = (snapshot.end + beyond) // 2
            else:
                break
            found = await fetch(aim)
            if found is None:
                beyond = aim
            elif found.first < end:
                beyond = found.offset
            elif found.end <= snapshot.end:
                break
            else:
                snapshot = found
        return snapshot

    async def _read_ties(
        self, first: _Snapshot, ties: _Ties, fetch: _Fetch
    ) -> AsyncGenerator[tuple[_Snapshot, bool], None]:
        """
        Yield snapshots, from *first* on, of all rows of the time of *ties* and a little beyond.

        These rows fill more than a page, and their order may differ between snapshots. So they are
        counted while the list does not change, and their keys are collected: when these are proved
        complete, the last snapshot is yielded with True.
        """
        snapshot, at = first, ties.at
        newer = sum(when is not None and when > at for _, when, _ in snapshot.rows)
        begins = snapshot.offset + newer
        while True:
            ties.keys.update(key for _, when, key in snapshot.rows if when == at)
            if snapshot.last < at:
                older = sum(when is not None and when < at for _, when, _ in snapshot.rows)
                ties.most = max(ties.most, snapshot.end - older - begins)
                yield snapshot, ties.collected()
                return
            yield snapshot, False
            found = await fetch(snapshot.end)
            if found is None or found.total != snapshot.total or found.end <= snapshot.end:
                return  # the list has changed
            snapshot = found

    async def _fetch_finely(
        self, paging: CursorPages, range_: str, offset: int, *, background: bool
    ) -> _Snapshot | None:
        """Return a page at *offset* that can be read, None if not even its row can be."""
        paging.size = max(paging.size, min(MIN_JOINED, self._size))
        while True:
            try:
                found = await self._fetch(range_, offset, background=background, most=paging.size)
                if found is not None:
                    paging.read()
                    return found
                paging.failed(WalkBroken("500 for a page of the list", reason=UNREADABLE))
            except (Retryable, WalkBroken) as error:
                # What fails when it is asked for the newest row alone is the route itself.
                if paging.size > 1 and may_be_due_to_size(error):
                    paging.failed(error)
                elif offset and may_be_due_to_size(error):
                    return None
                else:
                    raise

    async def _fetch(
        self, range_: str, offset: int, *, background: bool, most: int | None = None
    ) -> _Snapshot | None:
        """
        Return a page that begins at *offset*, or a few rows before it.

        None if the list has become shorter than that: the vendor then answers 500. It does so as
        well when it is down; then the next request fails.
        """
        number, size = _page_at(offset, most or self._size)

        def read(reply: Reply) -> _Snapshot | None:
            if number and reply.status == 500:
                return None
            answer = self._answer(reply)
            shown = answer.pagination
            # A cache that ignores the query would return the reply to the check of the plan, which
            # has one row, and is often empty.
            cached = shown.total == 0 and shown.per_page == 1 < size
            if shown.page != number + 1 or not 0 < shown.per_page <= size or cached:
                raise WalkBroken(
                    f"Cencori was asked for page {number + 1} of {size} rows and returned page "
                    f"{shown.page} of {shown.per_page}",
                    reason="repeated_page",
                )
            snapshot = _Snapshot(answer, _date_of(reply))
            if not snapshot.rows and not snapshot.exhausted:
                raise WalkBroken(
                    "Cencori returned an empty page that is not the last", reason="no_progress"
                )
            return snapshot

        params = {"time_range": range_, "page": str(number + 1), "per_page": str(size)}
        finely = most is not None
        snapshot = await self._get(params, read, background=background, finely=finely)
        if snapshot is not None and snapshot.size < size == self._size:
            self._size = snapshot.size  # the vendor's maximum has changed
        return snapshot

    async def _get(
        self,
        params: dict[str, str],
        read: Callable[[Reply], T],
        *,
        background: bool,
        finely: bool = False,
    ) -> T:
        """Return what *read* returns for the reply, whose cookies are kept in any case."""

        def keep_cookies(reply: Reply) -> T:
            self._session.update(reply.headers, reply.at)
            return read(reply)

        return await self._peer.get(
            f"/api/organizations/{self._slug}/audit-logs",
            params,
            keep_cookies,
            background=background,
            finely=finely,
        )

    def _answer(self, reply: Reply) -> _Answer:
        """Return the page in *reply*. Raises the error for any other reply."""
        if reply.status != 200:
            refusal = _refusal(reply)
            try:
                check(reply, message=refusal.error, hint=self._hint(reply.status, refusal))
            except Refused as error:
                if _is_plan_limit(reply):
                    raise _PlanLimit(str(error), status=403) from error
                raise
        return decode(reply, _Answer)

    def _hint(self, status: int, refusal: "_Refusal") -> str:
        """Return what the operator should do about a refusal."""
        if status == 401:
            return (
                "the session in cookie has ended: sign in to the dashboard as an owner or admin "
                "and put its cookies sb-...-auth-token there again"
            )
        if status == 404:
            return f"check organization_slug: the user of the cookie sees no {self._slug}"
        if status != 403:
            return ""
        if refusal.code == _PLAN_LIMIT:
            tier = scrub(refusal.required_tier, 40) or "higher"
            return f"the organisation's plan has no audit log: it needs the plan {tier}"
        if refusal.error == "Insufficient permissions":
            return (
                "the user of the cookie is a member of the organisation, but must be an owner or "
                "admin of it"
            )
        return (
            f"the user of the cookie is not a member of {self._slug}: check organization_slug, or "
            "sign in as a member"
        )


_PLAN_LIMIT = "FEATURE_NOT_INCLUDED"


class _PlanLimit(Refused):
    """The plan does not include the requested range."""


def _hole(found: _Snapshot | None, reached: float, window: Interval) -> list[Interval]:
    """Return what of *window* is between the time *reached* and the first row that was *found*."""
    start = window.start
    if found is not None and found.times:
        start = max(start, moment(max(found.times)))
    end = window.end if reached == math.inf else min(window.end, moment(int(reached) + 1))
    return [Interval(start, end)] if start < end else []


_ORDER = [*RANGES, "all"]
_LONGER = dict(pairwise(_ORDER))


def _is_plan_limit(reply: Reply) -> bool:
    """Return whether *reply* refuses because the plan does not include what was requested."""
    return reply.status == 403 and _refusal(reply).code == _PLAN_LIMIT


def _shortest_range(age: timedelta) -> str:
    """Return the shortest range that reaches back for *age*."""
    return next((name for name, length in RANGES.items() if length >= age), "all")


def _floor(range_: str, now: datetime) -> datetime | None:
    """Return the time from which on the range shows everything, None for the range ``all``."""
    return None if range_ == "all" else now - RANGES[range_] + CLOCK_SKEW


def _page_at(offset: int, most: int) -> tuple[int, int]:
    """
    Return number, from 0, and size of a page that contains the row at *offset*.

    Of all sizes up to *most* it is the one whose page goes furthest. At some offsets the pages of
    all small sizes end; but those of up to 20 rows do so only once in 232,792,560 rows.
    """
    if offset <= 0:
        return 0, most
    size = max(range(1, most + 1), key=lambda size: (offset // size + 1) * size)
    return offset // size, size


class _Refusal(msgspec.Struct):
    """The body of a refusal."""

    error: str = ""
    code: str = ""
    required_tier: str = ""


def _refusal(reply: Reply) -> _Refusal:
    """Return the vendor's explanation of a failure; what is missing is empty."""
    body = reply.object() or {}
    fields = {key: body.get(key) for key in _Refusal.__struct_fields__}
    return _Refusal(**{key: value for key, value in fields.items() if isinstance(value, str)})


def _date_of(reply: Reply) -> datetime:
    """Return the vendor's time. Raises Retryable for a reply without one."""
    at = date(reply.headers)
    if at is None:
        raise Retryable(
            f"the reply to {reply.where} has no Date: the span of time that it shows is unknown",
            reason="bad_reply",
            sent=True,
        )
    return at
