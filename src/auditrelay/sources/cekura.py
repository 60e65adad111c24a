"""
Cekura's audit logs: numbered pages, at most 30 days in one request.

https://docs.cekura.ai/api-reference/user/list-audit-logs and the vendor's OpenAPI file
(https://github.com/cekura-ai/docs, ``openapi.json``). The shapes of pages and errors are those of
Django REST framework, https://www.django-rest-framework.org/api-guide/pagination/.

The documentation does not give the order of records or the largest page, nor whether a window's
bounds are included; nothing here depends on it.
"""

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from datetime import timedelta
from typing import Annotated, Literal

import msgspec
from pydantic import BeforeValidator, Field

from auditrelay.clock import Clock
from auditrelay.errors import Retryable, WalkBroken
from auditrelay.http.fields import Count, Link, Records, texts
from auditrelay.http.paging import NumberedPages
from auditrelay.http.peer import Peer
from auditrelay.http.replies import Reply, check, decode
from auditrelay.settings import SourceSettings
from auditrelay.settings.addresses import Address
from auditrelay.settings.secrets import Secret
from auditrelay.settings.values import Duration
from auditrelay.sources import UNREADABLE, Page, in_milliseconds, widened
from auditrelay.telemetry.metrics import Metrics
from auditrelay.window import MAX_WINDOW, Interval

PATH = "/user/v1/audit-logs/"
"""With its slash at the end: Django redirects the address without it."""


def _number_as_text(value: object) -> object:
    """Accept an id without quotes."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Id = Annotated[str, BeforeValidator(_number_as_text), Field(pattern=r"^[A-Za-z0-9_-]+$")]


class Settings(SourceSettings):
    """One organisation at Cekura."""

    IDENTITIES = frozenset(("actor.id", "actor.name", "actor.email", "target.id"))
    type: Literal["cekura"]
    base_url: Address = "https://api.cekura.ai"
    retention: Duration | None = Field(timedelta(days=365), gt=timedelta(0))
    """The vendor's default; older records are missing without notice."""
    page_size: int = Field(200, ge=1, le=1000)
    """Undocumented for this list; the maximum of the vendor's other lists is 200. If the server
    returns smaller pages, the walk is still complete."""
    organization_id: Id
    """The ``id`` in ``GET /user/organizations/``."""
    api_key: Secret
    """An organisation-level key."""
    project_id: Id | None = None
    """Only this project's records."""


EXAMPLE = """\
[sources.acme-voice]
type = "cekura"

# The "id" that GET /user/organizations/ shows.
organization_id = "42"
# An API key of the organisation.
api_key = "${env:CEKURA_API_KEY}"
# Only the records of this project.
# project_id = "7"  # no default
# base_url = "https://api.cekura.ai"
# The vendor keeps its records for a year.
# retention = "365d"
# page_size = 200
"""
"""Its table in config.example.toml: every key, those with a default commented out."""


class _Answer(msgspec.Struct):
    """One page. Records keep their text byte for byte."""

    results: Records
    count: Count | None = None
    next: Link | msgspec.UnsetType | None = msgspec.UNSET


