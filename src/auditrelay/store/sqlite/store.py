"""
The store on one machine: SQLite in the state directory, one writer thread, one reader thread.

A page of events is one compressed blob, not a row an event: a commit costs one insert. The uids
are rows of their own, 28 bytes each, clustered by event time, because a page's events lie close
together in time and so touch few pages of the index. Both choices are measured in
docs/decisions/0002-spool.md.

Python's sqlite3 gives up the interpreter lock for every row that it steps through, and a busy
event loop may keep it for milliseconds each time. So whatever touches a page of events here is
one statement that returns one row.
"""

import asyncio
import json
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, Self, TypeVar

import msgspec
from isal import isal_zlib

from auditrelay.errors import StoreFull
from auditrelay.events import AuditEvent, pack, unpack
from auditrelay.store import (
    Added,
    Backfill,
    DeadLetter,
    Declared,
    Fate,
    Notice,
    Proof,
    SinkState,
    SourceState,
    Span,
    SpoolPage,
    StoredDeadLetter,
)
from auditrelay.store.journal import NO_DIGEST, xor
from auditrelay.store.keys import known_key, time_of
from auditrelay.store.progress import Range
from auditrelay.store.sqlite import backfills, dead_letters, disk_reserve, ledger, removal
from auditrelay.store.sqlite import state_dir as files
from auditrelay.store.sqlite.journal import Scribe, record
from auditrelay.store.sqlite.known import (
    FORGET_STEP,
    REMEMBER,
    fates,
    find_new,
    forget_before,
    keys_in,
    spooled_events,
)
from auditrelay.store.sqlite.spool import (
    READ_BYTES,
    delivered_floor,
    duration_micros,
    meta_value,
    set_meta,
    shrink,
    sink_progress,
    source_id,
    sources_read_by,
    waiting_for,
)
from auditrelay.store.sqlite.states import sink_states, source_states
from auditrelay.store.sqlite.writer import Writer, translate
from auditrelay.window import Interval, micros, moment

T = TypeVar("T")


