"""
S-Launch's audit logs: newest first behind opaque cursors, without a filter by time.

https://docs.s-launch.com/api/logging/audit and, for paging, keys and scopes, ``/api/conventions``,
``/api/authentication`` and ``/api/scopes`` there. The documentation shows neither a record nor
the body of an error; errors are read as FastAPI writes them (https://fastapi.tiangolo.com/tutorial/
handling-errors/), and the field of a record's time is a setting.

Without a time filter every walk begins at the newest record and ends with the first page that
contains one older than its window. Records outside the window are skipped, so that a part of a
window yields less than the whole.

**The first start over a long history** is one window, the whole lookback, and one walk. Its pages
are committed as they come, and only one is in memory. If it seems to be more than 100,000 events,
the window is read in parts, the newest first. To reach one without turning all pages from the
top again, the source remembers the cursors of the pages that it has seen and starts at the deepest
one before the part; the first record there must be newer than the part, or the walk starts at the
top after all. Newest first also means that a walk that breaks off proves nothing: it is repeated,
and what it had committed is deduplicated.

**Order.** Newest first is documented. If an item is nevertheless newer than the one before it, a
single old item no longer ends that walk: the walk ends with a page of only older ones, and the
resweep (``resweep``) finds what such a list hides.
"""

import re
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec
from pydantic import Field, field_validator, model_validator

from auditrelay.clock import Clock
from auditrelay.confirmed_time import LATEST
from auditrelay.errors import Retryable, WalkBroken, may_be_due_to_size
from auditrelay.events.decode import Undecodable
from auditrelay.events.decode import decode as decode_record
from auditrelay.events.identity import Place, first_found
from auditrelay.events.timestamps import are_plausible
from auditrelay.events.timestamps import read as read_time
from auditrelay.http.fields import Flag, Link, Records, texts
from auditrelay.http.paging import CursorPages
from auditrelay.http.peer import Peer
from auditrelay.http.replies import Reply, check, decode, misshapen
from auditrelay.settings import SourceSettings
from auditrelay.settings.addresses import Address
from auditrelay.settings.secrets import Secret
from auditrelay.settings.values import Labels, TextList
from auditrelay.sources import UNREADABLE, Page
from auditrelay.sources._newest_first import MAX_PLACES, Places, Progress
from auditrelay.telemetry.metrics import Metrics
from auditrelay.telemetry.scrubber import scrub
from auditrelay.window import Interval, micros, moment

PATH = "/api/logging/audit/"
"""With its slash at the end: FastAPI redirects the address without it."""

DOMAIN = ".s-launch.com"