class Source:
    """The audit logs of one organisation."""

    def __init__(self, settings: Settings, peer: Peer) -> None:
        self._settings = settings
        self._peer = peer

    @property
    def scope(self) -> str:
        """The organisation's id, which records may lack."""
        return self._settings.organization_id

    async def walk(
        self, window: Interval, *, background: bool = False, finely: bool = False
    ) -> AsyncGenerator[Page]:
        """Yield every page of *window*, see :class:`auditrelay.sources.Source`."""
        spans = _spans(window)
        for span in spans:
            async with aclosing(
                self._pages(span, window, background=background, finely=finely)
            ) as pages:
                async for page in pages:
                    if len(spans) == 1:
                        yield page
                    else:  # the vendor's total is of one span; only the last one ends the walk
                        yield replace(page, last=page.last and span is spans[-1], total=None)

    async def close(self) -> None:
        """Release connections."""
        await self._peer.aclose()

    async def _pages(
        self, span: Interval, window: Interval, *, background: bool, finely: bool
    ) -> AsyncGenerator[Page]:
        params = {
            "organization_id": self._settings.organization_id,
            # Always both: without them the vendor shows only the last week.
            "start_time": in_milliseconds(span.start),
            "end_time": in_milliseconds(span.end),
        }
        if self._settings.project_id is not None:
            params["project_id"] = self._settings.project_id
        paging = NumberedPages(self._settings.page_size, finely=finely)
        shown = largest_count = 0
        last = False
        while not last:
            number = paging.number
            # Never the address in ``next``: it may name another host, which must not get the key.
            place = {"page": str(number), "page_size": str(paging.size)}
            try:
                answer = await self._peer.get(
                    PATH,
                    {**params, **place},
                    _read_first if number == 1 else _read,
                    background=background,
                    finely=finely,
                )
            except (Retryable, WalkBroken) as error:
                paging.failed(error)
                continue
            gaps = ((window, UNREADABLE),) if paging.passed_over else ()
            if answer is None:  # rows were deleted, and with them the announced page
                yield Page([], last=True, shrunk=True, gaps=gaps)
                return
            records, count = texts(answer.results), answer.count
            if answer.next is not msgspec.UNSET:
                last = not answer.next
            elif count is not None:
                last = shown + len(records) + paging.passed_over >= count
            else:
                last = not records
            if not records and (not last or (answer.results is None and count)):
                raise WalkBroken(
                    f"Cekura announces more pages, but page {number} of {span.start} .. "
                    f"{span.end} is empty",
                    reason="no_progress",
                )
            if not last and paging.is_capped(len(records)):
                continue
            paging.read()
            shown += len(records)
            largest_count = max(largest_count, count or 0)
            yield Page(
                records,
                last=last,
                total=count,
                shrunk=count is not None and count < largest_count,
                gaps=gaps if last else (),
            )


def _spans(window: Interval) -> list[Interval]:
    """
    Return the spans to request, which contain *window* whether bounds are included or not.

    It is one span, except for a window of 30 days, which becomes too long when widened.
    """
    whole = widened(window)
    if whole.length <= MAX_WINDOW:
        return [whole]
    middle = window.start + window.length / 2
    return [
        widened(Interval(window.start, middle)),
        widened(Interval(middle, window.end)),
    ]


# --- replies -----------------------------------------------------------------

_NEEDED_KEY = (
    "the key must be an organisation-level key, made by an admin of the organisation that "
    "organization_id names; a project's key may not read audit logs"
)

_THROTTLED = re.compile(r"available in (\d{1,6}) second")


def _read(reply: Reply) -> _Answer | None:
    """Return the page in *reply*, None if the walk has gone past the last page."""
    if reply.status == 404 and _message(reply) == "Invalid page.":
        return None
    return _read_first(reply, promised=True)


def _read_first(reply: Reply, *, promised: bool = False) -> _Answer:
    """Return the page in *reply*. Raises the error for any other reply."""
    if reply.status != 200:
        message = _message(reply)
        throttled = _THROTTLED.search(message)
        check(
            reply,
            message=message,
            hint=_NEEDED_KEY if reply.status == 403 else "",
            wait=float(throttled[1]) if throttled else None,
        )
    return decode(reply, _Answer, promised=promised)


def _message(reply: Reply) -> str:
    """Return the vendor's message: ``{"detail": "..."}`` or ``{"field": ["...", ...]}``."""
    parts = []
    for field, value in (reply.object() or {}).items():
        texts = value if isinstance(value, list) else [value]
        text = " ".join(text for text in texts if isinstance(text, str))
        if text:
            parts.append(text if field in ("detail", "non_field_errors") else f"{field}: {text}")
    return " ".join(parts)


def build(name: str, settings: Settings, metrics: Metrics, clock: Clock) -> Source:
    """Return the source that the configuration calls *name*."""
    peer = Peer.of_source(
        name,
        settings,
        metrics,
        clock,
        headers=lambda: {"x-cekura-api-key": settings.api_key.reveal()},
        secret=settings.api_key,
    )
    return Source(settings, peer)
