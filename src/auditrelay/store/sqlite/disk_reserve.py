"""
Room on the disk that new events may not take, so that verdicts can always be written.

There are two kinds: a reserve file, deleted when the disk is full, and the room that the database
needs to take over its write-ahead log. Without the second the log grows with every small write, and
the reserve with it.
"""

import contextlib
import os
import sqlite3
from pathlib import Path
from typing import Final

from auditrelay.errors import StoreFull
from auditrelay.files import open_regular

_FILE = "ballast"
_BYTES = 1 << 20
_INDEX_BYTES: Final = 256 << 10
"""About how much the uids of one page, the ledger and the journal add beside its events."""


def _for_owner(path: str, flags: int) -> int:
    return open_regular(Path(path), flags, follow=False)


def reserve(state_dir: Path) -> bool:
    """
    Reserve room on the disk; return whether the disk had it.

    When the disk is full, the reserve is released: positions can still be written, so that
    delivery continues and pruning can make room.
    """
    path = state_dir / _FILE
    try:
        if path.exists() and path.stat().st_size == _BYTES:
            return True
        with open(path, "wb", opener=_for_owner) as file:
            file.write(b"\0" * _BYTES)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        return False
    return True


def release(state_dir: Path) -> None:
    """Release the reserved room."""
    (state_dir / _FILE).unlink(missing_ok=True)


def require_room(db: sqlite3.Connection, size: int) -> None:
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
