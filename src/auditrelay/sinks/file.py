"""
Write events to a file or to stdout, one JSON text a line (NDJSON).

A batch counts as delivered once its lines are on the disk, not before. A crash may leave a torn
line; the next batch ends that line first, so that two lines never merge. Lines that were written
and not yet recorded as delivered are written again, with the same uid.

The form is ``ecs`` by default: most log shippers and their SIEMs read it without conversion.

The file must be a regular one of the user that auditrelay runs as, under one name, that other users
cannot write: otherwise who can create files in its folder could have events appended to another
file, or read and change them.
"""

import asyncio
import errno
import fcntl
import os
import select
import shlex
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, field_validator, model_validator

from auditrelay.clock import Clock
from auditrelay.errors import Refused, Retryable
from auditrelay.events import AuditEvent
from auditrelay.events.forms import FORMS, SPLICED
from auditrelay.events.forms.derived import Derived, RenderContext
from auditrelay.events.marks import NO_MARKS
from auditrelay.events.page import Page
from auditrelay.settings import Proves, SinkSettings
from auditrelay.settings.values import Size
from auditrelay.sinks import Form, Item, Limits, Rendered, Verdict
from auditrelay.sinks._requests import chunks, dump
from auditrelay.telemetry.metrics import Metrics

T = TypeVar("T")

STDOUT = 1
"""The descriptor; the buffer of Python's own stdout could hide what was not written."""

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_TRANSIENT = (errno.EIO, errno.EINTR, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE)
_OPEN = os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
"""How the file is opened: never through a link, and without waiting for the other end of a pipe."""

_PIPE_CHUNK = select.PIPE_BUF
"""A pipe that is ready accepts this much at once without blocking (pipe(7))."""


class Settings(SinkSettings):
    """The keys of a ``file`` sink."""

    type: Literal["file"]
    path: str = Field(min_length=1)
    """A file in an existing folder, or ``-`` for stdout."""
    rotate_bytes: Size | None = None
    """A file that would exceed this is renamed to ``path.1``, ``path.2``... (newest last)."""
    format: Form = "ecs"
    batch_events: int = Field(1000, ge=1, le=100_000)
    batch_bytes: Size = 4_000_000
    """Each batch waits for one fsync, so a thousand events should fit."""
    concurrency: int = Field(1, ge=1, le=1)
    """One writer: lines of two batches must not mix."""
    compression: Literal["none"] = "none"
    """Lines are written as they are."""

    @property
    def not_divided(self) -> str:
        """It has one writer."""
        return "lines of two writers would mix"

    @property
    def address_key(self) -> str:
        """The key that names the destination."""
        return "path"

    @property
    def proves(self) -> Proves:
        """A file is synced to the disk; what reads stdout acknowledges nothing."""
        return "nothing" if self.path == "-" else "stored"

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


EXAMPLE = """\
[sinks.archive]
type = "file"

# A file (one JSON object a line) in a folder that exists, or "-" for stdout.
path = "-"
# A file that would grow beyond this is renamed, and a new one is started.
# rotate_bytes = "100MB"  # no default
# format = "ecs"
# batch_bytes = "4MB"
# One writer.
# concurrency = 1
# Lines are written as they are.
# compression = "none"
"""
"""Its table in config.example.toml: every key, those with a default commented out."""


def build(name: str, settings: Settings, metrics: Metrics, clock: Clock) -> "Sink":  # noqa: ARG001
    """Return the sink; the clock is for sinks that send requests."""
    return Sink(name, settings, metrics)


