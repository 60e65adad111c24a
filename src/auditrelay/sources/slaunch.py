"""
S-Launch's audit logs: newest first behind opaque cursors, and no way to ask for a span of time.

https://docs.s-launch.com/api/logging/audit and, for paging, keys and scopes, ``/api/conventions``,
``/api/authentication`` and ``/api/scopes`` there. The documentation shows neither a record nor
the body of an error; both are read as FastAPI writes them (https://fastapi.tiangolo.com/tutorial/
handling-errors/), and where a record has its time is a setting.

Without a time filter every walk begins at the newest record and ends with the first page that
holds one older than its window. What lies outside of the window is passed over, so that a part of
a window is smaller than the whole.

**The first start over a long history** is one window, the whole lookback. Its pages are committed
as they come, and no more than one is in memory. A window of more than 50,000 events is cut in
halves, the older one first. To reach it without turning all pages from the top again, the source
remembers the cursors of the pages that it has seen and starts at the deepest one before the
window; the first record there must be newer than the window, or the walk starts at the top after
all. So a history of any length is read about four times over, cutting included. Newest first also
means that a walk that dies has proved nothing: it is walked again, and what was committed is known
by then.

**Order.** Newest first is documented. Should an item be newer than the one before it all the
same, a single old item no longer ends that walk: it takes a page with nothing but older ones, and
the second looks (``resweep``) are there for what such a list hides.
"""

import re
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec
from pydantic import Field, field_validator, model_validator

from auditrelay.errors import Refused, WalkBroken
from auditrelay.events.decode import Undecodable
from auditrelay.events.decode import decode as decode_record
from auditrelay.events.timestamps import parse
from auditrelay.events.vendors import path_finder
from auditrelay.http.peer import Peer
from auditrelay.http.replies import Reply, check, decode
from auditrelay.settings import SourceSettings
from auditrelay.settings.addresses import Address
from auditrelay.settings.secrets import Secret
from auditrelay.settings.values import Labels, Words
from auditrelay.sources import Page
from auditrelay.telemetry.metrics import Metrics
from auditrelay.telemetry.scrubber import scrub
from auditrelay.window import Interval, micros

PATH = "/api/logging/audit/"
"""With its slash at the end: FastAPI redirects the address without it."""

DOMAIN = ".s-launch.com"

MOST_IDLE = 50
"""Pages in a row that neither show anything of the window nor lead further back in time."""

MOST_UNTIMED = 250
"""Records in a row without a readable time: more than a few odd ones, less than a history."""

MOST_MARKS = 2000
"""Cursors that are remembered; beyond it, every second one is forgotten."""

_OURS = ("cursor", "limit", "sort_by", "sort_order", "include_total")
_TENANT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?", re.ASCII)


