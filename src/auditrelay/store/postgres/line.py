"""
A connection in a thread of its own: transactions one after the other, connected again when needed.

What is asked of the database is never cancelled: it would cancel a COMMIT as well, which may then
be reported as done without being replicated. If the caller is cancelled, its transaction goes on.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import psycopg

from auditrelay.errors import StateError
from auditrelay.store.postgres.connection import Connection
from auditrelay.store.postgres.errors import Kind, kind_of, translate
from auditrelay.store.postgres.link import CLOSING
from auditrelay.store.postgres.watch import Watch
from auditrelay.store.replicas import Unreachable

T = TypeVar("T")


Connect = Callable[[str], Connection]
"""Makes a connection whose session has the name that is given. Raises psycopg.Error, StateError."""


class Line:
    """
    Transactions on a connection that *connect* makes, and makes again after a loss.

    Its session has the name that *name* returns: once that is another, so is the connection.
    *watch* measures the transactions.
    """

    def __init__(
        self, connect: Connect, name: Callable[[], str], watch: Watch | None = None
    ) -> None:
        self._watch = watch
        self._connect = connect
        self._name = name
        self._named = ""
        self._db: Connection | None = None
        self._thread = ThreadPoolExecutor(1, "auditrelay-line")

    async def run(self, work: Callable[[Connection], T], *, alone: bool = False) -> T:
        """
        Return what *work* does in one transaction; nothing else writes meanwhile if it is *alone*.

        It is tried once. Raises Unreachable if the database did not do it this time, or if that is
        not known, and StateError if what it has is damaged.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._run, work, alone)

    async def close(self) -> None:
        """Finish what was begun, unless the database is away, and close the connection."""
        closing = asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        done, _ = await asyncio.wait([closing], timeout=CLOSING)
        if not done and (db := self._db) is not None:
            db.interrupt()
        await closing
        self._thread.shutdown(wait=False)

    def _run(self, work: Callable[[Connection], T], alone: bool) -> T:  # noqa: FBT001  # see run
        try:
            db = self._connected()
        except (psycopg.Error, StateError) as error:
            raise Unreachable(f"cannot connect to the database: {error}") from error
        if self._watch is not None:
            self._watch.begin()
        try:
            db.begin(write=True, alone=alone)
            done = work(db)
            db.commit()
        except psycopg.Error as error:
            db.roll_back()
            if kind_of(error) is Kind.LOST:
                db.close()
            if kind_of(error) in _THIS_TIME:
                raise Unreachable(str(error).strip()) from error
            raise translate(error) from error
        except BaseException:
            db.roll_back()
            raise
        if self._watch is not None:
            self._watch.done()
        return done

    def _connected(self) -> Connection:
        name = self._name()
        if self._db is not None and self._named != name:
            self._db.close()
        if self._db is None or self._db.closed:
            self._db, self._named = self._connect(name), name
        return self._db

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()


_THIS_TIME = {Kind.AGAIN, Kind.LOST, Kind.FULL, Kind.REFUSED}
"""What another try may not meet: even a refusal, once an administrator has acted."""
