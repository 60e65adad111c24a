"""
The writer thread: transactions in the order of the calls, grouped into one commit.

Each ends with ``fence`` (see ``tables``): the database has counted exactly the writes that this
replica has counted, and the leases are those that the works carry. The count also says what became
of a commit whose reply was lost, and whether the database has lost what it had acknowledged.
"""

import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final, NamedTuple, TypeVar
from uuid import UUID

import psycopg
import structlog

from auditrelay.errors import Fenced, LeaseLost, RolledBack, StateError
from auditrelay.store.answer import Answer
from auditrelay.store.leases import Lease
from auditrelay.store.postgres.connection import Connection
from auditrelay.store.postgres.errors import Kind, kind_of, words_of
from auditrelay.store.postgres.link import CLOSING, Link, StoreAway

T = TypeVar("T")
Work = Callable[[Connection], T]

_MAX_GROUP: Final = 32
"""How many works share one commit at most."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_REGISTER: Final = (
    "insert into writer (replica, writes) values (?, 0) on conflict (replica) do nothing"
)

_LEAVE: Final = "delete from writer where replica = ?"

_FENCE: Final = "select fence(?, ?, ?::text[], ?::uuid[])"

_OUTCOME: Final = """
update writer set writes = case when writes = :writes then writes + 2 else writes end
where replica = :replica returning writes
"""
"""
What became of the write after :writes. If it was not committed it never will be from now on: it may
still be on its way, and finds another count. As there was no write in between, one more means that
it was, and two that it was not. It always writes, as only a commit that does waits for the standby.
"""


@dataclass(slots=True)
class _Count:
    """What is known of the writes of a *replica*; all but *replica* is for the thread to change."""

    replica: UUID
    registered: bool = False
    writes: int = 0
    unsettled: bool = False
    """Whether one more may have been committed."""
    lost: LeaseLost | None = None
    """Why nothing can be written any more."""


class _Entry(NamedTuple):
    work: Work[object]
    answer: Answer[object]
    then: Callable[[object], None] | None
    lease: Lease | None
    counted: _Count

    def finish(self, result: object) -> None:
        """Pass on the *result*, which is durable."""
        if self.then is not None:
            self.then(result)
        self.answer.give(result)


class _Apart(Exception):
    """These works are to run one by one: together they may take too long for one transaction."""


class Writer:
    """
    Runs works on its own thread over *link*, each as one transaction, as the *replica*.

    Works that are queued at the same time share one commit. If one raises, all are rolled back, and
    each runs again alone, so that only that one fails.

    While the database is away, works wait. A work whose connection is lost runs again only once the
    database says that it was not committed; if it was, it has the result that it had.

    Once the database has lost writes, or does not know this replica any more, every work fails with
    the same error until :meth:`continue_as`: whatever was read before may be gone.
    """

    def __init__(self, link: Link, replica: UUID) -> None:
        self._link = link
        self._count = _Count(replica)
        self._written_as = replica
        self._closing = False
        self._queue: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="store-writer", daemon=True)
        self._thread.start()

    @property
    def away_until(self) -> float:
        """See ``Link.away_until``."""
        return self._link.away_until

    @property
    def writes(self) -> int:
        """How many writes are known to be committed; if the database has fewer, it lost some."""
        return self._count.writes

    async def write(
        self,
        work: Work[T],
        *,
        then: Callable[[T], None] | None = None,
        lease: Lease | None = None,
    ) -> T:
        """
        Run *work* as one transaction, under *lease* if it is given; return its result once durable.

        *then* is called with it on the writer thread, in the order of the commits, even if the
        caller is cancelled meanwhile; not at all if the transaction fails. It must not raise.

        Raises Fenced if the lease is another's, RolledBack if the database has lost writes,
        StoreFull if it has no room, and StateError if it is damaged or away for too long, or after
        :meth:`close`.
        """
        if self._closing:
            raise StateError("the state is closed")  # nothing runs that would ever finish it
        answer = Answer[T]()
        self._queue.put(_Entry(work, answer, then, lease, self._count))  # type: ignore[arg-type]  # the queue keeps works of any T
        return await answer

    def continue_as(self, replica: UUID) -> None:
        """
        Go on as *replica*, an id that was never used.

        All leases have been dropped, and have other tokens by now. What is queued still runs, or
        fails, as the former replica.
        """
        self._count = _Count(replica)

    def close(self) -> None:
        """Finish the queued works, or fail them if the database is away, then stop."""
        self._closing = True
        self._link.give_up()
        self._queue.put(None)
        self._thread.join(CLOSING)
        if self._thread.is_alive():
            self._link.interrupt()
            self._thread.join()

    # --- on the thread ----------------------------------------------------------------------------

    def _work(self) -> None:
        stopping = False
        while not stopping:
            group = []
            entry = self._queue.get()
            while True:
                if entry is None:
                    stopping = True
                    break
                # Skip a work whose caller was cancelled before its turn.
                if entry.answer.is_awaited:
                    group.append(entry)
                if len(group) == _MAX_GROUP:
                    break
                try:
                    entry = self._queue.get_nowait()
                except queue.Empty:
                    break
            for _, entries in groupby(group, key=lambda entry: entry.counted.replica):
                self._commit(list(entries))
        self._leave(self._count)

    def _commit(self, group: list[_Entry]) -> None:
        """Run *group* in one transaction; if that fails as a whole, each work in its own."""
        try:
            results = self._run(group, group[0].counted)
        except StoreAway as error:
            for entry in group:
                entry.answer.fail(StoreAway(*error.args))
        except BaseException as error:  # noqa: BLE001  # raised in the caller, not in this thread
            if len(group) == 1:
                group[0].answer.fail(error)
                return
            for entry in group:
                self._commit([entry])
        else:
            for entry, result in zip(group, results, strict=True):
                entry.finish(result)

    def _run(self, group: list[_Entry], count: _Count) -> list[object]:
        """Return the results of *group*, run in one transaction, however often it takes."""
        self._ready(count)
        while True:
            db = results = None
            try:
                db = self._link.connection()
                if not count.registered:
                    self._register(db, count)
                db.begin(write=True)
                results = [entry.work(db) for entry in group]
                _fence(db, count, [entry.lease for entry in group if entry.lease is not None])
                db.commit()
            except psycopg.Error as error:
                if db is not None:
                    db.roll_back()
                if self._recover(error, group, results) and results is not None:
                    return results
            except BaseException:
                if db is not None:
                    db.roll_back()
                raise
            else:
                count.writes += 1
                self._link.reached()
                return results

    def _ready(self, count: _Count) -> None:
        """Return if the replica of *count* may write, in a session of its name; raise if not."""
        if count.replica != self._written_as:
            self._link.drop()  # others end a session by its name
            self._written_as = count.replica
        if count.unsettled:
            self._outcome(count)  # of a write whose caller was given an error
        if count.lost is not None:
            raise type(count.lost)(*count.lost.args)

    def _recover(
        self, error: psycopg.Error, group: list[_Entry], results: list[object] | None
    ) -> bool:
        """Return whether *group*, with *results*, was committed; if not it may run again."""
        kind, count = kind_of(error), group[0].counted
        if kind is Kind.FENCED:
            if self._outcome(count):
                count.lost = Fenced("another process has written as this replica")
                raise count.lost
            raise Fenced(words_of(error)) from error
        # Without the statement to commit, which comes after the results, nothing is committed.
        count.unsettled = results is not None and kind is Kind.LOST
        self._link.recover(error)
        if count.unsettled and self._outcome(count):
            return True
        if kind is Kind.LOST and len(group) > 1:
            raise _Apart from error
        return False

    def _register(self, db: Connection, count: _Count) -> None:
        db.begin(write=True)
        db.execute(_REGISTER, (count.replica,))
        db.commit()
        count.registered = True

    def _outcome(self, count: _Count) -> bool:
        """Return whether the write after those in *count* was committed; else it never will be."""
        while True:
            db = None
            try:
                db = self._link.connection()
                db.begin(write=True)
                row = db.execute(
                    _OUTCOME, {"replica": count.replica, "writes": count.writes}
                ).fetchone()
                db.commit()
            except psycopg.Error as error:
                if db is not None:
                    db.roll_back()
                self._link.recover(error)
            else:
                break
        self._link.reached()
        count.unsettled = False
        if row is None:
            count.lost = Fenced("the database does not know this replica any more")
            raise count.lost
        more: int = row[0] - count.writes
        if more in {0, 1, 2}:
            count.writes += more
            return more == 1
        if more < 0:
            count.lost = RolledBack(f"the database has lost {-more} of the writes of this replica")
            _log.error("store_rolled_back", writes=-more)
        else:
            count.lost = Fenced("another process has written as this replica")
        raise count.lost

    def _leave(self, count: _Count) -> None:
        """Remove the row of this replica, unless the database is away; close the connection."""
        db = self._link.live
        if db is not None and count.registered:
            with contextlib.suppress(psycopg.Error):
                db.begin(write=True)
                db.execute(_LEAVE, (count.replica,))
                db.commit()
        self._link.drop()


def _fence(db: Connection, count: _Count, leases: Sequence[Lease]) -> None:
    distinct = sorted(
        {(lease.unit, lease.token) for lease in leases}, key=lambda each: (each[0], each[1].int)
    )
    units, tokens = [unit for unit, _ in distinct], [token for _, token in distinct]
    db.execute(_FENCE, (count.replica, count.writes, units, tokens))
