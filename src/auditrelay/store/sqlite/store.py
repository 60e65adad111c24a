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
from auditrelay.settings import ALERTS
from auditrelay.store import (
    Added,
    Backfill,
    Coverage,
    DeadLetter,
    Declared,
    Fate,
    Lateness,
    Notice,
    Proof,
    SinkState,
    SourceState,
    Span,
    SpoolPage,
    StoredDeadLetter,
    known_key,
    sortable,
)
from auditrelay.store.progress import Progress, Range
from auditrelay.store.sqlite import backfills, dead_letters, ledger, removal
from auditrelay.store.sqlite import state_dir as files
from auditrelay.store.sqlite.journal import NO_DIGEST, Scribe, newest, record, records, xor
from auditrelay.store.sqlite.writer import Writer, translate
from auditrelay.window import Interval, micros, moment

T = TypeVar("T")

LATE_SHOWN = 50
"""How many records of late events are told with the state of a source."""

READ_BYTES = 1 << 20
"""How much of the spool, compressed, is read in one go."""

_KEY = 28
_NUMBERS = "with recursive n(i) as (values (0) union all select i + 1 from n where i + 1 < ?2)"
_FIND_KNOWN = (
    f"{_NUMBERS} select group_concat(i) from n where exists (select 1 from known "  # noqa: S608  # constants
    f"where source = ?3 and key = substr(?1, 1 + {_KEY} * i, {_KEY}))"
)
_REMEMBER = (
    f"insert into known {_NUMBERS} "  # noqa: S608  # constants
    f"select ?3, substr(?1, 1 + {_KEY} * i, {_KEY}), ?4 + i from n"
)
_FORGET_STEP = 50_000
_FIRST_TIME = (1).to_bytes(8)


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
        self._spool_bytes = _meta(write, "spool_bytes")
        self._disk_full = not files.take_ballast(state_dir)
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
        return await self._read(lambda db: ledger.spans(db, _source_id(db, source)))

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
            owner = _source_id(db, source)
            scribe = Scribe(db, owner, now, via)
            new = _unknown(db, owner, keys)
            late: list[int] = []
            if new:
                first = self._spool(db, owner, [events[index] for index in new], now)
                db.execute(_REMEMBER, (b"".join(keys[i] for i in new), len(new), owner, first))
                found = ledger.count_late(
                    scribe,
                    [(_time_of(keys[index]), keys[index][8:]) for index in new],
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
        for index in _unknown(db, owner, keys):
            db.execute(_REMEMBER, (keys[index], 1, owner, -1))
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
        held = _meta(db, "spool_bytes")
        if held and held + len(blob) > self._max_bytes:
            raise StoreFull(f"the spool holds {held} bytes, {self._max_bytes} are allowed")
        first = _meta(db, "next_position")
        db.execute(
            "insert into spool values (?, ?, ?, ?, ?, ?, (select id from sink where name = ?))",
            (first, len(events), owner, now, len(blob), blob, only),
        )
        _set_meta(db, "next_position", first + len(events))
        self._resize(db, len(blob))
        return first

    def _resize(self, db: sqlite3.Connection, change: int) -> None:
        # Counted in the database, since what is counted here is not undone with a transaction.
        self._spool_bytes = _meta(db, "spool_bytes") + change
        _set_meta(db, "spool_bytes", self._spool_bytes)

    async def is_parcel_known(self, source: str, key: bytes) -> bool:
        """See Store."""
        query = (
            "select 1 from parcel where source = (select id from source where name = ?) and key = ?"
        )
        return await self._read(lambda db: db.execute(query, (source, key)).fetchone() is not None)

    async def end_of_spool(self) -> int:
        """See Store."""
        return await self._read(lambda db: _meta(db, "next_position"))

    async def vanished(
        self, source: str, span: Interval, seen: AbstractSet[bytes], before: int
    ) -> int:
        """See Store."""
        now = time.time_ns() // 1000

        def find(db: sqlite3.Connection) -> list[bytes]:
            owner = _source_id(db, source)
            return [key for key in _keys_in(db, owner, span, before) if key not in seen]

        missing = await self._read(find)
        if not missing:
            return 0

        def work(db: sqlite3.Connection) -> int:
            owner = _source_id(db, source)
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
        return await self._read(lambda db: len(_unknown(db, _source_id(db, source), keys)))

    async def fates(
        self, source: str, events: Sequence[AuditEvent]
    ) -> list[Mapping[str, Fate] | None]:
        """See Store."""
        keys = [known_key(event) for event in events]
        return await self._read(lambda db: fates(db, source, _source_id(db, source), keys))

    async def shown_no_more(
        self, source: str, span: Interval, seen: AbstractSet[bytes], before: int
    ) -> list[tuple[str, datetime]]:
        """See Store."""
        return await self._read(
            lambda db: [
                (key[8:].hex(), moment(_time_of(key)))
                for key in _keys_in(db, _source_id(db, source), span, before)
                if key not in seen
            ]
        )

    async def forwarded(self, source: str, span: Interval) -> tuple[int, str]:
        """See Store."""

        def work(db: sqlite3.Connection) -> tuple[int, str]:
            owner = _source_id(db, source)
            count, digest = ledger.digest_of(db, owner, micros(span.start), micros(span.end))
            return count, digest.hex()

        return await self._read(work)

    # -- backfill --------------------------------------------------------------------------------

    async def begin_backfill(
        self, source: str, span: Interval, sinks: Sequence[str], now: datetime
    ) -> Backfill:
        """See Store."""
        return await self._writer.write(
            lambda db: backfills.begin(db, _source_id(db, source), span, sinks, now)
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
            owner = _source_id(db, source)
            for sink in sinks if events else ():
                self._spool(db, owner, list(events), now, only=sink)
            _enter(Scribe(db, owner, now, "backfill"), proof, len(events))

        await self._writer.write(work)

    async def held(self, source: str, span: Interval) -> list[AuditEvent] | None:
        """See Store."""
        return await self._read(lambda db: _held(db, _source_id(db, source), span))

    # -- second looks ----------------------------------------------------------------------------

    async def resweep_from(self, source: str, delay: timedelta) -> datetime:
        """See Store."""

        def work(db: sqlite3.Connection) -> int:
            until: int = db.execute(
                "select coalesce((select until from resweep where source = source.id and "
                "delay = ?), started) from source where name = ?",
                (_micros(delay), source),
            ).fetchone()[0]
            return until

        return moment(await self._read(work))

    async def resweep_done(self, source: str, delay: timedelta, until: datetime) -> None:
        """See Store."""
        await self._writer.write(
            lambda db: db.execute(
                "insert into resweep values (?, ?, ?) "
                "on conflict (source, delay) do update set until = excluded.until",
                (_source_id(db, source), _micros(delay), micros(until)),
            )
        )

    # -- sinks -----------------------------------------------------------------------------------

    async def start_sink(
        self, sink: str, sources: Sequence[str], *, configured: Sequence[str] | None = None
    ) -> None:
        """See Store."""

        def work(db: sqlite3.Connection) -> None:
            left = set() if configured is None else _read_by(db, sink).difference(configured)
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
                (_meta(db, "next_position"), json.dumps(list(active))),
            )
            retired = db.execute("select name from sink where ends is not null order by name")
            return tuple(name for (name,) in retired.fetchall() if _waiting(db, name)[0])

        return await self._writer.write(work)

    async def read(self, sink: str, after: int, most: int) -> list[SpoolPage]:
        """See Store."""

        def work(db: sqlite3.Connection) -> list[SpoolPage]:
            progress, readable = _sink(db, sink)
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
            progress = _sink(db, sink)[0].plus(done)
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
                owner = _source_id(db, each.source)
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
        while await self._writer.write(lambda db: _forget(db, oldest)) == _FORGET_STEP:
            pass
        await self._writer.write(_shrink)
        return gone

    async def make_room(self) -> bool:
        """See Store."""
        try:
            given_up = await self._writer.write(self._give_up_delivered)
        except StoreFull:  # so full that not even a deletion can be written down
            given_up = False
        if self._disk_full and await asyncio.to_thread(files.take_ballast, self._dir):
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
        files.drop_ballast(self._dir)

    def _prune(self, db: sqlite3.Connection, before: int) -> int:
        floor = _floor(db)
        gone, size = db.execute(
            "select total(count), total(bytes) from spool where first + count <= ? and stored < ?",
            (floor, before),
        ).fetchone()
        if gone:
            db.execute("delete from spool where first + count <= ? and stored < ?", (floor, before))
            self._resize(db, -int(size))
        return int(gone)

    def _give_up_delivered(self, db: sqlite3.Connection) -> bool:
        floor, excess = _floor(db), max(self._spool_bytes - self._max_bytes, 0) + (4 << 20)
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


class StateView:
    """
    The state, read beside a running instance or without one; it changes nothing.

    Raises StateError if there is none or it cannot be read.
    """

    def __init__(self, state_dir: Path) -> None:
        self._db = files.connect(state_dir, write=False)

    def __enter__(self) -> Self:
        """Use it as a context manager."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of the file."""
        self._db.close()

    def sources(self) -> list[SourceState]:
        """Return what is known of every source."""
        return self._get(source_states)

    def sinks(self) -> list[SinkState]:
        """Return what is known of every sink."""
        return self._get(sink_states)

    def spool_bytes(self) -> int:
        """Return what the spool holds, compressed."""
        return self._get(lambda db: _meta(db, "spool_bytes"))

    def dead_letters(
        self,
        *,
        sinks: Sequence[str] = (),
        sources: Sequence[str] = (),
        reasons: Sequence[str] = (),
        ids: Sequence[int] = (),
    ) -> list[StoredDeadLetter]:
        """Return the dead letters that match every filter given, oldest first."""
        return self._get(
            lambda db: dead_letters.find(db, sinks=sinks, sources=sources, reasons=reasons, ids=ids)
        )

    def coverage(self, source: str, *, prove: bool = True) -> Coverage | None:
        """
        Return everything that is known of what was read of *source*; None if it is not known.

        Unless *prove*, the events that are known are not counted anew, which takes a second for
        every million of them or two.
        """
        return self._get(lambda db: _coverage(db, source, prove=prove))

    def _get(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return work(self._db)
        except sqlite3.Error as error:
            raise translate(error) from error


# -- works on a connection -----------------------------------------------------------------------


def _micros(delay: timedelta) -> int:
    return delay // timedelta(microseconds=1)


def _time_of(key: bytes) -> int:
    return int.from_bytes(key[:8]) - (1 << 63)


def _meta(db: sqlite3.Connection, name: str) -> int:
    found: int = db.execute("select value from meta where name = ?", (name,)).fetchone()[0]
    return found


def _set_meta(db: sqlite3.Connection, name: str, value: int) -> None:
    db.execute("update meta set value = ? where name = ?", (value, name))


def _shrink(db: sqlite3.Connection) -> None:
    """Give some unused room back to the file system."""
    db.execute("pragma incremental_vacuum(1000)").fetchall()


def _source_id(db: sqlite3.Connection, source: str) -> int:
    row = db.execute("select id from source where name = ?", (source,)).fetchone()
    if row is None:
        raise KeyError(f"source {source!r} was never started")
    found: int = row[0]
    return found


def _unknown(db: sqlite3.Connection, owner: int, keys: list[bytes]) -> list[int]:
    """Return the indices of *keys* that are not known, each distinct key once."""
    if not keys:
        return []
    first_of = {key: index for index, key in reversed(list(enumerate(keys)))}
    (found,) = db.execute(_FIND_KNOWN, (b"".join(keys), len(keys), owner)).fetchone()
    known = set(map(int, found.split(","))) if found else set()
    if not known and len(first_of) == len(keys):
        return list(range(len(keys)))
    return [i for i, key in enumerate(keys) if i not in known and first_of[key] == i]


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


def _keys_in(
    db: sqlite3.Connection, owner: int, span: Interval, before: int = 1 << 62
) -> list[bytes]:
    """Return the keys of all events of *span* that were spooled *before* that position."""
    return [
        key
        for (key,) in db.execute(
            "select key from known where source = ? and key >= ? and key < ? and position < ?",
            (owner, sortable(micros(span.start)), sortable(micros(span.end)), before),
        )
    ]


def _held(db: sqlite3.Connection, owner: int, span: Interval) -> list[AuditEvent] | None:
    wanted = {
        position
        for (position,) in db.execute(
            "select position from known where source = ? and key >= ? and key < ?",
            (owner, sortable(micros(span.start)), sortable(micros(span.end))),
        )
    }
    events: list[AuditEvent] = []
    if not wanted:
        return events
    for first, count, blob in db.execute(
        "select first, count, events from spool where first + count > ? and first <= ? "
        "and source = ? and only is null order by first",
        (min(wanted), max(wanted), owner),
    ):
        inside = sorted(wanted.intersection(range(first, first + count)))
        if inside:
            page = unpack(isal_zlib.decompress(blob))
            events += [page[position - first] for position in inside]
    return events if len(events) == len(wanted) else None


def fates(
    db: sqlite3.Connection, source: str, owner: int, keys: list[bytes]
) -> list[Mapping[str, Fate] | None]:
    """Return for each of *keys* what became of its event at every sink; None if it is unknown."""
    sinks = []
    for name, since in db.execute(
        "select sink.name, feed.since from sink join feed on feed.sink = sink.id "
        "where feed.source = ? and sink.ends is null order by sink.name",
        (source,),
    ).fetchall():
        sinks.append((name, since, _sink(db, name)[0]))
    aside = dead_letters.states(db, [key[8:].hex() for key in keys])
    found: list[Mapping[str, Fate] | None] = []
    for key in keys:
        row = db.execute(
            "select position from known where source = ? and key = ?", (owner, key)
        ).fetchone()
        if row is None:
            found.append(None)
            continue
        uid, position = key[8:].hex(), row[0]
        found.append(
            {
                name: aside.get((uid, name))
                or aside.get((uid, None))
                or (
                    "before_sink"
                    if position < since
                    else "waiting"
                    if progress.open_ranges(position, position + 1)
                    else "delivered"
                )
                for name, since, progress in sinks
            }
        )
    return found


def _coverage(db: sqlite3.Connection, source: str, *, prove: bool) -> Coverage | None:
    row = db.execute("select id, head from source where name = ?", (source,)).fetchone()
    if row is None:
        return None
    owner, head = row
    (gone,) = db.execute("select count(*) from vanished where source = ?", (owner,)).fetchone()
    spans = ledger.spans(db, owner)
    return Coverage(
        spans=spans,
        journal=tuple(records(db, owner)),
        head=head,
        lateness=_lateness(db, owner),
        vanished=gone,
        differs=_differs(db, owner, spans) if prove else None,
    )


def _lateness(db: sqlite3.Connection, owner: int) -> tuple[Lateness, ...]:
    return tuple(
        Lateness(*row)
        for row in db.execute(
            "select via, seconds, events from lateness where source = ? order by via, seconds",
            (owner,),
        )
    )


def _differs(db: sqlite3.Connection, owner: int, spans: Sequence[Span]) -> str | None:
    """Return which entry counts other events than are known, if they are all still known."""
    (oldest,) = db.execute("select value from meta where name = 'forgotten_before'").fetchone() or (
        None,
    )
    for span in spans:
        start, end = micros(span.interval.start), micros(span.interval.end)
        if span.gap is not None or (oldest is not None and start < oldest):
            continue
        events, digest = ledger.digest_of(db, owner, start, end)
        if (events, digest.hex()) != (span.events, span.digest):
            return (
                f"the ledger counts {span.events} events from {span.interval.start} to "
                f"{span.interval.end}, and {events} are known, or others than those"
            )
    return None


def _forget(db: sqlite3.Connection, before: int) -> int:
    """Forget some of the uids of events older than *before*; return how many."""
    return db.execute(
        "delete from known where (source, key) in (select source, key from known, "
        "(select id from source) where source = id and key >= ? and key < ? limit ?)",
        (_FIRST_TIME, sortable(before), _FORGET_STEP),
    ).rowcount


def _sink(db: sqlite3.Connection, sink: str) -> tuple[Progress, str]:
    """Return how far *sink* has come, and the ids of the sources that it reads, as JSON."""
    row = db.execute(
        "select position, ahead, (select json_group_array(source.id) from source "
        "where name in (select value from json_each(sink.sources))) from sink where name = ?",
        (sink,),
    ).fetchone()
    if row is None:
        raise KeyError(f"sink {sink!r} was never started")
    position, ahead, readable = row
    return Progress(position, tuple((start, end) for start, end in json.loads(ahead))), readable


def _read_by(db: sqlite3.Connection, sink: str) -> set[str]:
    """Return the sources that *sink* has read until now."""
    row = db.execute("select sources from sink where name = ?", (sink,)).fetchone()
    return set() if row is None else set(json.loads(row[0]))


def _waiting(db: sqlite3.Connection, sink: str) -> tuple[int, int | None, int | None]:
    """Return what waits for *sink*: events, the first position, and when that was stored."""
    progress, readable = _sink(db, sink)
    count, first, stored = db.execute(
        "select total(first + count - max(first, ?1)), min(first), min(stored) from spool "
        "where first + count > ?1 and source in (select value from json_each(?2)) "
        "and first < (select coalesce(ends, 1 << 62) from sink where name = ?3) "
        "and (only is null or only = (select id from sink where name = ?3))",
        (progress.position, readable, sink),
    ).fetchone()
    return int(count) - sum(end - start for start, end in progress.ahead), first, stored


def _floor(db: sqlite3.Connection) -> int:
    """Return the position before which every sink has everything."""
    (floor,) = db.execute("select value from meta where name = 'next_position'").fetchone()
    for (sink,) in db.execute("select name from sink").fetchall():
        first = _waiting(db, sink)[1]
        if first is not None:
            floor = min(floor, first)
    found: int = floor
    return found


def _undelivered(db: sqlite3.Connection, owner: int, floor: int) -> int:
    (count,) = db.execute(
        "select total(first + count - max(first, ?1)) from spool where first + count > ?1 "
        "and source = ?2",
        (floor, owner),
    ).fetchone()
    return int(count)


def source_states(db: sqlite3.Connection) -> list[SourceState]:
    """Return what is known of every source."""
    rows = db.execute(
        "select id, name, started, condition from source where name <> ? order by name", (ALERTS,)
    ).fetchall()
    floor = _floor(db)
    return [
        SourceState(
            name,
            moment(started),
            ledger.spans(db, owner),
            _lateness(db, owner),
            newest(db, owner, "late", LATE_SHOWN),
            _undelivered(db, owner, floor),
            dead_letters.of_no_sink(db, name),
            json.loads(condition),
        )
        for owner, name, started, condition in rows
    ]


def sink_states(db: sqlite3.Connection) -> list[SinkState]:
    """Return what is known of every sink."""
    rows = db.execute(
        "select name, position, condition, (select count(*) from dead_letter "
        "where dead_letter.sink = sink.id and dropped is null) from sink order by name"
    ).fetchall()
    states = []
    for name, position, condition, dead in rows:
        waiting, _, stored = _waiting(db, name)
        oldest = None if stored is None else moment(stored)
        states.append(SinkState(name, position, waiting, oldest, dead, json.loads(condition)))
    return states