class Sink:
    """
    A file, or stdout, that lines are appended to.

    One thread does all work on the file, in order, so that a batch whose caller is cancelled is
    written to its last line before the next one starts.
    """

    deduplicates = False

    def __init__(self, name: str, settings: Settings, metrics: Metrics) -> None:
        self._name = name
        self._metrics = metrics
        self._settings = settings
        self._form = FORMS[settings.format]
        self._lines_of = Derived(self._line, SPLICED[settings.format])
        self._lines: _File | _Stdout = (
            _Stdout(settings.timeout.total_seconds())
            if settings.path == "-"
            else _File(Path(settings.path), settings.rotate_bytes)
        )
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="auditrelay-file")

    @property
    def limits(self) -> Limits:
        """As configured: a file accepts any size."""
        size = self._settings.batch_bytes
        return Limits(events=self._settings.batch_events, bytes=size)

    def render(
        self, page: Page, now: int, *, marks: Mapping[str, object] = NO_MARKS
    ) -> list[Rendered]:
        """Return each event of *page* as one line, without its end."""
        return list(map(Rendered, self._lines_of.texts(page, RenderContext(now, marks))))

    def _line(self, event: AuditEvent, context: RenderContext) -> bytes:
        return dump(self._form(event, marks=context.marks))

    async def send(self, batch: Sequence[Item]) -> Verdict:
        """
        Append the lines of *batch* and wait until they are on the disk.

        Afterwards either all of them are there, or (as far as the system allows it) none.
        """
        lines = [item.text for item in batch]
        await self._on_thread(lambda: self._lines.add(lines))
        size = sum(map(len, lines)) + len(lines)
        for metric in (self._metrics.sent_bytes, self._metrics.sent_uncompressed_bytes):
            metric.labels(self._name).inc(size)
        return Verdict()

    async def check(self) -> str:
        """Report whether the file can be written, without writing to it."""
        return await self._on_thread(self._lines.check)

    def backfill_notice(self, start: datetime, end: datetime, now: datetime) -> str | None:  # noqa: ARG002
        """Give no notice: a file accepts an event of any age."""
        return None

    def query(self, uid: str) -> Sequence[str]:
        """Return the command that finds the event *uid*."""
        path = self._settings.path
        return (f"grep {uid} {'-' if path == '-' else shlex.quote(path)}",)

    async def close(self) -> None:
        """Finish the write in progress, and close the file."""
        await self._on_thread(self._lines.close)
        self._thread.shutdown(wait=False)

    async def _on_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _relay_error(error: OSError, path: Path | str) -> Retryable | Refused:
    """Return what an *error* of the operating system means for the sink."""
    message = f"{path}: {error.strerror or error}"
    if error.errno in _DISK_FULL:
        return Retryable(f"{message}; make room on the disk", reason="disk_full")
    if error.errno == errno.EAGAIN:
        return Retryable(f"{path}: another process is writing to it", reason="busy")
    if error.errno in _TRANSIENT:
        return Retryable(message, reason="io_error")
    if error.errno == errno.EPIPE:
        return Refused(
            f"{message}; what reads it has ended: start it again, and the service with it"
        )
    if error.errno == errno.ELOOP:
        return Refused(f"{path} is a link, which is not followed: set path to the file itself")
    return Refused(f"{message}; check the path, its folder and their permissions")


