"""Look up and add what a source has read, with what is kept in memory from one to the other."""

from collections.abc import Callable, Sequence
from functools import partial

from auditrelay.events.page import Page
from auditrelay.store import Added, DeadLetter, LookedUp, Notice, Proof
from auditrelay.store.keys import keys_of, known_keys, uid_bytes
from auditrelay.store.sql import intake, known, states
from auditrelay.store.sql.connection import Connection
from auditrelay.store.sql.engine import Engine
from auditrelay.store.sql.loading import Loading
from auditrelay.store.sql.look_ups import LookUps
from auditrelay.store.sql.sources import source_id
from auditrelay.store.sql.spool import Spool
from auditrelay.store.sql.spooling import Spooling
from auditrelay.store.sql.uids import Uids


class Adding:
    """
    Looks the uids of sources up, and adds their events; *now* says what time it certainly is.

    A look-up remembers the number of the source, if it is *alone*: no other instance may remove
    the sources that this is for.
    """

    def __init__(
        self,
        engine: Engine,
        spooling: Spooling,
        spool: Spool,
        uids: Uids,
        *,
        alone: bool,
        now: Callable[[], int],
    ) -> None:
        self._engine = engine
        self._spooling = spooling
        self._spool = spool
        self._uids = uids
        self._now = now
        self._loading = Loading(engine, uids)
        self._look_ups = LookUps()
        self._ids: dict[str, int] | None = {} if alone else None

    async def look_up(
        self, source: str, uids: Sequence[str], at: Sequence[int], content: Sequence[bytes]
    ) -> LookedUp:
        """Look *uids* up among the known, and compare the digests of their *content*."""
        if uids:
            await self._loading.ensure(source)
        # What memory tells needs no other thread; the one that writes looks into the state again.
        known_as = self._ids and self._ids.get(source)
        if known_as and self._uids.are_new(known_as, uid_bytes(uids)):
            return LookedUp(list(range(len(uids))), [])
        writes = self._look_ups.writes(source)

        def work(db: Connection) -> LookedUp:
            owner = self._id(db, source)
            if self._ids is not None:  # what a reader sees is committed
                self._ids[source] = owner
            return known.look_up(db, self._uids, owner, keys_of(uids, at), content)

        found = await self._engine.read(work)
        self._look_ups.found(source, [uids[row] for row in found.new], writes)
        return found

    async def add(
        self,
        source: str,
        events: Page,
        *,
        via: str,
        proof: Proof,
        notice: Notice | None,
        bad: Sequence[DeadLetter],
        condition: str | None,
    ) -> Added:
        """See ``Intake.add``; *condition* is encoded."""
        self._engine.room.require()
        if len(events) or bad:
            await self._loading.ensure(source)
        keys, now = known_keys(events), self._now()

        def work(db: Connection) -> Added:
            are_new = self._look_ups.are_new(source, events.uid)
            self._look_ups.write_begins(source)
            added = intake.add(
                db,
                self._spool,
                self._uids,
                source,
                events,
                owner=self._id(db, source),
                keys=keys,
                are_new=are_new,
                proof=proof,
                notice=notice,
                bad=bad,
                now=now,
                via=via,
            )
            if condition is not None:
                states.save_condition(db, "source", source, condition)
            return added

        return await self._spooling.append(work, partial(self._look_ups.write_committed, source))

    def forget(self, source: str) -> None:
        """Drop the number of *source*, whose row may be removed: a new one has another."""
        self._loading.forget(source)
        if self._ids is not None:
            self._ids.pop(source, None)

    def _id(self, db: Connection, source: str) -> int:
        return (self._ids or {}).get(source) or source_id(db, source)
