"""The thread that reads, beside the one that writes; and snapshots."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

from auditrelay.store.postgres import link
from auditrelay.store.postgres.connection import Connection
from auditrelay.store.postgres.link import CLOSING, Link
from auditrelay.store.postgres.watch import Watch

T = TypeVar("T")


class ReaderThread:
    """
    Runs functions that read, one after the other, each as one transaction.

    *make* makes the link of a thread, *watch* measures what is read. While the database is away,
    reading waits.
    """

    def __init__(self, make: Callable[[], Link], watch: Watch | None = None) -> None:
        self._make = make
        self._link = make()
        self._link.watch = watch
        self._snapshots: set[Link] = set()
        self._closed = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store-reader")

    async def read(self, work: Callable[[Connection], T]) -> T:
        """
        Return what *work* returns, which runs again after the connection was lost.

        Raises StateError.
        """
        running = asyncio.get_running_loop()
        return await running.run_in_executor(self._thread, link.read, self._link, work)

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """
        Begin to read one snapshot of the state, on a connection of its own; it blocks.

        Raises StateError.
        """
        own = self._make()
        self._snapshots.add(own)
        if self._closed:
            own.give_up()
        try:
            with link.reading(own) as db:
                yield db
        finally:
            self._snapshots.discard(own)
            own.drop()

    @property
    def away_until(self) -> float:
        """See ``Link.away_until``."""
        return self._link.away_until

    def close(self) -> None:
        """Finish what is read, unless the database is away; then close the connection, once."""
        if self._closed:
            return
        self._closed = True
        for each in (self._link, *self._snapshots):
            each.give_up()
        wait([self._thread.submit(lambda: None)], CLOSING)
        for each in (self._link, *self._snapshots):  # nothing awaits what these still read
            each.interrupt()
        self._thread.shutdown()
        self._link.drop()
