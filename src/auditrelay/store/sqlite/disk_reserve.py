"""
Room on the disk that new events may not take, so that verdicts can always be written.

There are two kinds: a reserve file, deleted when the disk is full, and the room that the database
needs to take over its write-ahead log. Without the second the log grows with every small write, and
the reserve with it.
"""

import contextlib
import os
from pathlib import Path
from typing import Final

from auditrelay.errors import StoreFull
from auditrelay.files import open_regular
from auditrelay.store.sql.connection import Connection
from auditrelay.store.sqlite.state_dir import DATABASE

_FILE = "ballast"
_BYTES = 1 << 20
_INDEX_BYTES: Final = 256 << 10
"""About how much the uids of one page, the ledger and the journal add beside its events."""


def _for_owner(path: str, flags: int) -> int:
    return open_regular(Path(path), flags, follow=False)


class Reserve:
    """
    The room that is reserved beside the state in *state_dir*, if the disk had it.

    When the disk is full, it is released: positions can still be written, so that delivery
    continues and pruning can make room. Until it is there again new events are refused.
    """

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / _FILE
        self._database = str(state_dir / DATABASE)
        self._log = f"{self._database}-wal"
        self.is_there = self._reserve()

    def release(self) -> None:
        """Release the room."""
        self.is_there = False
        self._path.unlink(missing_ok=True)

    def restore(self) -> bool:
        """Reserve the room again if it is not; return whether that was so, and is done."""
        was_there, self.is_there = self.is_there, self.is_there or self._reserve()
        return self.is_there and not was_there

    def require(self) -> None:
        """Raise StoreFull unless the room is there."""
        if not self.is_there:
            raise StoreFull("the disk is full")

    def require_for(self, db: Connection, size: int) -> None:
        """
        Raise StoreFull unless the disk has room for a page of *size* bytes besides.

        It needs that in the write-ahead log, and in the database of *db*, which has yet to grow by
        what the log brings: less than the log has bytes, so that is seldom asked for.
        """
        disk = os.statvfs(self._database)
        free = disk.f_bavail * disk.f_frsize
        needed = 2 * (size + _INDEX_BYTES)
        if free < needed + _size_of(self._log) and free < needed + self._growth(db):
            raise StoreFull(f"no room for the state: the disk has {free:,} bytes left")

    def _growth(self, db: Connection) -> int:
        ((pages,), (page_size,)) = (
            db.execute(f"pragma {name}").fetchone() for name in ("page_count", "page_size")
        )
        return max(int(pages * page_size) - _size_of(self._database), 0)

    def give_back(self, db: Connection) -> None:
        """Return some free pages of the database to the file system."""
        db.execute("pragma incremental_vacuum(1000)").fetchall()

    def _reserve(self) -> bool:
        try:
            if self._path.exists() and self._path.stat().st_size == _BYTES:
                return True
            with open(self._path, "wb", opener=_for_owner) as file:
                file.write(b"\0" * _BYTES)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
            return False
        return True


def _size_of(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116  # for every page: a third
    except FileNotFoundError:
        return 0
