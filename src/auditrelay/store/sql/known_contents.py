"""The contents that known records were shown with: read, and entered with their events."""

from collections.abc import Collection, Mapping, Sequence

from auditrelay.clock import Clock
from auditrelay.events import AuditEvent
from auditrelay.store import Changed, Contents
from auditrelay.store.keys import keys_of
from auditrelay.store.places import place, position_of
from auditrelay.store.sql import intake, known
from auditrelay.store.sql.engine import Reader
from auditrelay.store.sql.page_reader import PageReader
from auditrelay.store.sql.sources import source_id
from auditrelay.store.sql.spool import LOG, Spool
from auditrelay.store.sql.spooling import Spooling
from auditrelay.store.sql.uids import Uids
from auditrelay.window import micros


class KnownContents:
    """What a store knows of the contents of records; see ``collect.ledger.KnownContents``."""

    def __init__(
        self,
        reader: Reader,
        pages: PageReader,
        spooling: Spooling,
        log: Spool,
        uids: Uids,
        *,
        clock: Clock,
    ) -> None:
        self._read = reader.read
        self._pages = pages
        self._spooling = spooling
        self._spool = log
        self._uids = uids
        self._clock = clock

    async def contents_of(
        self, source: str, uids: Sequence[str], at: Sequence[int]
    ) -> list[Contents | None]:
        """Look the contents of *uids* up among the known."""
        keys = keys_of(uids, at)
        return await self._read(
            lambda db: known.contents_of(db, self._uids, source_id(db, source), keys)
        )

    async def spooled(self, places: Collection[int]) -> Mapping[int, AuditEvent]:
        """Read the events at *places* from the spool."""
        found = await self._pages.at([position_of(each) for each in places])
        return {place(LOG, position): event for position, event in found.items()}

    async def report_changed(self, source: str, changes: Sequence[Changed]) -> list[Changed]:
        """Enter what is new of *changes*, and spool their events."""
        now = micros(self._clock.confirmed.certain())
        return await self._spooling.append(
            lambda db: intake.report_changed(db, self._spool, self._uids, source, changes, now=now)
        )
