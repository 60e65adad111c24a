"""The log of the evidence as the service uses it: begun with a run, sealed, continued."""

import asyncio
import json
from collections.abc import Callable
from typing import Final

import structlog

from auditrelay.errors import EvidenceBroken, StateError
from auditrelay.evidence import facts
from auditrelay.evidence.facts import Body
from auditrelay.evidence.heads import Head
from auditrelay.store.ledger import DAY
from auditrelay.store.sealing import (
    Branch,
    EvidenceState,
    HeadEvent,
    MakeHead,
    Run,
    Sealed,
    Waiting,
)
from auditrelay.store.sql import branches, evidence, keying, meta
from auditrelay.store.sql.connection import Connection
from auditrelay.store.sql.engine import Engine
from auditrelay.store.sql.facts import INSTANCE, insert
from auditrelay.store.sql.seal import Sealing
from auditrelay.store.sql.spool import Spool
from auditrelay.store.sql.spooling import Spooling

_RUNS: Final = "runs"
"""The name of the number that says whether a process that began has not stopped: 1, or 0."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class EvidenceLog:
    """The log of a state; *now* says what time it certainly is (microseconds)."""

    def __init__(
        self, engine: Engine, spooling: Spooling, spool: Spool, *, now: Callable[[], int]
    ) -> None:
        self._writer = spooling.writer
        self._engine = engine
        self._sealing = Sealing(engine, spooling, spool)
        self._spool = spool
        self._now = now
        self._hashed_on = -1
        """The day on which all entries were hashed last, in days since 1970."""

    @property
    def waiting(self) -> Waiting:
        """About how much waits for the next seal."""
        return self._spool.waiting

    async def begin(self, run: Run) -> Branch | None:
        """Compare the state with its tip, and tell that *run* begins; return the branch, if any."""
        now = self._now()
        at = await asyncio.to_thread(self._engine.tip.read)

        def work(db: Connection) -> tuple[Branch | None, Head]:
            keying.begin(db, run.key_before, now)  # first: a fact has the tag of the key in force
            runs = meta.find(db, _RUNS)
            try:
                branch = branches.begin(db, at, now, is_new=runs is None)
            except EvidenceBroken:
                branch = branches.after_damage(db, now)
            orderly = None if runs is None else not runs
            started = facts.started(run=run.run, versions=run.versions, orderly=orderly)
            insert(db, INSTANCE, [started], now)
            meta.put(db, _RUNS, 1)
            _configure(db, run.configured, now)
            head = _tip_of(db)
            if runs is None:
                # Before the commit: killed behind it, the state would look like a copy of itself.
                self._first_tip(db, head)
            else:
                self._engine.tip.enter(db, head)
            return branch, head

        branch, head = await self._writer.write(work)
        await self._write_tip(head)
        return branch

    async def configure(self, configured: Body) -> bool:
        """Tell that another configuration is in force (the fact); return whether it is another."""
        now = self._now()
        return await self._writer.write(lambda db: _configure(db, configured, now))

    async def end(self, run: str) -> None:
        """Tell that *run* stops in an orderly way."""
        now = self._now()

        def work(db: Connection) -> None:
            insert(db, INSTANCE, [facts.stopped(run=run)], now)
            meta.put(db, _RUNS, 0)

        await self._writer.write(work)

    async def restored(self, reason: str, by: int | None) -> None:
        """Tell that an operator has restored, copied or moved the state."""
        now = self._now()
        await self._writer.write(lambda db: branches.explain(db, reason, by, now))

    async def state(self) -> EvidenceState:
        """Read what there is of the evidence, and whether it has left."""
        return await self._engine.read(evidence.state_of)

    async def seal(self, event: HeadEvent, make_head: MakeHead = Head) -> Sealed:
        """Seal what was done, then replace the tip; the first of a day hashes all entries again."""
        now = self._now()
        today = now // DAY
        sealed = await self._sealing.seal(event, make_head, now, hash_all=today != self._hashed_on)
        self._hashed_on = today
        await self._write_tip(sealed.head)
        return sealed

    async def continue_damaged(self) -> Branch:
        """Go on in a new log from the entries as they are; EvidenceBroken if some are missing."""
        now = self._now()

        def work(db: Connection) -> tuple[Branch, Head]:
            branch, head = branches.after_damage(db, now), _tip_of(db)
            self._engine.tip.enter(db, head)
            return branch, head

        branch, head = await self._writer.write(work)
        await self._write_tip(head)
        return branch

    def _first_tip(self, db: Connection, head: Head) -> None:
        try:
            self._engine.tip.begin(db, head)
        except OSError as error:
            reason = error.strerror or str(error)
            raise StateError(f"the tip of the evidence cannot be written: {reason}") from error

    async def _write_tip(self, head: Head) -> None:
        try:
            await asyncio.to_thread(self._engine.tip.write, head)
        except OSError as error:
            # The one that is there has left as well: it fits, and only knows less.
            _log.warning("evidence_tip_not_written", reason=error.strerror or str(error))


def _configure(db: Connection, configured: Body, now: int) -> bool:
    # What the evidence says is in force, and no copy of it: who edits that could hide a change.
    if evidence.configured(db) == json.loads(facts.text(configured)):
        return False
    insert(db, INSTANCE, [configured], now)
    return True


def _tip_of(db: Connection) -> Head:
    """Return what the tip has to be: the log, and what it goes on from."""
    frontier = branches.frontier_of(db)
    return Head(branches.log_of(db), frontier.size, frontier.root())