class SqliteStore:
    """
    The store of one instance. Open it with :meth:`open` and close it with :meth:`close`.

    *max_bytes* bounds what the spool holds. *retention* is how long delivered events are kept,
    *remember* how long a uid is.
    """

    def __init__(
        self, state_dir: Path, *, max_bytes: int, retention: timedelta, remember: timedelta
    ) -> None:
        self._dir = state_dir
        self._max_bytes = max_bytes
        self._retention = retention
        self._remember = remember
        self._disk_full = False
        self._disk_tried = 0.0
        self._ids: dict[str, int] = {}
        self.on_note: Callable[[], None] = lambda: None
        """Called whenever it is noted how somebody fares."""
        files.create(state_dir)
        write = files.connect(state_dir, write=True)
        self._spool_bytes = meta_value(write, "spool_bytes")
        self._disk_full = not disk_reserve.take_ballast(state_dir)
        self._read_db = files.connect(state_dir, write=False)
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="store-reader")
        self._writer = Writer(write, self._when_full)

    @classmethod
    async def open(
        cls, state_dir: Path, *, max_bytes: int, retention: timedelta, remember: timedelta
    ) -> Self:
        """Open the state in *state_dir*, making it if there is none. Raises StateError."""
        return await asyncio.to_thread(
            lambda: cls(state_dir, max_bytes=max_bytes, retention=retention, remember=remember)
        )

    def resize(self, *, max_bytes: int, retention: timedelta, remember: timedelta) -> None:
        """Let other limits hold from now on."""
        self._max_bytes, self._retention, self._remember = max_bytes, retention, remember

    async def close(self) -> None:
        """Finish what was asked for, then release the files."""
        await asyncio.to_thread(self._writer.close)
        self._reader.shutdown()
        self._read_db.close()

    # -- sources ---------------------------------------------------------------------------------

    async def start_source(self, source: str, first: datetime) -> datetime:
        """See Store."""

        def work(db: sqlite3.Connection) -> int:
            db.execute(
                "insert into source (name, started) values (?, ?) on conflict (name) do nothing",
                (source, micros(first)),
            )
            started: int = db.execute(
                "select started from source where name = ?", (source,)
            ).fetchone()[0]
            return started

        return moment(await self._writer.write(work))

    async def ledger(self, source: str) -> tuple[Span, ...]:
        """See Store."""
        return await self._read(lambda db: ledger.spans(db, source_id(db, source)))

    async def add(
        self,
        source: str,
        events: Sequence[AuditEvent],
        *,
        via: str = "poll",
        proof: Proof | None = None,
        notice: Notice | None = None,
        bad: Sequence[DeadLetter] = (),
    ) -> Added:
        """See Store."""
        if self._disk_full:
            raise StoreFull("the disk is full")
        keys = [known_key(event) for event in events]
        now = time.time_ns() // 1000

        def work(db: sqlite3.Connection) -> Added:
            owner = source_id(db, source)
            scribe = Scribe(db, owner, now, via)
            new = find_new(db, owner, keys)
            late: list[int] = []
            if new:
                first = self._spool(db, owner, [events[index] for index in new], now)
                db.execute(REMEMBER, (b"".join(keys[i] for i in new), len(new), owner, first))
                found = ledger.count_late(
                    scribe,
                    [(time_of(keys[index]), keys[index][8:]) for index in new],
                    [events[index].fetched - events[index].at for index in new],
                )
                late = [new[index] for index in found]
            if bad:
                self._put_aside(db, owner, bad)
            added = Added(tuple(new), len(events) - len(new), tuple(late))
            if proof is None:
                return added
            declared, filled = _enter(scribe, proof, len(new))
            notices = [
                notice(each, was_filled)
                for group, was_filled in ((declared, False), (filled, True))
                for each in group
                if each.new and notice is not None
            ]
            if notices:
                self._spool(db, owner, notices, now)
            return replace(added, declared=tuple(declared), filled=tuple(filled))

        return await self._writer.write(work)

    def _put_aside(self, db: sqlite3.Connection, owner: int, bad: Sequence[DeadLetter]) -> None:
        keys = [known_key(letter.event) for letter in bad]
        for index in find_new(db, owner, keys):
            db.execute(REMEMBER, (keys[index], 1, owner, -1))
            dead_letters.insert(db, None, bad[index])

    def _spool(
        self,
        db: sqlite3.Connection,
        owner: int,
        events: list[AuditEvent],
        now: int,
        only: str | None = None,
    ) -> int:
        """Put *events* at the end of the spool; return the position of the first."""
        blob = isal_zlib.compress(pack(events), 1)
        held = meta_value(db, "spool_bytes")
        if held and held + len(blob) > self._max_bytes:
            raise StoreFull(f"the spool holds {held} bytes, {self._max_bytes} are allowed")
        first = meta_value(db, "next_position")
        db.execute(
            "insert into spool values (?, ?, ?, ?, ?, ?, (select id from sink where name = ?))",
            (first, len(events), owner, now, len(blob), blob, only),
        )
        set_meta(db, "next_position", first + len(events))
        self._resize(db, len(blob))
        return first

    def _resize(self, db: sqlite3.Connection, change: int) -> None:
        # Counted in the database, since what is counted here is not undone with a transaction.
        self._spool_bytes = meta_value(db, "spool_bytes") + change
        set_meta(db, "spool_bytes", self._spool_bytes)

    async def is_parcel_known(self, source: str, key: bytes) -> bool:
        """See Store."""
        query = (
            "select 1 from parcel where source = (select id from source where name = ?) and key = ?"
        )
        return await self._read(lambda db: db.execute(query, (source, key)).fetchone() is not None)

    async def end_of_spool(self) -> int:
        """See Store."""
        return await self._read(lambda db: meta_value(db, "next_position"))

    async def vanished(
        self, source: str, span: Interval, seen: AbstractSet[bytes], before: int
    ) -> int:
        """See Store."""
        now = time.time_ns() // 1000

        def find(db: sqlite3.Connection) -> list[bytes]:
            owner = source_id(db, source)
            return [key for key in keys_in(db, owner, span, before) if key not in seen]

        missing = await self._read(find)
        if not missing:
            return 0

        def work(db: sqlite3.Connection) -> int:
            owner = source_id(db, source)
            gone = [
                key
                for key in missing
                if db.execute(
                    "insert into vanished values (?, ?, ?) on conflict do nothing",
                    (owner, key, now),
                ).rowcount
            ]
            if gone:
                digest = NO_DIGEST
                for key in gone:
                    digest = xor(digest, key[8:])
                record(
                    Scribe(db, owner, now, "second look"),
                    "vanished",
                    micros(span.start),
                    micros(span.end),
                    events=len(gone),
                    digest=digest,
                )
            return len(gone)

        return await self._writer.write(work)

    # -- comparing with a source -----------------------------------------------------------------

    async def unknown(self, source: str, events: Sequence[AuditEvent]) -> int:
        """See Store."""
        keys = [known_key(event) for event in events]
        return await self._read(lambda db: len(find_new(db, source_id(db, source), keys)))

    async def fates(
        self, source: str, events: Sequence[AuditEvent]
    ) -> list[Mapping[str, Fate] | None]:
        """See Store."""
        keys = [known_key(event) for event in events]
        return await self._read(lambda db: fates(db, source, source_id(db, source), keys))

    async def shown_no_more(
        self, source: str, span: Interval, seen: AbstractSet[bytes], before: int
    ) -> list[tuple[str, datetime]]:
        """See Store."""
        return await self._read(
            lambda db: [
                (key[8:].hex(), moment(time_of(key)))
                for key in keys_in(db, source_id(db, source), span, before)
                if key not in seen
            ]
        )

    async def forwarded(self, source: str, span: Interval) -> tuple[int, str]:
        """See Store."""

        def work(db: sqlite3.Connection) -> tuple[int, str]:
            owner = source_id(db, source)
            count, digest = ledger.digest_of(db, owner, micros(span.start), micros(span.end))
            return count, digest.hex()

        return await self._read(work)

    # -- backfill --------------------------------------------------------------------------------

    async def begin_backfill(
        self, source: str, span: Interval, sinks: Sequence[str], now: datetime
    ) -> Backfill:
        """See Store."""
        return await self._writer.write(
            lambda db: backfills.begin(db, source_id(db, source), span, sinks, now)
        )

    async def end_backfill(self, id: int, now: datetime) -> None:  # noqa: A002  # its name
        """See Store."""
        await self._writer.write(
            lambda db: db.execute("update backfill set ended = ? where id = ?", (micros(now), id))
        )

    async def refill(
        self, source: str, sinks: Sequence[str], events: Sequence[AuditEvent], proof: Proof
    ) -> None:
        """See Store."""
        if self._disk_full:
            raise StoreFull("the disk is full")
        now = time.time_ns() // 1000

        def work(db: sqlite3.Connection) -> None:
            owner = source_id(db, source)
            for sink in sinks if events else ():
                self._spool(db, owner, list(events), now, only=sink)
            _enter(Scribe(db, owner, now, "backfill"), proof, len(events))

        await self._writer.write(work)

    async def held(self, source: str, span: Interval) -> list[AuditEvent] | None:
        """See Store."""
        return await self._read(lambda db: spooled_events(db, source_id(db, source), span))

    # -- second looks ----------------------------------------------------------------------------

    async def resweep_from(self, source: str, delay: timedelta) -> datetime:
        """See Store."""

        def work(db: sqlite3.Connection) -> int:
            until: int = db.execute(
                "select coalesce((select until from resweep where source = source.id and "
                "delay = ?), started) from source where name = ?",
                (duration_micros(delay), source),
            ).fetchone()[0]
            return until

        return moment(await self._read(work))

    async def resweep_done(self, source: str, delay: timedelta, until: datetime) -> None:
        """See Store."""
        await self._writer.write(
            lambda db: db.execute(
                "insert into resweep values (?, ?, ?) "
                "on conflict (source, delay) do update set until = excluded.until",
                (source_id(db, source), duration_micros(delay), micros(until)),
            )
        )

    # -- sinks -----------------------------------------------------------------------------------

    async def start_sink(
        self, sink: str, sources: Sequence[str], *, configured: Sequence[str] | None = None
    ) -> None:
        """See Store."""

        def work(db: sqlite3.Connection) -> None:
            left = set() if configured is None else sources_read_by(db, sink).difference(configured)
            db.execute(
                "insert into sink (name, sources, position) "
                "select ?, ?, value from meta where name = 'next_position' "
                "on conflict (name) do update set sources = excluded.sources, ends = null",
                (sink, json.dumps(sorted(left.union(sources)))),
            )
            db.execute(
                "insert into feed select sink.id, each.value, meta.value from sink, meta, "
                "json_each(sink.sources) as each where sink.name = ? "
                "and meta.name = 'next_position' on conflict do nothing",
                (sink,),
            )
            db.execute(
                "delete from feed where sink = (select id from sink where name = ?1) and source "
                "not in (select value from sink, json_each(sink.sources) where sink.name = ?1)",
                (sink,),
            )

        await self._writer.write(work)

    async def retire_sinks(self, active: Sequence[str]) -> tuple[str, ...]:
        """See Store."""

        def work(db: sqlite3.Connection) -> tuple[str, ...]:
            db.execute(
                "update sink set ends = ? where ends is null "
                "and name not in (select value from json_each(?))",
                (meta_value(db, "next_position"), json.dumps(list(active))),
            )
            retired = db.execute("select name from sink where ends is not null order by name")
            return tuple(name for (name,) in retired.fetchall() if waiting_for(db, name)[0])

        return await self._writer.write(work)

    async def read(self, sink: str, after: int, most: int) -> list[SpoolPage]:
        """See Store."""

        def work(db: sqlite3.Connection) -> list[SpoolPage]:
            progress, readable = sink_progress(db, sink)
            pages: list[SpoolPage] = []
            position, taken, size = max(after, progress.position), 0, 0
            while taken < most and size < READ_BYTES:
                row = db.execute(
                    "select first, count, (select name from source where id = spool.source), "
                    "events from spool where first >= coalesce((select max(first) from spool "
                    "where first <= ?1), 0) and first + count > ?1 and source in "
                    "(select value from json_each(?2)) and first < (select coalesce(ends, 1 << 62) "
                    "from sink where name = ?3) and (only is null or "
                    "only = (select id from sink where name = ?3)) order by first limit 1",
                    (position, readable, sink),
                ).fetchone()
                if row is None:
                    break
                first, count, source, blob = row
                events = None
                for start, end in progress.open_ranges(max(first, position), first + count):
                    events = events or unpack(isal_zlib.decompress(blob))
                    part = events[start - first : end - first]
                    pages.append(SpoolPage(start, source, part, len(blob)))
                    taken += end - start
                position = first + count
                size += len(blob)
            return pages

        return await self._read(work)

    async def event_at(self, position: int) -> AuditEvent:
        """See Store."""

        def work(db: sqlite3.Connection) -> AuditEvent:
            first, blob = db.execute(
                "select first, events from spool where first <= ? order by first desc limit 1",
                (position,),
            ).fetchone()
            event: AuditEvent = unpack(isal_zlib.decompress(blob))[position - first]
            return event

        return await self._read(work)

    async def settle(
        self, sink: str, done: Sequence[Range], dead: Sequence[DeadLetter] = ()
    ) -> None:
        """See Store."""

        def work(db: sqlite3.Connection) -> None:
            progress = sink_progress(db, sink)[0].plus(done)
            db.execute(
                "update sink set position = ?, ahead = ? where name = ?",
                (progress.position, json.dumps(progress.ahead), sink),
            )
            for letter in dead:
                dead_letters.insert(db, sink, letter)
            dead_letters.delivered(db, sink, done)

        await self._writer.write(work)

    # -- dead letters ----------------------------------------------------------------------------

    async def dead_letters(
        self,
        *,
        sinks: Sequence[str] = (),
        sources: Sequence[str] = (),
        reasons: Sequence[str] = (),
        ids: Sequence[int] = (),
    ) -> list[StoredDeadLetter]:
        """Return the dead letters that match every filter given, oldest first."""
        return await self._read(
            lambda db: dead_letters.find(db, sinks=sinks, sources=sources, reasons=reasons, ids=ids)
        )

    async def replay(self, ids: Sequence[int]) -> list[StoredDeadLetter]:
        """See Store."""
        now = time.time_ns() // 1000

        def work(db: sqlite3.Connection) -> list[StoredDeadLetter]:
            found = dead_letters.at_rest(db, ids)
            for each in found:
                event = msgspec.structs.replace(each.letter.event, replayed=True)
                owner = source_id(db, each.source)
                position = self._spool(db, owner, [event], now, only=each.sink)
                dead_letters.on_its_way(db, each.id, None if each.sink is None else position)
            return found

        return await self._writer.write(work)

    async def drop(self, ids: Sequence[int], now: datetime) -> list[StoredDeadLetter]:
        """See Store."""
        return await self._writer.write(lambda db: dead_letters.drop(db, ids, micros(now)))

    # -- both ------------------------------------------------------------------------------------

    async def note(
        self, peer: Literal["source", "sink"], name: str, condition: Mapping[str, object]
    ) -> None:
        """See Store."""
        text = json.dumps(condition)
        self.on_note()
        await self._writer.write(
            lambda db: db.execute(
                f"update {peer} set condition = ? where name = ?",  # noqa: S608  # a Literal
                (text, name),
            )
        )

    async def prune(self, now: datetime) -> int:
        """See Store."""
        gone = await self._writer.write(
            lambda db: self._prune(db, before=micros(now - self._retention))
        )
        oldest = micros(now - self._remember)
        await self._writer.write(
            lambda db: db.execute(
                "insert into meta values ('forgotten_before', ?) on conflict (name) do update "
                "set value = max(value, excluded.value)",
                (oldest,),
            )
        )
        while await self._writer.write(lambda db: forget_before(db, oldest)) == FORGET_STEP:
            pass
        await self._writer.write(shrink)
        return gone

    async def make_room(self) -> bool:
        """See Store."""
        try:
            given_up = await self._writer.write(self._give_up_delivered)
        except StoreFull:  # so full that not even a deletion can be written down
            given_up = False
        if self._disk_full and await asyncio.to_thread(disk_reserve.take_ballast, self._dir):
            self._disk_full = False
            return True
        return given_up

    async def forget(self, name: str) -> None:
        """See Store."""
        # Its uids may be millions: they go step by step, and the row that leads to them at last.
        while await self._writer.write(lambda db: removal.some_known(db, name)):
            pass
        await self._writer.write(lambda db: self._resize(db, -removal.source(db, name)))
        await self._writer.write(lambda db: self._resize(db, -removal.sink(db, name)))

    async def heads(self) -> Mapping[str, tuple[int, str]]:
        """See Store."""
        query = (
            "select name, (select max(seq) from journal where journal.source = source.id), head "
            "from source where head is not null order by name"
        )
        return await self._read(
            lambda db: {name: (seq, head.hex()) for name, seq, head in db.execute(query)}
        )

    async def sources(self) -> list[SourceState]:
        """Return what is known of every source that was ever started here."""
        return await self._read(source_states)

    async def sinks(self) -> list[SinkState]:
        """Return what is known of every sink that was ever started here."""
        return await self._read(sink_states)

    @property
    def spool_bytes(self) -> int:
        """What the spool holds now, compressed."""
        return self._spool_bytes

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        def run() -> T:
            try:
                return work(self._read_db)
            except sqlite3.Error as error:
                raise translate(error) from error

        return await asyncio.get_running_loop().run_in_executor(self._reader, run)

    def _when_full(self) -> None:
        self._disk_full = True
        disk_reserve.drop_ballast(self._dir)

    def _prune(self, db: sqlite3.Connection, before: int) -> int:
        floor = delivered_floor(db)
        gone, size = db.execute(
            "select total(count), total(bytes) from spool where first + count <= ? and stored < ?",
            (floor, before),
        ).fetchone()
        if gone:
            db.execute("delete from spool where first + count <= ? and stored < ?", (floor, before))
            self._resize(db, -int(size))
        return int(gone)

    def _give_up_delivered(self, db: sqlite3.Connection) -> bool:
        floor, excess = delivered_floor(db), max(self._spool_bytes - self._max_bytes, 0) + (4 << 20)
        last, freed = -1, 0
        for first, size in db.execute(
            "select first, bytes from spool where first + count <= ? order by first limit 1000",
            (floor,),
        ):
            last, freed = first, freed + size
            if freed >= excess:
                break
        if last >= 0:
            db.execute("delete from spool where first <= ?", (last,))
            self._resize(db, -freed)
        return last >= 0


def _enter(scribe: Scribe, proof: Proof, new: int) -> tuple[list[Declared], list[Declared]]:
    """Enter what *proof* says; return the gaps that it declared, and those that it filled."""
    filled = [each for span in proof.covers for each in ledger.cover(scribe, span)]
    declared = [
        each for span, reason in proof.gaps for each in ledger.declare(scribe, span, reason)
    ]
    if proof.parcel is not None:
        scribe.db.execute(
            "insert into parcel values (?, ?, ?, ?) on conflict do nothing",
            (scribe.owner, proof.parcel.key, proof.parcel.name, scribe.now),
        )
    if proof.backfill is not None and proof.part is not None:
        backfills.part_done(scribe.db, proof.backfill, proof.part, proof.read, proof.new + new)
    return declared, filled
