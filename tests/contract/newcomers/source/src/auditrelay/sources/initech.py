"""Initech's audit log, a vendor that does not exist: pages behind cursors, oldest first."""

from collections.abc import AsyncGenerator
from functools import partial
from typing import Literal

import msgspec
from pydantic import Field

from auditrelay.clock import Clock
from auditrelay.errors import Retryable, WalkBroken
from auditrelay.http.fields import Link, Records, texts
from auditrelay.http.paging import CursorPages
from auditrelay.http.peer import Peer
from auditrelay.http.replies import Reply, check, decode
from auditrelay.settings import SourceSettings
from auditrelay.settings.addresses import Address
from auditrelay.settings.secrets import Secret
from auditrelay.sources import Page, in_milliseconds, widened
from auditrelay.telemetry.metrics import Metrics
from auditrelay.window import Interval


class Settings(SourceSettings):
    """One organisation at Initech."""

    type: Literal["initech"]
    base_url: Address = "https://api.initech.example"
    page_size: int = Field(50, ge=1, le=50)
    api_key: Secret


EXAMPLE = """\
[sources.initech-things]
type = "initech"

# A key of an auditor.
api_key = "${env:INITECH_API_KEY}"
# base_url = "https://api.initech.example"
# page_size = 50
"""
"""Its table in config.example.toml: every key, those with a default commented out."""


class _Answer(msgspec.Struct):
    rows: Records
    after: Link | None = None


class Source:
    """The audit log of the key's organisation."""

    def __init__(self, settings: Settings, peer: Peer) -> None:
        self._settings = settings
        self._peer = peer

    @property
    def scope(self) -> str:
        """Empty: keys are unique everywhere."""
        return ""

    async def walk(
        self, window: Interval, *, background: bool = False, finely: bool = False
    ) -> AsyncGenerator[Page]:
        """Yield every page of *window*."""
        span = widened(window)
        params = {
            "from": in_milliseconds(span.start),
            "to": in_milliseconds(span.end),
        }
        paging = CursorPages(self._settings.page_size, finely=finely)
        known: set[str] = set()
        while True:
            try:
                answer = await self._peer.get(
                    "/log",
                    {**params, "size": str(paging.size)},
                    partial(_read, promised=bool(known)),
                    background=background,
                    finely=finely,
                )
            except (Retryable, WalkBroken) as error:
                paging.failed(error)
                continue
            paging.read()
            yield Page(texts(answer.rows), last=not answer.after)
            if not answer.after:
                return
            if answer.after in known:
                raise WalkBroken("Initech returned a cursor twice", reason="cursor_repeats")
            known.add(answer.after)
            params["after"] = answer.after

    async def close(self) -> None:
        """Release connections."""
        await self._peer.aclose()


def _read(reply: Reply, *, promised: bool) -> _Answer:
    if reply.status != 200:
        check(reply, message=reply.headers.get("x-initech-says", ""))
    return decode(reply, _Answer, promised=promised)


def build(name: str, settings: Settings, metrics: Metrics, clock: Clock) -> Source:
    """Return the source that the configuration calls *name*."""
    peer = Peer.of_source(
        name,
        settings,
        metrics,
        clock,
        headers=lambda: {"x-initech": settings.api_key.reveal()},
        secret=settings.api_key,
    )
    return Source(settings, peer)
