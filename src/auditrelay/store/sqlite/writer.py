"""The one thread that writes: transactions in the order of the calls, many to one fsync."""

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from auditrelay.errors import RelayError, StateError, StoreFull

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

_GROUP = 32
"""Most works that share one commit."""

_FULL = {
    sqlite3.SQLITE_FULL,
    # A write that fails for want of room under a quota or a file size limit, and the shared
    # memory file that cannot grow, are the same thing by other names.
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_SHMSIZE,
    sqlite3.SQLITE_IOERR_FSYNC,
}


def translate(error: sqlite3.Error) -> RelayError:
    """Return what *error* means to the caller: no room, or a state that cannot be used."""
    if getattr(error, "sqlite_errorcode", None) in _FULL:
        return StoreFull(f"no room for the state: {error}")
    return StateError(f"the state cannot be used: {error}")


class Writer:
    """
    Runs works on its own thread and connection, each as one transaction.

    Works that wait at the same time share a commit, so that its fsync is paid once. A work that
    raises undoes itself alone. *on_full* is called on the writer thread when there is no room,
    before the works are tried a second time.
    """

    def __init__(self, db: sqlite3.Connection, on_full: Callable[[], None]) -> None:
        self._db = db
        self._on_full = on_full
        self._queue: queue.SimpleQueue[tuple[Work[object], Future[object]] | None] = (
            queue.SimpleQueue()
        )
        self._thread = threading.Thread(target=self._work, name="store-writer", daemon=True)
        self._thread.start()

    async def write(self, work: Work[T]) -> T:
        """Run *work* as one transaction; return when it is on the disk."""
        future: Future[T] = Future()
        self._queue.put((work, future))  # type: ignore[arg-type]  # a queue holds works of any T
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Finish what was asked for, then stop."""
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
                # A caller that has gone before its turn wants nothing written.
                if entry[1].set_running_or_notify_cancel():
                    group.append(entry)
                if len(group) == _GROUP:
                    break
                try:
                    entry = self._queue.get_nowait()
                except queue.Empty:
                    break
            if group:
                self._commit(group)

    def _commit(self, group: list[tuple[Work[object], Future[object]]]) -> None:
        """Run *group* in one transaction; if that fails as a whole, each work in its own."""
        results = self._try(group)
        if results is None:
            for entry in group:
                self._alone(entry)
            return
        for (_, future), result in zip(group, results, strict=True):
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)

    def _alone(self, entry: tuple[Work[object], Future[object]]) -> None:
        work, future = entry
        for attempt in (1, 2):
            try:
                self._db.execute("begin immediate")
                result = work(self._db)
                self._db.execute("commit")
            except sqlite3.Error as error:
                self._undo()
                reason = translate(error)
                if isinstance(reason, StoreFull) and attempt == 1:
                    self._on_full()
                    self._empty_log()
                    continue
                reason.__cause__ = error
                future.set_exception(reason)
            except BaseException as error:  # noqa: BLE001  # the caller gets it, not this thread
                self._undo()
                future.set_exception(error)
            else:
                future.set_result(result)
            return

    def _try(self, group: list[tuple[Work[object], Future[object]]]) -> list[object] | None:
        results: list[object] = []
        try:
            self._db.execute("begin immediate")
            for work, _ in group:
                self._db.execute("savepoint work")
                try:
                    results.append(work(self._db))
                except sqlite3.Error:
                    raise
                except BaseException as error:  # noqa: BLE001  # as above
                    self._db.execute("rollback to work")
                    results.append(error)
                self._db.execute("release work")
            self._db.execute("commit")
        except sqlite3.Error:
            self._undo()
            return None
        return results

    def _empty_log(self) -> None:
        """Move what the write-ahead log holds into the database, so that its room can be used."""
        with contextlib.suppress(sqlite3.Error):
            self._db.execute("pragma wal_checkpoint(passive)").fetchall()

    def _undo(self) -> None:
        # SQLite has undone some errors by itself already.
        if self._db.in_transaction:
            self._db.execute("rollback")
