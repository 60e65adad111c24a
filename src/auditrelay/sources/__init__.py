"""
The contract of a source: an audit-log API, read page by page for a window of time.

A source is one module here: its settings and an example of them, its authentication, and how to
turn pages. It has no retry, sleep, log or store, which belong to ``http`` and ``collect``, and asks
for no time: the clock that it is built with is for its ``Peer``.
The name of the module is the ``type`` in the configuration; it has ``Settings``, ``EXAMPLE`` and
``build``. The vendors that are described in files have ``described`` in common.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, Protocol, runtime_checkable

from auditrelay.clock import Clock
from auditrelay.files import read_file, replace_file
from auditrelay.settings import SourceSettings
from auditrelay.telemetry.metrics import Metrics
from auditrelay.window import EPOCH, Interval, iso

RETENTION = "retention"
"""Reason of a gap: the vendor keeps nothing that old."""

UNREADABLE = "unreadable"
"""Reason of a gap: it could not be read, however small the request."""


@dataclass(frozen=True, slots=True)
class Page:
    """
    One page of a walk.

    *records* are the JSON texts of the records, as the vendor sent them. *last* marks the end of
    the window. *total* is the vendor's count of the window's records, None if it gives none;
    *at_most* is a number that it does not exceed, if that is known.
    *shrunk* is true if the vendor's answer shows that records were deleted during the walk: others
    may have moved past it. *cursor* is the vendor's cursor of the next page, if it has cursors; it
    may be confidential, and only a digest of it is shown.

    *partial* is the reason, a short code, for which the vendor hides some events of this window.
    On the last page of a walk it makes the window a gap of that reason in the ledger instead of a
    covered span; its events are forwarded all the same. *gaps* are spans of the window that could
    not be read, each with its reason; the rest is covered.
    """

    records: list[bytes]
    last: bool
    total: int | None = None
    shrunk: bool = False
    partial: str | None = None
    gaps: tuple[tuple[Interval, str], ...] = ()
    cursor: str | None = None
    at_most: int | None = None

    @property
    def unreadable(self) -> bool:
        """Whether records were passed over because they could not be read."""
        return any(reason == UNREADABLE for _, reason in self.gaps)


class Source(Protocol):
    """One configured audit-log API."""

    @property
    def scope(self) -> str:
        """The organisation or tenant in which record ids are unique, if records do not name it."""

    def walk(
        self, window: Interval, *, background: bool = False, finely: bool = False
    ) -> AsyncGenerator[Page, None]:
        """
        Yield every page of *window*, pages and records in any order.

        Records just outside the window may be among them. In the *background* the requests give
        way to those of other walks. *finely*, because a usual walk of it failed: it begins with
        pages of one record, which may grow, and get smaller where one fails; a record that fails
        alone is passed over if the vendor's paging allows. Then the last page says what may be
        missing, as a gap with the reason UNREADABLE.

        The last page is marked as the last; it may be empty. A walk that ends without it proves
        nothing. Raises Retryable if the vendor does not answer even after retries, Refused if it
        will not answer until an operator acts, RequestRefused if it may be this request alone that
        it refuses, and WalkBroken if its answers cannot be a whole window.
        """

    async def close(self) -> None:
        """Release connections."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A reply as it came: its *records*, and whether by its signs it is the *last* one."""

    records: list[bytes]
    last: bool


