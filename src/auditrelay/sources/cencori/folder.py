"""
Scan a folder of export files: which are complete, and the digest of each one's content.

Files are deduplicated by content: one that is renamed, copied or put there again is the same file.
No file is changed or deleted.
"""

import hashlib
import os
import stat
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from auditrelay.sources.cencori.buffer import CHUNK_BYTES

QUIET_PERIOD = timedelta(seconds=10)
"""How long a file must not have changed before it counts as complete."""

_TEMPORARY = (".part", ".partial", ".crdownload", ".download", ".tmp", ".swp", "~")
"""Suffixes that programs give a file while they write it; such a file is ignored."""

_Signature = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file of the folder: a changed *signature* or time of change means another content."""

    path: Path
    signature: _Signature
    changed: float

    @property
    def name(self) -> str:
        """Its name in the folder."""
        return self.path.name

    def stand_in_digest(self) -> bytes:
        """Return what replaces the digest of a file that cannot be read."""
        return hashlib.sha256(repr((self.name, self.signature)).encode()).digest()


class FolderScanner:
    """Finds the files in *path*. Its methods block: call them in a thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: dict[str, tuple[_Signature, datetime]] = {}
        self._digests: dict[str, tuple[_Signature, bytes]] = {}

    def scan(self) -> list[FoundFile]:
        """Return every file that is not temporary. Raises OSError if the folder cannot be read."""
        found = []
        with os.scandir(self._path) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name.lower().endswith(_TEMPORARY):
                    continue
                try:
                    status = entry.stat()
                except FileNotFoundError:  # deleted meanwhile
                    continue
                if stat.S_ISREG(status.st_mode):
                    found.append(
                        FoundFile(self._path / entry.name, _signature(status), status.st_mtime)
                    )
        return found

    def find_complete(self, now: datetime) -> list[FoundFile]:
        """
        Return the files that are apparently not being written, at *now*.

        Those are the ones whose time of change is at least QUIET_PERIOD ago, or, if the clock of
        the file system's host is wrong, that have not changed between scans for as long.
        """
        files = self.scan()
        complete = []
        seen: dict[str, tuple[_Signature, datetime]] = {}
        quiet = QUIET_PERIOD.total_seconds()
        for file in files:
            signature, since = self._seen.get(file.name, (None, now))
            if signature != file.signature or since > now:
                since = now
            seen[file.name] = (file.signature, since)
            if now.timestamp() - file.changed >= quiet or now - since >= QUIET_PERIOD:
                complete.append(file)
        self._seen = seen
        self._digests = {name: entry for name, entry in self._digests.items() if name in seen}
        return complete

    def digest(self, file: FoundFile) -> bytes | None:
        """
        Return the SHA-256 of *file*'s content, None if it has changed since it was found.

        It is computed once per signature. Raises OSError.
        """
        signature, digest = self._digests.get(file.name, (None, b""))
        if signature == file.signature:
            return digest
        with open_file(file.path) as opened:
            hashed = hashlib.sha256()
            while chunk := opened.read(CHUNK_BYTES):
                hashed.update(chunk)
            if _signature(os.fstat(opened.fileno())) != file.signature:
                return None
        self._digests[file.name] = (file.signature, hashed.digest())
        return hashed.digest()


def _signature(status: os.stat_result) -> _Signature:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def open_file(path: Path) -> BinaryIO:
    """Open *path* for reading if it is still a regular file: reading a pipe could never end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, "not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


class HashingReader:
    """Reads from *opened* and computes the SHA-256 of everything that was read."""

    def __init__(self, opened: BinaryIO) -> None:
        self._opened = opened
        self._hash = hashlib.sha256()

    def read(self, size: int) -> bytes:
        """Return up to *size* bytes, none at the end of the file."""
        chunk = self._opened.read(size)
        self._hash.update(chunk)
        return chunk

    def digest(self) -> bytes:
        """Return the digest of everything that has been read."""
        return self._hash.digest()
