"""
Scan a folder of export files: which are complete, and the digest of each one's content.

Files are deduplicated by content: one that is renamed, copied or put there again is the same file.
No file is changed or deleted. Names may be of any bytes; links are not followed, since the content
of another file is no export that was put here.
"""

import hashlib
import os
import stat
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from auditrelay.files import open_file
from auditrelay.sources.cencori.buffer import CHUNK_BYTES
from auditrelay.telemetry.scrubber import escape

QUIET_PERIOD = timedelta(seconds=10)
"""How long a file must not have changed before it counts as complete."""

_TEMPORARY = (".part", ".partial", ".crdownload", ".download", ".tmp", ".swp", "~")
"""Suffixes that programs give a file while they write it; such a file is ignored."""

MOST_NAME = 255 * 6
"""The most characters of a name, each of its bytes escaped."""

LATEST_CHANGE = 4e9
"""A file system may say any time; later ones are cut to this, of the year 2096."""

_Signature = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file of the folder: a changed *signature* or time of change means another content."""

    path: Path
    signature: _Signature
    changed: float
    owner: int
    """The number of the user that it belongs to."""

    @property
    def name(self) -> str:
        """Its name in the folder, as a text that can be stored and shown anywhere."""
        return text_of(self.path.name)

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
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:  # deleted meanwhile
                    continue
                # A link is found, to be refused with a reason when it is opened.
                if stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode):
                    found.append(
                        FoundFile(
                            self._path / entry.name,
                            _signature(status),
                            min(max(status.st_mtime, 0.0), LATEST_CHANGE),
                            status.st_uid,
                        )
                    )
        return found

    def writable_by_others(self) -> bool:
        """Return whether other users of this machine can put files into the folder."""
        return bool(self._path.stat().st_mode & stat.S_IWOTH)

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
        with open_file(file.path, follow=False) as opened:
            hashed = hashlib.sha256()
            while chunk := opened.read(CHUNK_BYTES):
                hashed.update(chunk)
            if _signature(os.fstat(opened.fileno())) != file.signature:
                return None
        self._digests[file.name] = (file.signature, hashed.digest())
        return hashed.digest()


def _signature(status: os.stat_result) -> _Signature:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def text_of(name: str) -> str:
    r"""
    Return the name of a file as text without anything that no log, terminal or database can have.

    What is not UTF-8, or not printable, is escaped as Python does (``pr\udcfcfung.csv``), and so is
    the backslash: different names have different texts.
    """
    return escape(name.replace("\\", r"\\"), MOST_NAME)


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
