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


class TipFile:
    """The tip in *state_dir*."""

    name: Final = TIP

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / TIP

    def read(self) -> Head | None:
        """Return the head in it; None if there is none that can be read."""
        try:
            return Head.parse(read_file(self._path).decode("ascii").strip())
        except (OSError, ValueError):
            return None

    def begin(self, _: object, head: Head) -> None:
        """Put the first one of a new state, before the transaction is committed."""
        self.write(head)

    def enter(self, _: object, head: Head) -> None:
        """Do nothing yet: a tip that is newer than the state would say that it was rolled back."""

    def write(self, head: Head) -> None:
        """Replace it, durably. Raises OSError, with the former one as it was."""
        replace_file(self._path, f"{Head(head.log, head.size, head.root).word}\n".encode("ascii"))

    def remove(self) -> None:
        """Remove it: the state goes on elsewhere."""
        self._path.unlink(missing_ok=True)
