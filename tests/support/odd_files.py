"""What stands where a file should be: each is made at a path, and must be refused at once."""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))  # an absolute path may be too long for a socket


def _huge(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**40)  # it takes no room


ODD: dict[str, tuple[Callable[[Path], None], str]] = {
    "pipe": (os.mkfifo, "it is a pipe"),
    "endless device": (lambda path: path.symlink_to("/dev/zero"), "it is a device"),
    "terminal": (lambda path: path.symlink_to("/dev/ptmx"), "it is a device"),
    "socket": (_socket, "socket"),
    "folder": (Path.mkdir, "Is a directory"),
    "huge file": (_huge, "is longer than"),
}
"""By name: what makes it, and words of the refusal."""


@contextmanager
def at_once(seconds: float = 10) -> Iterator[None]:
    """Fail if the block takes longer than *seconds*: what waits for a pipe waits for ever."""

    def fail(_number: int, _frame: FrameType | None) -> None:
        raise AssertionError(f"has waited for {seconds} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
