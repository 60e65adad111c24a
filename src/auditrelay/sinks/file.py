"""
Write events to a file or to stdout, one JSON text a line (NDJSON).

A batch counts as delivered once its lines are on the disk, not before. A crash may leave half a
line behind; the next batch ends that line first, so that two lines never merge. Lines that were
written but not yet counted are written again, with the same uid.

The form is ``ecs`` unless the configuration says otherwise: of the forms it is the one that most
log shippers and their SIEMs read as it stands.
"""

import asyncio
import errno
import fcntl
import os
import select
import shlex
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, field_validator, model_validator

from auditrelay.errors import Refused, Retryable
from auditrelay.events import AuditEvent
from auditrelay.events.forms import FORMS
from auditrelay.events.marks import NO_MARKS
from auditrelay.settings import SinkSettings
from auditrelay.settings.values import Size
from auditrelay.sinks import Form, Item, Known, Limits, Verdict
from auditrelay.sinks._requests import dump
from auditrelay.telemetry.metrics import Metrics

T = TypeVar("T")

STDOUT = 1
"""The descriptor; Python's own stdout has a buffer that could hide what was not written."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_PASSING = (errno.EIO, errno.EINTR, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE)
_PIPE_PIECE = select.PIPE_BUF
"""A pipe that is ready takes this much at once without blocking (pipe(7))."""


class Settings(SinkSettings):
    """The keys of a ``file`` sink."""

    type: Literal["file"]
    path: str = Field(min_length=1)
    """A file in a folder that exists, or ``-`` for stdout."""
    rotate_bytes: Size | None = None
    """A file that would grow beyond this is renamed to ``path.1``, ``path.2``... (newest last)."""
    format: Form = "ecs"
    batch_events: int = Field(1000, ge=1, le=100_000)
    batch_bytes: Size = 4_000_000
    """Each batch waits for the disk once, so a thousand events should fit."""
    concurrency: int = Field(1, ge=1, le=1)
    """One writer: lines of two batches must not mix."""
    compression: Literal["none"] = "none"
    """Lines are written as they are."""

    @property
    def address_key(self) -> str:
        """The key that says where the lines go."""
        return "path"

    @field_validator("path")
    @classmethod
    def _names_a_file(cls, path: str) -> str:
        if path.endswith("/") or "\0" in path:
            raise ValueError(f'{path!r} is not the name of a file; write "-" for stdout')
        return path

    @model_validator(mode="after")
    def _can_be_renamed(self) -> "Settings":
        if self.path == "-" and self.rotate_bytes is not None:
            raise ValueError("rotate_bytes: stdout cannot be rotated; leave it out, or set path")
        return self


def build(name: str, settings: Settings, metrics: Metrics) -> "Sink":  # noqa: ARG001
    """Return the sink; *name* and *metrics* are for sinks that speak to a peer."""
    return Sink(settings)


class Sink:
    """
    A file, or stdout, that lines are added to.

    All work on the file is done by one thread, in order, so that a caller who is cancelled in the
    middle of a batch cannot let the next one in before the last line of this one is written.
    """

    recognises_duplicates = False

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._form = FORMS[settings.format]
        self._lines: _File | _Stdout = (
            _Stdout(settings.timeout.total_seconds())
            if settings.path == "-"
            else _File(Path(settings.path), settings.rotate_bytes)
        )
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="auditrelay-file")

    @property
    def limits(self) -> Limits:
        """As configured: a file takes any size."""
        size = self._settings.batch_bytes
        return Limits(events=self._settings.batch_events, bytes=size, event_bytes=2**63)

    def render(self, event: AuditEvent, *, marks: Mapping[str, object] = NO_MARKS) -> bytes:
        """Return *event* as one line, without its end."""
        return dump(self._form(event, marks=marks))

    async def send(self, batch: Sequence[Item]) -> Verdict:
        """
        Add the lines of *batch* and wait until the disk has them.

        Either all of them are there afterwards, or (as far as the system allows it) none.
        """
        lines = b"".join(line for item in batch for line in (item.text, b"\n"))
        await self._on_thread(lambda: self._lines.add(lines))
        return Verdict()

    async def check(self) -> str:
        """Say whether the file can be written, without writing to it."""
        return await self._on_thread(self._lines.check)

    def foresee(self, start: datetime, end: datetime, now: datetime) -> str | None:  # noqa: ARG002
        """Nothing: an event of any age is taken."""
        return None

    def query(self, event: Known) -> Sequence[str]:
        """Return the command that finds *event*."""
        path = self._settings.path
        return (f"grep {event.uid} {'-' if path == '-' else shlex.quote(path)}",)

    async def close(self) -> None:
        """Finish what is being written, and close the file."""
        await self._on_thread(self._lines.close)
        self._thread.shutdown(wait=False)

    async def _on_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _fault(error: OSError, path: Path | str) -> Retryable | Refused:
    """Return what an *error* of the system means for the sink."""
    what = f"{path}: {error.strerror or error}"
    if error.errno in _FULL:
        return Retryable(f"{what}; make room on the disk", reason="disk_full")
    if error.errno == errno.EAGAIN:
        return Retryable(f"{path}: another process is writing to it", reason="busy")
    if error.errno in _PASSING:
        return Retryable(what, reason="io_error")
    return Refused(f"{what}; check the path, its folder and their permissions")


class _File:
    """A plain file. It may be renamed by others (logrotate): then a new one is begun."""

    def __init__(self, path: Path, rotate_bytes: int | None) -> None:
        self._path = path
        self._rotate_bytes = rotate_bytes
        self._open: int | None = None

    def add(self, lines: bytes) -> None:
        """Write *lines* and wait for the disk; on failure take back what was written."""
        try:
            file = self._ready(len(lines))
            start = os.fstat(file).st_size
            torn = start > 0 and os.pread(file, 1, start - 1) != b"\n"
            try:
                _write_all(file, b"\n" + lines if torn else lines)
                os.fsync(file)
            except OSError:
                os.ftruncate(file, start)
                raise
            finally:
                fcntl.flock(file, fcntl.LOCK_UN)
        except OSError as error:
            self.close()
            raise _fault(error, self._path) from error
        except Refused:
            self.close()
            raise

    def check(self) -> str:
        """Say what would be written to."""
        folder = self._path.parent
        try:
            if self._path.exists():
                file = os.open(self._path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
                try:
                    _must_be_plain(file, self._path)
                finally:
                    os.close(file)
                return f"{self._path} can be written"
        except OSError as error:
            raise _fault(error, self._path) from error
        if not folder.is_dir():
            raise Refused(f"the folder {folder} does not exist; create it, or mend path")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise Refused(f"no right to create files in {folder}; check its owner and mode")
        return f"{self._path} will be created"

    def close(self) -> None:
        """Close the file, if it is open."""
        if self._open is not None:
            os.close(self._open)
            self._open = None

    def _ready(self, size: int) -> int:
        """Return the file that the path names now, locked, with room for *size* more bytes."""
        while True:
            file = self._open if self._open is not None else self._create()
            # Another process with the same path may rotate it, or write to it.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not self._is_current(file):
                self.close()
                continue
            held = os.fstat(file).st_size
            if self._rotate_bytes is None or not held or held + size <= self._rotate_bytes:
                return file
            self._path.rename(self._next_name())
            _sync_folder(self._path.parent)
            self.close()

    def _create(self) -> int:
        """Open the file, created for the owner alone if it is not there."""
        new = not self._path.exists()
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        file = self._open = os.open(self._path, flags, 0o600)
        _must_be_plain(file, self._path)
        if new:
            _sync_folder(self._path.parent)
        return file

    def _is_current(self, file: int) -> bool:
        try:
            return os.path.samestat(os.fstat(file), self._path.stat())
        except FileNotFoundError:
            return False

    def _next_name(self) -> Path:
        """Return ``path.N`` with an N above all that are there: no file is ever overwritten."""
        stem = f"{self._path.name}."
        tails = (
            each.name.removeprefix(stem)
            for each in self._path.parent.iterdir()
            if each.name.startswith(stem)
        )
        newest = max((int(tail) for tail in tails if tail.isascii() and tail.isdigit()), default=0)
        return self._path.with_name(f"{stem}{newest + 1}")


class _Stdout:
    """Standard output: a terminal, a pipe or a file."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._torn = False

    def add(self, lines: bytes) -> None:
        """Write *lines*; a reader that stops reading is given *timeout* seconds."""
        deadline = time.monotonic() + self._timeout
        rest = memoryview(b"\n" + lines if self._torn else lines)
        try:
            while rest:
                _wait_for_reader(deadline)
                written = os.write(STDOUT, rest[:_PIPE_PIECE])
                self._torn = rest[written - 1] != ord("\n")
                rest = rest[written:]
            if stat.S_ISREG(os.fstat(STDOUT).st_mode):
                os.fsync(STDOUT)
        except OSError as error:
            raise _fault(error, "stdout") from error

    def check(self) -> str:
        """Say that there is an stdout."""
        try:
            os.fstat(STDOUT)
        except OSError as error:
            raise _fault(error, "stdout") from error
        return "stdout is open"

    def close(self) -> None:
        """Leave stdout open: it belongs to the process."""


def _wait_for_reader(deadline: float) -> None:
    left = deadline - time.monotonic()
    if left <= 0 or not select.select([], [STDOUT], [], left)[1]:
        raise Retryable("stdout: its reader does not read", reason="timeout", sent=True)


def _write_all(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


def _must_be_plain(file: int, path: Path) -> None:
    if not stat.S_ISREG(os.fstat(file).st_mode):
        raise Refused(f'{path} is not a plain file; write path = "-" for stdout')


def _sync_folder(folder: Path) -> None:
    """Make the names in *folder* survive a power cut, as fsync does for what is in a file."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
