"""
The tip: a file with the newest head that has left, which no backup has.

It is replaced after each seal has been committed, never before: a tip that is newer than the
state means that it was rolled back. Only where a new state begins the tip is written first. A state
that was restored, copied or moved is therefore one without a tip, or one that it does not fit.
"""

from pathlib import Path
from typing import Final

from auditrelay.evidence.heads import Head
from auditrelay.files import read_file, replace_file

TIP: Final = "evidence.tip"


def read(state_dir: Path) -> Head | None:
    """Return the head in the tip of *state_dir*; None if there is none that can be read."""
    try:
        return Head.parse(read_file(state_dir / TIP).decode("ascii").strip())
    except (OSError, ValueError):
        return None


def write(state_dir: Path, log: str, size: int, root: bytes) -> None:
    """Replace the tip of *state_dir*, durably. Raises OSError, with the former tip as it was."""
    replace_file(state_dir / TIP, f"{Head(log, size, root).word}\n".encode("ascii"))
