"""The store: every method that collecting, delivering and operators need, on one engine."""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain
from typing import Literal, Self, TypeVar

from auditrelay.clock import Clock
from auditrelay.events import AuditEvent
from auditrelay.events.page import Page
from auditrelay.store import (
    NO_LETTERS,
    NOTHING_EXCLUDED,
    Added,
    Backfill,
    DeadLetter,
    DeliveryStatus,
    LetterOf,
    LookedUp,
    Notice,
    OfLetter,
    Proof,
    Proved,
    Reached,
    RejectedEvent,
    SinkState,
    SourceState,
    Span,
    SpoolPage,
    StoredDeadLetter,
    never,
)
from auditrelay.store.conditions import C, Condition, SourceCondition, encode_condition
from auditrelay.store.keys import known_key, time_of
from auditrelay.store.leases import Lease
from auditrelay.store.parts import part_of
from auditrelay.store.places import place, position_of
from auditrelay.store.progress import Range
from auditrelay.store.seals import Seal, Seals
from auditrelay.store.sql import (
    backfills,
    dead_letters,
    deleted,
    intake,
    known,
    ledger,
    meta,
    pruning,
    removal,
    seals,
    sinks,
    sources,
    spool,
    states,
    unit_checks,
)
from auditrelay.store.sql.adding import Adding
from auditrelay.store.sql.alert_log import AlertLog
from auditrelay.store.sql.connection import Connection
from auditrelay.store.sql.engine import Engine
from auditrelay.store.sql.evidence_log import EvidenceLog
from auditrelay.store.sql.forgetting import forget_old
from auditrelay.store.sql.handover import Handover
from auditrelay.store.sql.known_contents import KnownContents
from auditrelay.store.sql.page_reader import PageReader
from auditrelay.store.sql.readers import Reader, all_readers
from auditrelay.store.sql.recent import Recent
from auditrelay.store.sql.sources import source_id
from auditrelay.store.sql.spooling import Spooling
from auditrelay.store.sql.uids import Uids
from auditrelay.window import Interval, micros, moment

T = TypeVar("T")

_MARK = "confirmed_time"
"""The name of the moment that an earlier run knew to be past."""


@dataclass(slots=True)
class _Shared:
    """What the store of the instance and those under its leases have together."""

    clock: Clock
    retention: timedelta
    remember: timedelta
    spool: spool.Spool
    pages: Handover | Recent
    on_condition: Callable[[], None] = lambda: None