class _File:
    """A regular file. Once another process (logrotate) renames it, a new one is created."""

    def __init__(self, path: Path, rotate_bytes: int | None) -> None:
        self._path = path
        self._rotate_bytes = rotate_bytes
        self._open: int | None = None

    def add(self, lines: Sequence[bytes]) -> None:
        """Write *lines* and wait for the disk; on failure truncate what was written."""
        try:
            file = self._open_with_room(sum(map(len, lines)) + len(lines))
            start = os.fstat(file).st_size
            torn = start > 0 and os.pread(file, 1, start - 1) != b"\n"
            try:
                for chunk in _ended(lines, torn=torn):
                    _write_all(file, chunk)
                os.fsync(file)
            except OSError:
                os.ftruncate(file, start)
                raise
            finally:
                fcntl.flock(file, fcntl.LOCK_UN)
        except OSError as error:
            self.close()
            raise _relay_error(error, self._path) from error
        except Refused:
            self.close()
            raise

    def check(self) -> str:
        """Report what would be written to."""
        folder = self._path.parent
        try:
            if os.path.lexists(self._path):
                file = os.open(self._path, _OPEN)
                try:
                    _check_is_ours(file, self._path)
                finally:
                    os.close(file)
                return f"{self._path} can be written"
        except OSError as error:
            raise _relay_error(error, self._path) from error
        if not folder.is_dir():
            raise Refused(f"the folder {folder} does not exist; create it, or fix path")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise Refused(f"no permission to create files in {folder}; check its owner and mode")
        return f"{self._path} will be created"

    def close(self) -> None:
        """Close the file, if it is open."""
        if self._open is not None:
            os.close(self._open)
            self._open = None

    def _open_with_room(self, size: int) -> int:
        """Return the current file of the path, locked, with room for *size* more bytes."""
        while True:
            file = self._open if self._open is not None else self._create()
            # Another process with the same path may rotate it, or write to it.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not self._is_current(file):
                self.close()
                continue
            length = os.fstat(file).st_size
            if self._rotate_bytes is None or not length or length + size <= self._rotate_bytes:
                return file
            self._path.rename(self._next_name())
            _sync_folder(self._path.parent)
            self.close()

    def _create(self) -> int:
        """Open the file; create it, readable by its owner only, if it does not exist."""
        new = not os.path.lexists(self._path)
        file = self._open = os.open(self._path, _OPEN | os.O_APPEND | os.O_CREAT, 0o600)
        _check_is_ours(file, self._path)
        if new:
            _sync_folder(self._path.parent)
        return file

    def _is_current(self, file: int) -> bool:
        try:
            return os.path.samestat(os.fstat(file), self._path.lstat())
        except FileNotFoundError:
            return False

    def _next_name(self) -> Path:
        """Return ``path.N`` with N above all that exist: no file is ever overwritten."""
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

    def add(self, lines: Sequence[bytes]) -> None:
        """Write *lines*; wait at most *timeout* seconds for a reader that stops reading."""
        deadline = time.monotonic() + self._timeout
        try:
            for chunk in _ended(lines, torn=self._torn):
                rest = memoryview(chunk)
                while rest:
                    _wait_for_reader(deadline)
                    written = os.write(STDOUT, rest[:_PIPE_CHUNK])
                    self._torn = rest[written - 1] != ord("\n")
                    rest = rest[written:]
            if stat.S_ISREG(os.fstat(STDOUT).st_mode):
                os.fsync(STDOUT)
        except OSError as error:
            raise _relay_error(error, "stdout") from error

    def check(self) -> str:
        """Report that stdout is open."""
        try:
            os.fstat(STDOUT)
        except OSError as error:
            raise _relay_error(error, "stdout") from error
        return "stdout is open"

    def close(self) -> None:
        """Leave stdout open: it belongs to the process."""


def _wait_for_reader(deadline: float) -> None:
    left = deadline - time.monotonic()
    if left <= 0 or not select.select([], [STDOUT], [], left)[1]:
        raise Retryable(
            "stdout: the process that reads it has stopped reading", reason="timeout", sent=True
        )


def _ended(lines: Sequence[bytes], *, torn: bool) -> Iterator[bytes]:
    """Yield *lines* with their ends, many at once; first the end of a line that is *torn*."""
    return chunks(lines, start=b"\n" if torn else b"", between=b"\n", end=b"\n")


def _write_all(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


def _check_is_ours(file: int, path: Path) -> None:
    """Raise Refused unless *file*, opened at *path*, is one that only we write."""
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode):
        raise Refused(f'{path} is not a regular file; write path = "-" for stdout')
    if status.st_uid != os.geteuid():
        raise Refused(
            f"{path} belongs to the user {status.st_uid}, not to {os.geteuid()}, as which "
            "auditrelay runs: chown it, or choose another path"
        )
    if status.st_nlink > 1:
        raise Refused(
            f"{path} has other names (hard links), under which it may be another file: delete "
            "them, or choose another path"
        )
    if status.st_mode & stat.S_IWOTH:
        raise Refused(f"{path} can be written by every user of this machine: chmod o-w {path}")


def _sync_folder(folder: Path) -> None:
    """Make the names in *folder* survive a power cut, as fsync does for the contents of a file."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
