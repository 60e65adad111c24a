"""A reserve file, deleted when the disk is full so that verdicts can still be written."""

import contextlib
import os
from pathlib import Path

_FILE = "ballast"
_BYTES = 1 << 20


def _for_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


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
