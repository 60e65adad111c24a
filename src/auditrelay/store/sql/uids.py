"""
Find known uids whatever their time is: the vendor may tell another time for the same record.

The known uids themselves are clustered by time. Beside them is a log of them, a row for about a
thousand: the first eight bytes of each uid, and its time. It only grows at its end, since an index
in the order of uids costs a page of the database for each new one
(docs/decisions/0024-uid-alone.md). Whether it is worth a look is known in memory: five bytes a uid.
"""

import math
import struct
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cache
from typing import Final, NamedTuple

from auditrelay.errors import StateError
from auditrelay.store.keys import KEY, TIMELESS, time_of
from auditrelay.store.sql.connection import Connection, Cursor
from auditrelay.store.sql.dialect import Dialect

ROW: Final = 1000
"""
How many uids a row of the log has: small pages are added to the last row until it is full.

In PostgreSQL rows of small pages are shorter, see ``Dialect.appended``.
"""

_READ: Final = 64
"""How many rows of the log are read at once."""

_NEVER: Final = (1 << 63) - 1
"""The newest time of a row with a uid that has no time, and so is never forgotten."""

_FEW_BITS: Final = 8
_BITS: Final = 14
"""By how many bits a set of uids is divided: of few uids, and at least of more than _FEW."""

_FEW: Final = 64 << _FEW_BITS
"""So many uids are few: at rest, most sources have had no more since the start."""

_START: Final = struct.Struct(">I4s12x")
"""The bytes of a uid that are looked at in memory."""


@cache
def _before(dialect: Dialect) -> str:
    return (
        f"select min(id), {dialect.joined.format('uids', 'id desc')}, "  # noqa: S608  # constants
        f"{dialect.joined.format('times', 'id desc')} "
        "from (select id, uids, times from uid_log where source = ? and id < ? "
        "order by id desc limit ?) as step"
    )


