"""
A folder where files are dropped: which of them are complete, and what each is known by.

A file is known by its content, so that one that is renamed, copied or dropped again is the same.
"""

import hashlib
import os
import stat
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from auditrelay.sources.cencori.feed import CHUNK

QUIET = timedelta(seconds=10)
"""How long a file must have lain still to be taken for complete."""

_TEMPORARY = (".part", ".partial", ".crdownload", ".download", ".tmp", ".swp", "~")
"""How programs call a file while they write it; such a one is left alone without a word."""

_Signature = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Found:
    """A file that lies there: its *name*, and by what it is seen whether it changes."""

    path: Path
    signature: _Signature
    changed: float

    @property
    def name(self) -> str:
        """Its name in the folder."""
        return self.path.name

    def mark(self) -> bytes:
        """Return what stands for the digest of a file that cannot be read."""
        return hashlib.sha256(repr((self.name, self.signature)).encode()).digest()


class Folder:
    """The files in *path*. Its methods block, and belong into a thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: dict[str, tuple[_Signature, datetime]] = {}
        self._digests: dict[str, tuple[_Signature, bytes]] = {}

    def look(self) -> list[Found]:
        """Return every file that is not temporary. Raises OSError if the folder cannot be read."""
        found = []
        with os.scandir(self._path) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name.lower().endswith(_TEMPORARY):
                    continue
                try:
                    status = entry.stat()
                except FileNotFoundError:  # gone since
                    continue
                if stat.S_ISREG(status.st_mode):
                    found.append(
                        Found(self._path / entry.name, _signature(status), status.st_mtime)
                    )
        return found

    def complete(self, now: datetime) -> list[Found]:
        """
        Return the files that nobody seems to be writing any more, at *now*.

        Those are the ones that were last changed a while ago, or, whatever the clock of the machine
        that the folder lies on, were the same a while ago.
        """
        files = self.look()
        done = []
        seen: dict[str, tuple[_Signature, datetime]] = {}
        for file in files:
            signature, since = self._seen.get(file.name, (None, now))
            if signature != file.signature or since > now:
                since = now
            seen[file.name] = (file.signature, since)
            if now.timestamp() - file.changed >= QUIET.total_seconds() or now - since >= QUIET:
                done.append(file)
        self._seen = seen
        self._digests = {name: told for name, told in self._digests.items() if name in seen}
        return done

    def digest(self, file: Found) -> bytes | None:
        """
        Return the SHA-256 of *file*'s content, None if it has changed since it was found.

        It is reckoned once for each state of the file. Raises OSError.
        """
        signature, digest = self._digests.get(file.name, (None, b""))
        if signature == file.signature:
            return digest
        with open_file(file.path) as opened:
            summed = hashlib.sha256()
            while chunk := opened.read(CHUNK):
                summed.update(chunk)
            if _signature(os.fstat(opened.fileno())) != file.signature:
                return None
        self._digests[file.name] = (file.signature, summed.digest())
        return summed.digest()


def _signature(status: os.stat_result) -> _Signature:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def open_file(path: Path) -> BinaryIO:
    """Open *path* for reading if it is a file still: a pipe in its place would never end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, "it is not a file", str(path))
    return os.fdopen(descriptor, "rb")


class Summed:
    """Reads from *opened* and keeps the SHA-256 of what was read."""

    def __init__(self, opened: BinaryIO) -> None:
        self._opened = opened
        self._sum = hashlib.sha256()

    def read(self, size: int) -> bytes:
        """Return up to *size* bytes, and nothing at the end."""
        chunk = self._opened.read(size)
        self._sum.update(chunk)
        return chunk

    def digest(self) -> bytes:
        """Return the digest of everything that has been read."""
        return self._sum.digest()
