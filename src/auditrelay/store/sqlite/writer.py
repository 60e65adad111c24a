"""The writer thread: transactions in the order of the calls, grouped into one commit and fsync."""

import contextlib
import os
import queue
import sqlite3
import threading
from collections.abc import Callable
from typing import Final, NamedTuple, TypeVar

import structlog

from auditrelay.errors import RelayError, StateError, StoreFull
from auditrelay.store.answer import Answer
from auditrelay.store.sqlite.connection import Connection

T = TypeVar("T")
Work = Callable[[Connection], T]

_MAX_GROUP = 32
"""How many works share one commit at most."""

BUSY_MS: Final = 1_000
"""How long SQLite waits while another process has locked the database; then we log, and wait on."""

LONG_LOG: Final = 32 << 20
"""Bytes of the write-ahead log from which on its end is taken over at once: 4 MB are usual."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_DISK_FULL_CODES = {
    sqlite3.SQLITE_FULL,
    # What SQLite reports if a quota or a file size limit leaves no room, or if the shared memory
    # file cannot grow.
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_SHMSIZE,
    sqlite3.SQLITE_IOERR_FSYNC,
}


def translate(error: sqlite3.Error) -> RelayError:
    """Return the error to raise for *error*: StoreFull if the disk is full, else StateError."""
    if getattr(error, "sqlite_errorcode", None) in _DISK_FULL_CODES:
        return StoreFull(f"no room for the state: {error}")
    return StateError(f"the state cannot be used: {error}")


def is_busy(error: sqlite3.Error) -> bool:
    """Return whether *error* means that another process has locked the database."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF == sqlite3.SQLITE_BUSY  # the rest says which lock


class _Entry(NamedTuple):
    work: Work[object]
    answer: Answer[object]
    spools: bool
    then: Callable[[object], None] | None

    def finish(self, result: object) -> None:
        """Pass on the *result*, which is durable."""
        if self.then is not None:
            self.then(result)
        self.answer.give(result)


class Writer:
    """
    Runs works on its own thread and connection, each as one transaction.

    Works that are queued at the same time share one commit and its fsync. If one raises, all are
    rolled back, and each runs again alone, so that only that one fails. *on_full* is called on the
    writer thread when the disk is full: it releases the reserve, and a work that needs little room
    is tried a second time. One that *spools* is not: it would use up the room that positions and
    conditions need.

    While another process has locked the database, works wait, as long as that takes.
    """

    def __init__(self, db: Connection, on_full: Callable[[], None]) -> None:
        self._db = db
        self._on_full = on_full
        self._closing = False
        self._log_limit = LONG_LOG
        db.execute(f"pragma busy_timeout = {BUSY_MS}")
        (path,) = db.execute("select file from pragma_database_list where name = 'main'").fetchone()
        self._log_path = f"{path}-wal"
        self._queue: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="store-writer", daemon=True)
        self._thread.start()

    async def write(
        self, work: Work[T], *, spools: bool = False, then: Callable[[T], None] | None = None
    ) -> T:
        """
        Run *work* as one transaction; return its result once it is durable.

        *then* is called with it on the writer thread, in the order of the commits, even if the
        caller is cancelled meanwhile; not at all if the transaction fails. It must not raise.

        Raises StoreFull if the disk has no room for it, and StateError after :meth:`close`.
        """
        if self._closing:
            raise StateError("the state is closed")  # nothing runs that would ever finish it
        answer = Answer[T]()
        self._queue.put(_Entry(work, answer, spools, then))  # type: ignore[arg-type]  # the queue keeps works of any T
        return await answer

    def close(self) -> None:
        """Finish the queued works, or fail them if the database is locked, then stop."""
        self._closing = True
        self._queue.put(None)
        self._thread.join()
        self._db.close()

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
            if group:
                self._commit(group)

    def _commit(self, group: list[_Entry]) -> None:
        """Run *group* in one transaction; if that fails as a whole, each work in its own."""
        results = self._try(group)
        if results is None:
            for entry in group:
                self._commit_alone(entry)
            return
        for entry, result in zip(group, results, strict=True):
            entry.finish(result)
        self._shorten_log()

    def _commit_alone(self, entry: _Entry) -> None:
        for attempt in (1, 2):
            try:
                self._begin()
                result = entry.work(self._db)
                self._db.execute("commit")
            except sqlite3.Error as error:
                self._roll_back()
                reason = translate(error)
                if isinstance(reason, StoreFull) and attempt == 1:
                    self._on_full()
                    self._checkpoint_log()
                    if not entry.spools:
                        continue
                reason.__cause__ = error
                entry.answer.fail(reason)
            except BaseException as error:  # noqa: BLE001  # raised in the caller, not in this thread
                self._roll_back()
                if isinstance(error, StoreFull):
                    # While there is room for it: it lets later works write over the log.
                    self._checkpoint_log()
                entry.answer.fail(error)
            else:
                entry.finish(result)
            return

    def _try(self, group: list[_Entry]) -> list[object] | None:
        """Return the results of *group*, run in one transaction; None if one of them failed."""
        try:
            self._begin()
            # No savepoint for each work: it would copy every page of the database that is changed.
            results = [entry.work(self._db) for entry in group]
            self._db.execute("commit")
        except BaseException:  # noqa: BLE001  # each runs again alone, and raises in its caller
            self._roll_back()
            return None
        return results

    def _begin(self) -> None:
        """Begin a transaction, once no other process has locked the database."""
        waiting = False
        while True:
            try:
                self._db.execute("begin immediate")
            except sqlite3.OperationalError as error:
                if not is_busy(error) or self._closing:
                    raise
                if not waiting:
                    _log.warning("state_locked", reason=str(error))
                waiting = True
            else:
                return

    def _shorten_log(self) -> None:
        """Empty the write-ahead log if it is long. Only a reader that never ends prevents that."""
        try:
            size = os.stat(self._log_path).st_size  # noqa: PTH116  # after every commit: a third
        except OSError:
            return  # nothing has been written since it was opened
        if size < self._log_limit:
            return
        with contextlib.suppress(sqlite3.Error):
            ((blocked, _, _),) = self._db.execute("pragma wal_checkpoint(truncate)").fetchall()
            if not blocked:
                self._log_limit = LONG_LOG
                return
        self._log_limit = size + LONG_LOG
        _log.warning("state_log_long", bytes=size, file=self._log_path)

    def _checkpoint_log(self) -> None:
        """Move the write-ahead log into the database, so that its room can be used again."""
        with contextlib.suppress(sqlite3.Error):
            self._db.execute("pragma wal_checkpoint(passive)").fetchall()

    def _roll_back(self) -> None:
        # After some errors SQLite has rolled back already.
        if self._db.in_transaction:
            self._db.execute("rollback")
