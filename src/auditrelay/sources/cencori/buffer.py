"""A buffer over an export file, which is read piece by piece and never in memory whole."""

from collections.abc import Callable

CHUNK_BYTES = 256 * 1024
"""Bytes that are read at a time."""

MAX_ROW_BYTES = 16 * 2**20
"""The longest row, or value outside the rows, of a file that is read."""


class Unreadable(Exception):  # caught where the file's name is known
    """A file cannot be an export. *reason* is a short code; the text has the cause and the line."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Buffer:
    """
    The part of a file that is in memory: it grows only as far as one row needs.

    *read* returns up to that many bytes, and none at the end of the file. The next row begins at
    *position* in *data*, on the *line* of that number, from 1.
    """

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self.data = b""
        self.position = 0
        self.line = 1
        self.ended = False

    def read_more(self) -> bool:
        """Read on; return False at the end of the file. Raises Unreadable if a row is too long."""
        if self.ended:
            return False
        rest = len(self.data) - self.position
        if rest > MAX_ROW_BYTES:
            raise Unreadable(
                f"line {self.line}: a row of more than {MAX_ROW_BYTES:,} bytes",
                reason="file_not_read",
            )
        # Double what there is: a long row is then not scanned again for every chunk.
        chunk = self._read(max(CHUNK_BYTES, rest))
        self.ended = not chunk
        self.data = self.data[self.position :] + chunk
        self.position = 0
        return not self.ended

    def advance(self, end: int) -> None:
        """Move on to position *end*."""
        self.line += self.data.count(b"\n", self.position, end)
        self.position = end