_LATEST = micros(LATEST)
_RESERVED = ("cursor", "limit", "sort_by", "sort_order", "include_total")
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
    id_path: TextList = Field(["id", "_id"], min_length=1)
    """Where a record has its id: the first of these fields that has a value."""
    time_path: TextList = Field(["timestamp", "created"], min_length=1)
    """Where a record has its time: the first of these fields that has a value."""
    params: Labels = Field({})
    """Additional parameters of every request."""

    @property
    def filters_time(self) -> bool:
        """Every walk starts at the newest record."""
        return False

    @property
    def record_paths(self) -> Mapping[str, list[str]]:
        """Where records have their id and their time."""
        return {"id_path": self.id_path, "time_path": self.time_path}

    @field_validator("tenant")
    @classmethod
    def _is_a_label(cls, tenant: str | None) -> str | None:
        if tenant is not None and _TENANT.fullmatch(tenant) is None:
            raise ValueError(
                f"{tenant!r} is not a tenant: write only the first part of its host, such as "
                f'"acme" for acme{DOMAIN}'
            )
        return tenant

    @field_validator("id_path", "time_path")
    @classmethod
    def _are_paths(cls, paths: list[str]) -> list[str]:
        for path in paths:
            if not all(path.split(".")):
                raise ValueError(f'{path!r} is not a path: write keys separated by dots, "meta.id"')
        return paths

    @field_validator("params")
    @classmethod
    def _are_not_reserved(cls, params: dict[str, str]) -> dict[str, str]:
        for name in params:
            if name in _RESERVED:
                raise ValueError(f"{name} is set by auditrelay, and must not be given here")
        return params

    @model_validator(mode="before")
    @classmethod
    def _one_address(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        tenant, base_url = given.get("tenant"), given.get("base_url")
        if (tenant is None) == (base_url is None):
            raise ValueError("give either tenant or base_url, not both")
        # An invalid tenant is reported as such, not as an address that is not in the configuration.
        if isinstance(tenant, str) and _TENANT.fullmatch(tenant):
            return {**given, "base_url": f"https://{tenant.lower()}{DOMAIN}"}
        return given


EXAMPLE = """\
[sources.acme-shop]
type = "slaunch"

# The first part of your host: "acme" for acme.s-launch.com.
tenant = "acme"
# Instead of tenant: the whole address, such as that of a gateway.
# base_url = "https://acme.s-launch.com"  # no default
# An API key with the scope audit:read, and no other.
api_key = "${env:SLAUNCH_API_KEY}"
# S-Launch does not document the form of a record. Where its id and its time are: keys, or keys with
# dots between ("meta.id"); the first that has a value is taken.
# id_path = ["id", "_id"]
# time_path = ["timestamp", "created"]
# Further parameters of every request, such as a filter. Only what they let through is read.
# params = {}
# page_size = 250
"""
"""Its table in config.example.toml: every key, those with a default commented out."""


class _Answer(msgspec.Struct):
    """One page. Records keep their text byte for byte."""

    items: Records
    next_page: Flag | None = None
    next_cursor: Link | None = None

    @property
    def more(self) -> bool:
        """Whether another page is announced: by the flag, or by a cursor without one."""
        return bool(self.next_cursor if self.next_page is None else self.next_page)


class Source:
    """The audit logs of one tenant."""

    def __init__(self, settings: Settings, peer: Peer) -> None:
        self._settings = settings
        self._peer = peer
        self._time = [Place.of(path) for path in settings.time_path]
        self._cursors: Places[str] = Places()

    @property
    def scope(self) -> str:
        """The tenant, from either setting; records are not known to name it."""
        parts = urlsplit(self._settings.base_url)
        return f"{(parts.hostname or '').removesuffix(DOMAIN)}{parts.path}"

    async def walk(
        self, window: Interval, *, background: bool = False, finely: bool = False
    ) -> AsyncGenerator[Page]:
        """Yield every page of *window*, see :class:`auditrelay.sources.Source`."""
        start, end = micros(window.start), micros(window.end)
        shown: set[int] = set()  # hashes of the records: a restarted walk reads them again
        restarted = False
        cursor = self._cursors.deepest(end)
        progress = self._progress()
        sent: set[str] = set()
        remembered = cursor is not None
        paging = CursorPages(self._settings.page_size, finely=finely)
        while True:
            try:
                answer = await self._page(
                    cursor, paging, background=background, restarted=restarted
                )
            except (Retryable, WalkBroken) as error:
                if not finely:
                    raise
                # Only the cursor of the record that cannot be read would lead further down.
                behind = progress.not_shown(window, error)
                async for page in self._oldest_first(behind, background=background):
                    yield page
                return
            items = [] if answer is None else texts(answer.items)
            times = [self._at(item) for item in items]
            first = next((at for at in times if at is not None), None)
            if answer is None or (remembered and (first is None or first < end)):
                # It is not proved that everything before this page is newer than the window: start
                # from the top.
                restarted = answer is None
                cursor, remembered = None, False
                progress = self._progress()
                sent.clear()
                continue
            remembered = False
            progress.add(times)
            if not progress.ordered:
                self._cursors.clear()
            elif cursor is not None and first is not None:
                self._cursors.remember(cursor, first)
            inside = [
                item
                for item, at in zip(items, times, strict=True)
                if (at is None or start <= at < end) and hash(item) not in shown
            ]
            shown.update(map(hash, inside))
            last = not answer.more or progress.has_passed(start, times)
            if inside or last:
                yield Page(inside, last=last, cursor=None if last else answer.next_cursor)
            if last:
                return
            progress.check(found=bool(inside))
            cursor = _next(answer.next_cursor, sent)
            sent.add(cursor)

    async def close(self) -> None:
        """Release connections."""
        await self._peer.aclose()

    async def _oldest_first(
        self, behind: Interval, *, background: bool
    ) -> AsyncGenerator[Page, None]:
        """Yield what can be read of *behind* from the other end; what cannot, is a gap."""
        start, end = micros(behind.start), micros(behind.end)
        paging = CursorPages(self._settings.page_size, finely=True)
        cursors: set[str] = set()
        cursor, reached = None, start
        while reached < end and len(cursors) < MAX_PLACES:
            try:
                answer = await self._page(
                    cursor, paging, background=background, restarted=True, order="asc"
                )
            except (Retryable, WalkBroken) as error:
                if not may_be_due_to_size(error):
                    raise
                break
            cursor = None if answer is None or not answer.more else answer.next_cursor
            items = [] if answer is None else texts(answer.items)
            times = [self._at(item) for item in items]
            inside = [
                item
                for item, at in zip(items, times, strict=True)
                if at is None or start <= at < end
            ]
            known = [at for at in times if at is not None]
            if known != sorted(known):
                break
            reached = max([reached, *known])
            if inside:
                yield Page(inside, last=False, cursor=cursor)
            if not cursor or cursor in cursors:
                break
            cursors.add(cursor)
        gap = Interval(moment(min(reached, end - 1)), behind.end)
        yield Page([], last=True, gaps=((gap, UNREADABLE),))

    async def _page(
        self,
        cursor: str | None,
        paging: CursorPages,
        *,
        background: bool,
        restarted: bool,
        order: Literal["asc", "desc"] = "desc",
    ) -> _Answer | None:
        """
        Return the page behind *cursor*, or None if the vendor does not accept it any more.

        Where the walk was *restarted* for that, it is the page that is refused.
        """
        if cursor is None and order == "desc":
            self._cursors.clear()
        while True:
            try:
                return await self._request(
                    cursor, paging, order, background=background, restarted=restarted
                )
            except (Retryable, WalkBroken) as error:
                paging.failed(error)

    async def _request(
        self,
        cursor: str | None,
        paging: CursorPages,
        order: str,
        *,
        background: bool,
        restarted: bool,
    ) -> _Answer | None:
        params = {
            **self._settings.params,
            "limit": str(paging.size),
            "sort_by": "timestamp",
            "sort_order": order,
            "include_total": "false",  # it costs the vendor a count, and is not needed
        }
        if cursor is not None:
            params["cursor"] = cursor
        read = _read_again if restarted else _read
        answer = await self._peer.get(
            PATH,
            params,
            _read_first if cursor is None else read,
            background=background,
            finely=paging.finely,
        )
        paging.read()
        return answer

    def _at(self, record: bytes) -> int | None:
        """Return the time of *record* in microseconds, None if none that can be right is there."""
        try:
            value = decode_record(record).value
        except Undecodable:
            return None
        if type(value) is not dict:
            return None
        parsed = read_time(first_found(self._time, value)[0])
        if parsed is None or not are_plausible(parsed[:1], _LATEST):
            return None  # a walk must not end for a record that claims to be of 1970
        return parsed[0]

    def _progress(self) -> Progress:
        cure = (
            f"under {' or '.join(self._settings.time_path)}: set time_path to where they have it "
            "(the command sample shows records)"
        )
        return Progress("S-Launch", cure)


def _next(cursor: str | None, sent: set[str]) -> str:
    """Return *cursor*. Raises WalkBroken if it is empty, or was *sent* before."""
    if not cursor:
        raise WalkBroken(
            "S-Launch announces a next page without a cursor for it",
            reason="cursor_missing",
        )
    if cursor in sent:
        raise WalkBroken("S-Launch returned the same cursor a second time", reason="cursor_repeats")
    return cursor


# --- replies -----------------------------------------------------------------

_HINTS = {
    401: "check the key, and whether it has expired",
    403: "the key lacks the scope audit:read (or admin): give it that scope; no other is needed",
    404: "check tenant or base_url",
}


def _read(reply: Reply) -> _Answer | None:
    """Return the page in *reply*, or None if its cursor is not accepted."""
    if reply.status in (400, 422):
        return None
    answer = _read_first(reply, promised=True)
    if answer.next_page is None and not answer.items:
        raise misshapen(reply, "neither records nor next_page on a page that was announced")
    return answer


def _read_again(reply: Reply) -> _Answer:
    """Return the page in *reply*. Raises WalkBroken if its cursor is refused once more."""
    answer = _read(reply)
    if answer is None:
        raise WalkBroken(
            f"{reply.status} from {reply.where} for the cursor of its last page, twice: "
            f"{_message(reply) or 'no reason given'}",
            reason="cursor_expired",
            refused=True,
        )
    return answer


def _read_first(reply: Reply, *, promised: bool = False) -> _Answer:
    """Return the page in *reply*. Raises the error for any other reply."""
    if reply.status != 200:
        check(reply, message=_message(reply), hint=_HINTS.get(reply.status, ""))
    return decode(reply, _Answer, promised=promised)


def _message(reply: Reply) -> str:
    """Return the vendor's message for a failure: a text, or the problem with a parameter."""
    detail = (reply.object() or {}).get("detail")
    if isinstance(detail, list) and detail and isinstance(detail[0], dict):
        location, text = detail[0].get("loc"), detail[0].get("msg")
        if not isinstance(text, str):
            return ""
        place = ".".join(map(str, location)) if isinstance(location, list) else ""
        return scrub(f"{place}: {text}" if place else text, 200)
    return scrub(detail, 200) if isinstance(detail, str) else ""


def build(name: str, settings: Settings, metrics: Metrics, clock: Clock) -> Source:
    """Return the source that the configuration calls *name*."""
    peer = Peer.of_source(
        name,
        settings,
        metrics,
        clock,
        headers=lambda: {"X-API-Key": settings.api_key.reveal()},
        secret=settings.api_key,
    )
    return Source(settings, peer)
