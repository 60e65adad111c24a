"""
Files that the operator names, and those of the state: regular ones, of a bounded size.

To open a pipe waits until another process writes into it, and a device may never end. Only the
standard library is needed.
"""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO, Final

MOST_BYTES: Final = 2**24
"""The most bytes of a file that is read at once: what is longer was named by mistake."""


def open_regular(
    path: Path, flags: int = os.O_RDONLY, mode: int = 0o600, *, follow: bool = True
) -> int:
    """
    Open *path*, a regular file, with *flags* (and *mode* for a new one); return its descriptor.

    A link is followed if *follow*. Returns at once, or raises OSError whose ``strerror`` says what
    else it is, and what to do.
    """
    flags |= os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    try:
        file = os.open(path, flags, mode)
    except OSError as error:
        if error.errno == errno.ELOOP and not follow:
            why = "is a link, which is not followed: put the file itself there"
            raise OSError(errno.ELOOP, why, str(path)) from error
        if error.errno == errno.ENXIO:  # a pipe to write into, without a reader, or a socket
            raise _not_regular(errno.ENXIO, "pipe or a socket", path) from error
        raise
    kind = os.fstat(file).st_mode
    if not stat.S_ISREG(kind):
        os.close(file)
        if stat.S_ISDIR(kind):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        what = "pipe" if stat.S_ISFIFO(kind) else "device"
        raise _not_regular(errno.EINVAL, what, path)
    return file


def _not_regular(number: int, what: str, path: Path) -> OSError:
    return OSError(number, f"it is a {what}: name a regular file", str(path))


def open_file(path: Path, *, follow: bool = True) -> BinaryIO:
    """Open *path* for reading; see :func:`open_regular`."""
    return os.fdopen(open_regular(path, follow=follow), "rb")


def check_file(path: Path, most: int = MOST_BYTES) -> None:
    """Raise OSError unless *path* is a regular file of at most *most* bytes that can be read."""
    with open_file(path) as file:
        if os.fstat(file.fileno()).st_size > most:
            raise _too_long(path, most)


def read_file(path: Path, most: int = MOST_BYTES) -> bytes:
    """Return the content of *path*. Raises OSError, also for more than *most* bytes."""
    with open_file(path) as file:
        return read_bounded(file, path, most)


def read_bounded(file: BinaryIO, path: Path, most: int = MOST_BYTES) -> bytes:
    """Return the rest of *file*, opened at *path*. Raises OSError for more than *most* bytes."""
    content = file.read(most + 1)
    if len(content) > most:
        raise _too_long(path, most)
    return content


def _too_long(path: Path, most: int) -> OSError:
    why = f"it is longer than {most:,} bytes: is it the right file?"
    return OSError(errno.EFBIG, why, str(path))


def replace_file(path: Path, content: bytes) -> None:
    """
    Write *content* to *path*, durably, so that a crash leaves the old file or the new one.

    Only the owner can read it. Raises OSError, with the former file as it was.
    """
    made = path.with_name(f"{path.name}.new")
    made.unlink(missing_ok=True)
    file = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(file, "wb") as written:
        written.write(content)
        written.flush()
        os.fsync(file)
    made.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
