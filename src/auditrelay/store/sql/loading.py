"""Load what is known of a source before the first page of it, where there may be millions."""

import asyncio

from auditrelay.errors import StateError
from auditrelay.store.sql.engine import Engine
from auditrelay.store.sql.sources import source_id
from auditrelay.store.sql.uids import Uids


class Loading:
    """
    Loads *uids* from the state of a shared *engine*, once for each source.

    That may take longer than a transaction may, and no other replica can write during one that
    writes. So it is done in a snapshot; nothing of the source is stored meanwhile, since that waits
    for it. Alone, a store loads them with the first page.
    """

    def __init__(self, engine: Engine, uids: Uids) -> None:
        self._engine = engine
        self._uids = uids
        self._loads: dict[str, asyncio.Task[None]] = {}
        self._loaded: set[str] = set()

    async def ensure(self, source: str) -> None:
        """Return once what is known of *source* is loaded, if that is not done with a page."""
        if not self._engine.shared or source in self._loaded:
            return
        if (load := self._loads.get(source)) is None:
            load = self._loads[source] = asyncio.create_task(self._do(source))
        # Its thread goes on if the caller is cancelled: a second one beside it would be overtaken,
        # and what was stored after the second would be replaced by what the first has seen.
        await asyncio.shield(load)

    async def _do(self, source: str) -> None:
        try:
            await asyncio.to_thread(self._load, source)
            self._loaded.add(source)
        finally:
            del self._loads[source]

    def forget(self, source: str) -> None:
        """Load *source* again, if it comes again: it is removed."""
        self._loaded.discard(source)

    def _load(self, source: str) -> None:
        try:
            self._load_once(source)
        except StateError:  # the connection may be lost; another one is made, as for any read
            self._load_once(source)

    def _load_once(self, source: str) -> None:
        with self._engine.snapshot() as db:
            self._uids.load(db, source_id(db, source))
