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
        """Raise StoreFull unless the disk has room for a page of *size* bytes besides."""
        require_room(db, size)

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


def require_room(db: Connection, size: int) -> None:
    """
    Check that the disk has room for a page of *size* bytes in the log and in the database of *db*.

    Raises StoreFull if it has not.
    """
    (path,) = db.execute("select file from pragma_database_list where name = 'main'").fetchone()
    ((pages,), (page_size,)) = (
        db.execute(f"pragma {name}").fetchone() for name in ("page_count", "page_size")
    )
    disk = os.statvfs(path)
    free = disk.f_bavail * disk.f_frsize
    in_log = max(pages * page_size - Path(path).stat().st_size, 0)
    if free < in_log + 2 * (size + _INDEX_BYTES):
        raise StoreFull(f"no room for the state: the disk has {free:,} bytes left")
