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
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, Self, TypeVar

from isal import isal_zlib

from auditrelay.errors import StoreFull
from auditrelay.events import AuditEvent, pack, unpack
from auditrelay.store import (
    Added,
    DeadLetter,
    SinkState,
    SourceState,
    Span,
    SpoolPage,
    StoredDeadLetter,
    files,
)
from auditrelay.store.progress import Progress, Range
from auditrelay.store.writer import Writer, translate
from auditrelay.window import Interval, holes, micros, moment

T = TypeVar("T")

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
_DAY = 86_400_000_000
_DIGEST_STEP = 20_000
_FORGET_STEP = 50_000
_NO_DIGEST = bytes(20)
_TIMELESS = bytes(8)
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
        return await self._read(lambda db: _ledger(db, _source_id(db, source)))

    async def add(
        self, source: str, events: Sequence[AuditEvent], *, covers: Interval | None = None
    ) -> Added:
        """See Store."""
        if self._disk_full:
            raise StoreFull("the disk is full")
        keys = [_key(event) for event in events]
        now = time.time_ns() // 1000

        def work(db: sqlite3.Connection) -> Added:
            owner = _source_id(db, source)
            new = _unknown(db, owner, keys)
            if new:
                first = self._spool(db, owner, [events[index] for index in new], now)
                db.execute(_REMEMBER, (b"".join(keys[i] for i in new), len(new), owner, first))
                _count_late(db, owner, [keys[index] for index in new])
            if covers is not None:
                _cover(db, owner, covers, now)
            return Added(tuple(new), len(events) - len(new))

        return await self._writer.write(work)

    def _spool(self, db: sqlite3.Connection, owner: int, events: list[AuditEvent], now: int) -> int:
        """Put *events* at the end of the spool; return the position of the first."""
        blob = isal_zlib.compress(pack(events), 1)
        held = _meta(db, "spool_bytes")
        if held and held + len(blob) > self._max_bytes:
            raise StoreFull(f"the spool holds {held} bytes, {self._max_bytes} are allowed")
        first = _meta(db, "next_position")
        db.execute(
            "insert into spool values (?, ?, ?, ?, ?, ?)",
            (first, len(events), owner, now, len(blob), blob),
        )
        _set_meta(db, "next_position", first + len(events))
        self._resize(db, len(blob))
        return first

    def _resize(self, db: sqlite3.Connection, change: int) -> None:
        # Counted in the database, since what is counted here is not undone with a transaction.
        self._spool_bytes = _meta(db, "spool_bytes") + change
        _set_meta(db, "spool_bytes", self._spool_bytes)

    async def declare_gap(
        self, source: str, interval: Interval, reason: str, notice: AuditEvent
    ) -> tuple[Interval, ...]:
        """See Store."""
        now = time.time_ns() // 1000

        def work(db: sqlite3.Connection) -> tuple[Interval, ...]:
            owner = _source_id(db, source)
            gaps = tuple(holes(interval, [span.interval for span in _ledger(db, owner)]))
            for gap in gaps:
                db.execute(
                    "insert into coverage values (?, ?, ?, ?, 0, ?, ?)",
                    (owner, micros(gap.start), micros(gap.end), reason, _NO_DIGEST, now),
                )
            if gaps:
                self._spool(db, owner, [notice], now)
            return gaps

        return await self._writer.write(work)

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

    async def start_sink(self, sink: str, sources: Sequence[str]) -> None:
        """See Store."""

        def work(db: sqlite3.Connection) -> None:
            db.execute(
                "insert into sink (name, sources, position) "
                "select ?, ?, value from meta where name = 'next_position' "
                "on conflict (name) do update set sources = excluded.sources, ends = null",
                (sink, json.dumps(sorted(sources))),
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
                    "(select value from json_each(?2)) order by first limit 1",
                    (position, readable),
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
                event = letter.event
                db.execute(
                    "insert into dead_letter (sink, source, uid, native_id, reason, status, "
                    "message, attempts, first_at, last_at, event) values ((select id from sink "
                    "where name = ?), ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        sink,
                        event.source,
                        event.uid,
                        event.native_id,
                        letter.reason,
                        letter.status,
                        letter.message,
                        letter.attempts,
                        micros(letter.first_at),
                        micros(letter.last_at),
                        pack([event]),
                    ),
                )

        await self._writer.write(work)

    # -- both ------------------------------------------------------------------------------------

    async def note(
        self, peer: Literal["source", "sink"], name: str, condition: Mapping[str, object]
    ) -> None:
        """See Store."""
        text = json.dumps(condition)
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
        wanted = {"sink.name": sinks, "source": sources, "reason": reasons, "dead_letter.id": ids}
        where = [
            f"{column} in (select value from json_each(?))"  # noqa: S608  # columns are ours
            for column, values in wanted.items()
            if values
        ]
        query = (
            "select dead_letter.id, sink.name, source, reason, message, status, attempts, "  # noqa: S608  # columns are ours
            "first_at, last_at, event from dead_letter join sink on sink.id = dead_letter.sink "
            f"{'where ' + ' and '.join(where) if where else ''} order by dead_letter.id"
        )
        values = [json.dumps(list(values)) for values in wanted.values() if values]
        return self._get(
            lambda db: [
                StoredDeadLetter(
                    row[0],
                    row[1],
                    row[2],
                    DeadLetter(
                        unpack(row[9])[0],
                        row[3],
                        row[4],
                        row[5],
                        row[6],
                        moment(row[7]),
                        moment(row[8]),
                    ),
                )
                for row in db.execute(query, values)
            ]
        )

    def _get(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return work(self._db)
        except sqlite3.Error as error:
            raise translate(error) from error


# -- works on a connection -----------------------------------------------------------------------


def _micros(delay: timedelta) -> int:
    return delay // timedelta(microseconds=1)


def _key(event: AuditEvent) -> bytes:
    """
    Return how *event* is known: its time, so that neighbours in time lie together, and its uid.

    A time that we made up at fetching is no part of it: the next fetch would make up another.
    """
    if event.time_quality == "fetched":
        return _TIMELESS + bytes.fromhex(event.uid)
    return _time(event.at) + bytes.fromhex(event.uid)


def _time(at: int) -> bytes:
    """Return eight bytes that sort as the moment *at* does, before 1970 too."""
    return (at + (1 << 63)).to_bytes(8)


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


def _ledger(db: sqlite3.Connection, owner: int) -> tuple[Span, ...]:
    rows = db.execute(
        "select start, end, gap, events, hex(digest) from coverage where source = ? order by start",
        (owner,),
    ).fetchall()
    return tuple(
        Span(Interval(moment(start), moment(end)), gap, events, digest.lower())
        for start, end, gap, events, digest in rows
    )


def _cover(db: sqlite3.Connection, owner: int, covers: Interval, now: int) -> None:
    """Enter *covers* into the ledger: gaps give way, and what was covered stays as it is."""
    start, end = micros(covers.start), micros(covers.end)
    near = db.execute(
        "select start, end, gap, events, digest from coverage "
        "where source = ? and start <= ? and end >= ?",
        (owner, end, start),
    ).fetchall()
    for gap_start, gap_end, reason, _, _ in near:
        if reason is None or gap_end <= start or gap_start >= end:
            continue
        db.execute("delete from coverage where source = ? and start = ?", (owner, gap_start))
        for left, right in ((gap_start, start), (end, gap_end)):
            if left < right:
                db.execute(
                    "insert into coverage values (?, ?, ?, ?, 0, ?, ?)",
                    (owner, left, right, reason, _NO_DIGEST, now),
                )
    covered = [Interval(moment(row[0]), moment(row[1])) for row in near if row[2] is None]
    for hole in holes(covers, covered):
        hole_start, hole_end = micros(hole.start), micros(hole.end)
        events, digest = _digest(db, owner, hole_start, hole_end)
        # One entry a day, so that years of five-minute polls stay small and can still be read.
        grown = db.execute(
            "select start, events, digest from coverage where source = ? and end = ? "
            "and gap is null and start / ? = ? / ?",
            (owner, hole_start, _DAY, hole_start, _DAY),
        ).fetchone()
        if grown is None:
            db.execute(
                "insert into coverage values (?, ?, ?, null, ?, ?, ?)",
                (owner, hole_start, hole_end, events, digest, now),
            )
        else:
            db.execute(
                "update coverage set end = ?, events = ?, digest = ?, recorded = ? "
                "where source = ? and start = ?",
                (hole_end, grown[1] + events, _xor(grown[2], digest), now, owner, grown[0]),
            )


def _count_late(db: sqlite3.Connection, owner: int, keys: list[bytes]) -> None:
    """Bring the count and digest of entries up to date that were covered before *keys* came."""
    times = [int.from_bytes(key[:8]) - (1 << 63) for key in keys]
    for start, end, events, digest in db.execute(
        "select start, end, events, digest from coverage "
        "where source = ? and gap is null and start <= ? and end > ?",
        (owner, max(times), min(times)),
    ).fetchall():
        late = [key for key, at in zip(keys, times, strict=True) if start <= at < end]
        if late:
            for key in late:
                digest = _xor(digest, key[8:])  # noqa: PLW2901  # it is the running value
            db.execute(
                "update coverage set events = ?, digest = ? where source = ? and start = ?",
                (events + len(late), digest, owner, start),
            )


def _digest(db: sqlite3.Connection, owner: int, start: int, end: int) -> tuple[int, bytes]:
    """Return how many known events lie in [*start*, *end*), and the exclusive-or of their uids."""
    last, stop = _time(start), _time(end)
    count, total = 0, 0
    while True:
        uids, last_key, found = db.execute(
            "select group_concat(hex(substr(key, 9)), ''), max(key), count(*) from "
            "(select key from known where source = ? and key > ? and key < ? order by key limit ?)",
            (owner, last, stop, _DIGEST_STEP),
        ).fetchone()
        if not found:
            return count, total.to_bytes(20)
        text = bytes.fromhex(uids)
        for place in range(0, len(text), 20):
            total ^= int.from_bytes(text[place : place + 20])
        count, last = count + found, last_key


def _xor(one: bytes, other: bytes) -> bytes:
    return (int.from_bytes(one) ^ int.from_bytes(other)).to_bytes(20)


def _forget(db: sqlite3.Connection, before: int) -> int:
    """Forget some of the uids of events older than *before*; return how many."""
    return db.execute(
        "delete from known where (source, key) in (select source, key from known, "
        "(select id from source) where source = id and key >= ? and key < ? limit ?)",
        (_FIRST_TIME, _time(before), _FORGET_STEP),
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


def _waiting(db: sqlite3.Connection, sink: str) -> tuple[int, int | None, int | None]:
    """Return what waits for *sink*: events, the first position, and when that was stored."""
    progress, readable = _sink(db, sink)
    count, first, stored = db.execute(
        "select total(first + count - max(first, ?1)), min(first), min(stored) from spool "
        "where first + count > ?1 and source in (select value from json_each(?2)) "
        "and first < (select coalesce(ends, 1 << 62) from sink where name = ?3)",
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


def source_states(db: sqlite3.Connection) -> list[SourceState]:
    """Return what is known of every source."""
    rows = db.execute("select id, name, started, condition from source order by name").fetchall()
    return [
        SourceState(name, moment(started), _ledger(db, owner), json.loads(condition))
        for owner, name, started, condition in rows
    ]


def sink_states(db: sqlite3.Connection) -> list[SinkState]:
    """Return what is known of every sink."""
    rows = db.execute(
        "select name, position, condition, (select count(*) from dead_letter "
        "where dead_letter.sink = sink.id) from sink order by name"
    ).fetchall()
    states = []
    for name, position, condition, dead in rows:
        waiting, _, stored = _waiting(db, name)
        oldest = None if stored is None else moment(stored)
        states.append(SinkState(name, position, waiting, oldest, dead, json.loads(condition)))
    return states
