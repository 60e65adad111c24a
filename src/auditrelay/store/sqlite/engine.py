"""SQLite as the engine of a store: files in the state directory, a writer and a reader thread."""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Self, TypeVar

from auditrelay.evidence.heads import Keys
from auditrelay.store.leases import Lease
from auditrelay.store.sql.engine import Work
from auditrelay.store.sqlite.connection import Connection
from auditrelay.store.sqlite.disk_reserve import Reserve
from auditrelay.store.sqlite.reader_thread import ReaderThread
from auditrelay.store.sqlite.state_dir import connect, create
from auditrelay.store.sqlite.tip import TipFile
from auditrelay.store.sqlite.writer import Writer, translate

T = TypeVar("T")

_CACHE_KIB: Final = 256
"""How much of the database a snapshot keeps in memory: it reads millions of uids, each once."""


class SqliteEngine:
    """The state in *state_dir*, which is created if there is none. Raises StateError."""

    shared: Final = False

    def __init__(self, state_dir: Path, keys: Keys | None = None) -> None:
        self.keys = keys
        self._dir = state_dir
        create(state_dir)
        write = connect(state_dir, write=True, keys=keys)
        self.room = Reserve(state_dir)
        self.tip = TipFile(state_dir)
        self._reader = ReaderThread(connect(state_dir, write=False, keys=keys))
        self._writer = Writer(write, self.room.release)

    async def read(self, work: Work[T], /) -> T:
        """See ``store.sql.engine.Reader``."""
        return await self._reader.read(work)

    async def write(
        self, work: Work[T], *, spools: bool = False, then: Callable[[T], None] | None = None
    ) -> T:
        """See ``store.sql.engine.Writer``."""
        return await self._writer.write(work, spools=spools, then=then)

    def under(self, lease: Lease) -> Self:  # noqa: ARG002  # it cannot be lost
        """Return this engine: the lock of the state directory fences everybody else."""
        return self

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """See ``store.sql.engine.Engine``."""
        with snapshot(self._dir, self.keys) as db:
            yield db

    def close(self) -> None:
        """Finish the queued writes, then close the files."""
        self._writer.close()
        self._reader.close()


@contextlib.contextmanager
def snapshot(state_dir: Path, keys: Keys | None) -> Iterator[Connection]:
    """Begin to read one snapshot of the state in *state_dir*. Raises StateError."""
    with contextlib.closing(connect(state_dir, write=False, keys=keys)) as db:
        try:
            db.execute(f"pragma cache_size = -{_CACHE_KIB}")
            db.execute("begin")
            yield db
        except sqlite3.Error as error:
            raise translate(error) from error