class Uids:
    """
    What may be known, by source: the first eight bytes of each uid.

    Loaded when a source first has something new; shared by the writer thread, which adds to it, and
    the reader thread. It may have more than the log, after a write that failed or once a uid was
    forgotten, and never less: what it does not have is not known.
    """

    def __init__(self) -> None:
        self._loaded: dict[int, _Loaded] = {}

    def possible(self, owner: int, uids: Collection[bytes]) -> Collection[bytes]:
        """Return those of *uids* that may be known; all of them while nothing tells."""
        loaded = self._loaded.get(owner)
        if loaded is None:
            return uids
        shift, rest_of = loaded.shift, loaded.rest_of
        starts = _START.iter_unpack(b"".join(uids))
        return [
            uid
            for uid, (first, rest) in zip(uids, starts, strict=True)
            if rest in rest_of[first >> shift]
        ]

    def are_new(self, owner: int, uids: Sequence[bytes]) -> bool:
        """Return whether none of *uids* is known, and each is there once; False if that is open."""
        return (
            owner in self._loaded and len(set(uids)) == len(uids) and not self.possible(owner, uids)
        )

    def finish(self, db: Connection, owner: int, begun: "Begun") -> None:
        """Finish what :func:`begin_adding` has *begun* for the source *owner*."""
        newest, uids, times, appended = begun
        if not appended.rowcount:
            _insert(db, owner, newest, uids, times)
        loaded = self._loaded.get(owner)
        if loaded is not None and not loaded.full:
            loaded.add(uids)
        else:
            self.load(db, owner)

    def load(self, db: Connection, owner: int) -> None:
        """Load what is known of the source *owner*."""
        (size,) = db.execute(
            "select cast(coalesce(sum(length(uids)), 0) as bigint) from uid_log where source = ?",
            (owner,),
        ).fetchone()
        loaded = _Loaded(size // 8)
        for logged, _ in _log(db, owner):
            loaded.add(logged)
        # Only now that it is complete: the reader thread believes what it finds here.
        self._loaded[owner] = loaded


class _Loaded:
    """A set of uids, of which *count* are expected: four bytes each, by the bits before these."""

    def __init__(self, count: int) -> None:
        few = count < _FEW
        bits = _FEW_BITS if few else max(_BITS, (count // 64).bit_length())
        self.shift = 32 - bits
        self.rest_of = [b""] * (1 << bits)
        self._room = _FEW if few else math.inf

    @property
    def full(self) -> bool:
        """Whether it has become too many for so few bits: then it is to be loaded again."""
        return self._room <= 0

    def add(self, uids: bytes) -> None:
        """Add the *uids*, of eight bytes each."""
        self._room -= len(uids) // 8
        for first, rest in struct.iter_unpack(">I4s", uids):
            self.rest_of[first >> self.shift] += rest


def logged(db: Connection, owner: int, wanted: Iterable[bytes]) -> Iterator[list[bytes]]:
    """
    Yield the keys under which one of the uids *wanted* may be known, the last ones first, in steps.

    A key may be of another uid with the same first eight bytes: look whether it is known.
    """
    of: dict[int, list[bytes]] = {}
    for uid in wanted:
        of.setdefault(int.from_bytes(uid[:8]), []).append(uid)
    for uids, times in _log(db, owner):
        numbers = struct.unpack(f">{len(uids) // 8}Q", uids)
        if of.keys().isdisjoint(numbers):
            continue
        yield [
            times[8 * place : 8 * place + 8] + uid
            for place, number in enumerate(numbers)
            if number in of
            for uid in of[number]
        ]


def _log(db: Connection, owner: int) -> Iterator[tuple[bytes, bytes]]:
    """
    Yield the log of the source *owner* from its end, in steps: uids and their times.

    Raises StateError where it cannot be that log: an event would be new that is known.
    """
    last = _NEVER
    while True:
        last, uids, times = db.execute(_before(db.dialect), (owner, last, _READ)).fetchone()
        if last is None:
            return
        if len(uids) % 8 or len(uids) != len(times):
            raise StateError(
                f"the table uid_log is damaged, near its row {last}: what was forwarded cannot be "
                "distinguished from what is new. Restore the state from a backup "
                "(docs/upgrade.md, Backup)"
            )
        yield uids, times


def _row_of(keys: Sequence[bytes]) -> tuple[int, bytes, bytes]:
    """Return what a row of the log with *keys* holds: the newest time, uids, and their times."""
    times = [key[:8] for key in keys]
    newest = _NEVER if TIMELESS in times else time_of(max(times))
    return newest, b"".join([key[8:16] for key in keys]), b"".join(times)


class Begun(NamedTuple):
    """What is added to the log: the newest time, uids, and their times; whether it *appended*."""

    newest: int
    uids: bytes
    times: bytes
    appended: Cursor


def begin_adding(db: Connection, owner: int, keys: Sequence[bytes]) -> Begun:
    """Append *keys* to the last row of the source *owner*, if that one is not full."""
    dialect, (newest, uids, times) = db.dialect, _row_of(keys)
    appended = db.execute(
        f"update uid_log set newest = {dialect.greatest}(newest, ?2), "  # noqa: S608  # constants
        f"uids = {dialect.bytes.format('uids || ?3')}, "
        f"times = {dialect.bytes.format('times || ?4')} "
        "where id = (select max(id) from uid_log where source = ?1) "
        "and length(uids) + length(?3) <= ?5",
        (owner, newest, uids, times, dialect.appended),
    )
    return Begun(newest, uids, times, appended)


def _insert(db: Connection, owner: int, newest: int, uids: bytes, times: bytes) -> None:
    db.execute(
        "insert into uid_log (source, newest, uids, times) values (?, ?, ?, ?)",
        (owner, newest, uids, times),
    )


def log_known(db: Connection) -> None:
    """Log every known uid: for a state that was written before there was a log."""
    for (owner,) in db.execute("select id from source").fetchall():
        last = b""
        while True:
            count, joined = db.execute(
                f"select count(*), {db.dialect.joined.format('key', 'key')} from "  # noqa: S608  # constants
                "(select key from known where source = ? and key > ? order by key limit ?) as step",
                (owner, last, ROW),
            ).fetchone()
            if not count:
                break
            last = joined[-KEY:]
            keys = [joined[place : place + KEY] for place in range(0, len(joined), KEY)]
            _insert(db, owner, *_row_of(keys))