class SqlStore:
    """
    The store on one *engine*. Open it with :func:`open_on` and close it with :meth:`close`.

    Each method that writes passes one function to the engine, which runs it as one transaction.
    These functions are in the modules next to this one, and work on a connection.
    """

    def __init__(self, engine: Engine, shared: _Shared, lease: Lease | None = None) -> None:
        """Work on *engine*, which writes under *lease* if it writes under any."""
        self._engine = engine
        self._part = part = None if lease is None else part_of(lease.unit)
        self._shared = shared
        self._clock, self._spool = shared.clock, shared.spool
        self._uids = Uids()
        self._recent = shared.pages.renewed() if isinstance(shared.pages, Recent) else None
        self._marks = None if self._recent is None else self._recent.marks
        pages = self._recent or shared.pages
        self._read = engine.read
        self._spooling = Spooling(engine, shared.spool, pages)
        self._pages = PageReader(
            engine, pages, self._spooling, shared.spool, now=self._now, marks=self._marks, part=part
        )
        alone = lease is not None or not engine.shared  # then none else removes a source of ours
        self._adding = Adding(
            engine, self._spooling, shared.spool, self._uids, alone=alone, now=self._now
        )
        self._alerts = AlertLog(engine, self._spooling, shared.spool, self._uids, now=self._now)
        self._log = EvidenceLog(engine, self._spooling, shared.spool, now=self._now)
        self._contents = KnownContents(
            engine, self._pages, self._spooling, shared.spool, self._uids, clock=shared.clock
        )

    @property
    def on_condition(self) -> Callable[[], None]:
        """Called whenever the condition of a source or sink is written, or could not be written."""
        return self._shared.on_condition

    @on_condition.setter
    def on_condition(self, call: Callable[[], None]) -> None:
        self._shared.on_condition = call

    def resize(self, *, max_bytes: int, retention: timedelta, remember: timedelta) -> None:
        """Apply new limits from now on."""
        self._spool.max_bytes = max_bytes
        self._shared.retention, self._shared.remember = retention, remember

    def under(self, lease: Lease) -> Self:
        """Return this store under *lease*: what it keeps in memory is of that lease alone."""
        if not self._engine.shared:  # the lock of the state fences everybody else
            return self
        return type(self)(self._engine.under(lease), self._shared, lease)

    def reaches(self, end: int) -> None:
        """Take note that the spool reaches to the place *end*: other instances add to it, too."""
        if self._recent is not None:
            self._recent.reaches(position_of(end))

    async def close(self) -> None:
        """Finish the queued writes, then close everything."""
        await asyncio.to_thread(self._engine.close)

    # -- sources ---------------------------------------------------------------------------------

    async def start_source(self, source: str, first: datetime) -> datetime:
        """Insert or update the row of *source*; return the start in it."""
        await self._finish_removal(source)
        return await self._engine.write(lambda db: sources.start(db, source, first))

    async def ledger(self, source: str) -> tuple[Span, ...]:
        """Read the ledger of *source*, in order of time."""
        return await self._read(lambda db: ledger.spans(db, source_id(db, source)))

    async def add(
        self,
        source: str,
        events: Page,
        *,
        via: str = "poll",
        proof: Proof | None = None,
        notice: Notice | None = None,
        bad: Sequence[DeadLetter] = (),
        condition: SourceCondition | None = None,
    ) -> Added:
        """Spool and remember the new ones of *events*, enter the *proof*, insert the *bad* rows."""
        added = await self._adding.add(
            source,
            events,
            via=via,
            proof=proof or Proof(),
            notice=notice,
            bad=bad,
            condition=None if condition is None else encode_condition(condition),
        )
        if condition is not None:
            # Not before: with a full spool this is tried every second, and alerts come of a report.
            self.on_condition()
        return added

    @property
    def contents(self) -> KnownContents:
        """The contents that known records were shown with."""
        return self._contents

    async def look_up(
        self, source: str, uids: Sequence[str], at: Sequence[int], content: Sequence[bytes]
    ) -> LookedUp:
        """Look *uids* up among the known, and compare the digests of their *content*."""
        return await self._adding.look_up(source, uids, at, content)

    async def is_file_known(self, source: str, key: bytes) -> bool:
        """Look the digest *key* up among the files that *source* has read."""
        return await self._read(lambda db: sources.has_read_file(db, source, key))

    async def end_of_spool(self, source: str) -> int:  # noqa: ARG002  # one log for all sources
        """Read the position that the next spooled event will have."""
        return place(spool.LOG, await self._read(lambda db: meta.read(db, "next_position")))

    async def record_deleted(
        self, source: str, span: Interval, seen: AbstractSet[bytes], before: int
    ) -> int:
        """Compare the known uids of *span* with those *seen*, and record the missing ones."""
        return await deleted.record(self._engine, source, span, seen, before, now=self._now())

    async def resweep_from(self, source: str, delay: timedelta) -> datetime:
        """Read the mark of the resweep of *delay*."""
        return await self._read(lambda db: sources.resweep_from(db, source, delay))

    async def resweep_done(self, source: str, delay: timedelta, until: datetime) -> None:
        """Move the mark of the resweep of *delay* to *until*."""
        now = self._now()
        await self._engine.write(lambda db: sources.resweep_done(db, source, delay, until, now))

    # -- comparing with a source, and backfill ---------------------------------------------------

    async def proved(self, source: str) -> Proved:
        """Compare the known uids with the facts, as a check does, beside what sinks read."""
        return await asyncio.to_thread(unit_checks.proved_now, self._engine, source)

    async def delivery_status(
        self, source: str, events: Sequence[AuditEvent], *, proved: Proved | None = None
    ) -> list[Mapping[str, DeliveryStatus] | None]:
        """Look each of *events* up among the known, in each sink's progress and dead letters."""
        keys = [known_key(event) for event in events]
        return await self._read(
            lambda db: known.delivery_status(db, self._uids, source, keys, proved=proved)
        )

    async def find_deleted(
        self, source: str, span: Interval, seen: AbstractSet[bytes], before: int
    ) -> list[tuple[str, datetime]]:
        """Compare the known uids of *span* with those *seen*; return the missing, with times."""
        missing = await self._read(lambda db: deleted.find_deleted(db, source, span, seen, before))
        return [(key[8:].hex(), moment(time_of(key))) for key in missing]

    async def count_forwarded(self, source: str, span: Interval) -> tuple[int, str]:
        """Count the known events of *span*, and return their digest."""
        return await self._read(lambda db: ledger.digest_in(db, source_id(db, source), span))

    async def begin_backfill(
        self,
        source: str,
        span: Interval,
        sinks: Sequence[str],
        now: datetime,
        *,
        by: int | None = None,
    ) -> Backfill:
        """Find the unfinished backfill that overlaps *span* and widen it, or insert a new one."""
        return await self._engine.write(
            lambda db: backfills.begin(db, source, span, sinks, now, by=by)
        )

    async def end_backfill(self, id: int, now: datetime) -> None:  # noqa: A002  # its name
        """Set the end of the backfill *id*."""
        await self._engine.write(lambda db: backfills.end(db, id, now))

    async def resend(
        self, source: str, sinks: Sequence[str], pages: Sequence[Page], proof: Proof
    ) -> None:
        """Spool *pages*, known or not, for each of *sinks* alone, and enter the *proof*."""
        self._engine.room.require()
        now = self._now()
        await self._spooling.append(
            lambda db: intake.resend(
                db, self._spool, source, sinks=sinks, pages=pages, proof=proof, now=now
            )
        )

    async def spooled_events(self, source: str, span: Interval) -> list[Page] | None:
        """Read the known events of *span* from the spool; None if some were pruned."""
        return await self._pages.in_span(source, span)

    # -- sinks -----------------------------------------------------------------------------------

    async def start_sink(self, sink: str, sources: Collection[str]) -> None:
        """Insert the row of *sink*, or add *sources* to it; a new one begins at the end."""
        await self._finish_removal(sink)
        now = self._now()
        await self._spooling.rearrange(lambda db: sinks.start(db, sink, sources, now))

    async def retire(
        self, configured: Mapping[str, Collection[str]], sources: Collection[str]
    ) -> tuple[str, ...]:
        """End what is not *configured* at this position; return the sinks with a backlog."""
        now = self._now()
        return await self._spooling.rearrange(lambda db: sinks.retire(db, configured, sources, now))

    async def read(
        self, sink: str, reached: Reached | None, most: int
    ) -> tuple[list[SpoolPage], Reached]:
        """Read the backlog of *sink* from what was *reached* on, from memory if it is there."""
        start = 0 if reached is None else position_of(reached.ends[0])
        pages, end, at_end = await self._pages.read(sink, start, most)
        return pages, Reached((place(spool.LOG, end),), at_end)

    async def reread(self, sink: str, places: Range, most: int) -> list[SpoolPage]:
        """Read the backlog of *sink* at *places*."""
        return await self._pages.reread(sink, places, most)

    async def settle(
        self,
        sink: str,
        done: Sequence[Range],
        dead: Sequence[RejectedEvent] = (),
        excluded: Mapping[str, Sequence[Range]] = NOTHING_EXCLUDED,
    ) -> AbstractSet[int]:
        """Update the progress of *sink*, insert the *dead* letters, delete those delivered."""
        now, marks = self._now(), self._marks
        done = [*done, *chain.from_iterable(excluded.values())]

        def work(db: Connection) -> tuple[Reader, AbstractSet[int]]:
            look = None if marks is None else marks.done(db, sink, done)
            reader, copies = sinks.settle(
                db, self._spool, sink, done, dead, excluded=excluded, now=now
            )
            if look is not None:
                look.check()
            return reader.of_part(self._part), copies

        return await self._spooling.settle(sink, work, marks)

    async def batch_seals(self, sink: str) -> Seals:
        """Read the seals of *sink* and the name of the state's log."""
        return await self._read(lambda db: seals.of(db, sink))

    async def seal_batches(self, sink: str, new: Sequence[Seal]) -> Seals:
        """Write the seals of *sink* with those in *new*, without those that are settled."""
        return await self._engine.write(lambda db: seals.add(db, sink, new))

    # -- dead letters, and what is of both ------------------------------------------------------

    async def replay(
        self,
        ids: Sequence[int],
        *,
        of: Mapping[int, LetterOf] = NO_LETTERS,
        by: int | None = None,
        unless: OfLetter = never,
    ) -> list[StoredDeadLetter]:
        """Spool the dead letters *ids* again, and mark them as being replayed."""
        now = self._now()
        return await self._spooling.append(
            lambda db: intake.replay(db, self._spool, ids, now, of=of, by=by, unless=unless)
        )

    async def drop(
        self,
        ids: Sequence[int],
        now: datetime,
        *,
        of: Mapping[int, LetterOf] = NO_LETTERS,
        by: int | None = None,
    ) -> list[StoredDeadLetter]:
        """Mark the dead letters *ids* as dropped, and delete their events."""
        return await self._engine.write(
            lambda db: dead_letters.drop(db, ids, micros(now), of=of, by=by)
        )

    async def save_condition(
        self, peer: Literal["source", "sink"], name: str, condition: Condition
    ) -> None:
        """Update the condition of *name*, as JSON."""
        text, part = encode_condition(condition), self._part
        self.on_condition()
        await self._engine.write(lambda db: states.save_condition(db, peer, name, text, part))

    async def prune(self, now: datetime) -> int:
        """Delete delivered pages after *retention* and uids after *remember*; shrink the file."""
        at, before = micros(now), micros(now - self._shared.retention)
        pruned = await pruning.prune(self._spooling, self._spool, before=before, now=at)
        await forget_old(self._engine, before=micros(now - self._shared.remember), now=at)
        await self._engine.write(self._engine.room.give_back)
        return pruned

    async def remember_time(self, mark: datetime) -> None:
        """Store *mark* as a named number; :func:`open_on` continues from it."""
        await self._engine.write(lambda db: meta.put(db, _MARK, micros(mark)))
        self._clock.confirmed.resume(mark)

    async def make_room(self) -> bool:
        """Delete delivered pages, oldest first, and reserve room again."""
        return await pruning.make_room(self._engine, self._spooling, self._spool, self._now())

    async def forget(self, name: str, *, by: int | None = None) -> None:
        """Delete every row of the source or sink *name*."""
        self._adding.forget(name)
        await removal.remove(self._engine, self._spooling, self._spool, name, self._now(), by=by)

    async def _finish_removal(self, name: str) -> None:
        """Delete what a removal of *name* that was interrupted has left: it starts again."""
        self._adding.forget(name)
        if await self._read(lambda db: removal.is_unfinished(db, name)):
            await removal.finish(self._engine, self._spooling, self._spool, name)

    @property
    def alerts(self) -> AlertLog:
        """The log of the alerts."""
        return self._alerts

    @property
    def log(self) -> EvidenceLog:
        """The log of the evidence."""
        return self._log

    async def sources(self) -> list[SourceState]:
        """Read the state of every known source."""
        return await self._read(states.source_states)

    async def sinks(self) -> list[SinkState]:
        """Read the state of every known sink."""
        return await self._read(states.sink_states)

    async def condition(self, peer: Literal["source", "sink"], name: str, kind: type[C]) -> C:
        """Read the condition of *name*."""
        return await self._read(lambda db: states.condition_of(db, peer, name, kind))

    @property
    def spool_bytes(self) -> int:
        """The current size of the spool, compressed."""
        return self._spool.used_bytes

    async def spool_size(self) -> int:
        """Return the size of the spool, compressed, also after writes of other instances."""
        if not self._engine.shared:
            return self.spool_bytes
        return await self._read(lambda db: meta.read(db, "spool_bytes"))

    def _now(self) -> int:
        return micros(self._clock.confirmed.certain())


async def open_on(
    engine: Engine, *, clock: Clock, max_bytes: int, retention: timedelta, remember: timedelta
) -> SqlStore:
    """
    Open the store on *engine*, whose tables are there, and which its ``close`` closes.

    *max_bytes* is the limit of the spool. *retention* is how long delivered events are kept,
    *remember* how long uids are. Raises StateError.
    """
    mark, used, end, readers = await engine.read(
        lambda db: (
            meta.find(db, _MARK),
            meta.read(db, "spool_bytes"),
            meta.read(db, "next_position"),
            all_readers(db),
        )
    )
    if mark is not None:
        clock.confirmed.resume(moment(mark))
    pages = Recent() if engine.shared else Handover(readers, end)
    size = spool.Spool(used, max_bytes, engine.room)
    all_share = _Shared(clock, retention, remember, size, pages)
    return SqlStore(engine, all_share)
