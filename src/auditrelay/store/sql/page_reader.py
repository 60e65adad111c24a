"""Read what waits for a sink: from memory where it can, and no page that was changed."""

import asyncio
from collections.abc import Callable, Collection
from typing import TypeVar

import structlog

from auditrelay.events import AuditEvent
from auditrelay.events.page import Page
from auditrelay.store import SpoolPage
from auditrelay.store.parts import Part
from auditrelay.store.progress import Range
from auditrelay.store.sql import known, spool
from auditrelay.store.sql.connection import Connection
from auditrelay.store.sql.damage import void
from auditrelay.store.sql.engine import Reader
from auditrelay.store.sql.handover import Handover
from auditrelay.store.sql.marks import Marks
from auditrelay.store.sql.readers import FOREVER
from auditrelay.store.sql.recent import Recent
from auditrelay.store.sql.sources import source_id
from auditrelay.store.sql.spool import PageDamaged, Spool, events_at, read_pages
from auditrelay.store.sql.spooling import Spooling
from auditrelay.window import Interval

T = TypeVar("T")

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class PageReader:
    """
    Reads the pages of the spool; *now* says what time it certainly is (microseconds).

    With *marks* it compares what a sink was handed before. Of a sink it reads one *part*, if given.
    """

    def __init__(
        self,
        reader: Reader,
        handover: Handover | Recent,
        spooling: Spooling,
        pages: Spool,
        *,
        now: Callable[[], int],
        marks: Marks | None = None,
        part: Part | None = None,
    ) -> None:
        self._part = part
        self._read = reader.read
        self._handover = handover
        self._marks = marks
        self._recent = handover if isinstance(handover, Recent) else None
        self._spooling = spooling
        self._spool = pages
        self._now = now

    async def read(self, sink: str, start: int, most: int) -> tuple[list[SpoolPage], int, bool]:
        """
        Return the backlog of *sink* from *start* on, and how far that has read.

        Also whether nothing waits behind that.
        """
        found = self._handover.read(sink, start, most, spool.MAX_READ_BYTES)
        if found is None:
            return await self._from_disk(sink, (start, FOREVER), most)
        await asyncio.sleep(0)  # a sink that keeps up must not keep the loop from the others
        return found

    async def reread(self, sink: str, places: Range, most: int) -> list[SpoolPage]:
        """Return the backlog of *sink* at *places*."""
        return (await self._from_disk(sink, places, most))[0]

    async def at(self, positions: Collection[int]) -> dict[int, AuditEvent]:
        """Return by position the events at *positions* that are in the spool."""
        return await self._whole(lambda db: events_at(db, positions))

    async def in_span(self, source: str, span: Interval) -> list[Page] | None:
        """Return the known events of *span* by the page, or None if some are not there any more."""
        try:
            return await self._read(
                lambda db: known.spooled_events(db, source_id(db, source), span)
            )
        except PageDamaged as damaged:
            await self._take_out(damaged.first)
            return None

    async def _from_disk(
        self, sink: str, places: Range, most: int
    ) -> tuple[list[SpoolPage], int, bool]:
        def read(db: Connection) -> tuple[list[SpoolPage], int, bool]:
            look = None if self._marks is None else self._marks.last(db, sink)
            start, end = places
            found = read_pages(
                db,
                sink,
                start,
                most,
                end,
                recent=self._recent,
                marks=self._marks,
                part=self._part,
            )
            if look is not None:
                look.check()
            return found

        return await self._whole(read)

    async def _whole(self, read: Callable[[Connection], T]) -> T:
        """Return what *read* finds, once each page that was changed is taken out."""
        while True:
            try:
                return await self._read(read)
            except PageDamaged as damaged:
                await self._take_out(damaged.first)

    async def _take_out(self, first: int) -> None:
        now = self._now()
        await self._spooling.rearrange(lambda db: void(db, self._spool, first, now))
        _log.error("page_damaged", place=first)
