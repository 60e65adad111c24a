"""A file that is deleted on a full disk, so that the last verdicts can still be written."""

import contextlib
import os
from pathlib import Path

_BALLAST = "ballast"


_BALLAST_BYTES = 1 << 20


def _for_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def take_ballast(state_dir: Path) -> bool:
    """
    Reserve some room on the disk; return whether there was room for it.

    When the disk is full, giving it back lets positions still be written, so that delivery goes
    on and pruning can make room.
    """
    path = state_dir / _BALLAST
    try:
        if path.exists() and path.stat().st_size == _BALLAST_BYTES:
            return True
        with open(path, "wb", opener=_for_owner) as file:
            file.write(b"\0" * _BALLAST_BYTES)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        return False
    return True


def drop_ballast(state_dir: Path) -> None:
    """Give the reserved room back."""
    (state_dir / _BALLAST).unlink(missing_ok=True)