class Settings(SourceSettings):
    """One tenant at S-Launch, named by *tenant* or by the whole address."""

    type: Literal["slaunch"]
    base_url: Address = None  # type: ignore[assignment]  # _one_address always fills it in
    page_size: int = Field(250, ge=1, le=250)
    """The documented maximum."""
    tenant: str | None = None
    """The first part of the tenant's host."""
    api_key: Secret
    """A key with the scope ``audit:read``."""
    id_path: Words = Field(["id", "_id"], min_length=1)
    """Where a record has its id; the first of them that holds something."""
    time_path: Words = Field(["timestamp", "created"], min_length=1)
    """Where a record has its time; the first of them that holds something."""
    params: Labels = Field({})
    """Further parameters of every request."""

    @property
    def record_paths(self) -> Mapping[str, list[str]]:
        """Where records have their id and their time."""
        return {"id_path": self.id_path, "time_path": self.time_path}

    @field_validator("tenant")
    @classmethod
    def _is_a_label(cls, tenant: str | None) -> str | None:
        if tenant is not None and _TENANT.fullmatch(tenant) is None:
            raise ValueError(
                f"{tenant!r} is not a tenant: write the first part of its host alone, such as "
                f'"acme" for acme{DOMAIN}'
            )
        return tenant

    @field_validator("id_path", "time_path")
    @classmethod
    def _are_paths(cls, paths: list[str]) -> list[str]:
        for path in paths:
            if not all(path.split(".")):
                raise ValueError(f'{path!r} is not a path: write keys with dots between, "meta.id"')
        return paths

    @field_validator("params")
    @classmethod
    def _are_not_ours(cls, params: dict[str, str]) -> dict[str, str]:
        for name in params:
            if name in _OURS:
                raise ValueError(f"{name} is set by the walk itself, and must not be among them")
        return params

    @model_validator(mode="before")
    @classmethod
    def _one_address(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        tenant, base_url = given.get("tenant"), given.get("base_url")
        if (tenant is None) == (base_url is None):
            raise ValueError("give either tenant or base_url, and not both")
        # A tenant that is none is reported as such, not as an address that nobody has written.
        if isinstance(tenant, str) and _TENANT.fullmatch(tenant):
            return {**given, "base_url": f"https://{tenant.lower()}{DOMAIN}"}
        return given


class _Answer(msgspec.Struct):
    """One page. Records keep their text byte for byte."""

    items: list[msgspec.Raw]
    next_page: bool
    next_cursor: str | None = None


class Source:
    """The audit logs of one tenant."""

    def __init__(self, settings: Settings, peer: Peer) -> None:
        self._settings = settings
        self._peer = peer
        self._time = path_finder(settings.time_path)
        # The cursors of the pages since the last walk from the top, and the time of the first
        # record of each of those pages.
        self._marks: dict[str, int] = {}

    @property
    def scope(self) -> str:
        """The tenant, however it was named; records are not known to tell it."""
        parts = urlsplit(self._settings.base_url)
        return f"{(parts.hostname or '').removesuffix(DOMAIN)}{parts.path}"

    async def walk(self, window: Interval) -> AsyncGenerator[Page]:
        """Yield every page of *window*, see :class:`auditrelay.sources.Source`."""
        start, end = micros(window.start), micros(window.end)
        shown: set[int] = set()  # hashes of the records: a restarted walk comes by them again
        restarted = False
        cursor = self._nearest(end)
        stretch = _Stretch(self._settings.time_path)
        marked = cursor is not None
        while True:
            if cursor is None:
                self._marks = {}
            answer = await self._page(cursor)
            if answer is None and restarted:
                raise WalkBroken(
                    f"S-Launch does not take back its own cursor, twice in the walk of "
                    f"{window.start} .. {window.end}",
                    reason="cursor_expired",
                )
            items = [] if answer is None else [bytes(item) for item in answer.items]
            times = [self._at(item) for item in items]
            first = next((at for at in times if at is not None), None)
            if answer is None or (marked and (first is None or first < end)):
                # What lies before this place in the list is not proved to be newer than the
                # window: from the top.
                restarted = answer is None
                cursor, marked, stretch = None, False, _Stretch(self._settings.time_path)
                continue
            marked = False
            stretch.admit(times)
            if not stretch.ordered:
                self._marks = {}
            elif cursor is not None and first is not None:
                self._remember(cursor, first)
            inside = [
                item
                for item, at in zip(items, times, strict=True)
                if (at is None or start <= at < end) and hash(item) not in shown
            ]
            shown.update(map(hash, inside))
            last = not answer.next_page or stretch.beyond(start, times)
            if inside or last:
                yield Page(inside, last=last)
            if last:
                return
            stretch.go_on(progress=bool(inside))
            cursor = stretch.turn(answer.next_cursor)

    async def close(self) -> None:
        """Release connections."""
        await self._peer.aclose()

    async def _page(self, cursor: str | None) -> _Answer | None:
        """Return the page behind *cursor*, or None if the vendor does not know it any more."""
        params = {
            **self._settings.params,
            "limit": str(self._settings.page_size),
            "sort_by": "timestamp",
            "sort_order": "desc",
            "include_total": "false",  # counting costs the vendor, and proves nothing here
        }
        if cursor is None:
            return await self._peer.get(PATH, params, _read_first)
        return await self._peer.get(PATH, {**params, "cursor": cursor}, _read)

    def _at(self, record: bytes) -> int | None:
        """Return the time of *record* in microseconds, None if it cannot be read."""
        try:
            value = decode_record(record).value
        except Undecodable:
            return None
        if type(value) is not dict:
            return None
        holder, key = self._time(value)
        told = holder.get(key)
        parsed = parse(told) if type(told) is str else None
        return None if parsed is None else parsed[0]

    def _nearest(self, end: int) -> str | None:
        """Return the cursor of the deepest page known to begin at or after *end*."""
        before = [(first, cursor) for cursor, first in self._marks.items() if first >= end]
        return min(before)[1] if before else None

    def _remember(self, cursor: str, first: int) -> None:
        if len(self._marks) >= MOST_MARKS:
            self._marks = dict(list(self._marks.items())[1::2])
        self._marks[cursor] = first


class _Stretch:
    """The pages of a walk from one starting place on, and whether they still make sense."""

    def __init__(self, time_path: list[str]) -> None:
        self.ordered = True
        """Whether no record so far was newer than the one before it."""
        self._time_path = time_path
        self._before: int | None = None
        self._oldest: int | None = None
        self._idle = self._untimed = 0
        self._cursors: set[str] = set()
        self._moved = False

    def admit(self, times: list[int | None]) -> None:
        """Take the times of a page's records into account."""
        self._moved = False
        for at in times:
            if at is None:
                self._untimed += 1
                continue
            self._untimed = 0
            self.ordered &= self._before is None or at <= self._before
            self._before = at
            if self._oldest is None or at < self._oldest:
                self._oldest, self._moved = at, True

    def beyond(self, start: int, times: list[int | None]) -> bool:
        """Tell whether a page of *times* shows that all further ones are older than *start*."""
        older = [at < start for at in times if at is not None]
        return any(older) if self.ordered else bool(older) and all(older)

    def go_on(self, *, progress: bool) -> None:
        """Raise if the pages lead nowhere: there was *progress*, or the last one was older."""
        if self._untimed >= MOST_UNTIMED:
            raise Refused(
                f"{self._untimed} records of S-Launch in a row have no readable time under "
                f"{' or '.join(self._time_path)}: set time_path to where they have it (the "
                "command sample shows records)"
            )
        self._idle = 0 if progress or self._moved else self._idle + 1
        if self._idle >= MOST_IDLE:
            raise WalkBroken(
                f"{MOST_IDLE} pages of S-Launch in a row show nothing of the window and lead no "
                "further back in time",
                reason="no_progress",
            )

    def turn(self, cursor: str | None) -> str:
        """Return *cursor*, which must lead to a page that was not shown yet."""
        if not cursor:
            raise WalkBroken(
                "S-Launch announces a next page and gives no cursor for it",
                reason="cursor_missing",
            )
        if cursor in self._cursors:
            raise WalkBroken(
                "S-Launch gives the same cursor a second time", reason="cursor_repeats"
            )
        self._cursors.add(cursor)
        return cursor


# --- what an answer means ----------------------------------------------------

_HINTS = {
    401: "check the key, and whether it has expired",
    403: "the key lacks the scope audit:read (or admin): give it that scope, and no other is used",
    404: "check tenant or base_url",
}


def _read(reply: Reply) -> _Answer | None:
    """Return the page that *reply* holds, or None if its cursor is not accepted."""
    return None if reply.status in (400, 422) else _read_first(reply)


def _read_first(reply: Reply) -> _Answer:
    """Return the page that *reply* holds. Raises what the caller should do."""
    if reply.status != 200:
        check(reply, words=_words(reply), hint=_HINTS.get(reply.status, ""))
    return decode(reply, _Answer)


def _words(reply: Reply) -> str:
    """Return the vendor's words for a failure: a text, or what is wrong with a parameter."""
    detail = (reply.object() or {}).get("detail")
    if isinstance(detail, list) and detail and isinstance(detail[0], dict):
        where, what = detail[0].get("loc"), detail[0].get("msg")
        if not isinstance(what, str):
            return ""
        place = ".".join(map(str, where)) if isinstance(where, list) else ""
        return scrub(f"{place}: {what}" if place else what, 200)
    return scrub(detail, 200) if isinstance(detail, str) else ""


def build(name: str, settings: Settings, metrics: Metrics) -> Source:
    """Return the source that the configuration calls *name*."""
    peer = Peer.of_source(
        name,
        settings,
        metrics,
        headers=lambda: {"X-API-Key": settings.api_key.reveal()},
        secret=settings.api_key,
    )
    return Source(settings, peer)