@runtime_checkable
class Shows(Protocol):
    """A source whose replies can be looked at: ``check`` proves by them what is said of an API."""

    def shown(self, span: Interval, size: int) -> AsyncGenerator[Shown, None]:
        """
        Yield each reply to *span*, asked for exactly so, in pages of *size* records.

        Nothing is widened or passed over. Raises what a walk raises, behind the reply of which a
        sign is wrong.
        """


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row of a file that is not a record: its *text*, its *line*, and the *problem* with it."""

    text: bytes
    line: int
    problem: str


@dataclass(frozen=True, slots=True)
class ExportPage:
    """
    One page of a file.

    *records* are JSON texts of records; *bad* are rows that are not records. Only the *last* page
    has the spans that the file *covers*, and the *gaps* that it may have, each with its reason.
    """

    records: list[bytes]
    last: bool
    bad: tuple[BadRow, ...] = ()
    covers: tuple[Interval, ...] = ()
    gaps: tuple[tuple[Interval, str], ...] = ()


@dataclass(frozen=True, slots=True)
class ExportFile:
    """
    A file of exported records.

    *key* is the digest of its content, by which files are deduplicated under any name; *name* is
    for people, and *owner* is the number of the user that it belongs to. *pages* raises Rejected if
    the file as a whole is unusable; no page was the last by then.
    """

    key: bytes
    name: str
    owner: int
    pages: AsyncGenerator[ExportPage, None]


class FileSource(Protocol):
    """One configured place that files are put into, in place of an API that has windows."""

    @property
    def scope(self) -> str:
        """The organisation or tenant in which record ids are unique, if records do not name it."""

    def files(
        self, known: Callable[[bytes], Awaitable[bool]], now: datetime
    ) -> AsyncGenerator[ExportFile, None]:
        """
        Yield every complete file, the oldest first.

        *known* returns whether content with this key was read whole before; such a file is
        skipped. It is called just before the file is yielded, so that of two files with the same
        content the second is known once the first was read. A rejected file is yielded again, and
        rejected without being read for as long as it does not change. Raises Refused if the place
        cannot be read until an operator acts.
        """

    async def check(self) -> str:
        """Return a description of the files, for people. Raises Refused."""

    async def close(self) -> None:
        """Release what is open."""


class Keeping(Protocol):
    """Where a source keeps something small between two runs, by name."""

    def load(self, name: str) -> bytes | None:
        """Return what was saved last, by this process or another; None if nothing can be read."""

    def save(self, name: str, content: bytes) -> None:
        """Replace what is kept; on return that is durable. Raises OSError, with nothing changed."""


class Folder:
    """Keeps it in files in *path*, created with the first of them, for the owner only."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self, name: str) -> bytes | None:
        """Return the content of the file *name*."""
        try:
            return read_file(self._path / name)
        except OSError:
            return None

    def save(self, name: str, content: bytes) -> None:
        """Write the file *name*, so that a crash leaves the old one or the new one."""
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(self._path / name, content)


@runtime_checkable
class Stateful(Protocol):
    """A source that keeps state of its own between two runs, such as a session."""

    def keep_in(self, keeping: Keeping) -> None:
        """Keep the state in *keeping* from now on."""


def make(
    name: str, settings: SourceSettings, metrics: Metrics, clock: Clock, state_dir: Path
) -> Source:
    """
    Return the source that the configuration calls *name*, of the type of its *settings*.

    Not for *settings* with an ``export_directory``: those are of a source that reads files.
    """
    source: Source = _build(name, settings, metrics, clock)
    if isinstance(source, Stateful):
        source.keep_in(Folder(state_dir / "sources" / name))
    return source


def make_file_source(
    name: str, settings: SourceSettings, metrics: Metrics, clock: Clock
) -> FileSource:
    """Return the source called *name* whose *settings* have an ``export_directory``."""
    source: FileSource = _build(name, settings, metrics, clock)
    return source


def _build(name: str, settings: SourceSettings, metrics: Metrics, clock: Clock) -> Any:
    module = settings.type if settings.type in available() else "described"
    return import_module(f"{__name__}.{module}").build(name, settings, metrics, clock)


def available() -> list[str]:
    """Return the types of source that are modules of this package."""
    return sorted(
        module.name
        for module in iter_modules(__path__)
        if module.name != "described" and not module.name.startswith("_")
    )


GRANULE = timedelta(milliseconds=1)
"""What :func:`in_milliseconds` can write, and the precision of most vendors' times."""


def widened(window: Interval, granule: timedelta = GRANULE) -> Interval:
    """
    Return bounds in whole *granules* that contain *window* whether a vendor includes them or not.

    For a vendor that shows only what is strictly after a bound, the start is a granule earlier.
    The end is not part of *window*, so rounding it up is enough.
    """
    return Interval(
        window.start - (window.start - EPOCH) % granule - granule,
        window.end + (EPOCH - window.end) % granule,
    )


def in_milliseconds(at: datetime) -> str:
    """Return *at* in the one spelling that every vendor accepts: ``2026-03-01T00:00:00.000Z``."""
    return iso(at, "milliseconds")
