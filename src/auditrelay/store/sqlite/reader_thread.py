"""The thread that reads, beside the one that writes."""

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from auditrelay.store.sqlite.connection import Connection
from auditrelay.store.sqlite.writer import translate

T = TypeVar("T")


class ReaderThread:
    """Runs functions on *db*, a connection of its own, one after the other."""

    def __init__(self, db: Connection) -> None:
        self.db = db
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store-reader")

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Return what *work* returns. Raises StateError."""

        def run() -> T:
            try:
                return work(self.db)
            except sqlite3.Error as error:
                raise translate(error) from error

        return await asyncio.get_running_loop().run_in_executor(self._thread, run)

    def close(self) -> None:
        """Finish what is read, then close the connection."""
        self._thread.shutdown()
        self.db.close()
