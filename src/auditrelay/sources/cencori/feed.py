"""
Files that somebody exports from a vendor and puts into a folder: found, read, and understood.

``folder`` finds the files that are complete, ``delimited`` and ``listed`` read CSV and JSON piece
by piece, ``claims`` says which span of time an export speaks for, and ``cencori`` puts these
together. No file is changed or deleted, and none is ever held in memory as a whole.
"""

from collections.abc import Callable

CHUNK = 256 * 1024
"""Bytes that are read at a time."""

MOST = 16 * 2**20
"""Bytes of one row, or of one value beside the rows, beyond which a file is not read."""


class Unreadable(Exception):  # caught by whoever knows the file's name
    """What is read cannot be an export. *reason* is a short code; the text says why, and where."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Feed:
    """
    A file's bytes as a buffer that grows only as far as one row needs.

    *read* returns up to so many bytes, and nothing at the end. *line* counts from 1 and is that of
    *place*, from where the next row begins in *buffer*.
    """

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self.buffer = b""
        self.place = 0
        self.line = 1
        self.ended = False

    def more(self) -> bool:
        """Read on; return False if there is no more. Raises Unreadable if a row is too long."""
        if self.ended:
            return False
        rest = len(self.buffer) - self.place
        if rest > MOST:
            raise Unreadable(
                f"line {self.line}: a row of more than {MOST:,} bytes", reason="file_not_read"
            )
        # As much again as there is, so that a long row is not looked through over and over.
        chunk = self._read(max(CHUNK, rest))
        self.ended = not chunk
        self.buffer = self.buffer[self.place :] + chunk
        self.place = 0
        return not self.ended

    def pass_over(self, end: int) -> None:
        """Go on at *end* of the buffer."""
        self.line += self.buffer.count(b"\n", self.place, end)
        self.place = end
